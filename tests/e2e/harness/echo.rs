//! Servers whose behaviour a test writes down itself, connection by connection.

use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;

use super::netns::Netns;

/// A TCP server with a thread for each connection.
pub struct TcpServer {
    listener: TcpListener,
    accepting: Option<JoinHandle<()>>,
    /// Those still open: a second handle would keep a connection from closing.
    connections: Arc<Mutex<Vec<Weak<TcpStream>>>>,
}

impl TcpServer {
    /// Listens on `address` inside `netns`; `serve` gets every connection and
    /// the peer as the server sees it, and closes when it returns.
    pub fn start(
        netns: &Netns,
        address: SocketAddrV4,
        serve: impl Fn(&TcpStream, SocketAddrV4) + Send + Sync + 'static,
    ) -> Self {
        let listener = netns.listen(address);
        let connections = Arc::new(Mutex::new(Vec::new()));
        let accepting = thread::spawn({
            let listener = listener
                .try_clone()
                .expect("a second handle of the listener");
            let connections = Arc::clone(&connections);
            move || accept(&listener, &connections, &serve)
        });
        Self {
            listener,
            accepting: Some(accepting),
            connections,
        }
    }
}

fn accept(
    listener: &TcpListener,
    connections: &Mutex<Vec<Weak<TcpStream>>>,
    serve: &(impl Fn(&TcpStream, SocketAddrV4) + Sync),
) {
    thread::scope(|scope| {
        while let Ok((stream, SocketAddr::V4(peer))) = listener.accept() {
            let stream = Arc::new(stream);
            connections
                .lock()
                .expect("no handler holds the lock")
                .push(Arc::downgrade(&stream));
            scope.spawn(move || serve(&stream, peer));
        }
    });
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        // Wakes the accepting thread, then every handler that still waits.
        let _ = SockRef::from(&self.listener).shutdown(std::net::Shutdown::Both);
        let connections = self.connections.lock().expect("no handler holds the lock");
        for connection in connections.iter().filter_map(Weak::upgrade) {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
        drop(connections);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

/// Of a UDP server, bytes.
const RECEIVE_BUFFER: usize = 8 << 20;

/// A UDP server that answers every datagram with `<name> <peer> ` before it.
pub struct UdpServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpServer {
    pub fn start(netns: &Netns, address: SocketAddrV4, name: &str) -> Self {
        let socket = netns.udp(address);
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .expect("set a read timeout");
        // One that does not get a core for a while loses none for that.
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).expect("a receive buffer");
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            let name = name.to_owned();
            move || {
                let mut buffer = vec![0; 65_536];
                while !stop.load(Ordering::Relaxed) {
                    let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
                        continue;
                    };
                    let mut answer = format!("{name} {peer} ").into_bytes();
                    answer.extend_from_slice(&buffer[..length]);
                    // A client that is gone is the test's affair.
                    let _ = socket.send_to(&answer, peer);
                }
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
