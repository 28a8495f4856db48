//! Priority-tagged frames: an 802.1Q tag with VLAN 0 says how urgent a frame is
//! and nothing of where it belongs (IEEE 802.1Q §6.9.1). The tag is cut off, and
//! the frame is like any other. Called for tagged frames alone; those of a VLAN
//! are dropped.

use super::Worker;
use super::parse::{Parsed, parse};
use crate::ids::PortIx;
use crate::io::{BurstIo, PacketBuf};
use crate::stats::DropReason;

/// Length of a tag.
const TAG: usize = 4;
/// The tag protocol identifier of a customer's tag.
const TPID: [u8; 2] = [0x81, 0x00];
/// The VLAN in the tag's other two bytes.
const VLAN: u16 = 0x0fff;

/// Cuts a tag with VLAN 0 off. False, and nothing changed, where there is none.
fn untag<B: PacketBuf>(packet: &mut B) -> bool {
    let Some(header) = packet.bytes_mut().first_chunk_mut::<18>() else {
        return false;
    };
    let vlan = u16::from_be_bytes([header[14], header[15]]) & VLAN;
    if header[12..14] != TPID || vlan != 0 {
        return false;
    }
    header.copy_within(..12, TAG);
    packet.cut_front(TAG)
}

impl<Io: BurstIo> Worker<Io> {
    /// A frame with a tag.
    #[cold]
    #[inline(never)]
    pub(super) fn tagged(&mut self, mut packet: Io::Buf, port: PortIx) {
        if !untag(&mut packet) {
            return self.discard(packet, DropReason::VlanTagged);
        }
        let parsed = parse(&packet, self.ports[port.ix()].mac);
        if parsed == Parsed::Drop(DropReason::VlanTagged) {
            return self.discard(packet, DropReason::VlanTagged);
        }
        if self.steers
            && let Parsed::Flow(at) = &parsed
        {
            let owner = self.owner(at);
            if owner != self.ix {
                return self.hand_over(owner, port, packet);
            }
        }
        let look = self.look_of(parsed);
        self.see_through_apart(packet, &look, port);
    }
}
