//! Honest clients that run beside something and count what became of each
//! request: how long it took, whether it failed, whether a connection that was
//! established was lost.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::libc;

use super::flood::Victims;
use super::http::Client;
use super::netns::Netns;
use super::pattern;
use super::raw;
use super::tcp;

/// A request without an answer after so long has failed.
const GIVE_UP: Duration = Duration::from_secs(5);

/// How often a server that only speaks says something.
const BEAT: Duration = Duration::from_secs(1);

/// Bytes of one request for bulk.
pub const CHUNK: usize = 128 << 10;

/// What became of the requests of one kind.
#[derive(Clone, Default)]
pub struct Record {
    /// How long each took that was answered, microseconds.
    pub took: Vec<u32>,
    pub failed: u64,
    /// Established connections that ended otherwise than by the client's will.
    pub lost: u64,
    /// Why requests failed, and how often.
    pub why: BTreeMap<String, u64>,
}

impl Record {
    pub fn note(&mut self, outcome: io::Result<Duration>) -> bool {
        match outcome {
            Ok(took) => self
                .took
                .push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX)),
            Err(error) => {
                self.failed += 1;
                *self.why.entry(error.to_string()).or_default() += 1;
                return false;
            }
        }
        true
    }

    pub fn merge(&mut self, other: Self) {
        self.took.extend(other.took);
        self.failed += other.failed;
        self.lost += other.lost;
        for (why, count) in other.why {
            *self.why.entry(why).or_default() += count;
        }
    }

    /// How many took longer than that.
    pub fn slower_than(&self, limit: Duration) -> usize {
        let limit = limit.as_micros();
        self.took
            .iter()
            .filter(|&&took| u128::from(took) > limit)
            .count()
    }
}

/// Where requests come from: a single address, or one network's addresses in
/// turn, so that nobody on the way knows the next one yet.
#[derive(Clone)]
pub struct Sources {
    first: u32,
    count: u32,
    next: Arc<AtomicU32>,
}

impl Sources {
    pub fn one(address: Ipv4Addr) -> Self {
        Self::several(address, 1)
    }

    pub fn several(first: Ipv4Addr, count: u32) -> Self {
        Self {
            first: u32::from(first),
            count,
            next: Arc::new(AtomicU32::new(0)),
        }
    }

    pub fn next(&self) -> Ipv4Addr {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        Ipv4Addr::from(self.first + turn % self.count)
    }
}

/// How the fragments of a datagram leave, where it is longer than a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    Kernel,
    LastFirst,
}

type Job = Box<dyn FnOnce(&AtomicBool) -> Record + Send>;

/// Clients to be.
pub struct Crowd {
    victims: Victims,
    /// By the name of their kind, and whether they are outside the namespace.
    jobs: Vec<(&'static str, bool, Job)>,
}

impl Crowd {
    /// Nobody yet; connections that live long are told to those who forge.
    pub fn new(victims: Victims) -> Self {
        Self {
            victims,
            jobs: Vec::new(),
        }
    }

    /// Asks once in `period`, in the clients' namespace or in the runner's own.
    fn every(
        &mut self,
        name: &'static str,
        outside: bool,
        period: Duration,
        mut ask: impl FnMut(&mut Record) + Send + 'static,
    ) {
        let job = move |stop: &AtomicBool| {
            let mut record = Record::default();
            let mut next = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                ask(&mut record);
                // Who was kept waiting does not ask twice as often then.
                next = (next + period).max(Instant::now());
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            record
        };
        self.jobs.push((name, outside, Box::new(job)));
    }

    /// Lets all of them begin.
    pub fn start(self, netns: &Netns) -> Asking {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |(name, outside, job): (_, _, Job)| {
            let stop = Arc::clone(&stop);
            let job = move || job(&stop);
            let thread = if outside {
                thread::spawn(job)
            } else {
                netns.spawn(job)
            };
            (name, thread)
        };
        let threads = self.jobs.into_iter().map(start).collect();
        Asking { stop, threads }
    }

    /// HTTP requests on one connection.
    pub fn keep_alive(&mut self, source: Ipv4Addr, target: SocketAddrV4, period: Duration) {
        let victims = self.victims.clone();
        let mut held = Held::new(Box::new(move || {
            let client = Client::connect_within(GIVE_UP, source, target)?;
            register(&victims, client.stream(), target)?;
            Ok(client)
        }));
        self.every("keep-alive", false, period, move |record| {
            held.ask(record, |client| client.get(true).map(|_| ()));
        });
    }

    /// HTTP requests on connections of their own.
    pub fn one_shot(
        &mut self,
        name: &'static str,
        sources: Sources,
        target: SocketAddrV4,
        period: Duration,
    ) {
        self.every(name, false, period, move |record| {
            let start = Instant::now();
            let outcome = one_shot(sources.next(), target);
            record.note(outcome.map(|()| start.elapsed()));
        });
    }

    /// A datagram of so many bytes and its answer, from a socket of its own.
    pub fn datagram(
        &mut self,
        name: &'static str,
        sources: Sources,
        target: SocketAddrV4,
        length: usize,
        order: Order,
        period: Duration,
    ) {
        let mut number = 0_u64;
        self.every(name, false, period, move |record| {
            number += 1;
            let mut question = vec![0; length];
            pattern::fill(&mut question, number << 16);
            let start = Instant::now();
            let outcome = datagram(sources.next(), target, &question, order);
            record.note(outcome.map(|()| start.elapsed()));
        });
    }

    /// A datagram that the way out has no room for, and the word that says so.
    pub fn too_long(
        &mut self,
        sources: Sources,
        target: SocketAddrV4,
        length: usize,
        period: Duration,
    ) {
        self.every("path MTU", false, period, move |record| {
            let start = Instant::now();
            let outcome = too_long(sources.next(), target, length);
            record.note(outcome.map(|()| start.elapsed()));
        });
    }

    /// Bulk on one connection, so many bytes down, and as many up the next time.
    pub fn bulk(&mut self, source: Ipv4Addr, target: SocketAddrV4, period: Duration) {
        let mut held = Held::new(self.peer(source, target, |stream| {
            Ok(Bulk {
                stream,
                down: 0,
                up: 0,
            })
        }));
        self.every("bulk", false, period, move |record| {
            held.ask(record, Bulk::next);
        });
    }

    /// Connections of which one after the other says something.
    pub fn idle(&mut self, source: Ipv4Addr, target: SocketAddrV4, count: usize, each: Duration) {
        let connect = |_| Held::new(self.peer(source, target, Ok));
        let mut all: Vec<_> = (0..count).map(connect).collect();
        let mut turn = 0;
        let period = each / u32::try_from(count).expect("a few");
        self.every("idle", false, period, move |record| {
            turn = (turn + 1) % all.len();
            all[turn].ask(record, |stream| {
                stream.write_all(b"i")?;
                stream.read_exact(&mut [0])
            });
        });
    }

    /// A connection whose client has closed its half, and whose server says
    /// something every second.
    pub fn half_closed(&mut self, source: Ipv4Addr, target: SocketAddrV4) {
        let mut held = Held::new(self.peer(source, target, |mut stream| {
            stream.write_all(b"h")?;
            stream.shutdown(Shutdown::Write)?;
            Ok(stream)
        }));
        held.allowance = BEAT;
        self.every("half-closed", false, Duration::ZERO, move |record| {
            held.ask(record, |stream| stream.read_exact(&mut [0]));
        });
    }

    /// Something else, done in the runner's own namespace.
    pub fn other(
        &mut self,
        name: &'static str,
        period: Duration,
        mut ask: impl FnMut() -> io::Result<()> + Send + 'static,
    ) {
        self.every(name, true, period, move |record| {
            let start = Instant::now();
            let outcome = ask();
            record.note(outcome.map(|()| start.elapsed()));
        });
    }

    /// How to connect to what `serve` serves.
    fn peer<T>(
        &self,
        source: Ipv4Addr,
        target: SocketAddrV4,
        wrap: impl Fn(TcpStream) -> io::Result<T> + Send + 'static,
    ) -> Connect<T> {
        let victims = self.victims.clone();
        Box::new(move || {
            let connected = tcp::connect_within(GIVE_UP, SocketAddrV4::new(source, 0), target)?;
            register(&victims, &connected.stream, target)?;
            wrap(connected.stream)
        })
    }
}

/// Clients that ask until told to stop.
pub struct Asking {
    stop: Arc<AtomicBool>,
    threads: Vec<(&'static str, JoinHandle<Record>)>,
}

impl Asking {
    /// Stops all, each after the request it is at.
    pub fn stop(mut self) -> BTreeMap<&'static str, Record> {
        self.stop.store(true, Ordering::Relaxed);
        let mut records: BTreeMap<_, Record> = BTreeMap::new();
        for (name, thread) in self.threads.drain(..) {
            let record = thread.join().expect("a client");
            records.entry(name).or_default().merge(record);
        }
        records
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for (_, thread) in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

type Connect<T> = Box<dyn FnMut() -> io::Result<T> + Send>;

/// A connection that is to live for ever, and is made again if it does not.
struct Held<T> {
    connect: Connect<T>,
    connection: Option<T>,
    /// What the server waits of itself before it answers.
    allowance: Duration,
}

impl<T> Held<T> {
    fn new(connect: Connect<T>) -> Self {
        Self {
            connect,
            connection: None,
            allowance: Duration::ZERO,
        }
    }

    /// One request, with a new connection where there is none.
    fn ask(&mut self, record: &mut Record, request: impl FnOnce(&mut T) -> io::Result<()>) {
        if self.connection.is_none() {
            let start = Instant::now();
            match (self.connect)() {
                Ok(connection) => {
                    record.note(Ok(start.elapsed()));
                    self.connection = Some(connection);
                }
                Err(error) => {
                    record.note(Err(error));
                    return;
                }
            }
        }
        let Some(connection) = &mut self.connection else {
            return;
        };
        let start = Instant::now();
        let outcome = request(connection);
        let took = start.elapsed().saturating_sub(self.allowance);
        if !record.note(outcome.map(|()| took)) {
            record.lost += 1;
            self.connection = None;
        }
    }
}

/// The client's end of a connection for bulk.
struct Bulk {
    stream: TcpStream,
    /// Bytes received and sent so far.
    down: u64,
    up: u64,
}

impl Bulk {
    fn next(&mut self) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        if self.down <= self.up {
            self.stream.write_all(b"d")?;
            self.stream.read_exact(&mut chunk)?;
            check(&chunk, self.down)?;
            self.down += CHUNK as u64;
        } else {
            pattern::fill(&mut chunk, self.up);
            self.stream.write_all(b"u")?;
            self.stream.write_all(&chunk)?;
            self.stream.read_exact(&mut [0])?;
            self.up += CHUNK as u64;
        }
        Ok(())
    }
}

/// The server's part of idle, half-closed and bulk connections.
pub fn serve(mut stream: &TcpStream) -> io::Result<()> {
    let (mut down, mut up) = (0, 0);
    let mut letter = [0];
    let mut chunk = vec![0; CHUNK];
    while stream.read(&mut letter)? != 0 {
        match letter[0] {
            b'i' => stream.write_all(b"i")?,
            b'd' => {
                pattern::fill(&mut chunk, down);
                stream.write_all(&chunk)?;
                down += CHUNK as u64;
            }
            b'u' => {
                stream.read_exact(&mut chunk)?;
                check(&chunk, up)?;
                stream.write_all(b"u")?;
                up += CHUNK as u64;
            }
            _ => loop {
                stream.write_all(b"h")?;
                thread::sleep(BEAT);
            },
        }
    }
    Ok(())
}

fn check(bytes: &[u8], position: u64) -> io::Result<()> {
    match pattern::first_difference(bytes, position) {
        None => Ok(()),
        Some(wrong) => Err(invalid(&format!("byte {wrong} is wrong"))),
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn register(victims: &Victims, stream: &TcpStream, target: SocketAddrV4) -> io::Result<()> {
    if let SocketAddr::V4(client) = stream.local_addr()? {
        victims.add(client, target);
    }
    Ok(())
}

fn one_shot(source: Ipv4Addr, target: SocketAddrV4) -> io::Result<()> {
    let mut client = Client::connect_within(GIVE_UP, source, target)?;
    client.get(false)?;
    client.expect_end()
}

/// Answers of an earlier question are not of this socket.
fn datagram(
    source: Ipv4Addr,
    target: SocketAddrV4,
    question: &[u8],
    order: Order,
) -> io::Result<()> {
    let socket = UdpSocket::bind(SocketAddrV4::new(source, 0))?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(GIVE_UP))?;
    tcp::may_fragment(&socket);
    match (order, socket.local_addr()?) {
        (Order::LastFirst, SocketAddr::V4(source)) => {
            raw::send_last_first(source, target, question)?;
        }
        _ => {
            socket.send(question)?;
        }
    }
    let mut answer = vec![0; question.len() + 100];
    let length = socket.recv(&mut answer)?;
    if answer[..length].ends_with(question) {
        Ok(())
    } else {
        Err(invalid("another answer"))
    }
}

fn too_long(source: Ipv4Addr, target: SocketAddrV4, length: usize) -> io::Result<()> {
    let socket = UdpSocket::bind(SocketAddrV4::new(source, 0))?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(GIVE_UP))?;
    tcp::never_fragment(&socket);
    socket.send(&vec![0; length])?;
    match socket.recv(&mut [0; 64]) {
        Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(invalid("it passed")),
    }
}
