//! The exception path outside the workers: one thread that carries frames
//! between the workers' rings and the kernel's interfaces. It is no worker: it
//! sleeps in the kernel, may be late, and never holds up a worker.
//!
//! A worker makes no system call, so none wakes the thread: it looks at the
//! rings at least every millisecond.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::ids::{PortIx, WorkerIx};
use crate::worker::kernel::{FrameRing, KernelRings};

/// Frames on their way from one worker to the kernel.
pub const DEPTH: usize = 1_024;

/// Frames moved in one direction before the others get their turn.
const TURN: usize = 64;

/// Rounds without a frame after which the thread takes longer sleeps: what
/// answers at once is not kept waiting.
const EAGER_ROUNDS: u32 = 100;
const EAGER_WAIT: Duration = Duration::from_micros(50);
const WAIT: Duration = Duration::from_millis(1);

/// What went through one interface.
#[derive(Debug, Default)]
pub struct Counters {
    /// Frames the kernel took.
    pub to_kernel: AtomicU64,
    /// Frames the kernel gave.
    pub from_kernel: AtomicU64,
    /// Frames the kernel did not take, as it does not while the interface is
    /// down.
    pub refused: AtomicU64,
}

/// The kernel's interface of one port.
#[derive(Debug)]
pub struct Interface {
    /// Whose it is.
    pub port: PortIx,
    /// Its name.
    pub name: String,
    /// Reads and writes whole frames and never blocks.
    pub file: File,
    /// Shared with whoever shows them.
    pub counters: Arc<Counters>,
}

impl Interface {
    /// What to show of it while the thread has it.
    pub fn carried(&self) -> Carried {
        Carried {
            port: self.port,
            name: self.name.clone(),
            counters: Arc::clone(&self.counters),
        }
    }
}

/// An interface and what went through it.
#[derive(Clone, Debug)]
pub struct Carried {
    /// Whose it is.
    pub port: PortIx,
    /// Its name.
    pub name: String,
    /// Counts while the thread runs.
    pub counters: Arc<Counters>,
}

/// The running thread. Dropped, it ends, and the interfaces are gone.
#[derive(Debug)]
pub struct Running {
    rings: Vec<KernelRings>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// A worker's rings.
    pub fn rings(&self, worker: WorkerIx) -> KernelRings {
        self.rings[worker.ix()].clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported where it happened.
            let _ = thread.join();
        }
    }
}

/// Starts the thread between so many workers and the interfaces; without any
/// interface there is none.
///
/// # Errors
/// There can be no more threads.
pub fn start(interfaces: Vec<Interface>, workers: usize) -> io::Result<Option<Running>> {
    if interfaces.is_empty() {
        return Ok(None);
    }
    let rings = rings(workers);
    let exception = Exception::new(interfaces, rings.clone());
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    let thread = thread::Builder::new()
        .name("exception".into())
        .spawn(move || exception.run(&asked))?;
    Ok(Some(Running {
        rings,
        stop,
        thread: Some(thread),
    }))
}

/// The rings between workers and exception thread: each worker's end, and the
/// thread's ends in the workers' order. The first worker sends what the kernel
/// gives.
pub fn rings(workers: usize) -> Vec<KernelRings> {
    (0..workers)
        .map(|worker| KernelRings {
            to: Arc::new(FrameRing::new(DEPTH)),
            from: (worker == 0).then(|| Arc::new(FrameRing::new(DEPTH))),
        })
        .collect()
}

/// What the thread owns.
#[derive(Debug)]
struct Exception {
    interfaces: Vec<Interface>,
    rings: Vec<KernelRings>,
}

impl Exception {
    fn new(interfaces: Vec<Interface>, rings: Vec<KernelRings>) -> Self {
        Self { interfaces, rings }
    }

    /// The thread's life. The interfaces are gone when it is over.
    fn run(mut self, stop: &AtomicBool) {
        let mut empty_rounds = 0;
        while !stop.load(Relaxed) {
            if self.round() > 0 {
                empty_rounds = 0;
            } else {
                empty_rounds += 1;
            }
            let wait = if empty_rounds < EAGER_ROUNDS {
                EAGER_WAIT
            } else {
                WAIT
            };
            self.wait(wait);
        }
    }

    /// Moves what is there, a bounded portion of each; how many frames.
    fn round(&mut self) -> usize {
        self.punt() + self.inject()
    }

    /// Sleeps until an interface has a frame, at most `longest`.
    fn wait(&self, longest: Duration) {
        let mut polled: Vec<PollFd<'_>> = self
            .interfaces
            .iter()
            .map(|interface| PollFd::new(&interface.file, PollFlags::IN))
            .collect();
        let from = self.rings.iter().filter_map(|rings| rings.from.as_ref());
        // What can't be taken on is no reason to wake up.
        if from.into_iter().all(|ring| ring.is_full()) {
            return thread::sleep(longest);
        }
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: longest.subsec_nanos().into(),
        };
        // Interrupted or refused, the next round looks anyway.
        let _ = poll(&mut polled, Some(&timeout));
    }

    /// From the workers to the kernel.
    fn punt(&mut self) -> usize {
        let mut count = 0;
        for rings in &self.rings {
            for _ in 0..TURN {
                let Some(frame) = rings.to.receive() else {
                    break;
                };
                count += 1;
                let mut interfaces = self.interfaces.iter_mut();
                if let Some(interface) = interfaces.find(|there| there.port == frame.port) {
                    let counters = &interface.counters;
                    // A TAP takes a frame as a whole or not at all.
                    match interface.file.write_all(frame.bytes()) {
                        Ok(()) => counters.to_kernel.fetch_add(1, Relaxed),
                        Err(_) => counters.refused.fetch_add(1, Relaxed),
                    };
                }
                rings.to.give_empty(frame);
            }
        }
        count
    }

    /// From the kernel to the worker that sends.
    fn inject(&mut self) -> usize {
        let Some(ring) = self.rings.iter().find_map(|rings| rings.from.as_ref()) else {
            return 0;
        };
        let mut count = 0;
        self.interfaces.retain_mut(|interface| {
            for _ in 0..TURN {
                let Some(mut frame) = ring.take_empty() else {
                    break;
                };
                match interface.file.read(frame.room_mut()) {
                    Ok(len) => {
                        count += 1;
                        frame.port = interface.port;
                        frame.set_len(len);
                        ring.send(frame);
                        interface.counters.from_kernel.fetch_add(1, Relaxed);
                    }
                    Err(error) => {
                        ring.give_empty(frame);
                        return stays(interface, &error);
                    }
                }
            }
            true
        });
        count
    }
}

/// Whether an interface can be used again after a read has failed.
fn stays(interface: &Interface, error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, WouldBlock};
    // A TAP that is down says EIO on some kernels.
    let passing =
        matches!(error.kind(), Interrupted | WouldBlock) || error.raw_os_error() == Some(libc::EIO);
    if !passing {
        log::error!(
            "kernel interface {}: {error}; it was deleted, and comes back with a restart only",
            interface.name
        );
    }
    passing
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// An interface, and the kernel's end of it.
    fn interface(port: u8) -> (Interface, UnixDatagram) {
        let (ours, kernels) = UnixDatagram::pair().expect("a pair of sockets");
        for end in [&ours, &kernels] {
            end.set_nonblocking(true).expect("never blocks");
        }
        let interface = Interface {
            port: PortIx(port),
            name: format!("k{port}"),
            file: File::from(OwnedFd::from(ours)),
            counters: Arc::default(),
        };
        (interface, kernels)
    }

    fn send(ring: &FrameRing, port: u8, bytes: &[u8]) {
        let mut frame = ring.take_empty().expect("room");
        frame.port = PortIx(port);
        frame.room_mut()[..bytes.len()].copy_from_slice(bytes);
        frame.set_len(bytes.len());
        ring.send(frame);
    }

    fn received(kernel: &UnixDatagram) -> Vec<u8> {
        let mut bytes = [0; 100];
        let len = kernel.recv(&mut bytes).unwrap_or(0);
        bytes[..len].to_vec()
    }

    #[test]
    fn frames_of_every_worker_reach_the_interface_of_their_port() {
        let rings = rings(2);
        let ((first, first_kernel), (second, second_kernel)) = (interface(0), interface(3));
        let counters = Arc::clone(&second.counters);
        let mut exception = Exception::new(vec![first, second], rings.clone());
        send(&rings[0].to, 3, b"of worker 0");
        send(&rings[1].to, 3, b"of worker 1");
        send(&rings[1].to, 0, b"for the other");
        assert_eq!(exception.round(), 3);
        assert_eq!(received(&second_kernel), b"of worker 0");
        assert_eq!(received(&second_kernel), b"of worker 1");
        assert_eq!(received(&first_kernel), b"for the other");
        assert_eq!(counters.to_kernel.load(Relaxed), 2);
        assert_eq!(exception.round(), 0);
    }

    #[test]
    fn what_the_kernel_sends_goes_to_one_worker_in_order() {
        let rings = rings(2);
        let (interface, kernel) = interface(1);
        let mut exception = Exception::new(vec![interface], rings.clone());
        for frame in [&b"first"[..], b"second"] {
            kernel.send(frame).expect("room");
        }
        assert_eq!(exception.round(), 2);
        let from = rings[0].from.as_ref().expect("the first worker's");
        for expected in [&b"first"[..], b"second"] {
            let frame = from.receive().expect("a frame");
            assert_eq!((frame.port, frame.bytes()), (PortIx(1), expected));
        }
        assert!(rings[1].from.is_none());
    }

    #[test]
    fn a_full_ring_leaves_frames_with_the_kernel() {
        let rings = rings(1);
        let from = rings[0].from.as_ref().expect("the first worker's");
        let kept: Vec<_> = (0..DEPTH - 1)
            .map(|_| from.take_empty().expect("room"))
            .collect();
        let (interface, kernel) = interface(0);
        let mut exception = Exception::new(vec![interface], rings.clone());
        for frame in [&b"first"[..], b"second"] {
            kernel.send(frame).expect("room");
        }
        assert_eq!(exception.round(), 1);
        assert_eq!(exception.round(), 0);
        kept.into_iter().for_each(|frame| from.give_empty(frame));
        assert_eq!(exception.round(), 1);
        let frames: Vec<_> = std::iter::from_fn(|| from.receive()).collect();
        assert_eq!(frames[1].bytes(), b"second");
    }

    #[test]
    fn what_the_kernel_refuses_is_counted_and_its_buffer_comes_back() {
        let rings = rings(1);
        let (interface, kernel) = interface(0);
        let counters = Arc::clone(&interface.counters);
        drop(kernel);
        let mut exception = Exception::new(vec![interface], rings.clone());
        for _ in 0..2 * DEPTH {
            send(&rings[0].to, 0, b"frame");
            exception.round();
        }
        assert_eq!(counters.refused.load(Relaxed), 2 * DEPTH as u64);
    }
}
