//! Next hops: who gets a place, who is believed, and what is announced.

use std::net::Ipv4Addr;

use super::lab::{CLIENT, LOCAL, Lab, SERVERS, Tcp, VIP, flags};
use crate::ids::PortIx;
use crate::service::route::NextHop;
use crate::service::snapshot::ServerState;
use crate::stats::{DropReason, Event};
use crate::wire::arp::ArpOp;
use crate::wire::ethernet::MacAddr;
use crate::worker::message::{Command, NeighborScan, Notice, Reply};

const FOREIGN: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x66]);

fn stranger(n: u32) -> Ipv4Addr {
    (u32::from(Ipv4Addr::new(10, 1, 0, 0)) + 300 + n).into()
}

/// Whether an address is one of [`stranger`]'s.
fn is_stranger(addr: Ipv4Addr) -> bool {
    let [a, b, c, _] = addr.octets();
    [a, b] == [10, 1] && c > 0
}

/// A SYN from an address that nobody has, and its server's answer.
fn forged_syn(lab: &mut Lab, n: u32) {
    let syn = Tcp {
        src: stranger(n),
        ..Tcp::from_client(4000, flags::SYN).seq(n)
    };
    let to_server = lab.client_sends(syn).to_server();
    lab.server_sends(accepts(&to_server));
}

fn accepts(syn: &Tcp) -> Tcp {
    let answer = syn.reply(flags::SYN | flags::ACK).seq(9);
    answer.ack(syn.seq.wrapping_add(1))
}

fn known(lab: &mut Lab) -> usize {
    lab.command(Command::Neighbors(Box::new(NeighborScan::new(100))));
    let scan = lab.replies().into_iter().find_map(|reply| match reply {
        Reply::Neighbors(scan) => Some(scan),
        _ => None,
    });
    scan.expect("an answer").found.len()
}

#[test]
fn a_flood_of_strangers_costs_nobody_his_next_hop() {
    let mut lab = Lab::new();
    lab.is_absent = is_stranger;
    lab.set_server(1, ServerState::Removed);
    let mut before = lab.connect(4000);
    for n in 0..4_200 {
        forged_syn(&mut lab, n);
        if n % 2 == 0 {
            lab.pass(1);
        }
    }
    assert!(known(&mut lab) <= 64);
    before.exchange(&mut lab, b"still", b"there");
    // A client that never was here, and a server that is new.
    lab.set_server(1, ServerState::Up);
    lab.set_server(0, ServerState::Removed);
    // The strangers' connections end meanwhile, with RSTs to all of them.
    let newcomer = Tcp {
        src: Ipv4Addr::new(10, 1, 0, 77),
        ..Tcp::from_client(4000, flags::SYN).seq(1)
    };
    let sent = lab.client_sends(newcomer.clone()).all_to_server();
    let syn = sent.iter().find(|segment| segment.dst == SERVERS[1]);
    let answer = lab.server_sends(accepts(syn.expect("sent at once")));
    assert!(lab.event(Event::ResetServerGone) > 0);
    let mut sent = answer.all_to_client().into_iter();
    assert!(
        sent.any(|segment| segment.dst == newcomer.src),
        "sent at once"
    );
    assert_eq!(lab.drops(DropReason::NeighborTableFull), 0);
    assert!(lab.event(Event::GuestReplaced) > 4_000);
}

#[test]
fn a_connection_outlives_its_place_in_the_table() {
    let mut lab = Lab::new();
    let mut flow = lab.connect(4000);
    // Clients that do answer, more than there are places.
    for n in 0..200 {
        forged_syn(&mut lab, n);
        lab.pass(30);
    }
    assert!(lab.event(Event::GuestReplaced) > 100);
    flow.exchange(&mut lab, b"still", b"there");
    assert_eq!(lab.drops(DropReason::NeighborTableFull), 0);
}

#[test]
fn servers_that_come_and_go_use_no_places_up() {
    let mut lab = Lab::new();
    for _ in 0..200 {
        for (gone, there) in [(0, 1), (1, 0)] {
            lab.set_server(there, ServerState::Up);
            lab.set_server(gone, ServerState::Removed);
            lab.pass(10);
        }
    }
    assert!(known(&mut lab) <= 3);
    lab.connect(4000);
}

#[test]
fn senders_that_cannot_be_are_not_believed() {
    let mut lab = Lab::new();
    let mut flow = lab.connect(4000);
    for mac in [[0xff; 6], [0; 6], [1, 0, 0x5e, 0, 0, 1]] {
        lab.arp_from(MacAddr(mac), ArpOp::Reply, CLIENT, CLIENT);
    }
    for addr in [
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::BROADCAST,
        Ipv4Addr::new(224, 0, 0, 5),
        Ipv4Addr::new(127, 0, 0, 1),
    ] {
        lab.arp_from(FOREIGN, ArpOp::Reply, addr, VIP);
    }
    assert_eq!(lab.drops(DropReason::ArpSender), 7);
    // What is sent still goes to the client's own MAC; the lab checks that.
    flow.exchange(&mut lab, b"to", b"whom");
    // A probe (RFC 5227 §2.1.1) is answered: its sender must not take our address.
    let out = lab.arp_from(FOREIGN, ArpOp::Request, Ipv4Addr::UNSPECIFIED, VIP);
    assert_eq!(out.arp_replies(), [VIP]);
}

#[test]
fn answers_nobody_asked_for_leave_nothing() {
    let mut lab = Lab::new();
    let before = known(&mut lab);
    for n in 0..10_000 {
        lab.arp_from(FOREIGN, ArpOp::Reply, stranger(n), VIP);
    }
    assert_eq!(known(&mut lab), before);
}

#[test]
fn a_claim_on_our_address_is_told_counted_and_answered() {
    let mut lab = Lab::new();
    lab.pass(5_000);
    lab.replies();
    for address in [VIP, LOCAL] {
        for op in [ArpOp::Reply, ArpOp::Request] {
            lab.arp_from(FOREIGN, op, address, CLIENT);
        }
    }
    assert_eq!(lab.event(Event::AddressClaimed), 4);
    assert_eq!(lab.drops(DropReason::ArpClaim), 4);
    let claim = |reply: &Reply| match reply {
        Reply::Notice(Notice::AddressClaimed(hop, mac)) => Some((*hop, *mac)),
        _ => None,
    };
    let told: Vec<_> = lab.replies().iter().filter_map(claim).collect();
    let hop = NextHop {
        port: PortIx(0),
        addr: VIP,
    };
    assert_eq!(told[0], (hop, FOREIGN));
    assert_eq!(told.len(), 1, "once a second");
    // Ours is said once in ten seconds, where it is (RFC 5227 §2.4).
    let mut defended = 0;
    for _ in 0..21 {
        let out = lab.arp_from(FOREIGN, ArpOp::Reply, VIP, VIP);
        defended += out.announced().len();
        lab.pass(1_000);
    }
    assert_eq!(defended, 2);
    lab.connect(4000);
}

#[test]
fn addresses_are_announced_three_times_on_their_ports() {
    let mut lab = Lab::new();
    assert_eq!(lab.pass(5_000).announced().len(), 2 * 4, "since the start");
    assert_eq!(lab.event(Event::Announced), 3 * 4);
    assert!(lab.pass(5_000).announced().is_empty());
    // A link came up.
    lab.command(Command::Announce(1));
    let out = lab.pass(5_000);
    let mut announced = out.announced();
    announced.sort_unstable();
    let wan = Ipv4Addr::new(10, 1, 0, 1);
    assert_eq!(announced, [wan, wan, wan, VIP, VIP, VIP]);
}

#[test]
fn a_server_whose_mac_changed_is_found_while_others_wait_for_nothing() {
    let mut lab = Lab::new();
    let mut flow = lab.connect(4000);
    lab.pass(100);
    // It falls silent, and packets go on to the MAC that it had.
    lab.is_absent = |addr| SERVERS.contains(&addr);
    for _ in 0..5 {
        lab.pass(1_000);
        flow.exchange(&mut lab, b"a", b"b");
    }
    let asked = lab.event(Event::ArpRequests);
    lab.pass(600);
    assert!(
        lab.event(Event::ArpRequests) >= asked + 4,
        "asked, and asked again"
    );
    flow.exchange(&mut lab, b"a", b"b");
}

#[test]
fn a_dead_next_hop_is_asked_again_by_the_first_packet() {
    let mut lab = Lab::new();
    lab.is_absent = |addr| SERVERS.contains(&addr);
    lab.client_sends_udp(5353, b"ask");
    lab.pass(1_100);
    assert_eq!(lab.drops(DropReason::NeighborUnreachable), 1);
    let silent = |reply: &Reply| matches!(reply, Reply::Notice(Notice::NextHopSilent(_)));
    assert_eq!(lab.replies().iter().filter(|r| silent(r)).count(), 1);
    // It is back, and nobody was told.
    lab.is_absent = |_| false;
    let sent = lab.sent_to_server(2).0;
    assert!(
        !lab.client_sends_udp(5353, b"ask").is_empty(),
        "sent at once"
    );
    assert_eq!(lab.sent_to_server(2).0, sent + 1);
    let answers = |reply: &Reply| matches!(reply, Reply::Notice(Notice::NextHopAnswers(_)));
    assert_eq!(lab.replies().iter().filter(|r| answers(r)).count(), 1);
}

#[test]
fn an_unanswered_syn_casts_doubt_on_the_next_hop() {
    let mut lab = Lab::new();
    lab.connect(4000);
    lab.connect(4001);
    lab.pass(1_500);
    let asked = lab.event(Event::ArpRequests);
    lab.pass(400);
    assert_eq!(lab.event(Event::ArpRequests), asked, "nobody doubts");
    lab.client_sends(Tcp::from_client(4002, flags::SYN));
    lab.pass(300);
    assert!(
        lab.event(Event::ArpRequests) > asked,
        "asked before its time"
    );
}

#[test]
fn a_syn_to_a_server_that_moved_is_sent_again_when_that_is_known() {
    let mut lab = Lab::new();
    lab.set_server(1, ServerState::Removed);
    let mut flow = lab.connect(4000);
    lab.pass(1_500);
    lab.server_mac = MacAddr([2, 0, 0, 0, 0, 0x77]);
    let lost = lab.client_sends(Tcp::from_client(4001, flags::SYN).seq(7));
    assert!(lost.is_empty());
    let again = lab.pass(300).to_server();
    assert_eq!((again.flags, again.dst), (flags::SYN, SERVERS[0]));
    assert_eq!(lab.event(Event::SynResent), 1);
    let answer = lab.server_sends(accepts(&again)).to_client();
    assert_eq!(answer.flags, flags::SYN | flags::ACK);
    flow.exchange(&mut lab, b"still", b"there");
    // One that is only slow is not asked twice.
    lab.pass(1_500);
    lab.client_sends(Tcp::from_client(4002, flags::SYN))
        .to_server();
    assert!(lab.pass(900).is_empty());
    assert_eq!(lab.event(Event::SynResent), 1);
}
