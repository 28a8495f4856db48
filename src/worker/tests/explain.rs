//! What a worker says of a flow.

use super::lab::{CLIENT, LOCAL, Lab, SERVERS, Tcp, VIP, flags};
use crate::conntrack::entry::{Direction, FlowTuple, State};
use crate::ids::{PortIx, ServerIx, ServiceIx};
use crate::neighbor::Condition;
use crate::service::snapshot::ServerState;
use crate::time::Millis;
use crate::worker::message::probe::{Candidate, Probe};
use crate::worker::message::{Command, Reply};

fn tuple_of(packet: &Tcp) -> FlowTuple {
    FlowTuple {
        src: packet.src,
        dst: packet.dst,
        src_port: packet.src_port,
        dst_port: packet.dst_port,
        protocol: packet.protocol,
    }
}

fn ask(lab: &mut Lab, tuple: FlowTuple) -> Probe {
    lab.command(Command::Explain(Box::new(Probe {
        tuple,
        service: Some(ServiceIx(0)),
        found: None,
        source_hop: None,
        candidates: vec![Candidate::new(ServerIx(0)), Candidate::new(ServerIx(1))],
        next: None,
        entries: (0, 0),
        now: Millis(0),
    })));
    let answer = lab.replies().into_iter().find_map(|reply| match reply {
        Reply::Explained(probe) => Some(*probe),
        _ => None,
    });
    answer.expect("an answer")
}

#[test]
fn a_connection_is_found_by_either_side_with_its_next_hops() {
    let mut lab = Lab::new();
    let flow = lab.connect(4000);
    let client = Tcp::from_client(4000, flags::ACK);
    let server = flow.to_server.reply(flags::ACK);
    for (packet, direction) in [(client, Direction::Forward), (server, Direction::Reverse)] {
        let probe = ask(&mut lab, tuple_of(&packet));
        let found = probe.found.expect("a connection");
        assert_eq!(found.direction, direction);
        assert_eq!(found.entry.state, State::Established);
        assert_eq!(found.entry.local, LOCAL);
        let (to_client, to_server) = (
            found.client_hop.expect("a route"),
            found.server_hop.expect("a route"),
        );
        assert_eq!(
            (to_client.next.port, to_client.next.addr),
            (PortIx(0), CLIENT)
        );
        assert_eq!(
            (to_server.next.port, to_server.next.addr),
            (PortIx(1), SERVERS[0])
        );
        assert_eq!(to_server.condition, Some(Condition::Known));
        assert!(to_server.mac.is_some());
        assert_eq!(probe.entries.0, 1);
    }
}

#[test]
fn candidates_are_told_and_nothing_moves() {
    let mut lab = Lab::new();
    let flow = lab.connect(4000);
    assert_eq!(flow.to_server.dst, SERVERS[0]);
    let stranger = tuple_of(&Tcp::from_client(4001, flags::SYN));
    for _ in 0..3 {
        let probe = ask(&mut lab, stranger);
        assert!(probe.found.is_none());
        let back = probe.source_hop.expect("a route");
        assert_eq!(back.condition, Some(Condition::Known));
        assert_eq!(probe.next, Some(ServerIx(1)), "it stays its turn");
        let [first, second] = probe.candidates[..] else {
            panic!("two servers")
        };
        assert_eq!((first.active, second.active), (1, 0));
        assert!(first.sound && second.sound);
        assert_eq!(first.free_ports + 1, second.free_ports);
        let hop = second.hop.expect("a route");
        assert_eq!((hop.condition, hop.mac), (Some(Condition::Unasked), None));
    }
    let out = lab.client_sends(Tcp::from_client(4001, flags::SYN));
    assert_eq!(out.to_server().dst, SERVERS[1]);
    for server in 0..2 {
        lab.set_server(server, ServerState::Draining);
    }
    let probe = ask(&mut lab, tuple_of(&Tcp::from_client(4002, flags::SYN)));
    assert_eq!(probe.next, None);
    assert_eq!(probe.tuple.dst, VIP);
}
