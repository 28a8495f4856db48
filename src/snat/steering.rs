//! Which worker a received packet belongs to: the NIC's hash key and
//! redirection table (RETA), computed in software.
//!
//! The management core makes it when it configures the ports; it is part of
//! the snapshot and read-only from then on. With RSS the NIC itself delivers
//! by it and workers use it to choose local ports; without, the worker that
//! received a packet computes the owner and hands the packet over.

use std::net::Ipv4Addr;

use thiserror::Error;

use super::toeplitz::{KEY_LEN, Toeplitz};
use crate::ids::WorkerIx;

/// Largest redirection table.
pub const MAX_RETA: usize = 4096;

/// Why a steering was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum SteeringError {
    /// A NIC indexes the table by the hash's low bits.
    #[error("a redirection table of {0} slots: must be a power of two from 2 to {MAX_RETA}")]
    RetaSize(usize),
    /// Nobody to deliver to.
    #[error("a redirection table over no queue")]
    NoQueue,
    /// Some slots would be reached by no port, whatever the addresses.
    #[error(
        "with this hash key the destination port decides only {rank} of the {bits} bits \
         that select a slot of the redirection table"
    )]
    WeakKey {
        /// Rank of the port's contribution.
        rank: u32,
        /// Bits of a slot's number.
        bits: u32,
    },
}

/// How packets get to the worker that owns them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SteeringMode {
    /// The NIC delivers by its hash and redirection table.
    Rss,
    /// The receiving worker computes the owner and hands over.
    Software,
}

/// A redirection table: the queue, and so the worker, of each slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reta {
    queues: Box<[WorkerIx]>,
}

impl Reta {
    /// A table as the NIC holds it, even or not.
    ///
    /// # Errors
    /// [`SteeringError::RetaSize`].
    pub fn new(queues: Vec<WorkerIx>) -> Result<Self, SteeringError> {
        let size = queues.len();
        if !(2..=MAX_RETA).contains(&size) || !size.is_power_of_two() {
            return Err(SteeringError::RetaSize(size));
        }
        Ok(Self {
            queues: queues.into(),
        })
    }

    /// A table of `size` slots that go round `queues` queues.
    ///
    /// # Errors
    /// [`SteeringError::RetaSize`], [`SteeringError::NoQueue`].
    pub fn even(size: usize, queues: u8) -> Result<Self, SteeringError> {
        if queues == 0 {
            return Err(SteeringError::NoQueue);
        }
        let queues = (0..queues).map(WorkerIx).cycle();
        Self::new(queues.take(size.min(MAX_RETA + 1)).collect())
    }

    /// The queue of each slot.
    pub fn queues(&self) -> &[WorkerIx] {
        &self.queues
    }
}

/// Hash, redirection table, and who acts on them.
#[derive(Debug)]
pub struct Steering {
    toeplitz: Toeplitz,
    reta: Reta,
    mode: SteeringMode,
    /// Slot numbers, grouped by worker, ascending within a group.
    slots: Box<[u16]>,
    /// Where in `slots` each worker's group starts; one more than workers.
    starts: Box<[u16]>,
}

impl Steering {
    /// Steering by a NIC with this hash key and redirection table.
    ///
    /// # Errors
    /// [`SteeringError::WeakKey`]: ports would not spread over the slots.
    pub fn new(key: [u8; KEY_LEN], reta: Reta, mode: SteeringMode) -> Result<Self, SteeringError> {
        let toeplitz = Toeplitz::new(key);
        let bits = reta.queues.len().ilog2();
        let rank = toeplitz.port_rank(bits);
        if rank != bits {
            return Err(SteeringError::WeakKey { rank, bits });
        }
        let mut slots: Vec<u16> = (0..reta.queues.len() as u16).collect();
        slots.sort_by_key(|&slot| reta.queues[usize::from(slot)]);
        let queues = reta.queues.iter().map(|queue| queue.ix() + 1).max();
        let starts = (0..=queues.unwrap_or(0))
            .map(|worker| {
                slots.partition_point(|&slot| reta.queues[usize::from(slot)].ix() < worker)
            })
            .map(|start| start as u16)
            .collect();
        Ok(Self {
            toeplitz,
            reta,
            mode,
            slots: slots.into(),
            starts,
        })
    }

    /// The worker that a packet with these addresses and ports belongs to.
    /// Ports are in host byte order.
    #[inline]
    pub fn owner(&self, src: Ipv4Addr, dst: Ipv4Addr, sport: u16, dport: u16) -> WorkerIx {
        let hash = self.toeplitz.hash_v4(src, dst, sport, dport);
        self.reta.queues[usize::from(self.slot(hash))]
    }

    /// The slot of the redirection table that a hash selects.
    #[inline]
    pub fn slot(&self, hash: u32) -> u16 {
        (hash & (self.reta.queues.len() as u32 - 1)) as u16
    }

    /// The slots that lead to `worker`, ascending; none where it has no queue.
    pub fn classes_of(&self, worker: WorkerIx) -> &[u16] {
        match self.starts.get(worker.ix()..worker.ix() + 2) {
            Some(&[start, end]) => &self.slots[usize::from(start)..usize::from(end)],
            _ => &[],
        }
    }

    /// The hash.
    pub fn toeplitz(&self) -> &Toeplitz {
        &self.toeplitz
    }

    /// The redirection table.
    pub fn reta(&self) -> &Reta {
        &self.reta
    }

    /// Who acts on it.
    #[inline]
    pub fn mode(&self) -> SteeringMode {
        self.mode
    }
}
