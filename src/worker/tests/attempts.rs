//! SYNs that are not answered, refused, or answered late: who is asked next, and
//! what is thought of whom.

use super::lab::{Lab, Tcp, flags};
use crate::stats::DropReason;

#[test]
fn a_syn_with_a_wrong_checksum_makes_no_state() {
    let mut lab = Lab::new();
    let mut syn = Tcp::from_client(4000, flags::SYN).seq(100).packet();
    syn[20 + 16] ^= 1;
    assert!(lab.client_sends_packet(&syn).is_empty());
    assert!(lab.states().is_empty());
    assert_eq!(lab.drops(DropReason::TcpChecksum), 1);
}

#[test]
fn a_first_datagram_with_a_wrong_checksum_makes_no_state() {
    let mut lab = Lab::new();
    let mut datagram = Tcp::datagram(5353, b"ask").packet();
    datagram[20 + 8] ^= 1;
    assert!(lab.client_sends_packet(&datagram).is_empty());
    assert!(lab.states().is_empty());
    assert_eq!(lab.drops(DropReason::UdpChecksum), 1);
    // RFC 768: none at all is allowed.
    datagram[20 + 6..20 + 8].fill(0);
    assert!(!lab.client_sends_packet(&datagram).is_empty());
}
