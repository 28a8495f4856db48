//! What the worker needs from a packet source and sink. DPDK implements it in
//! `src/dpdk/`; plain memory implements it in `memory`, so that the whole
//! packet path runs in unit tests, property tests and fuzzers.
//!
//! Calls are per burst, never per packet, and never block.

pub mod memory;

use arrayvec::ArrayVec;

use crate::ids::PortIx;

/// Most packets taken from a queue at a time.
pub const BURST: usize = 32;

/// Packets a transmit buffer holds: a burst, what the burst can cause (resets,
/// released packets) and what the driver did not take the last time. One more
/// would be too many for a driver ([`dpdk::Queue::transmit`] says which).
///
/// [`dpdk::Queue::transmit`]: ../dpdk/struct.Queue.html#method.transmit
pub const TX_BURST: usize = 255;

/// What the driver says about a received packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ChecksumStatus {
    /// The driver did not look, or can't tell.
    #[default]
    Unknown,
    /// Verified by the NIC.
    Good,
    /// Found wrong by the NIC.
    Bad,
}

/// One packet in a buffer that its holder owns. Dropping it frees the buffer.
///
/// The bytes start at the Ethernet header. All headers are in the contiguous
/// part; a payload may go on in further segments, which the gateway reads only to
/// verify the checksum of a packet that begins or ends something.
pub trait PacketBuf: Sized + Send {
    /// The contiguous bytes (the first segment).
    fn bytes(&self) -> &[u8];
    /// The contiguous bytes, writable.
    fn bytes_mut(&mut self) -> &mut [u8];
    /// Length of the packet in bytes over all its segments.
    fn total_len(&self) -> usize;
    /// The NIC's verdict on the IPv4 header checksum.
    fn ipv4_checksum(&self) -> ChecksumStatus;
    /// Sets the length of a single-segment packet: cuts the tail off, or
    /// extends it with bytes of unspecified content. False, and nothing
    /// changed, where the buffer is too small or has several segments.
    #[must_use]
    fn set_len(&mut self, len: usize) -> bool;
    /// Shows `see` all bytes of the packet, one contiguous part after the other.
    /// Off the fast path: what lies behind the headers is in nobody's cache.
    fn parts(&self, see: &mut dyn FnMut(&[u8])) {
        see(self.bytes());
    }
    /// Cuts bytes off the front of a packet whose first segment has them. False,
    /// and nothing changed, where it has not.
    #[must_use]
    fn cut_front(&mut self, len: usize) -> bool {
        let whole = self.total_len() == self.bytes().len();
        let Some(left) = self.bytes().len().checked_sub(len).filter(|_| whole) else {
            return false;
        };
        self.bytes_mut().copy_within(len.., 0);
        self.set_len(left)
    }

    /// Starts loading the first cache line of the packet's bytes.
    fn prefetch(&self);
}

/// Bursts in and out of one worker's queue on every port, and fresh buffers.
pub trait BurstIo {
    /// The owned packet buffer.
    type Buf: PacketBuf;

    /// Number of ports; `PortIx` runs from 0 to this.
    fn ports(&self) -> usize;

    /// Appends at most the free capacity of `into` packets.
    fn receive(&mut self, port: PortIx, into: &mut ArrayVec<Self::Buf, BURST>);

    /// Hands packets to the driver from the front; those it took are gone from
    /// `from`, those it did not are left, in order.
    fn transmit(&mut self, port: PortIx, from: &mut ArrayVec<Self::Buf, TX_BURST>);

    /// An empty packet, or `None` when the pool is exhausted.
    fn allocate(&mut self) -> Option<Self::Buf>;
}

#[cfg(test)]
pub(crate) mod parts {
    use super::{ChecksumStatus, PacketBuf};

    /// A packet in several parts, as a chain of mbufs is.
    pub(crate) struct Parts(pub(crate) Vec<Vec<u8>>);

    impl PacketBuf for Parts {
        fn bytes(&self) -> &[u8] {
            &self.0[0]
        }
        fn bytes_mut(&mut self) -> &mut [u8] {
            &mut self.0[0]
        }
        fn total_len(&self) -> usize {
            self.0.iter().map(Vec::len).sum()
        }
        fn ipv4_checksum(&self) -> ChecksumStatus {
            ChecksumStatus::Unknown
        }
        fn set_len(&mut self, _: usize) -> bool {
            false
        }
        fn parts(&self, see: &mut dyn FnMut(&[u8])) {
            self.0.iter().for_each(|part| see(part));
        }
        fn prefetch(&self) {}
    }
}
