//! SYNs that are not answered, refused, or answered late: who is asked next, and
//! what is thought of whom.

use super::lab::{LOCAL_2, Lab, SERVERS, Tcp, flags};
use crate::conntrack::entry::State;
use crate::io::BURST;
use crate::service::snapshot::ServerState;
use crate::stats::{DropReason, Event};
use crate::worker::hold::HeldSyns;

fn syn(port: u16) -> Tcp {
    Tcp::from_client(port, flags::SYN).seq(100)
}

/// The server's SYN-ACK to a SYN that it got.
fn accept(syn: &Tcp) -> Tcp {
    syn.reply(flags::SYN | flags::ACK).seq(900).ack(101)
}

/// The server's RST to a SYN that it got.
fn refuse(syn: &Tcp) -> Tcp {
    syn.reply(flags::RST | flags::ACK).ack(101)
}

/// A SYN from `port`, of which the first server that gets it is silent and the
/// other one accepts: who got it first, and after how long the other one.
fn silence(lab: &mut Lab, port: u16) -> (usize, u64) {
    let first = lab.client_sends(syn(port)).to_server();
    for waited in 1..2_000 {
        let out = lab.pass(1);
        if !out.is_empty() {
            let second = out.to_server();
            assert_eq!(lab.server_sends(accept(&second)).to_client().ack, 101);
            return (index(&first), waited);
        }
    }
    panic!("nobody else was asked");
}

/// A SYN from `port` that is accepted by whoever gets it.
fn connect(lab: &mut Lab, port: u16) -> usize {
    let first = lab.client_sends(syn(port)).to_server();
    let _ = lab.server_sends(accept(&first)).to_client();
    index(&first)
}

fn index(to_server: &Tcp) -> usize {
    let found = SERVERS.iter().position(|server| *server == to_server.dst);
    found.expect("a server")
}

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

#[test]
fn a_syn_with_data_moves_whole() {
    let mut lab = Lab::new();
    let data = [7; 300];
    let first = lab.client_sends(syn(4000).payload(&data)).to_server();
    assert_eq!((index(&first), lab.held_syns()), (0, 1));
    let second = lab.pass(280).to_server();
    assert_eq!((index(&second), &second.payload[..]), (1, &data[..]));
    assert_eq!((lab.failures(0), lab.held_syns()), (1, 1));
    // RFC 7413: the server may take the data or only the SYN.
    let _ = lab.server_sends(accept(&second).ack(401)).to_client();
    assert_eq!(lab.held_syns(), 0);
}

#[test]
fn without_a_copy_the_client_s_own_packet_moves() {
    let mut lab = Lab::new();
    lab.worker.held = HeldSyns::new(0);
    let first = lab.client_sends(syn(4000)).to_server();
    assert!(lab.pass(1_000).is_empty());
    assert_eq!(lab.failures(0), 1, "counted without a copy");
    let second = lab.client_sends(syn(4000)).to_server();
    assert_eq!((index(&first), index(&second)), (0, 1));
    assert_eq!(lab.event(Event::SynHoldFull), 2);
}

#[test]
fn the_copy_held_longest_gives_way() {
    let mut lab = Lab::new();
    lab.worker.held = HeldSyns::new(2);
    for port in 4000..4003 {
        lab.client_sends(syn(port));
    }
    assert_eq!((lab.held_syns(), lab.event(Event::SynHoldFull)), (2, 1));
    let moved = lab.pass(280).all_to_server();
    assert_eq!(moved.len(), 2);
    // The first one's client still gets there.
    lab.pass(720);
    assert_eq!(index(&lab.client_sends(syn(4000)).to_server()), 1);
    lab.pass(40_000);
    assert_eq!(lab.held_syns(), 0);
}

#[test]
fn each_retransmission_allows_one_more_attempt() {
    let mut lab = Lab::new();
    let mut asked = vec![lab.client_sends(syn(4000)).to_server().dst];
    for pause in [1_000, 2_000, 4_000, 8_000] {
        let by_timer = lab.pass(pause).all_to_server();
        asked.extend(by_timer.iter().map(|syn| syn.dst));
        asked.push(lab.client_sends(syn(4000)).to_server().dst);
    }
    // Three by the timers, and then one for each that the client sends, in turn.
    let turns: Vec<_> = (0..asked.len()).map(|turn| SERVERS[turn % 2]).collect();
    assert_eq!((asked.len(), asked), (3 + 4, turns));
}

#[test]
fn a_retransmission_before_the_server_s_time_is_over_goes_there_too() {
    let mut lab = Lab::new();
    let first = lab.client_sends(syn(4000)).to_server();
    lab.pass(100);
    let again = lab.client_sends(syn(4000)).to_server();
    assert_eq!((again.dst, again.src_port), (first.dst, first.src_port));
}

#[test]
fn syns_that_nobody_answers_prove_nothing() {
    let mut lab = Lab::new();
    lab.set_fail_after(1);
    for port in 4000..4020 {
        lab.client_sends(syn(port));
        lab.pass(600);
    }
    assert!(lab.failures(0) > 0 && lab.failures(1) > 0);
    let mut turns: Vec<_> = (5000..5004).map(|port| connect(&mut lab, port)).collect();
    turns.sort_unstable();
    assert_eq!(turns, [0, 0, 1, 1]);
}

#[test]
fn a_syn_that_another_server_answers_is_proof() {
    let mut lab = Lab::new();
    lab.set_fail_after(2);
    assert_eq!(silence(&mut lab, 4000).0, 0);
    assert_eq!(connect(&mut lab, 4001), 0, "one is not enough, and cleared");
    assert_eq!(connect(&mut lab, 4002), 1);
    assert_eq!(silence(&mut lab, 4003).0, 0);
    assert_eq!(silence(&mut lab, 4004).0, 0);
    let turns: Vec<_> = (5000..5004).map(|port| connect(&mut lab, port)).collect();
    assert_eq!(turns, [1, 1, 1, 1], "out");
}

#[test]
fn a_server_that_is_out_gets_one_short_trial_at_a_time() {
    let mut lab = Lab::new();
    lab.set_fail_after(1);
    let (tried, waited) = silence(&mut lab, 4000);
    assert_eq!(tried, 0);
    assert!((250..260).contains(&waited), "{waited}");
    lab.pass(1_100);
    let (tried, waited) = silence(&mut lab, 4001);
    assert_eq!(tried, 0);
    assert!(waited <= 60, "{waited}");
    assert_eq!(connect(&mut lab, 4002), 1);
    assert_eq!(connect(&mut lab, 4003), 1);
    lab.pass(1_000);
    assert_eq!(connect(&mut lab, 4004), 1);
    assert_eq!(connect(&mut lab, 4005), 1);
    // It goes on so: no longer and longer.
    for port in 4100..4120 {
        lab.pass(2_000);
        assert_eq!(silence(&mut lab, port).0, 0, "port {port}");
    }
    lab.pass(2_000);
    assert_eq!(connect(&mut lab, 5000), 0);
    let turns: Vec<_> = (5001..5005).map(|port| connect(&mut lab, port)).collect();
    assert_eq!(turns, [1, 0, 1, 0], "back in full");
}

#[test]
fn a_refused_trial_moves_at_once() {
    let mut lab = Lab::new();
    lab.set_fail_after(1);
    for (port, pause) in [(4000, 1_100), (4001, 2_100), (4002, 0)] {
        let first = lab.client_sends(syn(port)).to_server();
        assert_eq!(index(&first), 0);
        let second = lab.server_sends(refuse(&first)).to_server();
        assert_eq!(index(&second), 1);
        let _ = lab.server_sends(accept(&second)).to_client();
        lab.pass(pause);
    }
}

#[test]
fn a_refusal_with_a_wrong_checksum_is_no_refusal() {
    let mut lab = Lab::new();
    let first = lab.client_sends(syn(4000)).to_server();
    let mut refusal = refuse(&first).packet();
    refusal[20 + 16] ^= 1;
    assert!(lab.server_sends_packet(&refusal).is_empty());
    assert_eq!(lab.states(), [State::SynSent]);
    assert_eq!(lab.drops(DropReason::TcpChecksum), 1);
    let _ = lab.server_sends(accept(&first)).to_client();
}

#[test]
fn who_refused_is_not_asked_again() {
    let mut lab = Lab::new();
    let first = lab.client_sends(syn(4000)).to_server();
    let second = lab.server_sends(refuse(&first)).to_server();
    assert_eq!((index(&first), index(&second)), (0, 1));
    // The other is silent; nobody is left.
    assert!(lab.pass(3_000).is_empty());
    assert_eq!(lab.held_syns(), 1, "somebody may come back");
    lab.set_server(0, ServerState::Down);
    lab.set_server(0, ServerState::Up);
    let _ = lab.server_sends(accept(&second)).to_client();
    assert_eq!(lab.held_syns(), 0);
}

#[test]
fn a_late_answer_is_taken_if_no_other_came() {
    let mut lab = Lab::new();
    let first = lab.client_sends(syn(4000)).to_server();
    let second = lab.pass(300).to_server();
    assert_eq!((index(&first), index(&second)), (0, 1));
    let to_client = lab.server_sends(accept(&first)).to_client();
    assert_eq!((to_client.seq, to_client.ack), (900, 101));
    assert_eq!(lab.event(Event::LateAnswer), 1);
    assert_eq!(lab.states(), [State::SynReceived, State::Resting]);
    assert_eq!((lab.half_open(), lab.held_syns()), (1, 0));

    let ack = Tcp::from_client(4000, flags::ACK).seq(101).ack(901);
    let to_server = lab.client_sends(ack).to_server();
    assert_eq!(
        (to_server.dst, to_server.src_port),
        (first.dst, first.src_port)
    );
    assert_eq!(lab.half_open(), 0);
    // The other's answer is late, and of no use.
    lab.pass(250);
    let reset = lab.server_sends(accept(&second)).to_server();
    assert_eq!(
        (index(&reset), reset.flags, reset.seq),
        (1, flags::RST, 101)
    );
    assert_eq!(lab.states(), [State::Established, State::Resting]);
    assert_eq!((lab.active(0), lab.active(1)), (1, 0));
    assert_eq!(lab.ports_in_use(), 2);

    // Its connection is one like others.
    let fin = Tcp::from_client(4000, flags::FIN | flags::ACK)
        .seq(101)
        .ack(901);
    let _ = lab.client_sends(fin).to_server();
    let fin = first.reply(flags::FIN | flags::ACK).seq(901).ack(102);
    let _ = lab.server_sends(fin).to_client();
    let _ = lab
        .client_sends(Tcp::from_client(4000, flags::ACK).seq(102).ack(902))
        .to_server();
    assert_eq!(lab.states(), [State::TimeWait, State::Resting]);
    lab.pass(61_000);
    assert_eq!((lab.ports_in_use(), lab.states().len()), (0, 0));
}

#[test]
fn a_far_server_is_given_its_time() {
    let mut lab = Lab::new();
    lab.set_fail_after(3);
    // One answers after 300 ms, the other at once.
    for port in 4000..4010 {
        let first = lab.client_sends(syn(port)).to_server();
        if index(&first) == 1 {
            let _ = lab.server_sends(accept(&first)).to_client();
            continue;
        }
        let moved = lab.pass(300).all_to_server();
        if let [second] = &moved[..] {
            // The first of its kind: the other one was asked after 250 ms.
            assert_eq!(port, 4000);
            let _ = lab.server_sends(accept(second)).to_client();
            let reset = lab.server_sends(accept(&first)).to_server();
            assert_eq!(reset.flags, flags::RST);
        } else {
            let _ = lab.server_sends(accept(&first)).to_client();
        }
    }
    assert_eq!((lab.active(0), lab.active(1)), (5, 5));
    assert_eq!(lab.event(Event::SynMoved), 1);
    // Silent, it is given up before its client sends again.
    assert_eq!(connect(&mut lab, 4999), 1);
    let (server, waited) = silence(&mut lab, 5000);
    assert_eq!(server, 0);
    assert!((300..=800).contains(&waited), "{waited}");
}

#[test]
fn a_blocked_local_address_is_avoided_and_taken_out() {
    let mut lab = Lab::new();
    lab.add_local();
    lab.set_fail_after(2);
    // Both servers are silent towards one of the two local addresses.
    let mut moved = 0;
    for port in 4000..4040 {
        let mut to_server = lab.client_sends(syn(port)).to_server();
        if to_server.src != LOCAL_2 {
            moved += 1;
            to_server = lab.pass(280).to_server();
            assert_eq!(to_server.src, LOCAL_2, "another local address");
        }
        let _ = lab.server_sends(accept(&to_server)).to_client();
    }
    assert!((2..=4).contains(&moved), "{moved}");
    assert!(lab.worker.health.iter().all(|health| !health.is_out()));
    let failures: Vec<_> = lab
        .worker
        .paths
        .iter()
        .map(|path| path.failures())
        .collect();
    assert_eq!(failures.iter().sum::<u32>(), moved);
}

#[test]
fn a_single_server_is_asked_from_another_local_address() {
    let mut lab = Lab::new();
    lab.add_local();
    lab.set_server(1, ServerState::Removed);
    lab.pass(8);
    let first = lab.client_sends(syn(4000)).to_server();
    let second = lab.pass(280).to_server();
    assert_eq!((index(&first), index(&second)), (0, 0));
    assert_ne!(first.src, second.src);
    // From both it is silent, and nobody else is left.
    assert!(lab.pass(3_000).is_empty());
}

/// RFC 1122 §4.2.3.9 lets a client give up when it hears of an unreachable host;
/// a firewall that rejects says so of a port (RFC 1812 §5.2.7.1).
#[test]
fn an_unreachable_server_s_syn_moves_at_once() {
    let mut lab = Lab::new();
    let first = lab.client_sends(syn(4000)).to_server();
    let second = lab.server_sends_icmp(3, 3, &first).to_server();
    assert_eq!((index(&first), index(&second)), (0, 1));
    assert_eq!(lab.failures(0), 1);
    // About the other one the client hears: nobody is left.
    let out = lab.server_sends_icmp(3, 1, &second);
    assert_eq!(out.quoted_to_client().1, (3, 1));
}

#[test]
fn a_forged_icmp_error_moves_nothing() {
    let mut lab = Lab::new();
    let first = lab.client_sends(syn(4000)).to_server();
    let _ = lab.server_sends_icmp(3, 3, &first.clone().seq(99));
    assert_eq!((lab.event(Event::SynMoved), lab.failures(0)), (0, 0));
}

#[test]
fn the_client_hears_nothing_of_an_attempt_that_was_given_up() {
    let mut lab = Lab::new();
    let first = lab.client_sends(syn(4000)).to_server();
    let second = lab.pass(280).to_server();
    assert!(lab.server_sends_icmp(3, 1, &first).is_empty());
    assert_eq!(lab.drops(DropReason::IcmpUnmatched), 1);
    let _ = lab.server_sends(accept(&second)).to_client();
}

#[test]
fn a_late_answer_is_taken_in_the_numbering_of_its_own_attempt() {
    let mut lab = Lab::with_ports(2000..=2001);
    for port in [4000, 4001] {
        let mut flow = lab.connect_with(port, 1_000, 0);
        flow.server_closes(&mut lab);
        flow.client_closes(&mut lab);
    }
    // It is the other one's turn.
    assert_eq!(connect(&mut lab, 4900), 1);
    let first = lab.client_sends(syn(4002)).to_server();
    assert_eq!(lab.event(Event::LocalPortStolen), 1);
    assert_ne!(first.seq, 100, "moved past what the server remembers");
    assert_eq!(lab.pass(300).to_server().dst, SERVERS[1]);
    let late = first
        .reply(flags::SYN | flags::ACK)
        .seq(900)
        .ack(first.seq.wrapping_add(1));
    assert_eq!(lab.server_sends(late).to_client().ack, 101);
    let ack = Tcp::from_client(4002, flags::ACK).seq(101).ack(901);
    let to_server = lab.client_sends(ack).to_server();
    assert_eq!(to_server.dst, SERVERS[0]);
    assert_eq!(to_server.seq, first.seq.wrapping_add(1));
}

/// A firewall may reject one of the gateway's addresses, and no other.
#[test]
fn a_single_server_that_refuses_is_asked_from_another_local_address_once() {
    let mut lab = Lab::new();
    lab.add_local();
    lab.set_server(1, ServerState::Removed);
    lab.pass(8);
    let first = lab.client_sends(syn(4000)).to_server();
    let second = lab.server_sends(refuse(&first)).to_server();
    assert_eq!((index(&first), index(&second)), (0, 0));
    assert_ne!(first.src, second.src);
    let refusal = lab.server_sends(refuse(&second)).to_client();
    assert_eq!((refusal.flags, refusal.ack), (flags::RST | flags::ACK, 101));
}

#[test]
fn a_server_s_answer_out_of_an_older_connection_is_counted() {
    let mut lab = Lab::new();
    let first = lab.client_sends(syn(4000)).to_server();
    let stale = first
        .reply(flags::ACK)
        .seq(7_000)
        .ack(first.seq.wrapping_sub(5_000));
    let out = lab.server_sends(stale).all_to_server();
    let sent: Vec<_> = out.iter().map(|packet| packet.flags).collect();
    assert_eq!(sent, [flags::RST, flags::SYN]);
    assert_eq!(lab.event(Event::StaleServer), 1);
    assert_eq!(lab.drops(DropReason::ServerAbandoned), 1);
}

#[test]
fn an_answer_that_a_stalled_worker_has_not_read_is_no_silence() {
    let mut lab = Lab::new();
    let mut flow = lab.connect(5000);
    let asked = lab.client_sends(syn(4000)).to_server();
    let mut queued = vec![flow.server_segment(flags::ACK); 3 * BURST];
    queued.push(accept(&asked));
    let out = lab.stalls(700, &queued);
    assert!(out.all_to_server().is_empty(), "{out:?}");
    assert_eq!((lab.event(Event::SynMoved), lab.failures(0)), (0, 0));
    let answers = out.all_to_client();
    let is_answer = |segment: &Tcp| segment.flags == flags::SYN | flags::ACK;
    assert_eq!(answers.iter().filter(|it| is_answer(it)).count(), 1);
    flow.exchange(&mut lab, b"a", b"b");
    // One that did not come is.
    let first = lab.client_sends(syn(4001)).to_server();
    let second = lab.stalls(700, &[flow.server_segment(flags::ACK)]);
    let second = second.to_server();
    assert_ne!(second.dst, first.dst);
}
