//! The management loop's end of the rings to the workers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::stats::WorkerStats;
use crate::worker::message::{ArpNews, Command, Learned, Link, Reply};

/// Replies taken from one worker before the loop looks at the next.
const REPLIES_PER_STEP: usize = 1024;

/// Tells the management loop that a worker's thread has ended, also where it
/// ended by a panic: the thread holds it for its whole life.
#[derive(Debug)]
pub struct Alive(Arc<AtomicBool>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// What the management loop has of one worker.
#[derive(Debug)]
pub struct WorkerLink {
    link: Link,
    stats: Arc<WorkerStats>,
    ended: Arc<AtomicBool>,
    /// Commands that found the ring full, in order.
    backlog: VecDeque<Command>,
}

impl WorkerLink {
    /// A worker's link, and what its thread has to hold.
    pub fn new(link: Link, stats: Arc<WorkerStats>) -> (Self, Alive) {
        let ended = Arc::new(AtomicBool::new(false));
        let alive = Alive(Arc::clone(&ended));
        (
            Self {
                link,
                stats,
                ended,
                backlog: VecDeque::new(),
            },
            alive,
        )
    }

    /// The rings, for the worker's end.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The worker's counters.
    pub(super) fn stats(&self) -> &Arc<WorkerStats> {
        &self.stats
    }

    /// Whether the worker's thread is over.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Sends a command, now or as soon as there is room.
    pub(super) fn send(&mut self, command: Command) {
        self.backlog.push_back(command);
        self.flush();
    }

    /// Sends what found the ring full.
    pub(super) fn flush(&mut self) {
        while let Some(command) = self.backlog.pop_front() {
            if let Err(command) = self.link.commands.push(command) {
                self.backlog.push_front(command);
                return;
            }
        }
    }

    /// The next of what the worker heard of ARP.
    pub(super) fn heard(&self) -> Option<ArpNews> {
        self.link.heard.pop()
    }

    /// Tells what another worker learned. Where too much is told at a time, the
    /// rest is lost: a worker that wants it asks by itself.
    pub(super) fn tell_learned(&self, learned: Learned) {
        let _ = self.link.told.push(learned);
    }

    /// The replies that are there.
    pub(super) fn replies(&self) -> impl Iterator<Item = Reply> + use<> {
        let replies = Arc::clone(&self.link.replies);
        std::iter::from_fn(move || replies.pop()).take(REPLIES_PER_STEP)
    }
}
