//! Clients that keep their place: they connect, say a byte of a request that
//! never ends every second, and come back when they are turned away.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const BYTE: Duration = Duration::from_secs(1);

/// Running slow clients; they leave when it is dropped.
pub struct Slow {
    stop: Arc<AtomicBool>,
    connected: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Slow {
    /// Clients of an HTTP server.
    pub fn http(server: SocketAddr, count: usize) -> Self {
        Self::start(count, "GET /metrics?", move || {
            let stream = TcpStream::connect_timeout(&server, BYTE)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        })
    }

    /// Clients of the admin socket.
    pub fn admin(socket: &Path, count: usize) -> Self {
        let socket = socket.to_owned();
        Self::start(count, "{\"jsonrpc\"", move || {
            let stream = UnixStream::connect(&socket)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        })
    }

    fn start<T: Write + Send + 'static>(
        count: usize,
        begin: &'static str,
        connect: impl Fn() -> io::Result<T> + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let connected = Arc::new(AtomicU64::new(0));
        let thread = thread::spawn({
            let (stop, connected) = (Arc::clone(&stop), Arc::clone(&connected));
            move || {
                let mut places: Vec<Option<T>> = (0..count).map(|_| None).collect();
                while !stop.load(Ordering::Relaxed) {
                    for place in &mut places {
                        *place = match place.take() {
                            Some(mut stream) => stream.write_all(b"x").ok().map(|()| stream),
                            None => connect().ok().and_then(|mut stream| {
                                connected.fetch_add(1, Ordering::Relaxed);
                                stream.write_all(begin.as_bytes()).ok().map(|()| stream)
                            }),
                        };
                    }
                    thread::sleep(BYTE);
                }
            }
        });
        Self {
            stop,
            connected,
            thread: Some(thread),
        }
    }

    /// How often one of them has connected.
    pub fn connected(&self) -> u64 {
        self.connected.load(Ordering::Relaxed)
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
