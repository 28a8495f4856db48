//! Memory of fixed slots that outlives the process: the connection entries of
//! one worker, in a file on tmpfs or hugetlbfs, and private memory of the same
//! shape for what can be derived from them.
//!
//! Owns the mappings. Made at start by the management core, then handed to the
//! worker, which lets all pages come to be before its first packet: later, each
//! would keep packets waiting for as long as the kernel takes to find and clear
//! it.
//!
//! May not know what the slots mean: that is the business of
//! [`crate::conntrack`]. It does guarantee that each slot it shows is a valid
//! value, whatever a file contained.

mod file;
mod lanes;
mod map;
mod plain;
mod prefetch;

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::path::PathBuf;

pub use file::{HEADER_BYTES, KEY_BYTES};
pub use lanes::lanes_equal;
pub(crate) use map::Mapping;
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

    /// Lets all memory of the slots exist, on the memory node of the calling
    /// thread, so that no later access waits for the kernel.
    ///
    /// # Errors
    /// [`ArenaError::Memory`].
    pub fn populate(&mut self) -> Result<(), ArenaError> {
        self.mapping
            .populate()
            .map_err(|source| ArenaError::Memory {
                bytes: self.mapping.len(),
                slots: self.slots,
                source,
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

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions, Permissions};
    use std::mem::offset_of;
    use std::os::unix::fs::{FileExt, PermissionsExt};
    use std::path::PathBuf;

    use super::{Arena, ArenaError, HEADER_BYTES, KEY_BYTES};
    use crate::conntrack::entry::{Entry, State};
    use crate::ids::WorkerIx;

    const KEY: [u8; KEY_BYTES] = [7; KEY_BYTES];
    const SLOTS: usize = 1000;

    /// A directory that goes with the test, and a path for an arena in it.
    fn place() -> (tempfile::TempDir, PathBuf) {
        let shm = std::path::Path::new("/dev/shm");
        let dir = if shm.is_dir() {
            tempfile::tempdir_in(shm)
        } else {
            tempfile::tempdir()
        };
        let dir = dir.expect("a temporary directory");
        let path = dir.path().join("w3");
        (dir, path)
    }

    fn open(path: &std::path::Path, slots: usize) -> Result<Arena<Entry>, ArenaError> {
        Arena::file(path, slots, WorkerIx(3), KEY)
    }

    /// An arena with the first `used` slots established, closed again.
    fn filled(path: &std::path::Path, used: usize) {
        let mut arena = open(path, SLOTS).expect("a new arena");
        for (ix, entry) in arena.as_mut_slice().iter_mut().take(used).enumerate() {
            *entry = Entry {
                state: State::Established,
                client_port: ix as u16,
                ..Entry::FREE
            };
        }
    }

    #[test]
    fn zeroed_memory_is_free_slots() {
        let arena = Arena::<Entry>::anonymous(SLOTS).expect("memory");
        assert_eq!(arena.as_slice().len(), SLOTS);
        assert!(arena.as_slice().iter().all(|e| e.state == State::Free));
        assert_eq!(arena.populated(), 0);
    }

    /// Pages of the first `bytes` at `start` that exist.
    fn resident_pages(start: *const u8, bytes: usize) -> usize {
        let pagemap = fs::File::open("/proc/self/pagemap").expect("procfs");
        (0..bytes / 4096)
            .filter(|page| {
                let mut entry = [0; 8];
                let at = (start.addr() / 4096 + page) as u64 * 8;
                pagemap.read_exact_at(&mut entry, at).expect("an entry");
                // Bit 63: present (Documentation/admin-guide/mm/pagemap.rst).
                u64::from_ne_bytes(entry) >> 63 == 1
            })
            .count()
    }

    #[test]
    fn populated_memory_exists_and_is_as_it_was() {
        const MANY: usize = 100_000;
        let mut arena = Arena::<Entry>::anonymous(MANY).expect("memory");
        let pages = MANY * size_of::<Entry>() / 4096;
        arena.as_mut_slice()[7].client_port = 4711;
        let existing =
            |arena: &Arena<Entry>| resident_pages(arena.as_slice().as_ptr().cast(), pages * 4096);
        assert!(existing(&arena) < pages);
        arena.populate().expect("memory");
        assert_eq!(existing(&arena), pages);
        assert_eq!(arena.as_slice()[7].client_port, 4711);
        assert_eq!(arena.as_slice()[MANY - 1].state, State::Free);
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        assert!(matches!(
            Arena::<Entry>::anonymous(usize::MAX / 2),
            Err(ArenaError::TooManySlots { .. })
        ));
        assert!(matches!(
            Arena::<Entry>::anonymous(1 << 50),
            Err(ArenaError::Memory { .. })
        ));
    }

    #[test]
    fn a_later_process_finds_the_slots_and_the_first_key() {
        let (_dir, path) = place();
        filled(&path, 100);
        let arena = Arena::<Entry>::file(&path, SLOTS, WorkerIx(3), [9; KEY_BYTES])
            .expect("the arena is attached");
        assert_eq!(arena.key(), Some(&KEY));
        assert!(arena.populated() >= 100);
        for (ix, entry) in arena.as_slice().iter().enumerate() {
            let state = if ix < 100 {
                State::Established
            } else {
                State::Free
            };
            assert_eq!(entry.state, state, "slot {ix}");
        }
        assert_eq!(arena.as_slice()[99].client_port, 99);
        let mode = fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    #[test]
    fn a_second_user_is_refused() {
        let (_dir, path) = place();
        let first = open(&path, SLOTS).expect("a new arena");
        assert!(matches!(open(&path, SLOTS), Err(ArenaError::InUse { .. })));
        drop(first);
        open(&path, SLOTS).expect("free again");
    }

    #[test]
    fn another_shape_is_refused_by_name() {
        let (_dir, path) = place();
        filled(&path, 10);
        let mut rows = vec![(open(&path, 2 * SLOTS), "the number of slots")];
        rows.push((Arena::file(&path, SLOTS, WorkerIx(4), KEY), "the worker"));
        let file = OpenOptions::new()
            .write(true)
            .open(&path)
            .expect("the file");
        file.write_all_at(&[0xee], 12).expect("a write");
        rows.push((open(&path, SLOTS), "the size of a slot"));
        file.write_all_at(&[0xee], 8).expect("a write");
        rows.push((open(&path, SLOTS), "the layout version"));
        for (result, wanted) in rows {
            match result {
                Err(ArenaError::Mismatch { field, .. }) => assert_eq!(field, wanted),
                other => panic!("{wanted}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_cut_file_is_refused() {
        let (_dir, path) = place();
        filled(&path, 10);
        let file = OpenOptions::new()
            .write(true)
            .open(&path)
            .expect("the file");
        file.set_len(8192).expect("cut");
        assert!(matches!(
            open(&path, SLOTS),
            Err(ArenaError::Mismatch {
                field: "the length",
                ..
            })
        ));
    }

    #[test]
    fn a_foreign_file_is_refused_and_left_alone() {
        let (_dir, path) = place();
        for content in [&b"someone's notes"[..], &[b'x'; 5000]] {
            fs::write(&path, content).expect("a write");
            fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("a mode");
            assert!(matches!(
                open(&path, SLOTS),
                Err(ArenaError::Foreign { .. })
            ));
            assert_eq!(fs::read(&path).expect("a read"), content);
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let (_dir, path) = place();
        filled(&path, 10);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("a mode");
        assert!(matches!(
            open(&path, SLOTS),
            Err(ArenaError::Exposed { mode: 0o640, .. })
        ));
    }

    #[test]
    fn a_state_that_does_not_exist_is_refused() {
        let (_dir, path) = place();
        filled(&path, 10);
        let file = OpenOptions::new()
            .write(true)
            .open(&path)
            .expect("the file");
        let highest = State::Redirect as u8;
        for slot in [0, 7, 9, SLOTS - 1] {
            let at = HEADER_BYTES + slot * size_of::<Entry>() + offset_of!(Entry, state);
            for state in 0..=u8::MAX {
                file.write_all_at(&[state], at as u64).expect("a write");
                match open(&path, SLOTS) {
                    Ok(arena) => {
                        assert!(state <= highest);
                        assert_eq!(arena.as_slice()[slot].state as u8, state);
                    }
                    Err(ArenaError::Damaged { slot: found, .. }) => {
                        assert!(state > highest);
                        assert_eq!(found, slot);
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            file.write_all_at(&[0], at as u64).expect("a write");
        }
    }

    #[test]
    fn an_interrupted_creation_starts_over() {
        let (_dir, path) = place();
        filled(&path, 10);
        let file = OpenOptions::new()
            .write(true)
            .open(&path)
            .expect("the file");
        // The magic is written last.
        file.write_all_at(&[0; 8], 0).expect("a write");
        let arena = open(&path, SLOTS).expect("a new arena");
        assert!(arena.as_slice().iter().all(|e| e.state == State::Free));
    }

    #[test]
    fn no_room_is_told_at_start() {
        let (_dir, path) = place();
        let result = open(&path, 1 << 40);
        assert!(matches!(result, Err(ArenaError::File { .. })), "{result:?}");
        open(&path, SLOTS).expect("the failed attempt is not in the way");
    }
}
