//! The least that a forwarder can do: swap the MAC addresses of what one port
//! receives and send it through the other. What the gateway takes beyond that
//! is the gateway's own.

use arrayvec::ArrayVec;

use fullgate::dpdk::{DpdkIo, Mbuf};
use fullgate::ids::PortIx;
use fullgate::io::{BURST, BurstIo, PacketBuf, TX_BURST};
use fullgate::worker::{Now, Worker};

/// What is measured: something with a port on either side.
pub trait Forwarder {
    /// One round, as the gateway's worker thread does it.
    fn poll(&mut self, now: Now);
}

impl Forwarder for Worker<DpdkIo> {
    #[inline(always)]
    fn poll(&mut self, now: Now) {
        Worker::poll(self, now);
    }
}

/// Swaps MAC addresses on the wire of a gateway.
pub struct MacSwap<'a> {
    pub io: &'a mut DpdkIo,
}

impl Forwarder for MacSwap<'_> {
    #[inline(always)]
    fn poll(&mut self, _now: Now) {
        for (from, to) in [(PortIx(0), PortIx(1)), (PortIx(1), PortIx(0))] {
            let mut burst = ArrayVec::<Mbuf, BURST>::new();
            self.io.receive(from, &mut burst);
            if burst.is_empty() {
                continue;
            }
            for packet in &burst {
                packet.prefetch();
            }
            let mut out = ArrayVec::<Mbuf, TX_BURST>::new();
            for mut packet in burst {
                if let Some(addresses) = packet.bytes_mut().first_chunk_mut::<12>() {
                    let (dst, src) = addresses.split_at_mut(6);
                    dst.swap_with_slice(src);
                }
                out.push(packet);
            }
            self.io.transmit(to, &mut out);
        }
    }
}
