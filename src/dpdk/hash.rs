//! DPDK's cuckoo hash table, `rte_hash`, for comparison: `benches/table.rs`
//! measures it against the index of the connection table. The gateway does not
//! use it.
//!
//! Set up as fast as it gets: one thread, no lock, keys of 16 bytes (which it
//! compares by one vector instruction). All calls on a table take either the
//! hash of the key, or none, which is then DPDK's own (CRC by the processor's
//! instruction, without a secret).

use std::ffi::{CString, c_void};
use std::ptr::{NonNull, null, null_mut, without_provenance_mut};

use super::Eal;
use super::error::{Errno, Error};

/// What a value is found by.
pub type Key = [u8; 16];

/// A table from keys to 32-bit values, of one thread.
#[derive(Debug)]
pub struct CuckooHash {
    raw: NonNull<dpdk_sys::rte_hash>,
    bytes: u64,
    _eal: Eal,
}

impl CuckooHash {
    /// A table of at most `entries`, 8 at least. `name` must be unique in the
    /// process, at most 25 characters.
    ///
    /// # Errors
    /// [`Error::Hash`] where there is not enough memory.
    pub fn new(eal: &Eal, name: &str, entries: u32) -> Result<Self, Error> {
        let c_name = CString::new(name).map_err(|_| Error::ZeroByte {
            what: "hash table",
            value: name.to_owned(),
        })?;
        let parameters = dpdk_sys::rte_hash_parameters {
            name: c_name.as_ptr(),
            entries,
            key_len: size_of::<Key>() as u32,
            // Any node; no flag: no lock and one writer.
            socket_id: -1,
            ..Default::default()
        };
        let before = allocated();
        // SAFETY: EAL is initialised; the parameters live through the call and
        // the name, terminated, is copied.
        let raw = unsafe { dpdk_sys::rte_hash_create(&parameters) };
        let raw = NonNull::new(raw).ok_or_else(|| Error::Hash {
            name: name.to_owned(),
            entries,
            errno: Errno::last(),
        })?;
        Ok(Self {
            raw,
            bytes: allocated().saturating_sub(before),
            _eal: eal.clone(),
        })
    }

    /// Memory that the table took when it was made: all it will have.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds `value` under `key`, or sets it there.
    ///
    /// # Errors
    /// The table is full, or both buckets of the key are and no other place was
    /// found for what they hold.
    #[inline]
    pub fn insert(&mut self, key: &Key, hash: Option<u32>, value: u32) -> Result<(), Errno> {
        let table = self.raw.as_ptr();
        let key = key.as_ptr().cast();
        let value = without_provenance_mut(value as usize);
        // SAFETY: a live table, whose keys are as long as `Key`, and `&mut self`
        // makes this the only call on it; the key is copied, the value a number
        // that nobody follows as the pointer it is passed as.
        let code = unsafe {
            match hash {
                Some(hash) => dpdk_sys::rte_hash_add_key_with_hash_data(table, key, hash, value),
                None => dpdk_sys::rte_hash_add_key_data(table, key, value),
            }
        };
        if code < 0 {
            return Err(Errno(-code));
        }
        Ok(())
    }

    /// Removes `key`. False where it is not there.
    #[inline]
    pub fn remove(&mut self, key: &Key, hash: Option<u32>) -> bool {
        let table = self.raw.as_ptr();
        let key = key.as_ptr().cast();
        // SAFETY: as in `insert`.
        let position = unsafe {
            match hash {
                Some(hash) => dpdk_sys::rte_hash_del_key_with_hash(table, key, hash),
                None => dpdk_sys::rte_hash_del_key(table, key),
            }
        };
        position >= 0
    }

    /// The values under `keys`, and a bit for each that was found. Where it is
    /// not set the value means nothing.
    #[inline]
    pub fn lookup<const N: usize>(
        &self,
        keys: &[Key; N],
        hashes: Option<&[u32; N]>,
    ) -> (u64, [u32; N]) {
        const { assert!(0 < N && N <= dpdk_sys::RTE_HASH_LOOKUP_BULK_MAX as usize) };
        let mut pointers: [*const c_void; N] = [null(); N];
        for (pointer, key) in pointers.iter_mut().zip(keys) {
            *pointer = key.as_ptr().cast();
        }
        let pointers = pointers.as_mut_ptr();
        let table = self.raw.as_ptr();
        let mut hit = 0;
        let mut values: [*mut c_void; N] = [null_mut(); N];
        let out = values.as_mut_ptr();
        // SAFETY:
        // - a live table, which no other thread can reach and no call changes
        //   meanwhile, as `self` is borrowed and the type neither Send nor Sync;
        // - all arrays are of N, no more than the limit, as asserted above; each
        //   pointer is to a key of the table's key length;
        // - the hashes are only read, though C declares them writable.
        unsafe {
            match hashes {
                Some(hashes) => dpdk_sys::rte_hash_lookup_with_hash_bulk_data(
                    table,
                    pointers,
                    hashes.as_ptr().cast_mut(),
                    N as u32,
                    &mut hit,
                    out,
                ),
                None => {
                    dpdk_sys::rte_hash_lookup_bulk_data(table, pointers, N as u32, &mut hit, out)
                }
            };
        }
        (hit, values.map(|value| value.addr() as u32))
    }
}

impl Drop for CuckooHash {
    fn drop(&mut self) {
        // SAFETY: made by `rte_hash_create`, EAL still runs, and no call on the
        // table can follow.
        unsafe { dpdk_sys::rte_hash_free(self.raw.as_ptr()) };
    }
}

/// Bytes that are allocated from DPDK's heaps.
fn allocated() -> u64 {
    let mut sum = 0;
    for node in 0..dpdk_sys::RTE_MAX_NUMA_NODES as i32 {
        let mut stats = dpdk_sys::rte_malloc_socket_stats::default();
        // SAFETY: fills in the structure, or refuses a node that has no heap and
        // leaves it zero.
        unsafe { dpdk_sys::rte_malloc_get_socket_stats(node, &mut stats) };
        sum += stats.heap_allocsz_bytes as u64;
    }
    sum
}
