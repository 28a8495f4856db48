//! Several workers and few local ports: a worker whose own are in use borrows
//! those of the others.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use super::lab::nic::{Delivery, Nic};
use super::lab::{CLIENT, Tcp, VIP, flags};
use crate::conntrack::entry::State;
use crate::snat::steering::Reta;
use crate::stats::Event;

const PORTS: std::ops::RangeInclusive<u16> = 2_000..=3_023;
const DELIVERIES: [Delivery; 2] = [Delivery::Hashed, Delivery::Anywhere];

fn nic(workers: u8, delivery: Delivery) -> Nic {
    Nic::with_ports(
        workers,
        Reta::even(128, workers).expect("a table"),
        delivery,
        PORTS,
    )
}

fn client(number: u32) -> (Ipv4Addr, u16) {
    // Spread as chance would (Knuth): ports in a row are the workers' in turn.
    let spread = number.wrapping_mul(2_654_435_761) >> 8;
    let address = CLIENT.to_bits() + spread % 64;
    (
        Ipv4Addr::from_bits(address),
        (2_000 + spread / 64 % 60_000) as u16,
    )
}

/// Clients whose flows one worker owns.
fn clients_of(nic: &Nic, worker: usize) -> impl Iterator<Item = u32> + use<> {
    let owned: Vec<u32> = (0..100_000)
        .filter(|&number| {
            let (client, port) = client(number);
            nic.owner(client, port) == worker
        })
        .collect();
    owned.into_iter()
}

struct Conn {
    client: Ipv4Addr,
    port: u16,
    syn: Tcp,
}

impl Conn {
    /// What the client sends: `sent` bytes after its SYN, `got` of the server's.
    fn segment(&self, flags: u8, sent: u32, got: u32) -> Tcp {
        Tcp::from_client(self.port, flags)
            .from(self.client)
            .seq(101 + sent)
            .ack(901 + got)
    }

    fn to_server(&self, nic: &mut Nic, flags: u8, sent: u32, got: u32, payload: &[u8]) {
        let packet = self.segment(flags, sent, got).payload(payload);
        let seen = nic.client_sends(packet).to_server();
        assert_eq!((seen.src, seen.src_port), (self.syn.src, self.syn.src_port));
        assert_eq!(seen.seq, self.syn.seq.wrapping_add(1 + sent));
        assert_eq!((seen.flags, &seen.payload[..]), (flags, payload));
    }

    fn to_client(&self, nic: &mut Nic, flags: u8, sent: u32, got: u32, payload: &[u8]) {
        let packet = self.syn.reply(flags).payload(payload);
        let packet = packet
            .seq(901 + sent)
            .ack(self.syn.seq.wrapping_add(1 + got));
        let seen = nic.server_sends(packet).to_client();
        assert_eq!((seen.src, seen.src_port), (VIP, 80));
        assert_eq!((seen.dst, seen.dst_port), (self.client, self.port));
        assert_eq!((seen.seq, seen.ack), (901 + sent, 101 + got));
        assert_eq!((seen.flags, &seen.payload[..]), (flags, payload));
    }

    /// A request, its response twice, and the end: by FIN of either side, or RST.
    fn use_and_end(&self, nic: &mut Nic, how: u32) {
        self.to_server(nic, flags::ACK, 0, 0, b"request");
        self.to_client(nic, flags::ACK, 0, 7, b"response");
        self.to_client(nic, flags::ACK, 0, 7, b"response");
        self.to_server(nic, flags::ACK, 7, 8, b"");
        match how % 4 {
            0 => {
                self.to_server(nic, flags::FIN | flags::ACK, 7, 8, b"");
                self.to_client(nic, flags::FIN | flags::ACK, 8, 8, b"");
                self.to_server(nic, flags::ACK, 8, 9, b"");
            }
            1 => {
                self.to_client(nic, flags::FIN | flags::ACK, 8, 7, b"");
                self.to_server(nic, flags::FIN | flags::ACK, 7, 9, b"");
                self.to_client(nic, flags::ACK, 9, 8, b"");
                // Again, from TIME-WAIT.
                self.to_client(nic, flags::ACK, 9, 8, b"");
            }
            2 => self.to_server(nic, flags::RST | flags::ACK, 7, 8, b""),
            _ => self.to_client(nic, flags::RST | flags::ACK, 8, 7, b""),
        }
    }
}

fn syn(number: u32) -> Tcp {
    let (client, port) = client(number);
    Tcp::from_client(port, flags::SYN).from(client).seq(100)
}

fn connect(nic: &mut Nic, number: u32) -> Conn {
    let (client, port) = client(number);
    let syn = nic.client_sends(syn(number)).to_server();
    let conn = Conn { client, port, syn };
    let answer = conn.syn.reply(flags::SYN | flags::ACK);
    let answer = answer.seq(900).ack(conn.syn.seq.wrapping_add(1));
    let seen = nic.server_sends(answer).to_client();
    assert_eq!((seen.dst, seen.dst_port), (client, port));
    assert_eq!((seen.seq, seen.ack), (900, 101));
    conn.to_server(nic, flags::ACK, 0, 0, b"");
    conn
}

/// Connections take all ports, all of them usable; then nobody holds any.
fn fill_and_empty(nic: &mut Nic, numbers: impl Iterator<Item = u32>) {
    let mut numbers = numbers;
    let conns: Vec<Conn> = (0..PORTS.len())
        .map(|_| connect(nic, numbers.next().expect("one more")))
        .collect();
    let ports: HashSet<u16> = conns.iter().map(|conn| conn.syn.src_port).collect();
    assert_eq!(ports.len(), PORTS.len());
    assert_eq!(nic.gauges(), (0, PORTS.len() as u64));
    assert_eq!(nic.dropped(), 0);
    let lent = nic
        .states()
        .iter()
        .filter(|&&state| state == State::Redirect)
        .count();
    assert_eq!(nic.event(Event::LocalPortBorrowed), lent as u64);
    assert!(lent > 0);
    // One more has to be refused, at once.
    let refused = nic
        .client_sends(syn(numbers.next().expect("one more")))
        .to_client();
    assert_eq!(refused.flags, flags::RST | flags::ACK);
    for (conn, how) in conns.iter().zip(0..) {
        conn.use_and_end(nic, how);
    }
    assert_eq!(nic.dropped(), 1);
    assert_eq!(nic.gauges(), (0, 0));
}

#[test]
fn all_ports_of_all_workers_are_used_before_anybody_is_refused() {
    for workers in [2, 4] {
        for delivery in DELIVERIES {
            let mut nic = nic(workers, delivery);
            fill_and_empty(&mut nic, 0..);
            nic.pass(75_000);
            assert_eq!(nic.ports_taken(), vec![0; usize::from(workers)]);
            assert_eq!(nic.states(), []);
        }
    }
}

#[test]
fn one_workers_clients_may_have_the_ports_of_all() {
    for workers in [2, 4] {
        let mut nic = nic(workers, Delivery::Hashed);
        let numbers = clients_of(&nic, 1);
        fill_and_empty(&mut nic, numbers);
        nic.pass(75_000);
        assert_eq!(nic.ports_taken(), vec![0; usize::from(workers)]);
        // And once more.
        let numbers = clients_of(&nic, 0).take(PORTS.len());
        let conns: Vec<Conn> = numbers.map(|number| connect(&mut nic, number)).collect();
        assert_eq!(conns.len(), PORTS.len());
    }
}

#[test]
fn a_port_comes_back_although_the_word_of_it_was_lost() {
    let mut nic = nic(2, Delivery::Hashed);
    let numbers = clients_of(&nic, 0);
    fill_and_empty(&mut nic, numbers);
    nic.loses_returns = true;
    nic.pass(75_000);
    let taken = nic.ports_taken();
    assert_eq!(taken[0], 0);
    assert!(taken[1] > 0, "{taken:?}");
    nic.loses_returns = false;
    nic.pass(61_000);
    assert_eq!(nic.ports_taken(), [0, 0]);
    assert_eq!(nic.states(), []);
}

/// The last of so many connections is on a borrowed port.
fn borrowed(nic: &mut Nic) -> Conn {
    let mut numbers = clients_of(nic, 0);
    loop {
        let conn = connect(nic, numbers.next().expect("one more"));
        if nic.event(Event::LocalPortBorrowed) > 0 {
            return conn;
        }
    }
}

#[test]
fn a_lent_port_stays_lent_while_its_connection_is_idle() {
    let mut nic = nic(2, Delivery::Hashed);
    let conn = borrowed(&mut nic);
    nic.pass(300_000);
    conn.use_and_end(&mut nic, 1);
}

#[test]
fn icmp_errors_about_a_borrowed_port_find_the_client() {
    for delivery in DELIVERIES {
        let mut nic = nic(2, delivery);
        let conn = borrowed(&mut nic);
        let sent = conn.segment(flags::ACK, 0, 0).payload(b"request");
        for _ in 0..8 {
            let got = nic.client_sends(sent.clone()).to_server();
            let (quoted, _) = nic.server_is_unreachable(&got).quoted_to(conn.client);
            assert_eq!((quoted.src, quoted.src_port), (conn.client, conn.port));
        }
    }
}

/// What comes late for a connection that nobody has any more goes round no ring.
#[test]
fn nothing_bounces_between_lender_and_borrower() {
    let mut nic = nic(2, Delivery::Hashed);
    let conn = borrowed(&mut nic);
    nic.loses_returns = true;
    conn.use_and_end(&mut nic, 2);
    nic.pass(72_000);
    let redirects = nic
        .states()
        .iter()
        .filter(|&&state| state == State::Redirect)
        .count();
    assert_eq!(redirects, 1);
    let before = nic.handed_over();
    let late = conn
        .syn
        .reply(flags::ACK)
        .seq(909)
        .ack(conn.syn.seq.wrapping_add(8));
    let answer = nic.server_sends(late).to_server();
    assert_eq!(answer.flags, flags::RST);
    assert!(nic.server_is_unreachable(&conn.syn).is_empty());
    assert!(nic.handed_over() - before <= 3);
}

#[test]
fn a_servers_fragments_to_a_borrowed_port_arrive() {
    let mut nic = nic(2, Delivery::Hashed);
    let conn = borrowed(&mut nic);
    let segment = conn
        .syn
        .reply(flags::ACK)
        .seq(901)
        .ack(conn.syn.seq.wrapping_add(1));
    for piece in super::lab::in_two(&segment.payload(&[7; 100]).packet()) {
        assert_eq!(nic.server_sends_packet(&piece).packets_to_client().len(), 1);
    }
    assert_eq!(nic.dropped(), 0);
}

#[test]
fn handshakes_that_nobody_ends_borrow_few_ports() {
    let mut nic = nic(2, Delivery::Hashed);
    for number in clients_of(&nic, 0).take(2_000) {
        assert_eq!(nic.client_sends(syn(number)).all_to_client().len(), 0);
    }
    assert_eq!(nic.event(Event::LocalPortBorrowed), 128);
    assert!(nic.event(Event::HalfOpenPortTaken) > 1_000);
    for number in clients_of(&nic, 1).take(300) {
        connect(&mut nic, number);
    }
    // They go with their time; others may borrow then.
    nic.pass(120_000);
    assert_eq!(nic.gauges(), (0, 300));
    assert_eq!(nic.ports_taken().iter().sum::<u32>(), 300);
}
