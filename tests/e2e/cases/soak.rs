//! The soak: many short connections through few source ports, with everything
//! at once that has ever cost somebody a second. Runs where `FULLGATE_SOAK`
//! says how many connections; see `scripts/soak`.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::SockRef;

use super::add;
use crate::Case;
use crate::harness::dice::Dice;
use crate::harness::echo::TcpServer;
use crate::harness::plan::{Kind, Plan, Protocol, Service};
use crate::harness::tcp::{self, LIMIT};
use crate::harness::topology::Lab;

const PORT: u16 = 7000;
const FIRST_CLIENT_PORT: u16 = 20_000;
const CLIENT_PORTS: u16 = 64;

/// Nothing may take longer.
const SLOW: Duration = Duration::from_millis(200);

/// Beyond the timeouts of the service below.
const IDLE: Duration = Duration::from_millis(1200);

/// Pause between two changes of the configuration.
const BETWEEN_CHANGES: Duration = Duration::from_millis(250);

pub fn list(cases: &mut Vec<Case>) {
    if std::env::var_os("FULLGATE_SOAK").is_none() {
        return;
    }
    let plan = Plan {
        servers: 2,
        local_addresses: 1,
        local_ports: 1024..=5119,
        ..Plan::new(Kind::Fullgate)
    };
    add(cases, "soak", &[plan], soak);
}

/// How a connection ends, or does not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Way {
    ServerCloses,
    ClientCloses,
    ClientResets,
    ServerResets,
    /// The client closes its half before the answer.
    ClientHalfCloses,
    /// The server closes its half, and the client goes on.
    ServerHalfCloses,
    /// The client comes back after the timeout.
    Idles,
    /// The server closes, and the client does after the timeout.
    ClosesLate,
}

impl Way {
    /// Most of what clients do, and a few of each oddity.
    fn random(dice: u64) -> Self {
        match dice % 1000 {
            0..300 => Self::ServerCloses,
            300..600 => Self::ClientCloses,
            600..700 => Self::ClientResets,
            700..800 => Self::ServerResets,
            800..890 => Self::ClientHalfCloses,
            890..980 => Self::ServerHalfCloses,
            980..990 => Self::Idles,
            _ => Self::ClosesLate,
        }
    }

    /// What the client's first byte tells the server to do.
    fn letter(self) -> u8 {
        match self {
            Self::ServerCloses | Self::ClosesLate => b's',
            Self::ServerResets => b'r',
            Self::ServerHalfCloses => b'h',
            _ => b'c',
        }
    }
}

/// What one client port has seen.
#[derive(Default)]
struct Seen {
    connect: Vec<Duration>,
    request: Vec<Duration>,
    close: Vec<Duration>,
    ways: BTreeMap<Way, u64>,
    /// By what and errno: connections that ended with an error.
    errors: BTreeMap<String, u64>,
}

impl Seen {
    fn merge(mut self, other: Self) -> Self {
        self.connect.extend(other.connect);
        self.request.extend(other.request);
        self.close.extend(other.close);
        for (way, count) in other.ways {
            *self.ways.entry(way).or_default() += count;
        }
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
        self
    }

    /// One connection, in its way. An error is where it ended.
    fn connection(&mut self, source: SocketAddrV4, target: SocketAddrV4, way: Way) -> Option<()> {
        *self.ways.entry(way).or_default() += 1;
        let start = Instant::now();
        let connected = tcp::connect_within(LIMIT, source, target);
        self.connect.push(start.elapsed());
        let stream = self.note("connect", connected)?.stream;
        let outcome = self.request(&stream, way);
        self.note("request", outcome)?;
        match way {
            Way::Idles => {
                std::thread::sleep(IDLE);
                let outcome = self.request(&stream, way);
                self.note("request after the timeout", outcome)?;
            }
            Way::ClosesLate => std::thread::sleep(IDLE),
            _ => {}
        }
        let start = Instant::now();
        let outcome = close(stream, way);
        self.close.push(start.elapsed());
        self.note("close", outcome)
    }

    fn request(&mut self, mut stream: &TcpStream, way: Way) -> io::Result<()> {
        let start = Instant::now();
        let outcome = (|| {
            stream.write_all(&[way.letter()])?;
            if way == Way::ClientHalfCloses {
                stream.shutdown(Shutdown::Write)?;
            }
            stream.read_exact(&mut [0; 2])
        })();
        self.request.push(start.elapsed());
        outcome
    }

    fn note<T>(&mut self, what: &str, outcome: io::Result<T>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(error) => {
                let name = format!("{what}: {error}");
                *self.errors.entry(name).or_default() += 1;
                None
            }
        }
    }
}

/// Ends a connection in its way; returns when the peer has acknowledged that.
fn close(mut stream: TcpStream, way: Way) -> io::Result<()> {
    let mut end = [0];
    match way {
        Way::ClientResets => {
            return SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
        Way::ServerResets => {
            return match stream.read(&mut end) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
                Err(error) => Err(error),
                Ok(_) => Err(io::Error::other("no reset")),
            };
        }
        Way::ClientCloses | Way::Idles => stream.shutdown(Shutdown::Write)?,
        Way::ServerHalfCloses => {
            if stream.read(&mut end)? != 0 {
                return Err(io::Error::other("more than the answer"));
            }
            stream.write_all(b"more")?;
        }
        Way::ServerCloses | Way::ClientHalfCloses | Way::ClosesLate => {}
    }
    if stream.read(&mut end)? != 0 {
        return Err(io::Error::other("more than the answer"));
    }
    SockRef::from(&stream).set_linger(Some(LIMIT))
}

/// The server's part of every way.
fn serve(mut stream: &TcpStream) -> io::Result<()> {
    let mut way = [0];
    while stream.read(&mut way)? != 0 {
        stream.write_all(b"ok")?;
        match way[0] {
            b's' => break,
            b'r' => {
                // Once the client has the answer: a reset would overtake it.
                std::thread::sleep(Duration::from_millis(2));
                return SockRef::from(stream).set_linger(Some(Duration::ZERO));
            }
            b'h' => {
                stream.shutdown(Shutdown::Write)?;
                stream.read_to_end(&mut Vec::new())?;
                return Ok(());
            }
            _ => {}
        }
    }
    stream.shutdown(Shutdown::Write)?;
    stream.read(&mut way).map(|_| ())
}

fn soak(plan: &Plan) {
    let connections: u64 = std::env::var("FULLGATE_SOAK")
        .ok()
        .and_then(|value| value.parse().ok())
        .expect("FULLGATE_SOAK: a number of connections");
    let service = Service::new(plan, "soak", Protocol::Tcp, PORT, &[1, 1])
        .with("timeouts = { established = \"1s\", half-closed = \"1s\" }\n");
    let mut lab = Lab::start(plan, std::slice::from_ref(&service));
    let servers: Vec<TcpServer> = service
        .servers
        .iter()
        .enumerate()
        .map(|(index, server)| {
            TcpServer::start(lab.server(index), server.address, |stream, _| {
                // The client says how it ended.
                let _ = serve(stream);
            })
        })
        .collect();
    // A port in TIME_WAIT would be the client kernel's own refusal.
    lab.client().sysctl("net/ipv4/tcp_max_tw_buckets", "0");

    let started = Instant::now();
    let (seen, changes) = drive(&mut lab, plan, &service, connections);
    report(&mut lab, &seen, connections, changes, started.elapsed());
    drop(servers);
    let slow = [&seen.connect, &seen.request, &seen.close].map(|times| slow_of(times));
    assert_eq!(slow, [0; 3], "slower than {SLOW:?}");
}

/// Runs all connections, with the configuration changing meanwhile.
fn drive(lab: &mut Lab, plan: &Plan, service: &Service, connections: u64) -> (Seen, u64) {
    let left = std::sync::Arc::new(AtomicU64::new(connections));
    let clients: Vec<_> = (0..CLIENT_PORTS)
        .map(|index| {
            let source = SocketAddrV4::new(plan.client(), FIRST_CLIENT_PORT + index);
            let (target, left) = (service.vip(), std::sync::Arc::clone(&left));
            lab.client().spawn(move || {
                let mut dice = Dice(u64::from(index));
                let mut seen = Seen::default();
                let take = |left: u64| left.checked_sub(1);
                while left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                    .is_ok()
                {
                    seen.connection(source, target, Way::random(dice.roll()));
                }
                seen
            })
        })
        .collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let gateway = lab.fullgate();
        let operator = scope.spawn(|| operate(gateway, service, &done));
        let seen = clients
            .into_iter()
            .map(|client| client.join().expect("a client"))
            .reduce(Seen::merge)
            .expect("there are clients");
        done.store(true, Ordering::Relaxed);
        (seen, operator.join().expect("the operator"))
    })
}

/// Removes and adds one server and changes its weight, again and again; the
/// other stays. Returns the number of changes.
fn operate(
    gateway: &crate::harness::fullgate::Fullgate,
    service: &Service,
    done: &AtomicBool,
) -> u64 {
    let mut dice = Dice(0xfa11);
    let mut changes = 0;
    while !done.load(Ordering::Relaxed) {
        let server = &service.servers[(dice.roll() % 2) as usize];
        let weight = |weight: u64| {
            gateway.call(
                "server.edit",
                json!({"service": service.name, "server": server.name, "weight": weight}),
            )
        };
        let outcome = match dice.roll() % 3 {
            0 => weight(dice.roll() % 5 + 1),
            1 => weight(0).and_then(|_| {
                std::thread::sleep(BETWEEN_CHANGES);
                weight(1)
            }),
            _ => gateway
                .call(
                    "server.del",
                    json!({"service": service.name, "server": server.name}),
                )
                .and_then(|_| {
                    std::thread::sleep(BETWEEN_CHANGES);
                    gateway.call(
                        "server.add",
                        json!({"service": service.name, "name": server.name,
                               "address": server.address.to_string(), "weight": 1}),
                    )
                }),
        };
        outcome.expect("a change");
        changes += 1;
        std::thread::sleep(BETWEEN_CHANGES);
    }
    changes
}

fn slow_of(times: &[Duration]) -> usize {
    times.iter().filter(|&&time| time > SLOW).count()
}

fn report(lab: &mut Lab, seen: &Seen, connections: u64, changes: u64, elapsed: Duration) {
    println!(
        "\n{connections} connections from {CLIENT_PORTS} ports in {:.1} s, \
         {changes} changes of the configuration",
        elapsed.as_secs_f64()
    );
    println!(
        "{:8} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8}",
        "ms", "count", "median", "90 %", "99 %", "99.9 %", "max", "> 200"
    );
    for (name, times) in [
        ("connect", &seen.connect),
        ("request", &seen.request),
        ("close", &seen.close),
    ] {
        let mut sorted = times.clone();
        sorted.sort();
        let at = |share: f64| {
            let index = (sorted.len().saturating_sub(1) as f64 * share) as usize;
            sorted
                .get(index)
                .map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        println!(
            "{name:8} {:>8} {:>9.3} {:>9.3} {:>9.3} {:>9.3} {:>9.3} {:>8}",
            sorted.len(),
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999),
            at(1.0),
            slow_of(times)
        );
    }
    println!("ways: {:?}", seen.ways);
    println!("ended by an error: {:#?}", seen.errors);
    println!("segments sent again: {}", lab.retransmissions());
    println!("{}", lab.fullgate().ctl(&["show", "drops"]));
}
