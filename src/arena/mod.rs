//! Memory of fixed slots that outlives the process: the connection entries of
//! one worker, in a file on tmpfs or hugetlbfs, and private memory of the same
//! shape for what can be derived from them.
//!
//! Owns the mappings. Made at start by the management core, then handed to the
//! worker. Nothing is touched at start that is not needed: a page comes to be,
//! zeroed, when its first slot is used.
//!
//! May not know what the slots mean: that is the business of
//! [`crate::conntrack`]. It does guarantee that each slot it shows is a valid
//! value, whatever a file contained.

mod file;
mod map;
mod plain;
mod prefetch;

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::path::PathBuf;

pub use file::{HEADER_BYTES, KEY_BYTES};
use map::Mapping;
pub use plain::Plain;
pub use prefetch::{CACHE_LINE, prefetch, prefetch_pair, prefetch_slice};

/// Why an arena can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// The kernel gives no memory of that size.
    #[error("{bytes} bytes of memory for {slots} slots: {source}")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
        /// Slots asked for.
        slots: usize,
        /// The kernel's reason.
        source: io::Error,
    },
    /// More slots than addresses.
    #[error("{slots} slots are more than this machine can address")]
    TooManySlots {
        /// Slots asked for.
        slots: usize,
    },
    /// A step of opening or creating the file failed.
    #[error("{path}: can't {step}: {source}", path = path.display())]
    File {
        /// The arena's file.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Another process works on the file.
    #[error("{path}: in use by another process", path = path.display())]
    InUse {
        /// The arena's file.
        path: PathBuf,
    },
    /// Others than the owner may read or write the file: its hash key is no
    /// secret any more.
    #[error(
        "{path}: mode {mode:04o} lets others in; want 0600 and the gateway's own user as owner",
        path = path.display()
    )]
    Exposed {
        /// The arena's file.
        path: PathBuf,
        /// The file's permission bits.
        mode: u32,
    },
    /// Not an arena at all; it is left as it is.
    #[error("{path}: not a connection arena of fullgate", path = path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// An arena of another shape.
    #[error(
        "{path}: {field} is {found}, this gateway wants {wanted}; remove the file to start \
         without its connections",
        path = path.display()
    )]
    Mismatch {
        /// The arena's file.
        path: PathBuf,
        /// What differs.
        field: &'static str,
        /// What the file has.
        found: u64,
        /// What was asked for.
        wanted: u64,
    },
    /// A slot holds bytes that are no value.
    #[error(
        "{path}: slot {slot} is damaged; remove the file to start without its connections",
        path = path.display()
    )]
    Damaged {
        /// The arena's file.
        path: PathBuf,
        /// The first slot that is not valid.
        slot: usize,
    },
}

/// A fixed number of slots in one mapping.
#[derive(Debug)]
pub struct Arena<T: Plain> {
    mapping: Mapping,
    /// Where slot 0 is, bytes into the mapping.
    offset: usize,
    slots: usize,
    /// Slots from here on are zero.
    populated: usize,
    key: Option<[u8; KEY_BYTES]>,
    /// Holds the lock that keeps a second process out.
    _lock: Option<File>,
    slot_type: PhantomData<T>,
}

impl<T: Plain> Arena<T> {
    /// `slots` zeroed slots in private memory.
    ///
    /// # Errors
    /// [`ArenaError::TooManySlots`], [`ArenaError::Memory`].
    pub fn anonymous(slots: usize) -> Result<Self, ArenaError> {
        let bytes = bytes_for::<T>(slots, 0)?;
        let mapping = Mapping::anonymous(bytes).map_err(|source| ArenaError::Memory {
            bytes,
            slots,
            source,
        })?;
        Ok(Self {
            mapping,
            offset: 0,
            slots,
            populated: 0,
            key: None,
            _lock: None,
            slot_type: PhantomData,
        })
    }

    /// The slots.
    #[inline(always)]
    pub fn as_slice(&self) -> &[T] {
        // SAFETY:
        // - `offset + slots * size_of::<T>()` is at most the mapping's length
        //   (`bytes_for` computed the one from the other) and below `isize::MAX`;
        // - the start is aligned: the mapping begins on a page, and `offset` is
        //   0 or a page, which `T`'s alignment divides (`Plain`);
        // - each slot is a valid value: zero (`Plain`), checked when the file
        //   was attached, or written as a `T` since;
        // - nobody else writes: private memory, or a file that this process
        //   holds the exclusive lock of and that only its owner may open;
        // - `&self` allows no `&mut` from `as_mut_slice` beside it.
        unsafe {
            let first = self.mapping.start().add(self.offset).cast::<T>();
            std::slice::from_raw_parts(first.as_ptr(), self.slots)
        }
    }

    /// The slots, writable.
    #[inline(always)]
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`, and `&mut self` makes this the only slice.
        unsafe {
            let first = self.mapping.start().add(self.offset).cast::<T>();
            std::slice::from_raw_parts_mut(first.as_ptr(), self.slots)
        }
    }

    /// How many slots at the front an earlier process can have used. Those
    /// behind were zero when the arena was opened.
    pub fn populated(&self) -> usize {
        self.populated
    }

    /// The secret that the file keeps from process to process; `None` in
    /// private memory.
    pub fn key(&self) -> Option<&[u8; KEY_BYTES]> {
        self.key.as_ref()
    }
}

/// Bytes of `offset` and `slots` slots behind it.
fn bytes_for<T: Plain>(slots: usize, offset: usize) -> Result<usize, ArenaError> {
    slots
        .checked_mul(size_of::<T>())
        .and_then(|bytes| bytes.checked_add(offset))
        .filter(|&bytes| isize::try_from(bytes).is_ok())
        .ok_or(ArenaError::TooManySlots { slots })
}
