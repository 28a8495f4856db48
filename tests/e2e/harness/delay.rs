//! A server that is far away: what it sends to the gateway's local addresses
//! arrives later, by a relay of our own; this kernel has no netem.
//!
//! ```text
//! server ─ route by its address ─ far0 ═ far1 ─ packet socket ─ queue
//!                                  fg1 ─ route by mark ─ raw socket ┘
//! ```

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use etherparse::Ipv4HeaderSlice;
use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use super::netns::Netns;

/// Marks what has been delayed, so that it takes the short way out.
const MARK: u32 = 7;
/// The routes of what is to be delayed.
const TABLE: u32 = 101;

/// Delays while it exists.
pub struct Delay {
    stop: Arc<AtomicBool>,
    relay: Option<JoinHandle<()>>,
}

impl Delay {
    /// Has all IP packets from `servers`, addresses of `netns`, to the network
    /// `locals` leave `by` later.
    pub fn start(netns: &Netns, servers: &[Ipv4Addr], locals: &str, by: Duration) -> Self {
        netns.ip(&[
            "link add far0 type veth peer name far1".to_owned(),
            "link set far0 arp off up".to_owned(),
            "link set far1 up".to_owned(),
            format!("rule add pref 10 fwmark {MARK} lookup main"),
            format!("route add {locals} dev far0 table {TABLE}"),
        ]);
        for server in servers {
            netns.ip(&[format!("rule add pref 20 from {server} lookup {TABLE}")]);
        }
        netns.frames_as_on_a_wire("far0");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (from, to) = netns.run(|| (packets(), marked()));
        let servers = servers.to_vec();
        let relay = thread::spawn(move || relay(&from, &to, &servers, by, &stopped));
        Self {
            stop,
            relay: Some(relay),
        }
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(relay) = self.relay.take() {
            let _ = relay.join();
        }
    }
}

/// A socket that gets every IP packet that arrives on any device.
fn packets() -> Socket {
    let protocol = i32::from((libc::ETH_P_IP as u16).to_be());
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(protocol)));
    let socket = socket.expect("a packet socket");
    let short = Some(Duration::from_millis(1));
    socket.set_read_timeout(short).expect("a time limit");
    socket
}

/// A socket that sends whole IP packets, marked.
fn marked() -> Socket {
    let protocol = Protocol::from(libc::IPPROTO_RAW);
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(protocol)).expect("a raw socket");
    socket.set_mark(MARK).expect("a mark");
    socket
}

fn relay(mut from: &Socket, to: &Socket, servers: &[Ipv4Addr], by: Duration, stop: &AtomicBool) {
    let mut queue = VecDeque::<(Instant, SocketAddr, Vec<u8>)>::new();
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        match from.read(&mut buffer) {
            Ok(len) => {
                let packet = &buffer[..len];
                let ip = Ipv4HeaderSlice::from_slice(packet).expect("IPv4");
                if servers.contains(&ip.source_addr()) {
                    let to = SocketAddrV4::new(ip.destination_addr(), 0).into();
                    queue.push_back((Instant::now() + by, to, packet.to_vec()));
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => panic!("the relay: {error}"),
        }
        while let Some((due, address, packet)) = queue.front()
            && *due <= Instant::now()
        {
            let sent = to.send_to(packet, &(*address).into());
            sent.expect("send what was delayed");
            queue.pop_front();
        }
    }
}
