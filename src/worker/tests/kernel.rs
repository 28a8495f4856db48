//! What goes to the kernel, what does not, and what comes from it.

use std::net::Ipv4Addr;

use super::lab::kernel::{KERNEL, STRANGER, VRRP};
use super::lab::{CLIENT, Lab, Tcp, VIP, flags};
use crate::io::memory::MemoryIo;
use crate::stats::{DropReason, Event};
use crate::wire::arp::ArpOp;
use crate::wire::proto;

const RATE: u32 = 1_000;

#[test]
fn what_is_for_the_ports_own_address_goes_to_the_kernel_unchanged() {
    let (mut lab, kernel) = Lab::with_kernel(RATE, 64);
    for protocol in [proto::TCP, proto::UDP] {
        assert!(lab.stranger_sends(CLIENT, KERNEL, protocol).is_empty());
        let packets = kernel.got();
        assert_eq!(packets.len(), 1);
        assert_eq!(packets[0][12..16], CLIENT.octets());
        assert_eq!(packets[0][8], 64, "the TTL is as it came");
    }
    assert_eq!(lab.event(Event::ToKernel), 2);
    assert_eq!(lab.drops(DropReason::NoService), 0);
}

#[test]
fn an_address_of_the_kernels_alone_is_its() {
    let (mut lab, kernel) = Lab::with_kernel(RATE, 64);
    lab.stranger_sends(CLIENT, VRRP, proto::TCP);
    assert_eq!(kernel.count(), 1);
    lab.ping(VRRP);
    assert_eq!(kernel.count(), 1, "only the kernel can answer");
}

#[test]
fn services_local_addresses_and_others_are_none_of_the_kernels() {
    let (mut lab, kernel) = Lab::with_kernel(RATE, 64);
    lab.connect(4000);
    lab.client_sends(Tcp::from_client(4001, flags::ACK));
    lab.stranger_sends(CLIENT, VIP, proto::TCP);
    lab.stranger_sends(CLIENT, lab.local(), proto::TCP);
    lab.stranger_sends(CLIENT, Ipv4Addr::new(10, 1, 0, 50), proto::TCP);
    assert_eq!(kernel.count(), 0);
    assert_eq!(lab.drops(DropReason::NotLocalAddress), 1);
    assert_eq!(lab.drops(DropReason::NoService), 1);
    assert_eq!(lab.drops(DropReason::UnknownFlowServer), 1);
    assert_eq!(lab.states().len(), 1);
}

#[test]
fn without_an_interface_on_the_port_everything_is_as_before() {
    let (mut lab, kernel) = Lab::with_kernel(RATE, 64);
    lab.server_asks(Ipv4Addr::new(10, 2, 0, 1));
    lab.server_asks(KERNEL);
    assert_eq!(kernel.count(), 0);
    assert_eq!(lab.drops(DropReason::NoService), 2);
    assert_eq!(lab.event(Event::ResetRefused), 2);
    let mut without = Lab::new();
    without.stranger_sends(CLIENT, KERNEL, proto::TCP);
    assert_eq!(without.drops(DropReason::NoService), 1);
}

#[test]
fn pings_are_answered_here_and_all_other_icmp_is_the_kernels() {
    let (mut lab, kernel) = Lab::with_kernel(RATE, 64);
    let out = lab.ping(KERNEL);
    assert_eq!(out.icmp_to_client(), Some((0, 0)));
    assert_eq!(kernel.count(), 0);
    // The answer to a ping of the kernel's.
    lab.sends_icmp(KERNEL, vec![0, 0, 0, 0, 0, 1, 0, 1]);
    assert_eq!(kernel.count(), 1);
    // A router about a segment of the kernel's own: it quotes KERNEL → CLIENT.
    let mut error = vec![3, 4, 0, 0, 0, 0, 5, 0];
    error.extend_from_slice(&[
        0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 1, 0, 1, 10, 1, 0, 2,
    ]);
    error.extend_from_slice(&[0, 179, 0x9c, 0x40, 0, 0, 0, 1]);
    lab.sends_icmp(KERNEL, error);
    assert_eq!(kernel.count(), 1);
    assert_eq!(lab.drops(DropReason::IcmpUnmatched), 0);
}

#[test]
fn errors_about_connections_stay_here() {
    let (mut lab, kernel) = Lab::with_kernel(RATE, 64);
    let flow = lab.connect(4000);
    let about = Tcp::from_client(4000, flags::ACK);
    let mut error = vec![3, 1, 0, 0, 0, 0, 0, 0];
    error.extend_from_slice(&[
        0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 1, 0, 100, 10, 1, 0, 2,
    ]);
    error.extend_from_slice(&80u16.to_be_bytes());
    error.extend_from_slice(&about.src_port.to_be_bytes());
    error.extend_from_slice(&flow.server_next.to_be_bytes());
    lab.sends_icmp(KERNEL, error);
    assert_eq!(lab.event(Event::IcmpTranslated), 1);
    assert_eq!(kernel.count(), 0);
}

#[test]
fn other_protocols_and_groups_of_the_segment_are_the_kernels() {
    let (mut lab, kernel) = Lab::with_kernel(RATE, 64);
    const OSPF: u8 = 89;
    const VRRP_PROTOCOL: u8 = 112;
    lab.sends_protocol(KERNEL, OSPF, &[2; 44]);
    lab.sends_protocol(Ipv4Addr::new(224, 0, 0, 5), OSPF, &[2; 44]);
    lab.sends_protocol(Ipv4Addr::new(224, 0, 0, 18), VRRP_PROTOCOL, &[0x21; 20]);
    lab.stranger_sends(CLIENT, Ipv4Addr::new(224, 0, 0, 9), proto::UDP);
    assert_eq!(kernel.count(), 4);
    lab.sends_protocol(Ipv4Addr::new(224, 0, 1, 1), OSPF, &[2; 44]);
    assert_eq!(kernel.count(), 0);
    assert_eq!(lab.drops(DropReason::NotLocalAddress), 1);
}

#[test]
fn fragments_go_as_they_come() {
    let (mut lab, kernel) = Lab::with_kernel(RATE, 64);
    lab.sends_fragments(KERNEL);
    assert_eq!(kernel.count(), 2);
    assert_eq!(lab.drops(DropReason::Ipv4Fragment), 0);
}

#[test]
fn arp_is_shared() {
    let (mut lab, kernel) = Lab::with_kernel(RATE, 64);
    let asked = lab.client_arp(ArpOp::Request, CLIENT, KERNEL);
    assert_eq!(asked.arp_replies(), [KERNEL]);
    assert_eq!(kernel.arp_count(), 0, "the worker answers");
    lab.client_arp(ArpOp::Reply, CLIENT, KERNEL);
    assert_eq!(kernel.arp_count(), 1, "answers are for both");
    lab.client_arp(ArpOp::Request, CLIENT, CLIENT);
    assert_eq!(kernel.arp_count(), 1, "and announcements");
    let asked = lab.client_arp(ArpOp::Request, CLIENT, VRRP);
    assert!(asked.arp_replies().is_empty());
    assert_eq!(kernel.arp_count(), 1, "its own address");
    let stranger = Ipv4Addr::new(10, 1, 0, 50);
    lab.client_arp(ArpOp::Request, CLIENT, stranger);
    assert_eq!(kernel.arp_count(), 0);
}

#[test]
fn a_flood_from_afar_leaves_the_neighbours_their_share() {
    let (mut lab, kernel) = Lab::with_kernel(RATE, 4_096);
    for _ in 0..RATE {
        lab.stranger_sends(STRANGER, KERNEL, proto::TCP);
    }
    let through = RATE as usize / 10;
    assert_eq!(kernel.count(), through);
    let dropped = u64::from(RATE) - through as u64;
    assert_eq!(lab.drops(DropReason::KernelRate), dropped);
    lab.stranger_sends(CLIENT, KERNEL, proto::TCP);
    assert_eq!(kernel.count(), 1);
    lab.pass(1_000);
    lab.stranger_sends(STRANGER, KERNEL, proto::TCP);
    assert_eq!(kernel.count(), 1, "a second later");
}

#[test]
fn a_full_ring_is_a_counted_drop() {
    let (mut lab, kernel) = Lab::with_kernel(RATE, 4);
    for _ in 0..6 {
        lab.stranger_sends(CLIENT, KERNEL, proto::TCP);
    }
    assert_eq!(lab.drops(DropReason::KernelRingFull), 2);
    assert_eq!(kernel.count(), 4);
    lab.stranger_sends(CLIENT, KERNEL, proto::TCP);
    assert_eq!(kernel.count(), 1, "the buffers came back");
}

#[test]
fn a_longer_packet_than_a_buffer_is_a_counted_drop() {
    let (mut lab, kernel) = Lab::with_kernel(RATE, 4);
    lab.sends_protocol(KERNEL, 89, &[0; 2_048]);
    assert_eq!(lab.drops(DropReason::KernelTooLong), 1);
    assert_eq!(kernel.count(), 0);
}

#[test]
fn what_the_kernel_sends_goes_out_as_it_is() {
    let (mut lab, kernel) = Lab::with_kernel(RATE, 4);
    let long: Vec<u8> = (0..200).map(|byte| byte as u8).collect();
    assert_eq!(lab.kernel_sends(&kernel, &long), [long]);
    let padded = lab.kernel_sends(&kernel, &[9; 42]);
    assert_eq!(padded.len(), 1);
    assert_eq!(padded[0][..42], [9; 42]);
    assert_eq!(padded[0][42..], [0; 18], "to the shortest frame");
    assert_eq!(lab.event(Event::FromKernel), 2);
    // More frames than there are buffers: they come back.
    for _ in 0..10 {
        assert_eq!(lab.kernel_sends(&kernel, &[1; 60]).len(), 1);
    }
    *lab.worker.io_mut() = MemoryIo {
        free: 0,
        ..MemoryIo::new(2)
    };
    assert!(lab.kernel_sends(&kernel, &[1; 60]).is_empty());
    assert_eq!(lab.drops(DropReason::NoBuffer), 1);
}
