//! Opens connections as clients and servers do, through whatever gateway is at
//! the other end of the wire.

use fullgate::io::BURST;
use fullgate::wire::tcp::Flags;

use super::Failure;
use super::flows::Flow;
use super::frame::{Seen, TCP};
use super::wire::{End, Side, Wire};

/// The first packets wait for ARP, for which there is not endless room.
const CAREFUL: usize = 4096;

/// A gateway to open connections through.
pub trait Through {
    type End: End;

    fn wire(&mut self) -> &mut Wire<Self::End>;

    /// Puts on the wire what is to be there, and collects until `packets` have
    /// come back or no more will. Returns how many did.
    fn settle(&mut self, packets: u64, see: impl FnMut(Side, Seen)) -> u64;
}

/// Opens every connection, `bursts` bursts of them at a time.
pub fn establish<T: Through>(
    through: &mut T,
    flows: &mut [Flow],
    protocol: u8,
    bursts: usize,
) -> Result<(), Failure> {
    // The payload that carries the number, see `flows`.
    let payload = if protocol == TCP { 0 } else { 18 };
    let (first, answer) = match protocol {
        TCP => (Flags::SYN, Flags(Flags::SYN.0 | Flags::ACK.0)),
        _ => (Flags::default(), Flags::default()),
    };
    let mut end = 0;
    while end < flows.len() {
        let begin = end;
        let bursts = if begin < CAREFUL { 1 } else { bursts };
        end = (begin + bursts * BURST).min(flows.len());
        let count = (end - begin) as u64;
        for (number, flow) in (begin as u32..).zip(&mut flows[begin..end]) {
            let frame = flow.forward(number, protocol, first, payload);
            through.wire().put(Side::Clients, &frame);
        }
        through.settle(count, |side, seen| {
            if side == Side::Servers
                && let Some(flow) = flows.get_mut(seen.seq as usize)
            {
                flow.opened(&seen);
            }
        });
        let unopened = flows[begin..end].iter().filter(|flow| !flow.is_open());
        let unopened = unopened.count();
        if unopened > 0 {
            return Err(format!(
                "{unopened} connections from number {begin} on did not get through"
            )
            .into());
        }
        for flow in &mut flows[begin..end] {
            let frame = flow.reverse(protocol, answer, payload);
            through.wire().put(Side::Servers, &frame);
        }
        let mut back = through.settle(count, |_, _| {});
        if protocol == TCP {
            for (number, flow) in (begin as u32..).zip(&mut flows[begin..end]) {
                let frame = flow.forward(number, TCP, Flags::ACK, 0);
                through.wire().put(Side::Clients, &frame);
            }
            back = back.min(through.settle(count, |_, _| {}));
        }
        if back < count {
            return Err(format!(
                "{} packets of handshakes from number {begin} on did not get through",
                count - back
            )
            .into());
        }
    }
    Ok(())
}
