//! Burst I/O over buffers that are made once and come back when they are
//! dropped, as a driver's do.

use std::collections::VecDeque;
use std::sync::Arc;

use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;
use fullgate::ids::PortIx;
use fullgate::io::{BURST, BurstIo, ChecksumStatus, PacketBuf, TX_BURST};

const CAPACITY: usize = 2048;

/// Buffers of one worker.
const BUFFERS: usize = 2048;

struct Room {
    len: usize,
    bytes: [u8; CAPACITY],
}

type Pool = Arc<ArrayQueue<Box<Room>>>;

/// A packet in a buffer of the pool.
pub struct PoolBuf {
    /// `None` only while it is dropped.
    room: Option<Box<Room>>,
    pool: Pool,
}

impl Drop for PoolBuf {
    fn drop(&mut self) {
        if let Some(room) = self.room.take() {
            assert!(self.pool.push(room).is_ok(), "the pool has room for all");
        }
    }
}

impl PacketBuf for PoolBuf {
    fn bytes(&self) -> &[u8] {
        self.room
            .as_ref()
            .map_or(&[], |room| &room.bytes[..room.len])
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.room
            .as_mut()
            .map_or(&mut [], |room| &mut room.bytes[..room.len])
    }

    fn total_len(&self) -> usize {
        self.bytes().len()
    }

    fn ipv4_checksum(&self) -> ChecksumStatus {
        ChecksumStatus::Unknown
    }

    fn set_len(&mut self, len: usize) -> bool {
        match &mut self.room {
            Some(room) if len <= CAPACITY => room.len = len,
            _ => return false,
        }
        true
    }

    fn prefetch(&self) {}
}

/// One worker's queues on two ports.
pub struct PoolIo {
    pool: Pool,
    /// Packets waiting to be received, per port.
    pub rx: [VecDeque<PoolBuf>; 2],
    /// Packets transmitted, per port, oldest first.
    pub tx: [VecDeque<PoolBuf>; 2],
}

impl PoolIo {
    pub fn new() -> Self {
        let pool = Arc::new(ArrayQueue::new(BUFFERS));
        for _ in 0..BUFFERS {
            let room = Box::new(Room {
                len: 0,
                bytes: [0; CAPACITY],
            });
            assert!(pool.push(room).is_ok());
        }
        let queues = || [(); 2].map(|()| VecDeque::with_capacity(BUFFERS));
        Self {
            pool,
            rx: queues(),
            tx: queues(),
        }
    }
}

impl BurstIo for PoolIo {
    type Buf = PoolBuf;

    fn ports(&self) -> usize {
        self.rx.len()
    }

    fn receive(&mut self, port: PortIx, into: &mut ArrayVec<PoolBuf, BURST>) {
        while !into.is_full() {
            let Some(packet) = self.rx[port.ix()].pop_front() else {
                break;
            };
            into.push(packet);
        }
    }

    fn transmit(&mut self, port: PortIx, from: &mut ArrayVec<PoolBuf, TX_BURST>) {
        self.tx[port.ix()].extend(from.drain(..));
    }

    fn allocate(&mut self) -> Option<PoolBuf> {
        let mut room = self.pool.pop()?;
        room.len = 0;
        Some(PoolBuf {
            room: Some(room),
            pool: Arc::clone(&self.pool),
        })
    }
}
