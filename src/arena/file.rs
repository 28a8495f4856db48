//! An arena in a file: created once, attached by every later process.
//!
//! The file is one header page and the slots:
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | magic, written last |
//! | 8 | 4 | layout version of the slot |
//! | 12 | 4 | size of a slot, bytes |
//! | 16 | 8 | number of slots |
//! | 24 | 4 | worker |
//! | 28 | 4 | zero |
//! | 32 | 32 | key |
//!
//! Integers are in host byte order: the file never leaves its machine.

use std::fs::{File, OpenOptions};
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{Ordering, compiler_fence};

use super::map::Mapping;
use super::{Arena, ArenaError, Plain, bytes_for};
use crate::ids::WorkerIx;

/// Bytes in front of the first slot: a page, so that slots stay aligned.
pub const HEADER_BYTES: usize = 4096;

/// Bytes of the secret in the header.
pub const KEY_BYTES: usize = 32;

const MAGIC: [u8; 8] = *b"fgarena\0";
const NO_MAGIC: [u8; 8] = [0; 8];

const F_MAGIC: Range<usize> = 0..8;
const F_LAYOUT: Range<usize> = 8..12;
const F_SLOT_SIZE: Range<usize> = 12..16;
const F_SLOTS: Range<usize> = 16..24;
const F_WORKER: Range<usize> = 24..28;
const F_KEY: Range<usize> = 32..64;

/// The fields of the header page.
type Header = [u8; F_KEY.end];

impl<T: Plain> Arena<T> {
    /// The arena in the file at `path`, on tmpfs or hugetlbfs: attached as it
    /// is where it exists, created with mode 0600, zeroed slots and `fresh_key`
    /// where it does not. All its memory is reserved here, so that no later
    /// access can find the file system full (a SIGBUS on the packet path).
    ///
    /// The file stays locked until the arena is dropped.
    ///
    /// # Errors
    /// Any of [`ArenaError`]; connections in the file are then untouched.
    pub fn file(
        path: &Path,
        slots: usize,
        worker: WorkerIx,
        fresh_key: [u8; KEY_BYTES],
    ) -> Result<Self, ArenaError> {
        let failed = |step| failed(path, step);
        let wanted = header::<T>(slots, worker, fresh_key);
        let bytes = bytes_for::<T>(slots, HEADER_BYTES)?;

        let file = open(path)?;
        let page = huge_page_size(&file).map_err(failed("read the file system's type"))?;
        let bytes = bytes
            .checked_next_multiple_of(page.unwrap_or(HEADER_BYTES))
            .ok_or(ArenaError::TooManySlots { slots })?;

        let length = file.metadata().map_err(failed("read its length"))?.len();
        let mut found: Header = [0; F_KEY.end];
        if length != 0 {
            file.read_exact_at(&mut found, 0).map_err(|error| {
                if error.kind() == io::ErrorKind::UnexpectedEof {
                    ArenaError::Foreign {
                        path: path.to_owned(),
                    }
                } else {
                    failed("read its header")(error)
                }
            })?;
        }
        // The magic is written last: without it nobody has used a slot yet.
        let unfinished = found[F_MAGIC] == NO_MAGIC && length == bytes as u64;
        let fresh = length == 0 || unfinished;
        if fresh {
            file.set_len(0).map_err(failed("empty it"))?;
            file.set_len(bytes as u64)
                .map_err(failed("give it its length"))?;
        } else {
            compare(path, &found, &wanted)?;
            if length != bytes as u64 {
                return Err(mismatch(path, "the length", length, bytes as u64));
            }
        }
        if page.is_none() {
            // hugetlbfs reserves with the mapping.
            if let Err(error) = reserve(&file, bytes as u64) {
                if fresh {
                    // Empty, it stands in nobody's way, whatever the next size.
                    file.set_len(0).map_err(failed("empty it"))?;
                }
                return Err(failed("reserve its memory")(error));
            }
        }
        let mut mapping = Mapping::shared(&file, bytes).map_err(failed("map it"))?;

        if fresh {
            let page = mapping.bytes_mut();
            page[F_MAGIC.end..F_KEY.end].copy_from_slice(&wanted[F_MAGIC.end..]);
            // The processor keeps a process's own stores in order, also for a
            // process that maps the file later; the compiler must, too.
            compiler_fence(Ordering::SeqCst);
            page[F_MAGIC].copy_from_slice(&MAGIC);
        } else {
            let damaged = mapping.bytes()[HEADER_BYTES..]
                .chunks_exact(size_of::<T>())
                .take(slots)
                .position(|slot| !T::is_valid(slot));
            if let Some(slot) = damaged {
                return Err(ArenaError::Damaged {
                    path: path.to_owned(),
                    slot,
                });
            }
        }
        let mut key = [0; KEY_BYTES];
        key.copy_from_slice(&mapping.bytes()[F_KEY]);
        Ok(Self {
            mapping,
            offset: HEADER_BYTES,
            slots,
            populated: if fresh { 0 } else { slots },
            key: Some(key),
            _lock: Some(file),
            slot_type: PhantomData,
        })
    }
}

/// The error of a step that failed.
fn failed(path: &Path, step: &'static str) -> impl FnOnce(io::Error) -> ArenaError {
    move |source| ArenaError::File {
        path: path.to_owned(),
        step,
        source,
    }
}

/// The file at `path`, ours alone and locked.
fn open(path: &Path) -> Result<File, ArenaError> {
    let failed = |step| failed(path, step);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(failed("open it"))?;
    let metadata = file.metadata().map_err(failed("read its mode"))?;
    let mode = metadata.mode() & 0o7777;
    // SAFETY: no arguments, no memory, cannot fail.
    let user = unsafe { libc::geteuid() };
    if mode & 0o077 != 0 || metadata.uid() != user {
        return Err(ArenaError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    // SAFETY: the descriptor is open for as long as `file` lives; no memory.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        let error = io::Error::last_os_error();
        return Err(if error.kind() == io::ErrorKind::WouldBlock {
            ArenaError::InUse {
                path: path.to_owned(),
            }
        } else {
            failed("lock it")(error)
        });
    }
    Ok(file)
}

/// The page size where `file` lies on hugetlbfs, which takes only whole pages.
fn huge_page_size(file: &File) -> io::Result<Option<usize>> {
    let mut found = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the descriptor is open, and the kernel writes at most one
    // `statfs` to where the pointer has room for one.
    if unsafe { libc::fstatfs(file.as_raw_fd(), found.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: success means that the kernel filled it in.
    let found = unsafe { found.assume_init() };
    Ok(if found.f_type == libc::HUGETLBFS_MAGIC {
        usize::try_from(found.f_bsize).ok()
    } else {
        None
    })
}

/// Makes the file system set `bytes` aside without writing them.
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    let bytes = libc::off_t::try_from(bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
    loop {
        // SAFETY: the descriptor is open; no memory is passed.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn header<T: Plain>(slots: usize, worker: WorkerIx, key: [u8; KEY_BYTES]) -> Header {
    let mut header = [0; F_KEY.end];
    header[F_MAGIC].copy_from_slice(&MAGIC);
    header[F_LAYOUT].copy_from_slice(&T::LAYOUT_VERSION.to_ne_bytes());
    header[F_SLOT_SIZE].copy_from_slice(&(size_of::<T>() as u32).to_ne_bytes());
    header[F_SLOTS].copy_from_slice(&(slots as u64).to_ne_bytes());
    header[F_WORKER].copy_from_slice(&u32::from(worker.0).to_ne_bytes());
    header[F_KEY].copy_from_slice(&key);
    header
}

/// Whether the header `found` in the file is, but for the key, the one `wanted`.
fn compare(path: &Path, found: &Header, wanted: &Header) -> Result<(), ArenaError> {
    if found[F_MAGIC] != MAGIC {
        return Err(ArenaError::Foreign {
            path: path.to_owned(),
        });
    }
    for (field, range) in [
        ("the layout version", F_LAYOUT),
        ("the size of a slot", F_SLOT_SIZE),
        ("the number of slots", F_SLOTS),
        ("the worker", F_WORKER),
    ] {
        let found = number(&found[range.clone()]);
        let wanted = number(&wanted[range]);
        if found != wanted {
            return Err(mismatch(path, field, found, wanted));
        }
    }
    Ok(())
}

fn mismatch(path: &Path, field: &'static str, found: u64, wanted: u64) -> ArenaError {
    ArenaError::Mismatch {
        path: path.to_owned(),
        field,
        found,
        wanted,
    }
}

/// A header field of 4 or 8 bytes.
fn number(bytes: &[u8]) -> u64 {
    match *bytes {
        [a, b, c, d] => u64::from(u32::from_ne_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        _ => 0,
    }
}
