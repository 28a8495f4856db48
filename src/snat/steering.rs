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

/// Drivers of virtual devices, on none of which packets arrive by the hash,
/// whatever they report.
pub const WITHOUT_RSS: [&str; 10] = [
    "net_tap",
    "net_tun",
    "net_af_packet",
    "net_af_xdp",
    "net_memif",
    "net_vhost",
    "net_virtio_user",
    "net_ring",
    "net_null",
    "net_pcap",
];

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

impl SteeringMode {
    /// As people read and write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rss => "rss",
            Self::Software => "software",
        }
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::snat::toeplitz::DEFAULT_KEY;

    fn steering(reta: Reta) -> Steering {
        Steering::new(DEFAULT_KEY, reta, SteeringMode::Software).unwrap()
    }

    #[test]
    fn even_tables_go_round_the_queues() {
        for size in [2, 64, 128, 512, 4096] {
            for queues in 1..=64 {
                let reta = Reta::even(size, queues).unwrap();
                assert_eq!(reta.queues().len(), size);
                for (slot, queue) in reta.queues().iter().enumerate() {
                    assert_eq!(queue.ix(), slot % usize::from(queues));
                }
            }
        }
    }

    #[test]
    fn odd_tables_are_refused() {
        for size in [0, 1, 3, 100, 127, 8192, usize::MAX] {
            let refused = Reta::even(size, 1);
            assert!(matches!(refused, Err(SteeringError::RetaSize(_))), "{size}");
        }
        assert_eq!(Reta::even(128, 0), Err(SteeringError::NoQueue));
    }

    #[test]
    fn keys_that_leave_slots_without_ports_are_refused() {
        let reta = Reta::even(128, 2).unwrap();
        let refused = Steering::new([0xaa; KEY_LEN], reta, SteeringMode::Rss);
        assert_eq!(
            refused.err(),
            Some(SteeringError::WeakKey { rank: 2, bits: 7 })
        );
    }

    #[test]
    fn workers_without_a_slot_have_no_class() {
        let steering = steering(Reta::new(vec![WorkerIx(2), WorkerIx(0)]).unwrap());
        assert_eq!(steering.classes_of(WorkerIx(0)), [1]);
        assert_eq!(steering.classes_of(WorkerIx(1)), [0u16; 0]);
        assert_eq!(steering.classes_of(WorkerIx(2)), [0]);
        for worker in 3..=u8::MAX {
            assert_eq!(steering.classes_of(WorkerIx(worker)), [0u16; 0]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn classes_are_the_slots_that_lead_to_a_worker(
            bits in 1u32..=12, queues in prop::collection::vec(any::<u8>(), 4096),
        ) {
            let queues: Vec<_> = queues[..1 << bits].iter().copied().map(WorkerIx).collect();
            let steering = steering(Reta::new(queues.clone()).unwrap());
            for worker in (0..=u8::MAX).map(WorkerIx) {
                let slots: Vec<u16> = (0..queues.len() as u16)
                    .filter(|&slot| queues[usize::from(slot)] == worker)
                    .collect();
                prop_assert_eq!(steering.classes_of(worker), &slots[..]);
            }
        }

        #[test]
        fn owner_is_the_queue_behind_the_low_bits_of_the_hash(
            src: [u8; 4], dst: [u8; 4], sport: u16, dport: u16,
        ) {
            let steering = steering(Reta::even(128, 7).unwrap());
            let hash = steering.toeplitz().hash_v4(src.into(), dst.into(), sport, dport);
            let owner = steering.owner(src.into(), dst.into(), sport, dport);
            prop_assert_eq!(u32::from(owner.0), hash % 128 % 7);
        }
    }
}
