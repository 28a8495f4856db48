//! What a configuration takes of the machine: packet buffers and memory. Pure
//! arithmetic on a valid configuration, one place for `check`, `preflight` and
//! the start.

use std::collections::HashSet;

use super::problem::{Place, Problem};
use super::{Config, Port};
use crate::conntrack::table::ConnTable;
use crate::nat::fragments::DATAGRAMS_PER_WAITING;

/// Buffers of a worker beside those in its queues' descriptors: its cache of
/// the pool, which takes in half as much again as its 512 before it gives back,
/// and 256 for bursts under way and packets that wait for a next hop.
const MBUFS_BESIDE_QUEUES: u32 = 768 + 256;

/// The same, where nothing is configured.
const MBUFS_BESIDE_QUEUES_DEFAULT: u32 = 2_048;

/// Bytes of a packet buffer with its headers.
const MBUF_BYTES: u64 = 2_560;

/// Descriptors of one worker's queues, one pair on each port.
fn descriptors(ports: &[Port]) -> u32 {
    ports
        .iter()
        .map(|port| u32::from(port.rx_descriptors) + u32::from(port.tx_descriptors))
        .sum()
}

/// What was configured must fill the queues and leave something to work with: a
/// receive queue that finds no buffer receives nothing.
pub(super) fn check_mbufs(root: &Place<'_>, config: &Config) -> Result<(), Problem> {
    let Some(mbufs) = config.runtime.mbufs else {
        return Ok(());
    };
    let (descriptors, waiting) = (descriptors(&config.ports), waiting(config));
    let needed = descriptors + MBUFS_BESIDE_QUEUES + waiting;
    if mbufs >= needed {
        return Ok(());
    }
    let queues = match config.ports.len() {
        1 => "its port's queues".to_owned(),
        ports => format!("the queues of {ports} ports"),
    };
    let runtime = root.key("runtime");
    Err(runtime.key("mbufs").problem(format!(
        "is {mbufs}, but each worker needs {needed} packet buffers: {descriptors} for {queues}, \
         {MBUFS_BESIDE_QUEUES} to work with and {waiting} for fragments that wait; give at least \
         {needed}, or leave it out for {}",
        default_mbufs(config)
    )))
}

/// Fragments that may wait for their datagram's first.
fn waiting(config: &Config) -> u32 {
    config.runtime.fragments / DATAGRAMS_PER_WAITING
}

fn default_mbufs(config: &Config) -> u32 {
    let descriptors = descriptors(&config.ports);
    (descriptors + MBUFS_BESIDE_QUEUES_DEFAULT + waiting(config)).next_power_of_two()
}

/// Memory that the process takes beside hugepages, by what it is for, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Demand {
    /// Connection tables of all workers; there from the start.
    pub connections: u64,
    /// Packet buffers and what else DPDK has, where that is no hugepages.
    pub buffers: u64,
    /// Local-port sets of the configured servers.
    pub local_ports: u64,
}

impl Demand {
    /// The sum.
    pub fn total(&self) -> u64 {
        self.connections + self.buffers + self.local_ports
    }
}

impl Config {
    /// Packet buffers of each worker. The default fills every descriptor of
    /// the worker's queues and leaves 2,048 for bursts, caches and packets
    /// that wait for a next hop, and one for each fragment that may wait.
    pub fn mbufs(&self) -> u32 {
        self.runtime.mbufs.unwrap_or_else(|| default_mbufs(self))
    }

    /// DPDK memory in bytes, a multiple of 2 MiB. The default holds the packet
    /// buffers, a quarter more for what falls between pages, and 64 MiB for
    /// rings and drivers.
    pub fn memory(&self) -> u64 {
        let buffers = self.buffers();
        let default = (buffers + buffers / 4 + (64 << 20)).next_multiple_of(2 << 20);
        self.runtime.memory.unwrap_or(default)
    }

    fn buffers(&self) -> u64 {
        u64::from(self.runtime.workers) * u64::from(self.mbufs()) * MBUF_BYTES
    }

    /// Ordinary memory that it takes. What is not counted (counters, next
    /// hops, held SYNs) is small beside it.
    pub fn demand(&self) -> Demand {
        let workers = u64::from(self.runtime.workers);
        let table = ConnTable::bytes_for(self.runtime.connections as usize) as u64;
        let mut sets = HashSet::new();
        for service in &self.services {
            let pool = self.pools.iter().find(|pool| pool.name == service.pool);
            for local in pool.map_or(&[][..], |pool| &pool.addresses) {
                sets.extend(service.servers.iter().map(|server| (local, server.address)));
            }
        }
        // Two bits a port, with and without; each worker has its part of them.
        let ports = self.runtime.local_ports.len() as u64;
        let set = ports / 4 + workers * 256;
        Demand {
            connections: workers * table,
            buffers: match self.runtime.hugepages {
                true => 0,
                false => self.buffers(),
            },
            local_ports: sets.len() as u64 * set,
        }
    }
}
