//! The exception path's end on a worker: what is addressed to the kernel's
//! addresses goes to the kernel's interface of the port it came in by, and what
//! the kernel sends there goes out unchanged.
//!
//! Frames are copied into buffers that go round between worker and exception
//! thread, two rings for each direction. An mbuf never leaves the worker: the
//! thread may lose its core at any moment, and in the middle of giving an mbuf
//! back to its pool it would hold up every worker that uses the pool.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use super::Worker;
use crate::ids::PortIx;
use crate::io::{BURST, BurstIo, PacketBuf};
use crate::rate::RateLimit;
use crate::service::snapshot::{PortInfo, Snapshot};
use crate::stats::{DropReason, Event};
use crate::time::Millis;
use crate::wire::ethernet::MIN_FRAME_LEN;

/// Bytes of the longest frame: what one packet buffer holds.
pub const FRAME_MAX: usize = 2_048;

/// Largest MTU of a kernel's interface: frames of it fit a buffer, tags and all.
pub const MTU_MAX: u16 = 2_000;

/// The share of a second's packets that may come at once.
const BURST_SHARE: u32 = 10;

/// A frame on its way from a worker to the kernel or back.
#[derive(Debug)]
pub struct Frame {
    /// Where it was received, or where it is to be sent.
    pub port: PortIx,
    len: usize,
    bytes: [u8; FRAME_MAX],
}

impl Frame {
    /// The frame from the Ethernet header on.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// All of the buffer, to write a frame into.
    pub fn room_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// How long the frame is; at most [`FRAME_MAX`].
    pub fn set_len(&mut self, len: usize) {
        self.len = len.min(FRAME_MAX);
    }
}

/// One direction between a worker and the exception thread: buffers with
/// frames go one way, empty ones come back.
#[derive(Debug)]
pub struct FrameRing {
    filled: ArrayQueue<Box<Frame>>,
    empty: ArrayQueue<Box<Frame>>,
    /// Frames ever put in: a look at it costs less than one into the ring.
    sent: CachePadded<AtomicUsize>,
}

impl FrameRing {
    /// A ring with `depth` buffers.
    pub fn new(depth: usize) -> Self {
        let ring = Self {
            filled: ArrayQueue::new(depth),
            empty: ArrayQueue::new(depth),
            sent: CachePadded::new(AtomicUsize::new(0)),
        };
        for _ in 0..depth {
            // As many as there is room for.
            let _ = ring.empty.push(Box::new(Frame {
                port: PortIx(0),
                len: 0,
                bytes: [0; FRAME_MAX],
            }));
        }
        ring
    }

    /// A buffer to fill, or `None` while all are under way.
    pub fn take_empty(&self) -> Option<Box<Frame>> {
        self.empty.pop()
    }

    /// Gives a buffer back.
    pub fn give_empty(&self, frame: Box<Frame>) {
        // There are only as many as there is room for.
        let _ = self.empty.push(frame);
    }

    /// Puts a frame in.
    pub fn send(&self, frame: Box<Frame>) {
        // As for `give_empty`.
        let _ = self.filled.push(frame);
        let sent = self.sent.load(Ordering::Relaxed);
        self.sent.store(sent.wrapping_add(1), Ordering::Release);
    }

    /// Takes the oldest frame out.
    pub fn receive(&self) -> Option<Box<Frame>> {
        self.filled.pop()
    }

    /// Whether all buffers are under way.
    pub fn is_full(&self) -> bool {
        self.empty.is_empty()
    }

    /// Frames under way.
    pub fn len(&self) -> usize {
        self.filled.len()
    }

    /// Whether no frame is under way.
    pub fn is_empty(&self) -> bool {
        self.filled.is_empty()
    }

    /// Buffers in all.
    pub fn capacity(&self) -> usize {
        self.filled.capacity()
    }
}

/// A worker's rings to and from the exception thread.
#[derive(Clone, Debug)]
pub struct KernelRings {
    /// What is for the kernel.
    pub to: Arc<FrameRing>,
    /// What the kernel sends, on the one worker that transmits it: so it stays
    /// in order.
    pub from: Option<Arc<FrameRing>>,
}

/// Packets for the kernel from one port. Those from the port's own networks
/// count apart: a flood from afar cuts no routing session of a neighbour.
#[derive(Debug)]
struct PortLimits {
    near: RateLimit,
    far: RateLimit,
}

/// Packets a second for the kernel, and how many at once.
fn rate_of(port: &PortInfo) -> (u32, u32) {
    let rate = port.kernel.as_ref().map_or(0, |kernel| kernel.rate);
    (rate, rate.div_ceil(BURST_SHARE))
}

/// What a worker has of the exception path.
#[derive(Debug)]
pub(super) struct Kernel {
    rings: KernelRings,
    /// By port.
    limits: Vec<PortLimits>,
    /// Frames taken out of `rings.from`.
    taken: usize,
}

impl Kernel {
    pub(super) fn new(rings: KernelRings, snapshot: &Snapshot, now: Millis) -> Self {
        let limits = |port: &PortInfo| {
            let (rate, burst) = rate_of(port);
            PortLimits {
                near: RateLimit::new(rate, burst, now),
                far: RateLimit::new(rate, burst, now),
            }
        };
        Self {
            rings,
            limits: snapshot.ports.iter().map(limits).collect(),
            taken: 0,
        }
    }

    /// Takes the rates of a new snapshot over.
    pub(super) fn set_rates(&mut self, snapshot: &Snapshot) {
        for (limits, port) in self.limits.iter_mut().zip(&snapshot.ports) {
            let (rate, burst) = rate_of(port);
            limits.near.set_rate(rate, burst);
            limits.far.set_rate(rate, burst);
        }
    }

    #[inline(always)]
    fn has_news(&self) -> bool {
        let from = self.rings.from.as_ref();
        from.is_some_and(|ring| ring.sent.load(Ordering::Relaxed) != self.taken)
    }

    fn offer(&mut self, bytes: &[u8], port: PortIx, near: bool, now: Millis) -> Option<DropReason> {
        let Some(limits) = self.limits.get_mut(port.ix()) else {
            return Some(DropReason::NotLocalAddress);
        };
        let limit = if near {
            &mut limits.near
        } else {
            &mut limits.far
        };
        if !limit.take(1, now) {
            return Some(DropReason::KernelRate);
        }
        let Some(mut frame) = self.rings.to.take_empty() else {
            return Some(DropReason::KernelRingFull);
        };
        frame.port = port;
        frame.bytes[..bytes.len()].copy_from_slice(bytes);
        frame.len = bytes.len();
        self.rings.to.send(frame);
        None
    }
}

impl<Io: BurstIo> Worker<Io> {
    /// Whether the port has an interface of the kernel.
    pub(super) fn has_kernel(&self, port: PortIx) -> bool {
        let info = self.snapshot.port(port);
        self.kernel.is_some() && info.is_some_and(|info| info.kernel.is_some())
    }

    /// Whether the kernel gets what is for this address and came in by `port`.
    pub(super) fn is_kernels(&self, dst: Ipv4Addr, port: PortIx) -> bool {
        self.kernel.is_some() && self.snapshot.is_kernels(dst, port)
    }

    /// Gives a packet to the kernel.
    #[cold]
    #[inline(never)]
    pub(super) fn punt(&mut self, packet: Io::Buf, src: Ipv4Addr, port: PortIx) {
        let Some(kernel) = &mut self.kernel else {
            return self.discard(packet, DropReason::NotLocalAddress);
        };
        let bytes = packet.bytes();
        let refused = if packet.total_len() != bytes.len() || bytes.len() > FRAME_MAX {
            Some(DropReason::KernelTooLong)
        } else {
            let near = self.snapshot.is_on_link(src, port);
            kernel.offer(bytes, port, near, self.now)
        };
        match refused {
            Some(reason) => self.discard(packet, reason),
            None => self.stats.event(Event::ToKernel).add(1),
        }
    }

    /// Sends what the kernel injected.
    #[inline(always)]
    pub(super) fn injected(&mut self) -> usize {
        match &self.kernel {
            Some(kernel) if kernel.has_news() => self.take_injected(),
            _ => 0,
        }
    }

    #[cold]
    #[inline(never)]
    fn take_injected(&mut self) -> usize {
        let mut count = 0;
        while count < BURST
            && let Some(kernel) = &mut self.kernel
            && let Some(ring) = &kernel.rings.from
            && let Some(frame) = ring.receive()
        {
            count += 1;
            kernel.taken = kernel.taken.wrapping_add(1);
            let (port, copy) = (frame.port, copy(&mut self.io, frame.bytes()));
            ring.give_empty(frame);
            match copy {
                Some(packet) => {
                    self.stats.event(Event::FromKernel).add(1);
                    self.transmit(packet, port);
                }
                None => self.stats.drop_counter(DropReason::NoBuffer).add(1),
            }
        }
        count
    }
}

/// A packet with the bytes of `frame`, at least as long as the wire wants.
fn copy<Io: BurstIo>(io: &mut Io, frame: &[u8]) -> Option<Io::Buf> {
    let mut packet = io.allocate()?;
    if !packet.set_len(frame.len().max(MIN_FRAME_LEN)) {
        return None;
    }
    let (head, padding) = packet.bytes_mut().split_at_mut_checked(frame.len())?;
    head.copy_from_slice(frame);
    padding.fill(0);
    Some(packet)
}
