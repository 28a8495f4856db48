//! What a gateway is for: TCP and UDP get through, spread by weight, and
//! neither end sees more of the other than FULLNAT shows.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddrV4, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use socket2::SockRef;

use super::{add, both, matrix, start_nginx, tally, workers};
use crate::Case;
use crate::harness::capture::{Capture, peers_of, retransmissions};
use crate::harness::echo::{TcpServer, UdpServer};
use crate::harness::http::{self, Client};
use crate::harness::plan::{Plan, Protocol, Service, VIP};
use crate::harness::tcp::{self, NO_TIMER};
use crate::harness::topology::Lab;

pub fn list(cases: &mut Vec<Case>) {
    add(cases, "forward::http", &matrix(), http_requests);
    add(cases, "forward::udp", &matrix(), udp_requests);
    add(cases, "forward::fragments", &workers(), fragments);
    add(
        cases,
        "forward::translates_both_ends",
        &both(),
        translates_both_ends,
    );
    add(cases, "forward::endings", &workers(), endings);
}

/// One-shot requests are spread by weight, keep-alive ones stay at a server,
/// and nothing takes long enough to have waited for a timer.
pub(super) fn http_requests(plan: &Plan) {
    let _memory = plan.hugepages();
    let web = Service::new(plan, "web", Protocol::Tcp, 80, &[2, 1, 1]);
    let lab = Lab::start(plan, std::slice::from_ref(&web));
    let _servers = start_nginx(&lab, &web);
    lab.client().run(|| {
        let answers: Vec<http::Answer> = (0..40)
            .map(|_| http::one_shot(plan.client(), web.vip()).expect("a one-shot request"))
            .collect();
        for answer in &answers {
            assert!(
                plan.is_local(*answer.peer.ip()),
                "the server saw {}",
                answer.peer
            );
            assert!(
                answer.elapsed < NO_TIMER,
                "{:?} from {}",
                answer.elapsed,
                answer.server
            );
        }
        let spread = tally(answers.iter().map(|answer| answer.server.as_str()));
        check_spread(plan, &spread);

        let mut client = Client::connect(plan.client(), web.vip()).expect("connect");
        let first = client.get(true).expect("the first request");
        for _ in 0..100 {
            let answer = client.get(true).expect("a keep-alive request");
            assert_eq!((&answer.server, answer.peer), (&first.server, first.peer));
            assert!(answer.elapsed < NO_TIMER, "{:?}", answer.elapsed);
        }
    });
    lab.assert_nothing_lost();
}

/// 40 requests over weights 2, 1, 1.
fn check_spread(plan: &Plan, spread: &BTreeMap<&str, usize>) {
    let count = |name: &str| spread.get(name).copied().unwrap_or(0);
    let counts = [count("s0"), count("s1"), count("s2")];
    if plan.workers == 1 {
        assert_eq!(counts, [20, 10, 10]);
    } else {
        // Every worker takes turns on its own, so a cycle each may be unfinished.
        let within = |count: usize, ideal: usize| count.abs_diff(ideal) <= 2 * plan.workers;
        let fair = within(counts[0], 20) && within(counts[1], 10) && within(counts[2], 10);
        assert!(fair, "{counts:?}");
    }
}

/// Every datagram is answered, from the VIP, by a server that saw a local
/// address; a client's socket keeps its server.
pub(super) fn udp_requests(plan: &Plan) {
    let _memory = plan.hugepages();
    let dns = Service::new(plan, "dns", Protocol::Udp, 53, &[1, 1, 1]);
    let lab = Lab::start(plan, std::slice::from_ref(&dns));
    let _servers: Vec<UdpServer> = dns
        .servers
        .iter()
        .enumerate()
        .map(|(index, server)| UdpServer::start(lab.server(index), server.address, &server.name))
        .collect();
    lab.client().run(|| {
        let mut names = Vec::new();
        for _ in 0..12 {
            // Connected: the kernel delivers only what comes from the VIP.
            let socket = tcp::udp(plan.client(), dns.vip());
            let mut first = None;
            for round in 0..5 {
                let question = format!("question {round}");
                socket.send(question.as_bytes()).expect("send");
                let mut buffer = [0; 256];
                let length = socket.recv(&mut buffer).expect("an answer");
                let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
                let mut parts = answer.splitn(3, ' ');
                let mut part = || parts.next().expect("three parts").to_owned();
                let (name, peer, echo) = (part(), part(), part());
                let peer: SocketAddrV4 = peer.parse().expect("an address");
                assert!(plan.is_local(*peer.ip()), "the server saw {peer}");
                assert_eq!(echo, question);
                let first = first.get_or_insert((name.clone(), peer));
                assert_eq!(*first, (name, peer), "the mapping changed");
            }
            names.push(first.expect("five rounds").0);
        }
        let spread = tally(names.iter().map(String::as_str));
        assert_eq!(spread.len(), 3, "{spread:?}");
    });
}

/// Datagrams larger than the MTU arrive whole, both ways, from many clients'
/// ports, so that their first fragments belong to different workers.
fn fragments(plan: &Plan) {
    let dns = Service::new(plan, "dns", Protocol::Udp, 53, &[1]);
    let lab = Lab::start(plan, std::slice::from_ref(&dns));
    let server = &dns.servers[0];
    let _server = UdpServer::start(lab.server(0), server.address, &server.name);
    lab.client().run(|| {
        for length in [1_473, 3_000, 9_000, 20_000] {
            for _ in 0..8 {
                let socket = tcp::udp(plan.client(), dns.vip());
                let question: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
                socket.send(&question).expect("send");
                let mut buffer = vec![0; 65_536];
                let length = socket.recv(&mut buffer).expect("an answer");
                assert!(buffer[..length].ends_with(&question), "{length} bytes");
            }
        }
    });
}

/// On the client's wire there is only the VIP; on the servers' only local
/// addresses; nothing is sent twice.
fn translates_both_ends(plan: &Plan) {
    let web = Service::new(plan, "web", Protocol::Tcp, 80, &[1, 1, 1]);
    let lab = Lab::start(plan, std::slice::from_ref(&web));
    let _servers = start_nginx(&lab, &web);
    let at_client = Capture::start(lab.client(), lab.directory(), "fg0");
    let at_servers = Capture::start(lab.server(0), lab.directory(), "fg1");
    lab.client().run(|| {
        for _ in 0..6 {
            http::one_shot(plan.client(), web.vip()).expect("a request");
        }
    });
    let complete = |segments: &[crate::harness::capture::Segment]| {
        segments.iter().filter(|segment| segment.fin).count() >= 12
    };
    let client = at_client.stop_when(complete);
    let servers = at_servers.stop_when(complete);
    assert_eq!(peers_of(&client, plan.client()), [VIP]);
    let gateway: Vec<_> = servers
        .iter()
        .map(|s| {
            if s.destination.port() == 80 {
                *s.source.ip()
            } else {
                *s.destination.ip()
            }
        })
        .collect();
    assert!(gateway.iter().all(|ip| plan.is_local(*ip)), "{gateway:?}");
    for segments in [&client, &servers] {
        assert_eq!(segments.iter().filter(|s| s.syn && !s.ack).count(), 6);
        assert_eq!(segments.iter().filter(|s| s.rst).count(), 0);
        assert_eq!(retransmissions(segments), 0);
    }
}

/// Every way in which a connection ends reaches the other side as what it is.
fn endings(plan: &Plan) {
    let service = Service::new(plan, "t", Protocol::Tcp, 7000, &[1]);
    let lab = Lab::start(plan, std::slice::from_ref(&service));
    let (tell, told) = mpsc::channel::<&'static str>();
    // The first byte says how the server is to end the connection.
    let _server = TcpServer::start(
        lab.server(0),
        service.servers[0].address,
        move |stream, _| {
            tell.send(serve_ending(stream)).expect("the test listens");
        },
    );
    lab.client().run(move || {
        let connect = || -> TcpStream {
            let source = SocketAddrV4::new(plan.client(), 0);
            let connected = tcp::connect(source, service.vip()).expect("connect");
            assert!(connected.elapsed < NO_TIMER, "{:?}", connected.elapsed);
            connected.stream
        };
        let served = || told.recv_timeout(tcp::LIMIT).expect("the server's end");
        // The server closes first.
        let mut stream = connect();
        stream.write_all(b"c").expect("ask");
        assert_eq!(read_to_end(&stream), b"bye");
        drop(stream);
        assert_eq!(served(), "closed");

        // The client closes its half first, and still gets everything.
        let mut stream = connect();
        stream.write_all(b"h").expect("ask");
        stream.shutdown(Shutdown::Write).expect("close the half");
        assert_eq!(read_to_end(&stream), vec![b'x'; 100_000]);
        assert_eq!(served(), "half");

        // The server resets.
        let mut stream = connect();
        stream.write_all(b"r").expect("ask");
        let error = stream.read(&mut [0; 8]).expect_err("a reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(served(), "reset");

        // The client resets.
        let mut stream = connect();
        stream.write_all(b"w").expect("ask");
        let mut ready = [0];
        stream
            .read_exact(&mut ready)
            .expect("the server has the connection");
        SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .expect("set SO_LINGER");
        drop(stream);
        assert_eq!(served(), "was reset");
    });
    lab.assert_nothing_lost();
}

fn serve_ending(mut stream: &TcpStream) -> &'static str {
    let mut how = [0];
    stream.read_exact(&mut how).expect("a first byte");
    match how[0] {
        b'c' => {
            stream.write_all(b"bye").expect("answer");
            stream.shutdown(Shutdown::Write).expect("close");
            assert_eq!(read_to_end(stream), b"");
            "closed"
        }
        b'h' => {
            assert_eq!(read_to_end(stream), b"");
            stream.write_all(&[b'x'; 100_000]).expect("answer");
            "half"
        }
        b'r' => {
            SockRef::from(stream)
                .set_linger(Some(Duration::ZERO))
                .expect("set SO_LINGER");
            "reset"
        }
        _ => {
            stream.write_all(b"!").expect("answer");
            match stream.read(&mut [0; 8]) {
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => "was reset",
                other => panic!("{other:?} instead of a reset"),
            }
        }
    }
}

fn read_to_end(mut stream: &TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("read to the end");
    bytes
}
