//! Tagged frames.

use super::lab::{Lab, Tcp, flags};
use crate::stats::DropReason;

#[test]
fn vlan_0_is_no_vlan() {
    let mut lab = Lab::new();
    let syn = Tcp::from_client(4000, flags::SYN).seq(7);
    // Priority 5, which is in the three bits above.
    let out = lab.client_sends_tagged(&syn, 5 << 13);
    assert_eq!(out.to_server().seq, 7);
    let again = Tcp::from_client(4001, flags::SYN);
    for (tag, drops) in [(1, 1), (5 << 13 | 4_095, 2)] {
        assert!(lab.client_sends_tagged(&again, tag).is_empty());
        assert_eq!(lab.drops(DropReason::VlanTagged), drops);
    }
}
