//! Row 3: a SYN from the port of a connection that is over is a new connection
//! in the same packet: scheduled afresh, on a fresh local port. On one that is
//! half over, the server is asked first, and then the same happens: a round trip
//! later, and with the one SYN that the client sent.

use std::io::Read as _;
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use super::{
    Body, CLIENT_PORT, Oracle, PORT, ask, connect, forget, plan, require_counts,
    require_nothing_sent_again, reset, row, service, start,
};
use crate::Case;
use crate::harness::capture::Capture;
use crate::harness::echo::TcpServer;
use crate::harness::plan::{Plan, Service};
use crate::harness::process::until;
use crate::harness::tcp::LIMIT;
use crate::harness::topology::Lab;

pub fn list(cases: &mut Vec<Case>) {
    let cases_of: [(&str, Oracle, Body); 5] = [
        ("time_wait", Oracle::Sound, |plan| on(plan, true, time_wait)),
        ("closed", Oracle::Sound, |plan| on(plan, true, closed)),
        ("fin_wait", Oracle::Faulty, |plan| on(plan, false, fin_wait)),
        ("close_wait", Oracle::Faulty, |plan| {
            on(plan, false, close_wait)
        }),
        ("last_ack", Oracle::Faulty, |plan| on(plan, false, last_ack)),
    ];
    for (state, oracle, body) in cases_of {
        let name = format!("row03_syn_on_{state}");
        row(cases, &name, &plan(2), oracle, body);
    }
}

/// Servers that answer one byte with their name, then do as the test says:
/// `true` closes the half, `false` waits for the client's end.
// The sender goes first: without it nobody waits any more.
struct Servers {
    go: mpsc::Sender<bool>,
    _running: Vec<TcpServer>,
}

impl Servers {
    fn start(lab: &Lab, service: &Service) -> Self {
        let (go, gone) = mpsc::channel();
        let gone = std::sync::Arc::new(std::sync::Mutex::new(gone));
        let start = |(index, server): (usize, &crate::harness::plan::Server)| {
            let (name, gone) = (server.name.clone(), std::sync::Arc::clone(&gone));
            TcpServer::start(lab.server(index), server.address, move |stream, _| {
                serve(stream, &name, &gone);
            })
        };
        let running = service.servers.iter().enumerate().map(start).collect();
        Self {
            go,
            _running: running,
        }
    }
}

fn serve(mut stream: &TcpStream, name: &str, gone: &std::sync::Mutex<mpsc::Receiver<bool>>) {
    let _ = stream.read_exact(&mut [0]);
    let _ = std::io::Write::write_all(&mut stream, name.as_bytes());
    let close = gone.lock().expect("nobody panics in it").recv();
    if close == Ok(true) {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let _ = stream.read(&mut [0]);
    // A half-closed connection stays until the other side goes on.
    let _ = gone.lock().expect("nobody panics in it").recv();
}

/// Brings a connection into a state with `end`, and connects again from the
/// same port. `over`: neither side can still send.
fn on(plan: &Plan, over: bool, end: fn(&Lab, &Servers, TcpStream) -> &'static str) {
    let service = service(plan, "");
    let mut lab = start(plan, &service);
    let servers = Servers::start(&lab, &service);
    let first = connect(&lab, plan, CLIENT_PORT);
    assert_eq!(ask(&first), "s0");
    let state = end(&lab, &servers, first);
    if lab.router().is_none() {
        until(LIMIT, state, || {
            let found = lab.fullgate().show("connections");
            (found["connections"][0]["state"] == state).then_some(())
        });
    }

    let at_client = Capture::start(lab.client(), lab.directory(), "fg0");
    let at_servers = Capture::start(lab.server(0), lab.directory(), "fg1");
    let second = connect(&lab, plan, CLIENT_PORT);
    assert_eq!(ask(&second), "s1", "not scheduled afresh");
    let complete = |segments: &[crate::harness::capture::Segment]| {
        segments.iter().any(|segment| segment.length == 2)
    };
    let at_client = at_client.stop_when(complete);
    let at_servers = at_servers.stop_when(complete);
    let syns = |segments: &[crate::harness::capture::Segment]| {
        segments.iter().filter(|s| s.is_syn()).count()
    };
    assert_eq!(syns(&at_client), 1);
    if over {
        // Answered by the next segment.
        assert!(at_client[0].is_syn() && at_client[1].syn && at_client[1].ack);
        assert_eq!(syns(&at_servers), 1);
        require_counts(&mut lab, &[("client-port-reused", 1)]);
    } else {
        assert_eq!(syns(&at_servers), 2, "asked first, then scheduled afresh");
        require_counts(&mut lab, &[("syn-on-established", 1), ("syn-replayed", 1)]);
    }
    require_nothing_sent_again(&lab);
}

/// The server closed first; the client has no memory of the connection.
fn time_wait(_: &Lab, servers: &Servers, mut stream: TcpStream) -> &'static str {
    servers.go.send(true).expect("a server waits");
    assert_eq!(stream.read(&mut [0]).expect("the server's end"), 0);
    drop(stream);
    std::thread::sleep(Duration::from_millis(100));
    "TIME_WAIT"
}

fn closed(_: &Lab, _: &Servers, stream: TcpStream) -> &'static str {
    reset(stream);
    std::thread::sleep(Duration::from_millis(100));
    "CLOSED"
}

/// The client has closed its half, and lost its memory; the server goes on.
fn fin_wait(lab: &Lab, servers: &Servers, stream: TcpStream) -> &'static str {
    servers.go.send(false).expect("a server waits");
    stream.shutdown(Shutdown::Write).expect("close the half");
    std::thread::sleep(Duration::from_millis(100));
    forget(lab.client(), stream);
    "CLIENT_CLOSED"
}

/// The server has closed its half; the client has lost its memory.
fn close_wait(lab: &Lab, servers: &Servers, mut stream: TcpStream) -> &'static str {
    servers.go.send(true).expect("a server waits");
    assert_eq!(stream.read(&mut [0]).expect("the server's end"), 0);
    forget(lab.client(), stream);
    "SERVER_CLOSED"
}

/// Both have closed; the last acknowledgement never came, and the client has
/// lost its memory.
fn last_ack(lab: &Lab, servers: &Servers, mut stream: TcpStream) -> &'static str {
    servers.go.send(true).expect("a server waits");
    assert_eq!(stream.read(&mut [0]).expect("the server's end"), 0);
    lab.server(0).nft(&format!(
        "table ip mute {{\nchain out {{ type filter hook output priority 0; \
         tcp sport {PORT} drop; }}\n}}\n"
    ));
    stream.shutdown(Shutdown::Write).expect("close the half");
    std::thread::sleep(Duration::from_millis(50));
    forget(lab.client(), stream);
    lab.server(0).nft("delete table ip mute\n");
    "CLOSING"
}
