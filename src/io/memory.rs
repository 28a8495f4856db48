//! Burst I/O over plain memory: for tests, property tests and fuzzers.

use std::collections::VecDeque;

use arrayvec::ArrayVec;

use super::{BURST, BurstIo, ChecksumStatus, PacketBuf, TX_BURST};
use crate::ids::PortIx;

/// Capacity of a [`MemoryBuf`] in bytes, that of a DPDK mbuf's data room.
pub const CAPACITY: usize = 2048;

/// A packet in a heap buffer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemoryBuf {
    bytes: Vec<u8>,
    /// Bytes in the first of two parts, where there are two.
    first: Option<usize>,
    checksum: ChecksumStatus,
}

impl MemoryBuf {
    /// A packet with the bytes of `frame`.
    pub fn new(frame: &[u8]) -> Self {
        Self {
            bytes: frame.to_vec(),
            first: None,
            checksum: ChecksumStatus::Unknown,
        }
    }

    /// The same packet in two parts, `len` bytes in the first.
    pub fn with_first_part(mut self, len: usize) -> Self {
        self.first = Some(len.min(self.bytes.len()));
        self
    }

    /// The same packet with the NIC's verdict on its IPv4 header checksum.
    pub fn with_ipv4_checksum(mut self, checksum: ChecksumStatus) -> Self {
        self.checksum = checksum;
        self
    }
}

impl PacketBuf for MemoryBuf {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.first.unwrap_or(self.bytes.len())]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let first = self.first.unwrap_or(self.bytes.len());
        &mut self.bytes[..first]
    }

    fn total_len(&self) -> usize {
        self.bytes.len()
    }

    fn ipv4_checksum(&self) -> ChecksumStatus {
        self.checksum
    }

    fn set_len(&mut self, len: usize) -> bool {
        if len > CAPACITY || self.first.is_some() {
            return false;
        }
        // 0xa5, not 0: a byte that nobody wrote shows in a golden test.
        self.bytes.resize(len, 0xa5);
        true
    }

    fn parts(&self, see: &mut dyn FnMut(&[u8])) {
        let (first, rest) = self.bytes.split_at(self.bytes().len());
        see(first);
        if !rest.is_empty() {
            see(rest);
        }
    }

    fn prefetch(&self) {}
}

/// One worker's queues in memory.
#[derive(Debug)]
pub struct MemoryIo {
    /// Packets waiting to be received, per port.
    pub rx: Vec<VecDeque<MemoryBuf>>,
    /// Packets transmitted, per port, oldest first.
    pub tx: Vec<Vec<MemoryBuf>>,
    /// Buffers that `allocate` still hands out.
    pub free: usize,
    /// Packets the "driver" takes per transmit call.
    pub tx_room: usize,
}

impl MemoryIo {
    /// Empty queues on `ports` ports.
    pub fn new(ports: usize) -> Self {
        Self {
            rx: vec![VecDeque::new(); ports],
            tx: vec![Vec::new(); ports],
            free: usize::MAX,
            tx_room: usize::MAX,
        }
    }
}

impl BurstIo for MemoryIo {
    type Buf = MemoryBuf;

    fn ports(&self) -> usize {
        self.rx.len()
    }

    fn receive(&mut self, port: PortIx, into: &mut ArrayVec<MemoryBuf, BURST>) {
        while !into.is_full() {
            let Some(packet) = self.rx[port.ix()].pop_front() else {
                break;
            };
            into.push(packet);
        }
    }

    fn transmit(&mut self, port: PortIx, from: &mut ArrayVec<MemoryBuf, TX_BURST>) {
        let taken = from.len().min(self.tx_room);
        self.tx[port.ix()].extend(from.drain(..taken));
    }

    fn allocate(&mut self) -> Option<MemoryBuf> {
        if self.free == 0 {
            return None;
        }
        self.free -= 1;
        Some(MemoryBuf::new(&[]))
    }
}
