//! Which types may live in an arena, and why each of them may.

use std::mem::offset_of;

use crate::conntrack::entry::{Entry, State};
use crate::conntrack::index::Bucket;

/// Plain old data that a fresh, zeroed page already is a value of.
///
/// # Safety
/// The implementer promises that
/// - `size_of::<Self>()` zero bytes are a valid value;
/// - [`Plain::is_valid`] is true only for bytes that are a valid value;
/// - a value holds no pointer, reference or handle: it means the same in
///   another process;
/// - its alignment is at most [`super::HEADER_BYTES`].
pub unsafe trait Plain: Copy + Send + 'static {
    /// Raised whenever the layout or the meaning of a field changes.
    const LAYOUT_VERSION: u32;

    /// Whether `bytes`, `size_of::<Self>()` of them, are a valid value.
    fn is_valid(bytes: &[u8]) -> bool;
}

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
