//! Why entries and buckets may live in an arena.

use std::mem::offset_of;

use super::entry::{Entry, State};
use super::index::Bucket;
use crate::arena::Plain;

const HIGHEST_STATE: u8 = State::Redirect as u8;
const _: () = assert!(State::Free as u8 == 0);
// `ALL` leaves out `Free`: no discriminant is unused.
const _: () = assert!(State::ALL.len() == HIGHEST_STATE as usize);

// SAFETY:
// - every field but `state` is an integer, an array of integers, an address
//   (four bytes) or a transparent wrapper of an integer, for all of which any
//   bits are a value; `state` is an enum whose discriminants are 0 to
//   `HIGHEST_STATE` without a gap (asserted above), and zero is `State::Free`;
// - `is_valid` accepts exactly those discriminants;
// - entries link to each other by slot number, never by address;
// - the alignment is 128.
unsafe impl Plain for Entry {
    const LAYOUT_VERSION: u32 = 2;

    fn is_valid(bytes: &[u8]) -> bool {
        bytes
            .get(offset_of!(Entry, state))
            .is_some_and(|&state| state <= HIGHEST_STATE)
    }
}

// SAFETY: integers only, so any bits are a value; buckets link by number; the
// alignment is 64.
unsafe impl Plain for Bucket {
    const LAYOUT_VERSION: u32 = 1;

    fn is_valid(_bytes: &[u8]) -> bool {
        true
    }
}
