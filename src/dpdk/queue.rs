//! One worker's queue on one port: the two burst calls, straight through the
//! table of function pointers that DPDK's own inline functions use.

use std::sync::Arc;

use arrayvec::ArrayVec;

use super::Mbuf;
use super::mbuf::forget_front;
use super::shared::Shared;

/// Packets that a driver can be offered in one call. That of memif counts them in
/// 8 bits in DPDK 23.03 to 23.11, and never ends with 256.
const OFFERED: usize = u8::MAX as usize;

/// A receive queue and the transmit queue of the same number. There is only one
/// of each, so that nobody else can poll or fill it.
#[derive(Debug)]
pub struct Queue {
    port: Arc<Shared>,
    index: u16,
}

impl Queue {
    pub(super) fn new(port: Arc<Shared>, index: u16) -> Self {
        Self { port, index }
    }

    /// The queue's number, which is that of the worker.
    pub fn index(&self) -> u16 {
        self.index
    }

    #[inline(always)]
    fn ops(&self) -> *const dpdk_sys::rte_eth_fp_ops {
        // SAFETY: ethdev gave out the port number, so it is below the table's
        // length, RTE_MAX_ETHPORTS. No reference to the static is made.
        unsafe {
            (&raw const dpdk_sys::rte_eth_fp_ops)
                .cast::<dpdk_sys::rte_eth_fp_ops>()
                .add(self.port.id().into())
        }
    }

    /// Appends what has arrived, at most the free capacity of `into`.
    ///
    /// Some drivers take no fewer than 4 packets at a time: keep that much room.
    #[inline(always)]
    pub fn receive<const N: usize>(&mut self, into: &mut ArrayVec<Mbuf, N>) {
        const { assert!(N <= u16::MAX as usize) };
        let len = into.len();
        let room = into.remaining_capacity() as u16;
        // SAFETY:
        // - the port is started and stays so as long as this queue exists, so
        //   the driver's function and its queue data are in place and nobody
        //   changes them;
        // - `&mut self` makes this thread the only one in the queue;
        // - `Mbuf` is a transparent pointer, so the free part of the array is
        //   room for that many mbuf pointers;
        // - the driver fills the first `taken` <= `room` of them with mbufs that
        //   it gives away for good, from a pool that outlives them.
        unsafe {
            let ops = self.ops();
            let Some(burst) = (*ops).rx_pkt_burst else {
                return;
            };
            let queue = *(*ops).rxq.data.add(self.index.into());
            let free = into.as_mut_ptr().add(len).cast::<*mut dpdk_sys::rte_mbuf>();
            let taken = burst(queue, free, room);
            into.set_len(len + usize::from(taken.min(room)));
        }
    }

    /// Hands packets to the driver from the front. What it does not take is
    /// left, in order. More than 255 at a time do not compile.
    #[inline(always)]
    pub fn transmit<const N: usize>(&mut self, from: &mut ArrayVec<Mbuf, N>) {
        const { assert!(N <= OFFERED) };
        let offered = from.len() as u16;
        if offered == 0 {
            return;
        }
        // SAFETY:
        // - the function, its queue data and the thread: as for `receive`;
        // - there is a first packet, which memif's driver looks at in any case;
        // - the first `offered` elements are owned mbufs, and the driver becomes
        //   the owner of the first `taken` of them: they leave the array without
        //   being dropped, the rest moves to the front.
        unsafe {
            let ops = self.ops();
            let Some(burst) = (*ops).tx_pkt_burst else {
                return;
            };
            let queue = *(*ops).txq.data.add(self.index.into());
            let first = from.as_mut_ptr();
            let taken = burst(queue, first.cast::<*mut dpdk_sys::rte_mbuf>(), offered);
            forget_front(from, usize::from(taken.min(offered)));
        }
    }
}
