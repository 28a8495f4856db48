//! What is remembered of datagrams that come in fragments (RFC 791 §3.2): the
//! ports, which the first fragment alone has, and the identification under
//! which they leave; and fragments that wait for their first. Each worker has
//! one such store. Allocates only when made; time comes as an argument.
//!
//! Several datagrams may have one identification one after the other, and a
//! fragment of the next may come before its first one. So a datagram is
//! forgotten once all its bytes have passed, a new first fragment begins a new
//! datagram, and a fragment whose bytes the known datagram has had waits for a
//! first one of its own.
//!
//! Places are in sets of eight by a keyed hash. Where one has to be made, the
//! oldest goes of the source that has most in the store: a flood pushes out
//! itself, and one from everywhere pushes out what is oldest.

mod coverage;
#[cfg(test)]
mod tests;
mod waiting;

use std::net::Ipv4Addr;

use crate::conntrack::entry::FlowTuple;
use crate::conntrack::hash::HashKey;
use crate::time::Millis;
use crate::wire::ipv4::Ipv4View;

use coverage::Coverage;
use waiting::{List, Waiting};

/// How long a datagram is remembered of which fragments are missing: they come
/// together, or their receiver has given up on the others.
const REMEMBERED_MS: u64 = 10_000;

/// How long a fragment waits for its first.
const WAIT_MS: u64 = 1_000;

/// The same first fragment again within this time is a duplicate, and not the
/// begin of another datagram.
const DUPLICATE_MS: u64 = 1_000;

/// For so many datagrams that can be remembered, one fragment can wait.
pub const DATAGRAMS_PER_WAITING: u32 = 8;

/// Places of a set.
const WAYS: usize = 8;

/// Of the fragments that wait, so many of the oldest are looked at where one
/// has to go.
const OLDEST: usize = 16;

/// Sources that are told apart, by a hash.
const SOURCES: usize = 4_096;

/// Places looked at every millisecond for datagrams to forget.
const SWEEP: usize = 8;

/// What the fragments of one datagram share (RFC 791 §2.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Datagram {
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// Identification.
    pub ident: u16,
    /// IP protocol.
    pub protocol: u8,
}

impl Datagram {
    const NONE: Self = Self {
        src: Ipv4Addr::UNSPECIFIED,
        dst: Ipv4Addr::UNSPECIFIED,
        ident: 0,
        protocol: 0,
    };

    /// The datagram that an IPv4 packet is part of.
    pub fn of(ip: &[u8]) -> Option<Self> {
        let view = Ipv4View::new_quoted(ip).ok()?;
        Some(Self {
            src: view.src(),
            dst: view.dst(),
            ident: view.ident(),
            protocol: view.protocol(),
        })
    }
}

/// A fragment: part of which datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    /// Of this one.
    pub datagram: Datagram,
    /// Where its bytes begin in the datagram's payload.
    pub from: u16,
    /// And where they end.
    pub to: u16,
    /// None comes behind it.
    pub last: bool,
}

impl Fragment {
    /// Reads a fragment from its IPv4 header. `None` where it can be part of no
    /// datagram: RFC 791 §3.2 has all but the last be multiples of 8 bytes, and
    /// §3.1 a datagram have at most 65,535.
    pub fn read(ip: &[u8]) -> Option<Self> {
        let view = Ipv4View::new_quoted(ip).ok()?;
        let (len, last) = (view.payload_len(), !view.more_fragments());
        let end = usize::from(view.fragment_offset()) + len;
        if len == 0 || !(last || len.is_multiple_of(8)) || end + view.header_len() > 65_535 {
            return None;
        }
        Some(Self {
            datagram: Datagram::of(ip)?,
            from: view.fragment_offset(),
            to: end as u16,
            last,
        })
    }
}

/// What a fragment but the first learns of its datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Followed {
    /// Source port of the datagram.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// The identification under which the first one left, if it did.
    pub ident: Option<u16>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Free,
    /// Fragments wait; the first one has not come.
    Awaited,
    /// The first one has come.
    Known,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    datagram: Datagram,
    kind: Kind,
    known: Followed,
    since: Millis,
    seen: Coverage,
    waiting: List,
    /// Where the source is counted.
    source: u16,
}

impl Record {
    const FREE: Self = Self {
        datagram: Datagram::NONE,
        kind: Kind::Free,
        known: Followed {
            src_port: 0,
            dst_port: 0,
            ident: None,
        },
        since: Millis(0),
        seen: Coverage::NONE,
        waiting: List::EMPTY,
        source: 0,
    };

    fn is_over(&self, now: Millis) -> bool {
        self.kind == Kind::Known && now.since(self.since) >= REMEMBERED_MS
    }
}

/// The store; `T` is a fragment that waits, with what its holder wants to know.
#[derive(Debug)]
pub struct Fragments<T> {
    records: Box<[Record]>,
    used: usize,
    waiting: Waiting<T>,
    /// Their first has come; see [`Fragments::take_released`].
    released: List,
    /// They had to go; see [`Fragments::take_pushed_out`].
    pushed_out: List,
    /// Records and waiting fragments of each source.
    shares: Box<[u32]>,
    key: HashKey,
    sweep: usize,
}

impl<T> Fragments<T> {
    /// A store for `datagrams` datagrams, rounded up to sets, of which
    /// `waiting` fragments may wait.
    pub fn new(datagrams: usize, waiting: usize, key: HashKey) -> Self {
        let sets = datagrams.div_ceil(WAYS).max(1);
        Self {
            records: vec![Record::FREE; sets * WAYS].into(),
            used: 0,
            waiting: Waiting::new(waiting),
            released: List::EMPTY,
            pushed_out: List::EMPTY,
            shares: vec![0; SOURCES].into(),
            key,
            sweep: 0,
        }
    }

    /// Fragments that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Datagrams that are remembered.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// A datagram's first fragment comes. What has waited for it is then to be
    /// had from [`Fragments::take_released`], and what had to go from
    /// [`Fragments::take_pushed_out`].
    pub fn first(&mut self, fragment: &Fragment, src_port: u16, dst_port: u16, now: Millis) {
        let datagram = &fragment.datagram;
        if let Some(at) = self.find(datagram, Kind::Known) {
            let record = &mut self.records[at];
            let is_same = (record.known.src_port, record.known.dst_port) == (src_port, dst_port);
            if is_same && now.since(record.since) < DUPLICATE_MS {
                return;
            }
            self.forget(at);
        }
        let at = match self.find(datagram, Kind::Awaited) {
            Some(at) => {
                let record = &mut self.records[at];
                let released = self.waiting.append(&mut record.waiting, &mut self.released);
                self.shares[usize::from(record.source)] -= released;
                at
            }
            None => self.claim(datagram, now),
        };
        let record = &mut self.records[at];
        record.kind = Kind::Known;
        record.known = Followed {
            src_port,
            dst_port,
            ident: None,
        };
        record.since = now;
        record.seen = Coverage::NONE;
        record.seen.add(fragment);
    }

    /// A fragment but the first comes. What its first had, unless that has not
    /// come: the fragment is then to [`wait`](Fragments::wait). It counts as
    /// passed.
    pub fn later(&mut self, fragment: &Fragment, now: Millis) -> Option<Followed> {
        let at = self.find(&fragment.datagram, Kind::Known)?;
        let record = &mut self.records[at];
        if record.is_over(now) {
            self.forget(at);
            return None;
        }
        if !record.seen.fits(fragment) {
            return None;
        }
        record.seen.add(fragment);
        let known = record.known;
        if record.seen.is_complete() {
            self.forget(at);
        }
        Some(known)
    }

    /// Has a fragment wait for its first. Returns what had to go for it; more
    /// may be in [`Fragments::take_pushed_out`].
    pub fn wait(&mut self, fragment: &Fragment, item: T, now: Millis) -> Option<T> {
        let gone = if self.waiting.is_full() {
            self.make_room()
        } else {
            None
        };
        let at = match self.find(&fragment.datagram, Kind::Awaited) {
            Some(at) => at,
            None => {
                let at = self.claim(&fragment.datagram, now);
                self.records[at].kind = Kind::Awaited;
                at
            }
        };
        let record = &mut self.records[at];
        let until = now.plus(WAIT_MS);
        match self
            .waiting
            .push(&mut record.waiting, at as u32, until, item)
        {
            Ok(()) => {
                self.shares[usize::from(record.source)] += 1;
                gone
            }
            // No place at all.
            Err(item) => {
                if record.waiting.is_empty() {
                    self.forget(at);
                }
                Some(item)
            }
        }
    }

    /// The next fragment whose first has come, in the order of their coming.
    pub fn take_released(&mut self) -> Option<T> {
        self.waiting.pop(&mut self.released)
    }

    /// The next fragment that had to make room for others.
    pub fn take_pushed_out(&mut self) -> Option<T> {
        self.waiting.pop(&mut self.pushed_out)
    }

    /// The next fragment whose first did not come in time.
    pub fn take_overdue(&mut self, now: Millis) -> Option<T> {
        let owner = self.waiting.overdue(now)?;
        self.take_of(owner as usize)
    }

    /// Forgets datagrams of which fragments are missing for long: a portion of
    /// the store, every millisecond.
    pub fn sweep(&mut self, now: Millis) {
        for _ in 0..SWEEP.min(self.used) {
            let at = self.sweep;
            self.sweep = (at + 1) % self.records.len();
            if self.records[at].is_over(now) {
                self.forget(at);
            }
        }
    }

    /// The ports of a datagram whose first fragment has come.
    pub fn ports(&self, datagram: &Datagram) -> Option<(u16, u16)> {
        let at = self.find(datagram, Kind::Known)?;
        let known = self.records[at].known;
        Some((known.src_port, known.dst_port))
    }

    /// The identification under which the first fragment has left.
    pub fn ident(&self, datagram: &Datagram) -> Option<u16> {
        let at = self.find(datagram, Kind::Known)?;
        self.records[at].known.ident
    }

    /// The first fragment leaves under this identification.
    pub fn set_ident(&mut self, datagram: &Datagram, ident: u16) {
        if let Some(at) = self.find(datagram, Kind::Known) {
            self.records[at].known.ident = Some(ident);
        }
    }

    /// The places in which a datagram may be.
    fn set_of(&self, datagram: &Datagram) -> std::ops::Range<usize> {
        let hash = self.key.flow(&FlowTuple {
            src: datagram.src,
            dst: datagram.dst,
            src_port: datagram.ident,
            dst_port: 0,
            protocol: datagram.protocol,
        });
        let sets = (self.records.len() / WAYS) as u64;
        let set = (((hash >> 32) * sets) >> 32) as usize;
        set * WAYS..(set + 1) * WAYS
    }

    fn source_of(&self, src: Ipv4Addr) -> u16 {
        let hash = self.key.flow(&FlowTuple {
            src,
            dst: Ipv4Addr::UNSPECIFIED,
            src_port: 0,
            dst_port: 0,
            protocol: 0,
        });
        (hash % SOURCES as u64) as u16
    }

    fn find(&self, datagram: &Datagram, kind: Kind) -> Option<usize> {
        self.set_of(datagram).find(|&at| {
            let record = &self.records[at];
            record.kind == kind && record.datagram == *datagram
        })
    }

    /// A place for a datagram, which somebody may have to leave.
    fn claim(&mut self, datagram: &Datagram, now: Millis) -> usize {
        let set = self.set_of(datagram);
        let is_free = |record: &Record| record.kind == Kind::Free || record.is_over(now);
        let free = set.clone().find(|&at| is_free(&self.records[at]));
        let at = free.unwrap_or_else(|| {
            let weight = |&at: &usize| {
                let record = &self.records[at];
                (
                    self.shares[usize::from(record.source)],
                    now.since(record.since),
                )
            };
            set.clone().max_by_key(weight).unwrap_or(set.start)
        });
        if self.records[at].kind != Kind::Free {
            self.forget(at);
        }
        let source = self.source_of(datagram.src);
        self.shares[usize::from(source)] += 1;
        self.used += 1;
        self.records[at] = Record {
            datagram: *datagram,
            kind: Kind::Known,
            since: now,
            source,
            ..Record::FREE
        };
        at
    }

    /// Frees a place; what waits there has to go.
    fn forget(&mut self, at: usize) {
        let record = &mut self.records[at];
        let gone = self
            .waiting
            .append(&mut record.waiting, &mut self.pushed_out);
        self.shares[usize::from(record.source)] -= gone + 1;
        record.kind = Kind::Free;
        self.used -= 1;
    }

    /// Of the oldest fragments that wait, one of the source that has most.
    fn make_room(&mut self) -> Option<T> {
        let mut most: Option<(u32, u32)> = None;
        for owner in self.waiting.owners().take(OLDEST) {
            let source = self.records[owner as usize].source;
            let share = self.shares[usize::from(source)];
            if most.is_none_or(|(most, _)| share > most) {
                most = Some((share, owner));
            }
        }
        let (_, owner) = most?;
        self.take_of(owner as usize)
    }

    /// Takes the oldest fragment that waits for a datagram's first.
    fn take_of(&mut self, at: usize) -> Option<T> {
        let record = &mut self.records[at];
        let taken = self.waiting.pop(&mut record.waiting)?;
        self.shares[usize::from(record.source)] -= 1;
        if record.waiting.is_empty() {
            self.forget(at);
        }
        Some(taken)
    }
}
