//! A small HTTP/1.1 client that times every request, and a load generator of
//! many of them.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::netns::Netns;
use super::process::until;
use super::tcp;

/// One connection to a server.
pub struct Client {
    reader: BufReader<TcpStream>,
    /// How long connecting took.
    pub connected_in: Duration,
}

/// What a real server answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The server's name.
    pub server: String,
    /// The peer it saw.
    pub peer: SocketAddrV4,
    pub elapsed: Duration,
}

impl Client {
    pub fn connect(source: Ipv4Addr, target: SocketAddrV4) -> io::Result<Self> {
        Self::connect_within(tcp::LIMIT, source, target)
    }

    /// The same, giving up after `limit`, as every read and write does.
    pub fn connect_within(
        limit: Duration,
        source: Ipv4Addr,
        target: SocketAddrV4,
    ) -> io::Result<Self> {
        let connected = tcp::connect_within(limit, SocketAddrV4::new(source, 0), target)?;
        Ok(Self {
            reader: BufReader::with_capacity(1024, connected.stream),
            connected_in: connected.elapsed,
        })
    }

    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// Sends a request without waiting for its answer.
    pub fn send(&mut self, keep_alive: bool) -> io::Result<()> {
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let request = format!("GET / HTTP/1.1\r\nHost: test\r\nConnection: {connection}\r\n\r\n");
        self.reader.get_mut().write_all(request.as_bytes())
    }

    /// Reads the answer to the oldest request; `sent` is when that was sent.
    pub fn receive(&mut self, sent: Instant) -> io::Result<Answer> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let mut length = None;
        let mut status = None;
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.parse().ok();
            }
            if line.starts_with("HTTP/1.1 ") {
                status = Some(line.to_owned());
            }
        }
        if status.as_deref() != Some("HTTP/1.1 200 OK") {
            return Err(invalid(&format!("status {status:?}")));
        }
        let mut body = vec![0; length.ok_or_else(|| invalid("no length"))?];
        self.reader.read_exact(&mut body)?;
        let elapsed = sent.elapsed();
        let text = String::from_utf8_lossy(&body);
        let (server, peer) = text
            .trim_end()
            .split_once(' ')
            .ok_or_else(|| invalid("body is not ours"))?;
        let peer = peer.parse().map_err(|_| invalid("peer is no address"))?;
        Ok(Answer {
            server: server.to_owned(),
            peer,
            elapsed,
        })
    }

    /// One request and its answer.
    pub fn get(&mut self, keep_alive: bool) -> io::Result<Answer> {
        let sent = Instant::now();
        self.send(keep_alive)?;
        self.receive(sent)
    }

    /// Requires the server to have closed the connection.
    pub fn expect_end(mut self) -> io::Result<()> {
        match self.reader.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "more than the answer",
            )),
        }
    }
}

/// A request on each connection; a hundred at a time, so that no queue on the
/// way overflows by our own doing.
pub fn ask_in_waves(clients: &mut [Client]) -> Vec<Answer> {
    let mut answers = Vec::with_capacity(clients.len());
    for wave in clients.chunks_mut(100) {
        let sent = Instant::now();
        for client in &mut *wave {
            client.send(true).expect("send a request");
        }
        let receive = |client: &mut Client| client.receive(sent).expect("an answer");
        answers.extend(wave.iter_mut().map(receive));
    }
    answers
}

/// A request on a connection of its own: connect, ask, read to the end.
pub fn one_shot(source: Ipv4Addr, target: SocketAddrV4) -> io::Result<Answer> {
    let start = Instant::now();
    let mut client = Client::connect(source, target)?;
    client.send(false)?;
    let answer = client.receive(start)?;
    client.expect_end()?;
    Ok(answer)
}

/// Clients that send one-shot requests without a pause until told to stop.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Requests finished, by each thread.
    finished: Vec<AtomicU64>,
    outcome: Mutex<Outcome>,
}

/// What the load has seen.
#[derive(Default)]
pub struct Outcome {
    pub answers: Vec<Answer>,
    /// Every request that failed: when, and why.
    pub failures: Vec<String>,
}

impl Load {
    pub fn start(netns: &Netns, source: Ipv4Addr, target: SocketAddrV4, clients: usize) -> Self {
        let finished = (0..clients).map(|_| AtomicU64::new(0)).collect();
        let shared = Arc::new(Shared {
            finished,
            ..Shared::default()
        });
        let start = Instant::now();
        let threads = (0..clients)
            .map(|index| {
                let shared = Arc::clone(&shared);
                netns.spawn(move || {
                    while !shared.stop.load(Ordering::Relaxed) {
                        let answer = one_shot(source, target);
                        let mut outcome = shared.outcome.lock().expect("nobody panics in it");
                        match answer {
                            Ok(answer) => outcome.answers.push(answer),
                            Err(error) => {
                                outcome
                                    .failures
                                    .push(format!("{:?}: {error}", start.elapsed()));
                            }
                        }
                        shared.finished[index].fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        Self { shared, threads }
    }

    /// Waits until every client has finished `requests` more requests: all that
    /// were under way are over then.
    pub fn progress(&self, requests: u64) {
        let counts = || {
            self.shared
                .finished
                .iter()
                .map(|count| count.load(Ordering::Relaxed))
        };
        let goals: Vec<u64> = counts().map(|count| count + requests).collect();
        until(tcp::LIMIT, "progress of the load", || {
            counts()
                .zip(&goals)
                .all(|(count, &goal)| count >= goal)
                .then_some(())
        });
    }

    /// Servers that have answered since the last call, each once.
    pub fn servers_seen(&self) -> Vec<String> {
        let mut outcome = self.shared.outcome.lock().expect("nobody panics in it");
        let mut names: Vec<String> = outcome
            .answers
            .drain(..)
            .map(|answer| answer.server)
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Stops the clients after the request each is at.
    pub fn stop(mut self) -> Outcome {
        self.join();
        std::mem::take(&mut *self.shared.outcome.lock().expect("nobody panics in it"))
    }

    fn join(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.join();
    }
}
