//! Who may send what: sources that are no other host's, and networks that are
//! behind another port (RFC 3704).
//!
//! Asked of packets that begin something, wait for something or get an answer:
//! new flows, fragments, pings and other protocols. A packet of a connection is
//! known by its tuple, so the fast path pays nothing. What is the kernel's, the
//! kernel judges by its own rules (`rp_filter`).

use std::net::Ipv4Addr;

use super::Worker;
use crate::ids::PortIx;
use crate::io::BurstIo;
use crate::service::snapshot::{Rpf, Snapshot};
use crate::stats::DropReason;

impl<Io: BurstIo> Worker<Io> {
    /// What is wrong with a packet from `src` that came in by `port`.
    pub(super) fn source_fault(&self, src: Ipv4Addr, port: PortIx) -> Option<DropReason> {
        source_fault(&self.snapshot, src, port)
    }

    /// What is wrong with an ICMP error from `src`. Any router on the way may
    /// send one, by whichever address; it is judged by what it quotes.
    pub(super) fn error_source_fault(&self, src: Ipv4Addr, port: PortIx) -> Option<DropReason> {
        self.source_fault(src, port)
            .filter(|fault| *fault != DropReason::SourceElsewhere)
    }
}

fn source_fault(snapshot: &Snapshot, src: Ipv4Addr, port: PortIx) -> Option<DropReason> {
    let rpf = snapshot.port(port).map_or(Rpf::Off, |info| info.rpf);
    if rpf == Rpf::Off {
        return None;
    }
    if snapshot.address(src).is_some() {
        return Some(DropReason::SourceOurs);
    }
    let (mut here, mut elsewhere) = (false, false);
    for (ix, info) in snapshot.ports.iter().enumerate() {
        for net in &info.addresses {
            let mask = net.netmask().to_bits();
            if (src.to_bits() ^ net.addr().to_bits()) & mask != 0 {
                continue;
            }
            // The network's own and its broadcast address (RFC 1122 §3.2.1.3).
            // Networks of two addresses have none (RFC 3021).
            let host = src.to_bits() & !mask;
            if net.prefix_len() < 31 && (host == 0 || host == !mask) {
                return Some(DropReason::Ipv4Martian);
            }
            here |= ix == port.ix();
            elsewhere |= ix != port.ix();
        }
    }
    let fault = match rpf {
        Rpf::Off => false,
        Rpf::Loose => elsewhere,
        Rpf::Strict => snapshot
            .routes
            .lookup(src)
            .is_none_or(|hop| hop.port != port),
    };
    (fault && !here).then_some(DropReason::SourceElsewhere)
}
