//! What is known of one next hop.

use super::list::Link;
use crate::service::route::NextHop;
use crate::time::Millis;
use crate::wire::ethernet::MacAddr;

/// What is known of a next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    /// Nobody has sent to it yet.
    Unasked,
    /// The MAC address is known.
    Known,
    /// Asked, no answer yet.
    Incomplete,
    /// Did not answer.
    Failed,
}

impl Condition {
    /// All, in the order of metrics and tables.
    pub const ALL: [Self; 4] = [Self::Known, Self::Incomplete, Self::Failed, Self::Unasked];

    /// As the admin interface and metrics say it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unasked => "not asked yet",
            Self::Known => "known",
            Self::Incomplete => "asked",
            Self::Failed => "no answer",
        }
    }
}

/// What a slot is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    Free,
    /// Named by the configuration.
    Resident,
    /// On a port's network, and not known.
    Stranger,
    /// On a port's network, and known now or before.
    Guest,
    /// Connections may still have its index.
    Condemned,
}

/// One next hop: what packets read of it is on one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct Neighbor {
    /// Destination and source MAC, as they stand in the frame.
    pub l2: [u8; 12],
    /// Where it is.
    pub hop: NextHop,
    /// What is known.
    pub condition: Condition,
    /// It did not answer the last time it was asked, or has not answered since.
    pub silent: bool,
    pub(super) role: Role,
    /// A packet was sent to it since the last look.
    pub(super) used: bool,
    /// In the list of those being asked.
    pub(super) asked: bool,
    /// Connections may have its index.
    pub(super) kept: bool,
    /// Its MAC was another one before it was last heard.
    pub(super) moved: bool,
    pub(super) tries: u8,
    pub(super) waiting: u16,
    pub(super) links: [Link; 2],
    pub(super) chain: u16,
    /// When it last answered.
    pub(super) heard: Millis,
    /// When a packet was last sent to it, about.
    pub(super) used_at: Millis,
    /// When it may be asked next.
    pub(super) next_try: Millis,
}

const _: () = assert!(size_of::<Neighbor>() == 64);

impl Neighbor {
    /// The configuration names it.
    pub fn is_resident(&self) -> bool {
        self.role == Role::Resident
    }

    /// What is known of it, as people see it: one that is asked again because
    /// somebody sends to it has still not answered.
    pub fn shown(&self) -> Condition {
        match self.condition {
            Condition::Incomplete if self.silent => Condition::Failed,
            condition => condition,
        }
    }

    /// When it was first heard with its MAC, if it had another one before and was
    /// not confirmed since. What was sent before that is lost.
    pub fn moved_at(&self) -> Option<Millis> {
        self.moved.then_some(self.heard)
    }

    /// Its MAC address, where it is known.
    pub fn mac(&self) -> Option<MacAddr> {
        let mac = self.l2.first_chunk().copied().map(MacAddr);
        mac.filter(|_| self.condition == Condition::Known)
    }

    /// Milliseconds since it last answered; `None`: never.
    pub fn heard_ms_ago(&self, now: Millis) -> Option<u64> {
        (self.l2 != [0; 12]).then(|| now.since(self.heard))
    }

    pub(super) fn is_listed(&self) -> bool {
        matches!(self.role, Role::Resident | Role::Stranger | Role::Guest)
    }
}

/// How many next hops there are, each time the walk of [`Neighbors::age`] has
/// seen them all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// By [`Neighbor::shown`], in the order of [`Condition::ALL`].
    pub residents: [u32; 4],
    /// The same.
    pub guests: [u32; 4],
}

impl Counts {
    pub(super) fn note(&mut self, neighbor: &Neighbor) {
        let counts = match neighbor.role {
            Role::Resident => &mut self.residents,
            Role::Stranger | Role::Guest => &mut self.guests,
            Role::Free | Role::Condemned => return,
        };
        let at = Condition::ALL
            .iter()
            .position(|condition| *condition == neighbor.shown());
        counts[at.unwrap_or(0)] += 1;
    }
}
