//! What servers on the management core have in common: places for a bounded
//! number of clients, and a deadline that no client can put off.

mod places;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use places::{Place, Places, peer};

/// The next client that a listener accepts; `None` when it is to stop.
pub fn next_client<C>(
    listener: &str,
    stopping: &AtomicBool,
    accept: impl Fn() -> io::Result<C>,
) -> Option<C> {
    while !stopping.load(Ordering::Relaxed) {
        match accept() {
            Ok(client) => return Some(client),
            Err(_) if stopping.load(Ordering::Relaxed) => break,
            Err(error) => {
                // Out of file descriptors or memory: later may be better.
                log::warn!("{listener}: {error}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
    None
}

/// Time until `deadline`, never 0: sockets take 0 for "no timeout".
pub fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        Err(io::ErrorKind::TimedOut.into())
    } else {
        Ok(left.max(Duration::from_millis(1)))
    }
}

/// A signal, or the socket's own timeout: the deadline decides.
pub fn is_retry(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
    )
}
