//! Lists through the table of next hops: linked by slot number, so that a slot
//! joins and leaves in constant time and nothing is allocated.

use super::Neighbor;

/// No slot: the end of a list.
pub(super) const NIL: u16 = u16::MAX;

/// Which of a slot's two links a list goes through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Through {
    /// What the slot is: free, a stranger, settled, condemned.
    Place = 0,
    /// It is being asked.
    Ask = 1,
}

/// A slot's neighbours in one list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    prev: u16,
    next: u16,
}

impl Link {
    pub(super) const NONE: Self = Self {
        prev: NIL,
        next: NIL,
    };
}

/// A list, from its oldest slot to its newest.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    through: Through,
    head: u16,
    tail: u16,
    len: u16,
}

impl List {
    pub(super) const fn new(through: Through) -> Self {
        Self {
            through,
            head: NIL,
            tail: NIL,
            len: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len.into()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first of the list.
    pub(super) fn first(&self) -> Option<u16> {
        (self.head != NIL).then_some(self.head)
    }

    fn link<'t>(&self, table: &'t mut [Neighbor], ix: u16) -> &'t mut Link {
        &mut table[usize::from(ix)].links[self.through as usize]
    }

    pub(super) fn push_back(&mut self, table: &mut [Neighbor], ix: u16) {
        let tail = self.tail;
        *self.link(table, ix) = Link {
            prev: tail,
            next: NIL,
        };
        match tail {
            NIL => self.head = ix,
            tail => self.link(table, tail).next = ix,
        }
        self.tail = ix;
        self.len += 1;
    }

    pub(super) fn push_front(&mut self, table: &mut [Neighbor], ix: u16) {
        let head = self.head;
        *self.link(table, ix) = Link {
            prev: NIL,
            next: head,
        };
        match head {
            NIL => self.tail = ix,
            head => self.link(table, head).prev = ix,
        }
        self.head = ix;
        self.len += 1;
    }

    /// Takes a slot out; it must be in this list.
    pub(super) fn remove(&mut self, table: &mut [Neighbor], ix: u16) {
        let Link { prev, next } = std::mem::replace(self.link(table, ix), Link::NONE);
        match prev {
            NIL => self.head = next,
            prev => self.link(table, prev).next = next,
        }
        match next {
            NIL => self.tail = prev,
            next => self.link(table, next).prev = prev,
        }
        self.len -= 1;
    }

    pub(super) fn pop_front(&mut self, table: &mut [Neighbor]) -> Option<u16> {
        let first = self.first()?;
        self.remove(table, first);
        Some(first)
    }
}
