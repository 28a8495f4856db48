//! Local ports towards one real server: which are free, in use, or resting.
//!
//! A worker may use a local port only where the server's reply comes back to
//! it. The reply R:rp → L:lp selects the slot
//! `(hash(R, L, rp, 0) ^ contribution(lp)) & mask` of the redirection table.
//! Ports with the same `contribution(lp) & mask` form a class, and for given
//! R, rp, L each slot belongs to exactly one class: a worker that owns n slots
//! owns n whole classes, and no other worker ever takes a port of them.
//!
//! [`PortClasses`] lists the ports of every class, once for the process.
//! [`WorkerPorts`] adds which slots one worker owns. A [`PortSet`] is one
//! worker's ports for one (local address, real server address, real server
//! port, protocol); the management core makes it, boxed, and sends it to the
//! worker, which alone uses it until it sends it back. A set allocates memory
//! only when made, and never locks, logs, or reads a clock.
//!
//! # Order
//! Bit k·n + j of a set stands for the k-th port of the class behind the
//! worker's j-th slot. Classes differ a little in length, so all bits without
//! a port lie at the end, where making the set removes them. Ports are taken
//! in the cyclic order of their bits, from a cursor that only moves forward.
//! That makes the time until re-use as long as a bitmap can: a port taken and
//! given back within one lap comes last of all free ones. A port held for more
//! than a lap can be met sooner after it is given back; ports are given back
//! rested, so that does no harm. Just ahead of the cursor are the ports taken
//! longest ago. It starts anywhere: a port should not be easy to guess
//! (RFC 6056 §3.1).

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use thiserror::Error;

use super::index_set::{InitiallyEmpty, InitiallyFull};
use super::steering::Steering;
use crate::ids::WorkerIx;

/// What a port is not in a state for. The set is unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum PortError {
    /// Outside the range, or its replies reach another worker.
    #[error("local port {0} is not of this set")]
    Foreign(u16),
    /// Not taken.
    #[error("local port {0} is free")]
    Free(u16),
    /// Taken by a connection that is not over.
    #[error("local port {0} is in use")]
    InUse(u16),
    /// Taken by a connection that is over.
    #[error("local port {0} is resting")]
    Resting(u16),
}

/// A local port taken from a set. Store the port with the connection, and give
/// it back with [`PortSet::release`].
#[derive(PartialEq, Eq, Debug)]
#[must_use = "a lease that is dropped leaves its port in use for ever"]
pub struct Lease(u16);

impl Lease {
    /// The port, host byte order; whoever stores it now owes its release.
    #[inline]
    pub fn into_port(self) -> u16 {
        self.0
    }
}

/// Where a port stands among the classes.
#[derive(Clone, Copy)]
struct Place {
    class: u16,
    /// Position within the class, or [`Place::OUTSIDE`].
    rank: u16,
}

impl Place {
    /// Not in the range. No rank: the largest class has 32,768 ports.
    const OUTSIDE: u16 = u16::MAX;
}

/// The local ports of the process, by class.
pub struct PortClasses {
    steering: Arc<Steering>,
    /// Ports grouped by class, ascending within a class.
    ports: Box<[u16]>,
    /// Where in `ports` each class starts; one more than classes.
    starts: Box<[u32]>,
    /// By port.
    places: Box<[Place]>,
    shortest: u32,
    longest: u32,
}

impl PortClasses {
    /// Sorts the ports of `range` into classes. Port 0 is never among them.
    pub fn new(steering: Arc<Steering>, range: RangeInclusive<u16>) -> Self {
        let class_of = |port| steering.slot(steering.toeplitz().port_contribution(port));
        let count = steering.reta().queues().len();
        let mut ports: Vec<u16> = range.filter(|&port| port != 0).collect();
        ports.sort_by_key(|&port| class_of(port));
        let mut starts = vec![0u32; count + 1];
        let mut places: Vec<Place> = (0..=u16::MAX)
            .map(|port| Place {
                class: class_of(port),
                rank: Place::OUTSIDE,
            })
            .collect();
        for &port in &ports {
            let place = &mut places[usize::from(port)];
            let len = &mut starts[usize::from(place.class) + 1];
            place.rank = *len as u16;
            *len += 1;
        }
        let (shortest, longest) = starts[1..]
            .iter()
            .fold((u32::MAX, 0), |(least, most), &len| {
                (least.min(len), most.max(len))
            });
        for class in 0..count {
            starts[class + 1] += starts[class];
        }
        Self {
            steering,
            ports: ports.into(),
            starts: starts.into(),
            places: places.into(),
            shortest,
            longest,
        }
    }

    fn class(&self, class: u16) -> &[u16] {
        let class = usize::from(class);
        &self.ports[self.starts[class] as usize..self.starts[class + 1] as usize]
    }
}

/// The classes of ports as one worker's sets see them.
pub struct WorkerPorts {
    classes: Arc<PortClasses>,
    /// The worker's slots of the redirection table, ascending.
    slots: Box<[u16]>,
    /// Position in `slots`, by slot; [`WorkerPorts::NOT_OWNED`] for others'.
    positions: Box<[u16]>,
}

impl WorkerPorts {
    /// No position: tables have at most 4096 slots.
    const NOT_OWNED: u16 = u16::MAX;

    /// The part of `worker`. A worker without a slot gets sets without ports.
    pub fn new(classes: Arc<PortClasses>, worker: WorkerIx) -> Self {
        let slots: Box<[u16]> = classes.steering.classes_of(worker).into();
        let mut positions = vec![Self::NOT_OWNED; classes.steering.reta().queues().len()];
        for (position, &slot) in slots.iter().enumerate() {
            positions[usize::from(slot)] = position as u16;
        }
        Self {
            classes,
            slots,
            positions: positions.into(),
        }
    }
}

/// One worker's local ports towards one real server from one local address.
/// On cache lines of its own: sets of several workers lie side by side.
#[repr(align(64))]
pub struct PortSet {
    worker: Arc<WorkerPorts>,
    free: InitiallyFull,
    resting: InitiallyEmpty,
    /// The slot that class 0 selects.
    base: u16,
    /// Bits, with or without a port.
    len: u32,
    /// The bit at which the search for a port begins.
    cursor: u32,
    /// The bit at which the search for a port in use begins.
    hand: u32,
    capacity: u32,
    used_count: u32,
    resting_count: u32,
}

impl PortSet {
    /// All ports that `worker` may use from `local` to `server`, free.
    ///
    /// `server_port` is in host byte order. `seed` decides with which port the
    /// set begins; let it be random.
    pub fn new(
        worker: Arc<WorkerPorts>,
        local: Ipv4Addr,
        server: Ipv4Addr,
        server_port: u16,
        seed: u64,
    ) -> Self {
        let classes = &worker.classes;
        let steering = &classes.steering;
        let hash = steering.toeplitz().hash_v4(server, local, server_port, 0);
        let base = steering.slot(hash);
        let count = worker.slots.len() as u32;
        let len = count * classes.longest;
        let mut free = InitiallyFull::new(len);
        let mut capacity = len;
        for rank in classes.shortest..classes.longest {
            for (position, slot) in (0..).zip(&worker.slots) {
                if rank as usize >= classes.class(base ^ slot).len() {
                    free.remove(rank * count + position);
                    capacity -= 1;
                }
            }
        }
        let start = (seed % u64::from(len.max(1))) as u32;
        Self {
            free,
            resting: InitiallyEmpty::new(len),
            base,
            len,
            cursor: start,
            hand: start,
            capacity,
            used_count: 0,
            resting_count: 0,
            worker,
        }
    }

    /// Takes the next free port. `None` when all are in use or resting.
    #[inline]
    pub fn allocate(&mut self) -> Option<Lease> {
        let bit = self.free.next_cyclic(self.cursor)?;
        self.free.remove(bit);
        Some(self.take(bit))
    }

    /// Takes the next resting port: of those resting, the one that was taken
    /// longest ago. It is in use from here on, so the connection that held it
    /// must go without releasing it. `None` when none rests.
    #[inline]
    pub fn steal(&mut self) -> Option<Lease> {
        let bit = self.resting.next_cyclic(self.cursor)?;
        self.resting.remove(bit);
        self.resting_count -= 1;
        Some(self.take(bit))
    }

    /// Where to look for a port in use whose connection may have to go. It moves
    /// by [`PortSet::set_hand`] alone, so what it comes to next was not looked at
    /// for longest, wherever ports are taken and stolen meanwhile.
    pub fn hand(&self) -> u32 {
        self.hand
    }

    /// Where to look the next time.
    pub fn set_hand(&mut self, at: u32) {
        self.hand = at;
    }

    /// The next port in use from `at` on, which moves behind it; `budget` bounds
    /// how many bits are looked at. The port stays in use: whoever gives it to
    /// another connection ends the old one without releasing it.
    #[inline]
    pub fn next_in_use(&self, at: &mut u32, budget: &mut u32) -> Option<u16> {
        while self.used_count > 0 && *budget > 0 {
            *budget -= 1;
            let bit = *at;
            *at = self.after(bit);
            if !self.free.contains(bit)
                && !self.resting.contains(bit)
                && let Some(port) = self.port_of(bit)
            {
                return Some(port);
            }
        }
        None
    }

    /// A port's connection is over; the port may be stolen.
    ///
    /// # Errors
    /// Where the port is not in use.
    #[inline]
    pub fn mark_resting(&mut self, port: u16) -> Result<(), PortError> {
        let bit = self.bit(port)?;
        if self.free.contains(bit) {
            return Err(PortError::Free(port));
        }
        if !self.resting.insert(bit) {
            return Err(PortError::Resting(port));
        }
        self.used_count -= 1;
        self.resting_count += 1;
        Ok(())
    }

    /// A resting port's connection goes on after all.
    ///
    /// # Errors
    /// Where the port is not resting.
    pub fn resume(&mut self, port: u16) -> Result<(), PortError> {
        let bit = self.bit(port)?;
        if self.free.contains(bit) {
            return Err(PortError::Free(port));
        }
        if !self.resting.remove(bit) {
            return Err(PortError::InUse(port));
        }
        self.resting_count -= 1;
        self.used_count += 1;
        Ok(())
    }

    /// Gives back a port in use or resting.
    ///
    /// # Errors
    /// Where the port is free already, or of another set.
    #[inline]
    pub fn release(&mut self, port: u16) -> Result<(), PortError> {
        let bit = self.bit(port)?;
        if !self.free.insert(bit) {
            return Err(PortError::Free(port));
        }
        if self.resting.remove(bit) {
            self.resting_count -= 1;
        } else {
            self.used_count -= 1;
        }
        Ok(())
    }

    /// Takes this very port, for a connection found in the arena.
    ///
    /// # Errors
    /// Where the port is taken, or its replies now reach another worker.
    pub fn restore(&mut self, port: u16) -> Result<(), PortError> {
        let bit = self.bit(port)?;
        if self.resting.contains(bit) {
            return Err(PortError::Resting(port));
        }
        if !self.free.remove(bit) {
            return Err(PortError::InUse(port));
        }
        self.used_count += 1;
        Ok(())
    }

    /// Ports that are free.
    pub fn free_count(&self) -> u32 {
        self.capacity - self.used_count - self.resting_count
    }

    /// Ports of connections that are not over.
    pub fn used_count(&self) -> u32 {
        self.used_count
    }

    /// Ports of connections that are over.
    pub fn resting_count(&self) -> u32 {
        self.resting_count
    }

    /// All ports: free, in use and resting.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Counts a bit's port as in use and moves the cursor behind it.
    #[inline]
    fn take(&mut self, bit: u32) -> Lease {
        self.used_count += 1;
        self.cursor = self.after(bit);
        let (class, rank) = self.place(bit);
        Lease(class[rank])
    }

    /// The bit after `bit`, cyclically.
    #[inline]
    fn after(&self, bit: u32) -> u32 {
        if bit + 1 == self.len { 0 } else { bit + 1 }
    }

    /// The class of a bit's port, and where it stands there.
    #[inline]
    fn place(&self, bit: u32) -> (&[u16], usize) {
        let count = self.worker.slots.len() as u32;
        let (rank, position) = (bit / count, bit % count);
        let class = self.base ^ self.worker.slots[position as usize];
        (self.worker.classes.class(class), rank as usize)
    }

    /// The port of a bit; some of the last bits have none.
    #[inline]
    fn port_of(&self, bit: u32) -> Option<u16> {
        let (class, rank) = self.place(bit);
        class.get(rank).copied()
    }

    /// The bit of a port.
    #[inline]
    fn bit(&self, port: u16) -> Result<u32, PortError> {
        let place = self.worker.classes.places[usize::from(port)];
        let position = self.worker.positions[usize::from(self.base ^ place.class)];
        if place.rank == Place::OUTSIDE || position == WorkerPorts::NOT_OWNED {
            return Err(PortError::Foreign(port));
        }
        Ok(u32::from(place.rank) * self.worker.slots.len() as u32 + u32::from(position))
    }
}

impl std::fmt::Debug for PortSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PortSet")
            .field("capacity", &self.capacity)
            .field("used", &self.used_count)
            .field("resting", &self.resting_count)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
