//! One memory mapping: made, given its page size advice, and unmapped on drop.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

/// The page size that the kernel's transparent huge pages have on x86-64.
const HUGE_PAGE: usize = 2 << 20;

/// A readable and writable mapping, zero-filled where nothing was written yet.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// What `mmap` returned.
    base: NonNull<u8>,
    /// What `mmap` was asked for, bytes.
    mapped: usize,
    /// Where the usable bytes begin.
    start: NonNull<u8>,
    /// Usable bytes.
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to the thread that made it, and
// this value is the only one that names it.
unsafe impl Send for Mapping {}

impl Mapping {
    /// `len` private zero bytes, starting on a huge-page boundary.
    pub(crate) fn anonymous(len: usize) -> io::Result<Self> {
        // Room to move the start up to a boundary: a huge page can only back
        // an aligned piece of address space.
        let mapped = len
            .max(1)
            .checked_add(HUGE_PAGE)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let base = map(mapped, flags, -1)?;
        let padding = base.as_ptr().align_offset(HUGE_PAGE);
        // SAFETY: `align_offset` of a byte pointer is below `HUGE_PAGE`, and
        // the mapping is longer than that by at least `len`.
        let start = unsafe { base.add(padding) };
        let mapping = Self {
            base,
            mapped,
            start,
            len,
        };
        mapping.advise_huge_pages();
        Ok(mapping)
    }

    /// The first `len` bytes of `file`, shared with every process that maps it.
    ///
    /// The caller keeps the file at least that long: touching a page beyond its
    /// end is a SIGBUS.
    pub(super) fn shared(file: &File, len: usize) -> io::Result<Self> {
        let base = map(len, libc::MAP_SHARED, file.as_raw_fd())?;
        let mapping = Self {
            base,
            mapped: len,
            start: base,
            len,
        };
        mapping.advise_huge_pages();
        Ok(mapping)
    }

    /// Makes every page exist now, on the memory node of the calling thread,
    /// with its content unchanged.
    ///
    /// A kernel before 5.14 does not know how; pages then come to be when they
    /// are first used, as ever.
    pub(crate) fn populate(&mut self) -> io::Result<()> {
        loop {
            // SAFETY: the range lies inside the mapping, and MADV_POPULATE_WRITE
            // does to its pages what a write of their own content would.
            let code = unsafe {
                libc::madvise(
                    self.start.as_ptr().cast(),
                    self.len,
                    libc::MADV_POPULATE_WRITE,
                )
            };
            if code == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN) => {}
                Some(libc::EINVAL) => return Ok(()),
                _ => return Err(error),
            }
        }
    }

    /// The first usable byte.
    #[inline(always)]
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Usable bytes: how many.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// All usable bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY:
        // - `start` is the begin of `len` bytes inside one live mapping;
        // - the kernel gave them a content (zero or the file's);
        // - shared borrow of `self`: whoever writes through `start` holds
        //   `&mut` to the arena that owns this mapping.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// All usable bytes, writable.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` makes this the only access.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Asks for huge pages: at ten million entries every access with 4 KiB
    /// pages would be a TLB miss. Advice only, and refused by hugetlbfs (which
    /// has them anyway), so its result does not matter.
    fn advise_huge_pages(&self) {
        // SAFETY: the range lies inside the mapping, and MADV_HUGEPAGE does not
        // change what the pages hold.
        unsafe {
            libc::madvise(self.start.as_ptr().cast(), self.len, libc::MADV_HUGEPAGE);
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `mmap` returned to this value; slices
        // of it borrow the arena that owns this mapping and are gone by now.
        unsafe {
            libc::munmap(self.base.as_ptr().cast(), self.mapped);
        }
    }
}

fn map(len: usize, flags: libc::c_int, fd: libc::c_int) -> io::Result<NonNull<u8>> {
    // SAFETY: without MAP_FIXED the kernel picks a range that overlaps nothing
    // in use, and an invalid length or descriptor comes back as an error.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            fd,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}
