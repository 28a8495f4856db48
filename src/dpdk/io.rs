//! A worker's queues on all ports, as the packet path sees them.

use arrayvec::ArrayVec;

use super::{Mbuf, Mempool, Queue};
use crate::ids::PortIx;
use crate::io::{BURST, BurstIo, TX_BURST};

/// Burst I/O of one worker; moved into its thread.
#[derive(Debug)]
pub struct DpdkIo {
    queues: Vec<Queue>,
    pool: Mempool,
}

impl DpdkIo {
    /// A worker's queue on every port, in the order of [`PortIx`], and the pool
    /// that fresh packets come from.
    pub fn new(queues: Vec<Queue>, pool: Mempool) -> Self {
        Self { queues, pool }
    }
}

impl BurstIo for DpdkIo {
    type Buf = Mbuf;

    fn ports(&self) -> usize {
        self.queues.len()
    }

    #[inline(always)]
    fn receive(&mut self, port: PortIx, into: &mut ArrayVec<Mbuf, BURST>) {
        self.queues[port.ix()].receive(into);
    }

    #[inline(always)]
    fn transmit(&mut self, port: PortIx, from: &mut ArrayVec<Mbuf, TX_BURST>) {
        self.queues[port.ix()].transmit(from);
    }

    #[inline(always)]
    fn allocate(&mut self) -> Option<Mbuf> {
        self.pool.allocate()
    }
}
