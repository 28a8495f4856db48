//! The safe layer over DPDK, and the only user of `dpdk-sys`: EAL, ports,
//! queues, packet buffers, buffer pools, worker threads and the TSC.
//!
//! The management core makes and owns [`Eal`], [`Mempool`] and [`Port`]. Each
//! worker owns one [`DpdkIo`], made of its [`Queue`] on every port and moved
//! into its thread; what a worker can reach through it takes no lock and
//! allocates nothing from the heap.
//!
//! Lifetimes hold by ownership, not by convention. Queues keep their port,
//! ports their pools and all of them EAL. A port with a queue in somebody's
//! hands can't be stopped. A pool with a packet in somebody's hands is never
//! unmapped, nor is EAL shut down under it.

mod clock;
mod device;
mod eal;
mod error;
mod hash;
mod io;
mod lcore;
mod mbuf;
mod netns;
mod peer;
mod pool;
mod port;
mod queue;
mod removal;
mod ring;
mod ring_port;
mod rss;
mod setup;
mod shared;
mod signals;
mod tap;

pub use clock::{Clock, thread_cpu_ns};
pub use device::{Device, PortConfig};
pub use eal::{Eal, EalConfig, Memory, Zone};
pub use error::{Errno, Error};
pub use hash::{CuckooHash, Key};
pub use io::DpdkIo;
pub use lcore::{socket_of, spawn};
pub use mbuf::Mbuf;
pub use peer::peer_groups;
pub use pool::{Mempool, PoolConfig};
pub use port::{Link, Port, PortStats};
pub use queue::Queue;
pub use ring::RingEnd;
pub use ring_port::ring_port;
pub use rss::{RssFlows, RssStatus, soft_rss};
pub use signals::take_signals;
pub use tap::open_tap;
