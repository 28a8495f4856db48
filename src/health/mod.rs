//! Active health checks: what is asked of real servers, and what the answers
//! make of them.
//!
//! ```text
//! spec      what a check is            probe     one check under way
//! trend     rise and fall              checker   the thread: sockets, timers
//! ramp      slow start                 record    what listings and metrics show
//! ```
//!
//! The management core owns a [`Checker`], tells it which checks there are, and
//! hears of every change of a server's verdict. Nothing here knows workers,
//! snapshots or the configuration file. `spec`, `trend`, `ramp` and
//! `probe::response` are pure: time and bytes are arguments.

mod checker;
mod probe;
mod ramp;
mod record;
pub mod spec;
mod trend;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Instant;

pub use checker::Checker;
pub use probe::{CAUSES, Cause};
pub use ramp::{FULL_SHARE, Ramp};
pub use record::{BUCKETS, Facts, Histogram, Record, Totals};
pub use trend::Verdict;

/// Tells checks apart, for the life of the process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct CheckId(pub u64);

/// Where a check leaves the host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Via {
    /// As the host's own routes say.
    Host,
    /// Through this interface, from this address.
    Interface {
        /// The kernel's name of it.
        name: String,
        /// One of its addresses.
        source: Ipv4Addr,
        /// The router between it and who is asked, if there is one: the host
        /// has to know it too.
        router: Option<Ipv4Addr>,
    },
}

/// The host's routes. Without one, the kernel takes whoever is asked through an
/// interface for a neighbour there, who then seems not to answer.
pub trait HostRoutes: Send {
    /// Whether what is for `to` and leaves by this interface goes to a router.
    ///
    /// # Errors
    /// The kernel does not say.
    fn has_router(&mut self, interface: &str, to: Ipv4Addr) -> io::Result<bool>;
}

/// A check of one server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Who is asked; ICMP has no use for the port.
    pub address: SocketAddrV4,
    pub via: Via,
    pub check: Arc<spec::Check>,
}

/// Management core → checker.
#[derive(Debug)]
pub(crate) enum Order {
    /// A new check, or a known one that is made differently from now on.
    Put {
        id: CheckId,
        target: Arc<Target>,
        record: Arc<Record>,
        /// Where a new one begins.
        verdict: Verdict,
    },
    Drop(CheckId),
    Stop,
}

/// Checker → management core: the checks of a server say something else now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    pub id: CheckId,
    pub verdict: Verdict,
    /// What was wrong with the last check, where it failed.
    pub reason: Option<String>,
    /// When the check ended that decided it.
    pub at: Instant,
}
