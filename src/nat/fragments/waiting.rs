//! A fixed number of places for what waits, in the order in which it came, and
//! each in the list of its owner. Allocates only when made.

use crate::conntrack::entry::NIL;
use crate::time::Millis;

/// What waits for one owner, oldest first.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    head: u32,
    tail: u32,
}

impl List {
    pub(super) const EMPTY: Self = Self {
        head: NIL,
        tail: NIL,
    };

    pub(super) fn is_empty(&self) -> bool {
        self.head == NIL
    }
}

#[derive(Debug)]
struct Place<T> {
    item: Option<T>,
    owner: u32,
    until: Millis,
    /// In its owner's list, or the next free place.
    next: u32,
    older: u32,
    newer: u32,
}

/// The places. What is in one is in exactly one list.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    places: Box<[Place<T>]>,
    free: u32,
    oldest: u32,
    newest: u32,
    len: usize,
}

impl<T> Waiting<T> {
    pub(super) fn new(capacity: usize) -> Self {
        let capacity = capacity as u32;
        let places = (0..capacity)
            .map(|place| Place {
                item: None,
                owner: NIL,
                until: Millis(0),
                next: if place + 1 < capacity { place + 1 } else { NIL },
                older: NIL,
                newer: NIL,
            })
            .collect();
        Self {
            places,
            free: if capacity > 0 { 0 } else { NIL },
            oldest: NIL,
            newest: NIL,
            len: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_full(&self) -> bool {
        self.free == NIL
    }

    /// Puts an item at the end of its owner's list. Gives it back where all
    /// places are taken.
    pub(super) fn push(
        &mut self,
        list: &mut List,
        owner: u32,
        until: Millis,
        item: T,
    ) -> Result<(), T> {
        let at = self.free;
        let newest = self.newest;
        let Some(place) = self.places.get_mut(at as usize) else {
            return Err(item);
        };
        self.free = place.next;
        *place = Place {
            item: Some(item),
            owner,
            until,
            next: NIL,
            older: newest,
            newer: NIL,
        };
        match self.places.get_mut(newest as usize) {
            Some(before) => before.newer = at,
            None => self.oldest = at,
        }
        self.newest = at;
        match self.places.get_mut(list.tail as usize) {
            Some(before) => before.next = at,
            None => list.head = at,
        }
        list.tail = at;
        self.len += 1;
        Ok(())
    }

    /// Takes the oldest of a list.
    pub(super) fn pop(&mut self, list: &mut List) -> Option<T> {
        let at = list.head;
        let place = self.places.get_mut(at as usize)?;
        let item = place.item.take();
        let (older, newer) = (place.older, place.newer);
        list.head = place.next;
        place.next = self.free;
        self.free = at;
        if list.head == NIL {
            list.tail = NIL;
        }
        match self.places.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
        match self.places.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
        self.len -= 1;
        item
    }

    /// Moves all of one list to the end of another that has no owner. Returns
    /// how many.
    pub(super) fn append(&mut self, list: &mut List, to: &mut List) -> u32 {
        let moved = std::mem::replace(list, List::EMPTY);
        let (mut at, mut count) = (moved.head, 0);
        while let Some(place) = self.places.get_mut(at as usize) {
            place.owner = NIL;
            at = place.next;
            count += 1;
        }
        if count > 0 {
            match self.places.get_mut(to.tail as usize) {
                Some(before) => before.next = moved.head,
                None => to.head = moved.head,
            }
            to.tail = moved.tail;
        }
        count
    }

    /// Owners of what waits, that of the oldest first.
    pub(super) fn owners(&self) -> impl Iterator<Item = u32> {
        let next = |at: u32| self.places.get(at as usize);
        let places = std::iter::successors(next(self.oldest), move |place| next(place.newer));
        places
            .map(|place| place.owner)
            .filter(|&owner| owner != NIL)
    }

    /// The owner of the oldest, if that has waited long enough.
    pub(super) fn overdue(&self, now: Millis) -> Option<u32> {
        let oldest = self.places.get(self.oldest as usize)?;
        (oldest.owner != NIL && now.reached(oldest.until)).then_some(oldest.owner)
    }
}
