//! The checker: one thread with a poll set and a heap of timers, however many
//! servers there are. It owns every socket and every trend; the management core
//! tells it by [`Checker::put`] and [`Checker::drop_check`] what to do, and hears
//! of changes through a channel. It waits for nothing but its poll set.
//!
//! ```text
//! idle ──(due)──▶ running ──(socket ready)──▶ ending ──▶ idle, due again an
//!                    └──────(time-out)──────────▲        interval after it was
//! ```

use std::cmp::Reverse;
use std::collections::hash_map::RandomState;
use std::collections::{BinaryHeap, HashMap};
use std::hash::BuildHasher;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::probe::{self, Ending, Probe};
use super::record::Record;
use super::trend::{Trend, Verdict};
use super::{Change, CheckId, HostRoutes, Order, Target};

/// The token of the waker; checks have their slots'.
const WAKER: Token = Token(usize::MAX);

/// Readiness taken from the kernel at a time.
const EVENTS: usize = 1_024;

/// Checks begun before sockets are looked at again: what has answered is not to
/// wait for what has not been asked.
const STARTS_PER_ROUND: usize = 64;

/// A check that could not be looked at for so long has not failed, the checker
/// has: the host was too busy.
const LATE: Duration = Duration::from_millis(200);

/// Checks under way at most, each with a socket.
const RUNNING_MAX: usize = 16_384;

/// The management core's end.
#[derive(Debug)]
pub struct Checker {
    orders: Sender<Order>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

impl Checker {
    /// Starts the thread, without checks, in the network namespace of the
    /// calling one. It ends when this is dropped.
    ///
    /// # Errors
    /// The kernel has no poll set or thread to give.
    pub fn start(routes: Box<dyn HostRoutes>) -> io::Result<(Self, Receiver<Change>)> {
        raise_file_limit();
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (orders, ordered) = mpsc::channel();
        let (changes, changed) = mpsc::channel();
        let rounds = Rounds {
            poll,
            orders: ordered,
            changes,
            slots: Vec::new(),
            free: Vec::new(),
            slot_of: HashMap::new(),
            timers: BinaryHeap::new(),
            stamp: 0,
            running: 0,
            spread: 0,
            nonce: RandomState::new().hash_one(0),
            routes,
        };
        let thread = std::thread::Builder::new()
            .name("health".into())
            .spawn(move || rounds.run())?;
        let checker = Self {
            orders,
            waker,
            thread: Some(thread),
        };
        Ok((checker, changed))
    }

    /// One without a thread, of which the test takes the place.
    #[cfg(test)]
    pub(crate) fn detached() -> (Self, Receiver<Order>) {
        let poll = Poll::new().expect("a poll set");
        let waker = Waker::new(poll.registry(), WAKER).expect("a waker");
        let (orders, ordered) = mpsc::channel();
        let checker = Self {
            orders,
            waker: Arc::new(waker),
            thread: None,
        };
        (checker, ordered)
    }

    /// Has a server checked, or a known one checked otherwise; its trend stays.
    /// A new one begins with `verdict`.
    pub fn put(&self, id: CheckId, target: Arc<Target>, record: Arc<Record>, verdict: Verdict) {
        self.order(Order::Put {
            id,
            target,
            record,
            verdict,
        });
    }

    /// Has a server not checked any more.
    pub fn drop_check(&self, id: CheckId) {
        self.order(Order::Drop(id));
    }

    /// To be called after orders.
    pub fn wake(&self) {
        // Without it, they are taken with the next event or timer.
        let _ = self.waker.wake();
    }

    fn order(&self, order: Order) {
        // A thread that is gone shows in its channel's end.
        let _ = self.orders.send(order);
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.order(Order::Stop);
        self.wake();
        if let Some(thread) = self.thread.take() {
            // A panic of it has been reported where it happened.
            let _ = thread.join();
        }
    }
}

/// A check under way.
struct Running {
    probe: Box<dyn Probe>,
    began: Instant,
}

/// One server.
struct Slot {
    id: CheckId,
    target: Arc<Target>,
    record: Arc<Record>,
    trend: Trend,
    /// When the present check was due, or the next one is.
    due: Instant,
    running: Option<Running>,
    /// Of its timer; others with this slot mean nothing any more.
    stamp: u64,
}

/// A slot's timer: the next check's start, or the present one's time-out.
type Timer = Reverse<(Instant, u64, usize)>;

struct Rounds {
    poll: Poll,
    orders: Receiver<Order>,
    changes: Sender<Change>,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    slot_of: HashMap<CheckId, usize>,
    timers: BinaryHeap<Timer>,
    /// Counts timers.
    stamp: u64,
    running: usize,
    /// Counts new checks, to spread them.
    spread: u64,
    nonce: u64,
    routes: Box<dyn HostRoutes>,
}

/// Each check takes a descriptor; the usual limit of 1,024 is one of select(2),
/// which nothing here calls.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        log::warn!("health checks: the limit of open files stays as it is: {error}");
    }
}

/// Where in its interval the `n`th of many checks begins: any number of
/// neighbours are spread evenly (multiples of the golden ratio).
fn offset(n: u64, interval: Duration) -> Duration {
    let fraction = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let nanos = (interval.as_nanos() * u128::from(fraction)) >> 32;
    Duration::from_nanos(nanos as u64)
}

impl Rounds {
    fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            let wait = self
                .timers
                .peek()
                .map(|Reverse((at, ..))| at.saturating_duration_since(Instant::now()));
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    log::error!("health checks: {error}");
                    return;
                }
                _ => {}
            }
            let now = Instant::now();
            for event in &events {
                if event.token() != WAKER {
                    self.step(event.token().0, now);
                }
            }
            if !self.take_orders(now) {
                return;
            }
            self.take_timers(now);
        }
    }

    /// Whether to go on.
    fn take_orders(&mut self, now: Instant) -> bool {
        loop {
            match self.orders.try_recv() {
                Ok(Order::Put {
                    id,
                    target,
                    record,
                    verdict,
                }) => self.put(id, target, record, verdict, now),
                Ok(Order::Drop(id)) => self.drop_check(id),
                Ok(Order::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    fn put(
        &mut self,
        id: CheckId,
        target: Arc<Target>,
        record: Arc<Record>,
        verdict: Verdict,
        now: Instant,
    ) {
        let interval = target.check.spec.interval;
        if let Some(&index) = self.slot_of.get(&id) {
            if let Some(slot) = &mut self.slots[index] {
                slot.target = target;
                slot.record = record;
                let idle = slot.running.is_none();
                if idle && slot.due > now + interval {
                    self.schedule(index, now + interval);
                }
            }
            return;
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[index] = Some(Slot {
            id,
            target,
            record,
            trend: Trend::new(verdict),
            due: now,
            running: None,
            stamp: 0,
        });
        self.slot_of.insert(id, index);
        let first = now + offset(self.spread, interval);
        self.spread += 1;
        self.schedule(index, first);
    }

    fn drop_check(&mut self, id: CheckId) {
        if let Some(index) = self.slot_of.remove(&id) {
            let slot = self.slots[index].take();
            self.running -= usize::from(slot.is_some_and(|slot| slot.running.is_some()));
            self.free.push(index);
        }
    }

    fn schedule(&mut self, index: usize, due: Instant) {
        if let Some(slot) = &mut self.slots[index] {
            slot.due = due;
        }
        self.set_timer(index, due);
    }

    fn set_timer(&mut self, index: usize, at: Instant) {
        self.stamp += 1;
        if let Some(slot) = &mut self.slots[index] {
            slot.stamp = self.stamp;
            self.timers.push(Reverse((at, self.stamp, index)));
        }
    }

    /// Begins what is due, ends what has taken too long.
    fn take_timers(&mut self, now: Instant) {
        let mut started = 0;
        while let Some(&Reverse((at, stamp, index))) = self.timers.peek() {
            if at > now || started == STARTS_PER_ROUND {
                return;
            }
            self.timers.pop();
            let slot = self.slots[index].as_ref();
            let Some(slot) = slot.filter(|slot| slot.stamp == stamp) else {
                continue;
            };
            if slot.running.is_some() {
                self.expire(index, at, now);
            } else {
                self.start(index, now);
                started += 1;
            }
        }
    }

    fn start(&mut self, index: usize, now: Instant) {
        let full = self.running >= RUNNING_MAX;
        self.nonce = self.nonce.wrapping_add(1);
        let Some(slot) = &mut self.slots[index] else {
            return;
        };
        let begun = match full {
            true => Err(Ending::Unmade(format!(
                "{RUNNING_MAX} checks are under way"
            ))),
            false => probe::start(&slot.target, self.nonce, &mut *self.routes),
        };
        let registered = begun.and_then(|probe| {
            let fd = probe.socket().as_raw_fd();
            let interest = Interest::READABLE | Interest::WRITABLE;
            let registry = self.poll.registry();
            match registry.register(&mut SourceFd(&fd), Token(index), interest) {
                Ok(()) => Ok(probe),
                Err(error) => Err(Ending::Unmade(format!("poll set: {error}"))),
            }
        });
        match registered {
            Ok(probe) => {
                let timeout = slot.target.check.spec.timeout;
                slot.running = Some(Running { probe, began: now });
                self.running += 1;
                self.set_timer(index, now + timeout);
            }
            Err(ending) => self.end(index, ending, Duration::ZERO, now),
        }
    }

    /// Goes on with a check whose socket is ready.
    fn step(&mut self, index: usize, now: Instant) {
        let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        let Some(running) = &mut slot.running else {
            return;
        };
        if let Some(ending) = running.probe.step() {
            let took = now.saturating_duration_since(running.began);
            self.end(index, ending, took, now);
        }
    }

    /// A check's time is over since `at`.
    fn expire(&mut self, index: usize, at: Instant, now: Instant) {
        // What has come meanwhile counts.
        self.step(index, now);
        let Some(slot) = &mut self.slots[index] else {
            return;
        };
        let Some(running) = &slot.running else {
            return;
        };
        let timeout = slot.target.check.spec.timeout;
        let late = now.saturating_duration_since(at);
        let ending = match late > LATE {
            true => Ending::Unmade(format!("the checker was {late:?} late")),
            false => running.probe.expire(timeout),
        };
        self.end(index, ending, timeout, now);
    }

    /// Books an ending and makes the next appointment.
    fn end(&mut self, index: usize, ending: Ending, took: Duration, now: Instant) {
        let Some(slot) = &mut self.slots[index] else {
            return;
        };
        self.running -= usize::from(slot.running.take().is_some());
        let spec = &slot.target.check.spec;
        let outcome = ending.outcome();
        let changed = outcome.and_then(|outcome| slot.trend.note(outcome, spec.rise, spec.fall));
        // By the appointment, not by when it could be kept: the pace stays. What
        // was missed is not made up for.
        let due = (slot.due + spec.interval).max(now);
        let (cause, reason) = match ending {
            Ending::Success => (None, None),
            Ending::Failure(failure) => (Some(failure.cause), Some(failure.text)),
            Ending::Unmade(why) => (None, Some(why)),
        };
        if outcome.is_some() {
            slot.record.totals.note(took, cause);
        }
        note(
            &slot.record,
            &slot.trend,
            outcome.is_some(),
            took,
            &reason,
            now,
        );
        if let Some(verdict) = changed {
            let id = slot.id;
            // The management core only goes when the process does.
            let _ = self.changes.send(Change {
                id,
                verdict,
                reason,
                at: now,
            });
        }
        self.schedule(index, due);
    }
}

/// Keeps a server's record.
fn note(
    record: &Record,
    trend: &Trend,
    made: bool,
    took: Duration,
    reason: &Option<String>,
    now: Instant,
) {
    let mut facts = record.lock();
    match (made, reason) {
        (false, _) => facts.unmade += 1,
        (true, None) => facts.successes += 1,
        (true, Some(_)) => facts.failures += 1,
    }
    if made {
        facts.took = Some(took);
    }
    if let Some(reason) = reason {
        facts.last_failure = Some((now, reason.clone()));
    }
    let verdict = trend.verdict();
    if facts.verdict != verdict {
        match (facts.verdict.is_up(), verdict.is_up()) {
            (false, true) => facts.rises += 1,
            (true, false) => facts.falls += 1,
            _ => {}
        }
        if facts.verdict.is_up() != verdict.is_up() {
            facts.since = now;
        }
        facts.verdict = verdict;
    }
}

#[cfg(test)]
pub(super) mod tests;
