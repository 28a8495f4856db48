//! The promise: nothing waits for a retransmission timer because of the
//! gateway. One file for each row of the table in `docs/never-a-second.md`, and
//! the story that the table comes from.
//!
//! Each case asserts what the client saw, in milliseconds and errno, and that
//! no host sent anything twice. `FULLGATE_E2E_ORACLE=kernel` runs them against
//! the kernel's NAT as well, and requires each to fail there that is marked
//! with a fault: a case that passes wherever it runs proves nothing.

mod attempts;
mod forged;
mod health;
mod resets;
mod row01_unknown_client;
mod row02_unknown_server;
mod row03_syn_on_old;
mod row04_silent_server;
mod row05_rebooted_client;
mod row06_local_port;
mod row07_idle;
mod row08_half_closed;
mod row09_server_gone;
mod row10_refused;
mod row11_next_hop;
mod row13_icmp;
mod story;

use std::any::Any;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::add;
use crate::Case;
use crate::harness::echo::TcpServer;
use crate::harness::netns::Netns;
use crate::harness::plan::{Kind, Plan, Protocol, Service, VIP};
use crate::harness::process::until;
use crate::harness::tcp::{self, Connected, LIMIT, NO_TIMER};
use crate::harness::topology::Lab;

/// Port of the service at the VIP and at its servers.
const PORT: u16 = 7000;

/// A client port that no kernel chooses by itself.
const CLIENT_PORT: u16 = 20_000;

/// How long a client waits that is expected to wait in vain where the gateway
/// has the fault: long enough to see several timers pass.
const PATIENCE: Duration = Duration::from_secs(4);

pub fn list(cases: &mut Vec<Case>) {
    row01_unknown_client::list(cases);
    row02_unknown_server::list(cases);
    row03_syn_on_old::list(cases);
    row04_silent_server::list(cases);
    row05_rebooted_client::list(cases);
    row06_local_port::list(cases);
    row07_idle::list(cases);
    row08_half_closed::list(cases);
    row09_server_gone::list(cases);
    row10_refused::list(cases);
    row11_next_hop::list(cases);
    row13_icmp::list(cases);
    story::list(cases);
    resets::list(cases);
    forged::list(cases);
    health::list(cases);
    attempts::list(cases);
}

/// A case's body; it panics on failure.
type Body = fn(&Plan);

/// What the kernel's NAT does with a case.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Oracle {
    /// It has the fault that the case is about, and fails it.
    Faulty,
    /// It does it right.
    Sound,
    /// Now this, now that.
    Varies,
    /// The case is about something that only fullgate has.
    Absent,
}

/// Adds a case for fullgate, and for the kernel where that is asked for.
fn row(cases: &mut Vec<Case>, name: &str, plan: &Plan, oracle: Oracle, body: Body) {
    let name = format!("never::{name}");
    add(cases, &name, std::slice::from_ref(plan), body);
    let asked = std::env::var("FULLGATE_E2E_ORACLE").is_ok_and(|value| value == "kernel");
    if !asked || oracle == Oracle::Absent {
        return;
    }
    let kernel = Plan {
        kind: Kind::Kernel,
        ..plan.clone()
    };
    add(cases, &name, &[kernel], body);
    let case = cases.last_mut().expect("one was just added");
    let run = std::mem::replace(&mut case.body, Box::new(|| {}));
    case.body = Box::new(move || {
        let outcome = panic::catch_unwind(AssertUnwindSafe(&run));
        match (&outcome, oracle) {
            (Ok(()), Oracle::Faulty) => panic!("{name}: the kernel's NAT does not have the fault"),
            (Ok(()), _) => eprintln!("oracle: {name}: passes"),
            (Err(panic), _) => eprintln!("oracle: {name}: fails: {}", message(&**panic)),
        }
        if let (Err(panic), Oracle::Sound) = (outcome, oracle) {
            panic::resume_unwind(panic);
        }
    });
}

/// What a panic says, on one line.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    let words: Vec<&str> = text.unwrap_or("?").split_whitespace().collect();
    words.join(" ")
}

/// The plan of most rows: fullgate with this many servers.
fn plan(servers: usize) -> Plan {
    Plan {
        servers,
        ..Plan::new(Kind::Fullgate)
    }
}

/// A TCP service over all of the plan's servers, with these keys.
fn service(plan: &Plan, keys: &str) -> Service {
    Service::new(plan, "t", Protocol::Tcp, PORT, &vec![1; plan.servers]).with(keys)
}

/// Starts the network; the kernel's NAT is made what is common: it drops what
/// belongs to no connection, as kube-proxy and many a firewall have it, and
/// takes up no connection half-way.
fn start(plan: &Plan, service: &Service) -> Lab {
    let lab = Lab::start(plan, std::slice::from_ref(service));
    for host in [lab.client(), lab.server(0)] {
        only_long_timers(host);
    }
    if let Some(router) = lab.router() {
        router.sysctl("net/netfilter/nf_conntrack_tcp_loose", "0");
        router.nft(
            "table ip strict {\n\
             chain forward { type filter hook forward priority 0; ct state invalid drop; }\n\
             chain input { type filter hook input priority 0; ct state invalid drop; }\n}\n",
        );
    }
    lab
}

/// Lets a host retransmit after a second at the earliest, where its kernel can
/// be told so, and never by a tail loss probe: those come after two round
/// trips, and on a busy machine a worker now and then waits longer for its core.
fn only_long_timers(host: &Netns) {
    host.sysctl("net/ipv4/tcp_early_retrans", "0");
    let shortest = "net/ipv4/tcp_rto_min_us";
    if host.run(|| Path::new("/proc/sys").join(shortest).exists()) {
        host.sysctl(shortest, "1000000");
    }
}

/// Shortens timeouts of the kernel's NAT; fullgate has them in its service's
/// keys.
fn conntrack_timeouts(lab: &Lab, seconds: u32, states: &[&str]) {
    if let Some(router) = lab.router() {
        for state in states {
            let path = format!("net/netfilter/nf_conntrack_tcp_timeout_{state}");
            router.sysctl(&path, &seconds.to_string());
        }
    }
}

/// Requires drop reasons and events to have happened exactly so often. They
/// are waited for: a packet may still be on its way.
fn require_counts(lab: &mut Lab, wanted: &[(&str, u64)]) {
    if lab.router().is_some() {
        return;
    }
    let deadline = Instant::now() + NO_TIMER;
    loop {
        let wrong: Vec<_> = wanted
            .iter()
            .map(|&(name, wanted)| (name, wanted, count(lab, name)))
            .filter(|(_, wanted, found)| wanted != found)
            .collect();
        if wrong.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "(counter, wanted, found): {wrong:?} in {}",
            lab.fullgate().ctl(&["show", "drops"])
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// How often a drop reason or an event has happened.
fn count(lab: &mut Lab, name: &str) -> u64 {
    let table = lab.fullgate().show("drops");
    let rows = |list: &str, key: &str| {
        let rows = table[list].as_array().cloned().unwrap_or_default();
        rows.into_iter().find(|row| row[key] == name)
    };
    let row = rows("drops", "reason").or_else(|| rows("events", "event"));
    row.map_or(0, |row| row["count"].as_u64().expect("a count"))
}

/// Waits until an event or drop has happened at least so often; for the
/// kernel's NAT, which does not count, it waits `otherwise`.
fn wait_for(lab: &mut Lab, name: &str, at_least: u64, otherwise: Duration) {
    if lab.router().is_some() {
        std::thread::sleep(otherwise);
        return;
    }
    until(LIMIT, &format!("{at_least} of {name}"), || {
        (count(lab, name) >= at_least).then_some(())
    });
}

/// Requires that no host has sent a segment again.
fn require_nothing_sent_again(lab: &Lab) {
    assert_eq!(lab.retransmissions(), 0, "segments sent again");
}

/// Requires an exchange not to have waited for a timer.
fn require_quick(what: &str, elapsed: Duration) {
    assert!(elapsed < NO_TIMER, "{what} took {elapsed:?}");
}

/// Requires a datagram to the service to be refused at once.
fn require_refused_datagram(lab: &Lab, plan: &Plan) {
    let (error, elapsed) = lab.client().run(|| {
        let socket = tcp::udp(plan.client(), SocketAddrV4::new(VIP, PORT));
        let start = Instant::now();
        socket.send(b"?").expect("send");
        let error = socket.recv(&mut [0]).expect_err("a refusal");
        (error, start.elapsed())
    });
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
    require_quick("the refusal", elapsed);
}

/// Connects from a port of the client in its namespace; it must not have
/// waited for a timer.
fn connect(lab: &Lab, plan: &Plan, port: u16) -> TcpStream {
    let connected = try_connect(lab, plan, port);
    let connected = connected.unwrap_or_else(|error| panic!("connect from port {port}: {error}"));
    require_quick("connect", connected.elapsed);
    connected.stream
}

fn try_connect(lab: &Lab, plan: &Plan, port: u16) -> io::Result<Connected> {
    let source = SocketAddrV4::new(plan.client(), port);
    let target = SocketAddrV4::new(VIP, PORT);
    let start = Instant::now();
    lab.client()
        .run(|| tcp::connect_within(PATIENCE, source, target))
        .map_err(|error| {
            let elapsed = start.elapsed();
            io::Error::new(error.kind(), format!("{error} after {elapsed:?}"))
        })
}

/// One line there and one back; returns the server's, and must not have waited
/// for a timer.
fn ask(mut stream: &TcpStream) -> String {
    let start = Instant::now();
    stream.write_all(b"?").expect("ask");
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).unwrap_or_else(|error| {
        panic!("no answer after {:?}: {error}", start.elapsed());
    });
    require_quick("a request", start.elapsed());
    String::from_utf8_lossy(&answer).into_owned()
}

/// Every server of the service answers each byte with its name, until the
/// client has closed; then it closes.
fn start_servers(lab: &Lab, service: &Service) -> Vec<TcpServer> {
    (0..service.servers.len())
        .map(|index| start_server(lab, service, index))
        .collect()
}

fn start_server(lab: &Lab, service: &Service, index: usize) -> TcpServer {
    let name = service.servers[index].name.clone();
    TcpServer::start(
        lab.server(index),
        service.servers[index].address,
        move |mut stream, _| {
            let mut byte = [0];
            while let Ok(1) = stream.read(&mut byte) {
                if stream.write_all(name.as_bytes()).is_err() {
                    return;
                }
            }
        },
    )
}

/// Closes a socket without a word to the peer, as if its host had lost power:
/// the reset that closing sends is dropped on its way out.
fn forget(netns: &Netns, stream: TcpStream) {
    let port = stream.local_addr().expect("a bound socket").port();
    netns.nft(&format!(
        "table ip forget {{\nchain out {{ type filter hook output priority 0; \
         tcp sport {port} tcp flags & rst == rst counter drop; }}\n}}\n"
    ));
    reset(stream);
    netns.nft("delete table ip forget\n");
}

/// Closes with a RST.
fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .expect("set SO_LINGER");
}

/// Waits for a blocked read to end with an error; the error and how long it
/// took from `since`.
fn read_error(mut stream: &TcpStream, since: Instant) -> (io::Error, Duration) {
    match stream.read(&mut [0]) {
        Err(error) => (error, since.elapsed()),
        Ok(length) => panic!("{length} bytes instead of an error"),
    }
}

/// Requires a read to end with ECONNRESET before any timer could have helped.
fn require_reset(what: &str, stream: &TcpStream, since: Instant) {
    let (error, elapsed) = read_error(stream, since);
    assert_eq!(
        error.kind(),
        io::ErrorKind::ConnectionReset,
        "{what}: {error} after {elapsed:?}"
    );
    require_quick(what, elapsed);
}
