//! The bounded number of clients that a listener serves at a time. Owns who has
//! a place and since when everything waits for them; called by the admin socket
//! and the metrics endpoint. Never waits: a client that only keeps its place
//! loses it when somebody else needs one, and one address can't take them all.

use std::io;
use std::net::{IpAddr, Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A client's socket.
pub trait Socket: Sized {
    /// Another handle to it.
    fn another(&self) -> io::Result<Self>;
    /// Ends one direction or both, and wakes who waits for it.
    fn end(&self, how: Shutdown);
}

impl Socket for UnixStream {
    fn another(&self) -> io::Result<Self> {
        self.try_clone()
    }

    fn end(&self, how: Shutdown) {
        let _ = self.shutdown(how);
    }
}

impl Socket for TcpStream {
    fn another(&self) -> io::Result<Self> {
        self.try_clone()
    }

    fn end(&self, how: Shutdown) {
        let _ = self.shutdown(how);
    }
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug)]
enum Turn {
    /// Ours: the client's request is being served.
    Ours,
    /// The client's, since then: for its next request.
    Request(Instant),
    /// The client's, since then: for it to take an answer.
    Answer(Instant),
}

impl Turn {
    fn waited_since(self) -> Option<Instant> {
        match self {
            Self::Ours => None,
            Self::Request(since) | Self::Answer(since) => Some(since),
        }
    }
}

/// Who has a place.
#[derive(Debug)]
struct Occupant<S> {
    /// The client's socket, to be shut down by whoever needs the place.
    socket: Option<S>,
    /// Where the client is, if several places can be.
    peer: Option<IpAddr>,
    turn: Mutex<Turn>,
    evicted: AtomicBool,
}

impl<S: Socket> Occupant<S> {
    fn turn(&self) -> MutexGuard<'_, Turn> {
        // Nothing that can panic runs under the lock.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn evict(&self) {
        self.evicted.store(true, Ordering::Relaxed);
        let Some(socket) = &self.socket else { return };
        // Wakes its thread. One that waits for a request can still tell the
        // client why; one whose answer is not taken can't.
        socket.end(match *self.turn() {
            Turn::Answer(_) => Shutdown::Both,
            Turn::Ours | Turn::Request(_) => Shutdown::Read,
        });
    }
}

/// The places for clients.
#[derive(Debug)]
pub struct Places<S> {
    clients: usize,
    /// A client that has been waited for so long can lose its place.
    grace: Duration,
    taken: Mutex<Vec<Arc<Occupant<S>>>>,
}

/// A place; free again when dropped.
#[derive(Debug)]
pub struct Place<S: Socket> {
    places: Arc<Places<S>>,
    occupant: Arc<Occupant<S>>,
}

impl<S: Socket> Places<S> {
    pub fn new(clients: usize, grace: Duration) -> Arc<Self> {
        Arc::new(Self {
            clients,
            grace,
            taken: Mutex::new(Vec::with_capacity(clients)),
        })
    }

    fn taken(&self) -> MutexGuard<'_, Vec<Arc<Occupant<S>>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a client, if need be that of another: of those at the
    /// address that has the most places, the one that has been waited for
    /// longest. Where all of them are being served, of any.
    pub fn take(
        places: &Arc<Self>,
        socket: &S,
        peer: Option<IpAddr>,
        now: Instant,
    ) -> Option<Place<S>> {
        let mut taken = places.taken();
        if taken.len() >= places.clients {
            let victim = taken
                .iter()
                .enumerate()
                .filter_map(|(index, occupant)| {
                    let since = occupant.turn().waited_since()?;
                    let waited = now.saturating_duration_since(since);
                    let share = taken.iter().filter(|other| other.peer == occupant.peer);
                    Some((share.count(), waited, index))
                })
                .max()?;
            let (_, waited, index) = victim;
            if waited < places.grace {
                return None;
            }
            taken.swap_remove(index).evict();
        }
        let occupant = Arc::new(Occupant {
            socket: socket.another().ok(),
            peer,
            turn: Mutex::new(Turn::Request(now)),
            evicted: AtomicBool::new(false),
        });
        taken.push(Arc::clone(&occupant));
        Some(Place {
            places: Arc::clone(places),
            occupant,
        })
    }
}

impl<S: Socket> Place<S> {
    /// Whether somebody else has it now.
    pub fn is_lost(&self) -> bool {
        self.occupant.evicted.load(Ordering::Relaxed)
    }

    /// The client's turn: its next request.
    pub fn wait_for_request(&self) {
        *self.occupant.turn() = Turn::Request(Instant::now());
    }

    /// The client's turn: taking an answer.
    pub fn wait_for_reader(&self) {
        *self.occupant.turn() = Turn::Answer(Instant::now());
    }

    /// Ours.
    pub fn serve_client(&self) {
        *self.occupant.turn() = Turn::Ours;
    }
}

impl<S: Socket> Drop for Place<S> {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.retain(|other| !Arc::ptr_eq(other, &self.occupant));
    }
}

/// Where a client is, as places are shared out: an IPv6 host has a whole /64.
pub fn peer(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V6(addr) => IpAddr::V6((addr.to_bits() >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(clients: usize, grace: Duration) -> Arc<Places<UnixStream>> {
        Places::new(clients, grace)
    }

    /// A client at `10.0.0.host` that asks for a place so many ms after `begin`.
    fn ask(
        places: &Arc<Places<UnixStream>>,
        host: u8,
        begin: Instant,
        ms: u64,
    ) -> Option<Place<UnixStream>> {
        let (socket, _) = UnixStream::pair().expect("a pair");
        let addr = IpAddr::from([10, 0, 0, host]);
        let now = begin + Duration::from_millis(ms);
        Places::take(places, &socket, Some(addr), now)
    }

    #[test]
    fn an_address_with_many_places_loses_its_own() {
        let (places, begin) = (places(8, Duration::ZERO), Instant::now());
        let honest = ask(&places, 1, begin, 0).expect("room");
        let mut hoard: Vec<_> = (1..8)
            .map(|ms| ask(&places, 2, begin, ms).expect("room"))
            .collect();
        // Longer than any of them, and yet it stays.
        for ms in 8..1_000 {
            hoard.push(ask(&places, 2, begin, ms).expect("another's"));
            assert!(!honest.is_lost());
        }
        assert_eq!(hoard.iter().filter(|place| !place.is_lost()).count(), 7);
        let late = ask(&places, 3, begin, 1_000).expect("the hoarder's");
        assert!(!late.is_lost() && !honest.is_lost());
    }

    #[test]
    fn of_one_address_the_longest_waited_for_goes() {
        let (places, begin) = (places(3, Duration::ZERO), Instant::now());
        let held: Vec<_> = (0..3)
            .map(|ms| ask(&places, 1, begin, ms).expect("room"))
            .collect();
        let _new = ask(&places, 1, begin, 4).expect("the first one's");
        let lost: Vec<bool> = held.iter().map(Place::is_lost).collect();
        assert_eq!(lost, [true, false, false]);
    }

    #[test]
    fn who_is_served_or_young_keeps_the_place() {
        let grace = Duration::from_millis(10);
        let (places, begin) = (places(2, grace), Instant::now());
        let served = ask(&places, 1, begin, 0).expect("room");
        served.serve_client();
        let young = ask(&places, 1, begin, 5).expect("room");
        assert!(ask(&places, 2, begin, 14).is_none());
        let next = ask(&places, 2, begin, 15).expect("a place");
        assert!(young.is_lost() && !served.is_lost());
        next.serve_client();
        assert!(ask(&places, 3, begin, 1_000).is_none());
        drop(served);
        assert!(ask(&places, 3, begin, 1_000).is_some());
    }

    #[test]
    fn an_ipv6_host_is_its_network() {
        let of = |text: &str| peer(text.parse().expect("an address"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
