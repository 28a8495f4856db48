//! Pools of packet buffers. One per NUMA node is usual.

use std::ffi::{CString, c_int};
use std::ptr::NonNull;
use std::sync::Arc;

use super::error::{Errno, Error};
use super::{Eal, Mbuf};
use crate::arena::Mapping;

/// What a pool is to be.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// Unique in the process, at most 25 characters.
    pub name: String,
    /// Buffers. 2^n - 1 uses memory best.
    pub count: u32,
    /// Bytes of each buffer, the headroom of 128 included. 2176 holds a frame
    /// of the usual MTU in one buffer, with every driver.
    pub data_room: u16,
    /// NUMA node, or any.
    pub socket: Option<u32>,
    /// Only the processor reads and writes the buffers, in this process
    /// ([`Device::copies`](super::Device::copies)). Without hugepages of EAL
    /// they are then on transparent huge pages, one behind the other. EAL's own
    /// ordinary pages hold one buffer each, so all buffers would share few of
    /// the cache's sets, and each would need a TLB entry.
    pub processor_only: bool,
}

/// A pool of packet buffers; clones are handles to the same.
#[derive(Clone, Debug)]
pub struct Mempool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    raw: NonNull<dpdk_sys::rte_mempool>,
    name: String,
    count: u32,
    data_room: u16,
    socket: c_int,
    /// Of the buffers, where EAL does not hold them.
    memory: Option<Mapping>,
    eal: Eal,
}

// SAFETY: DPDK's mempool calls are safe from any thread (registered threads use
// a cache of their own); the other fields are never changed.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

/// Any NUMA node, as DPDK says it.
const SOCKET_ID_ANY: c_int = -1;

impl Mempool {
    /// Reserves the memory of a pool.
    ///
    /// # Errors
    /// [`Error::Pool`] where there is not enough memory on that node, or a pool
    /// of that name exists.
    pub fn new(eal: &Eal, config: &PoolConfig) -> Result<Self, Error> {
        let socket = config
            .socket
            .map_or(SOCKET_ID_ANY, |socket| socket as c_int);
        let name = CString::new(config.name.as_str()).map_err(|_| Error::ZeroByte {
            what: "packet pool",
            value: config.name.clone(),
        })?;
        // DPDK wants at least 1.5 times the cache in the pool.
        let cache = (config.count / 8).min(dpdk_sys::RTE_MEMPOOL_CACHE_MAX_SIZE);
        let failed = |errno| Error::Pool {
            name: config.name.clone(),
            count: config.count,
            data_room: config.data_room,
            errno,
        };
        let mut memory = None;
        if config.processor_only && !eal.has_hugepages() {
            let own = own_memory(config).map_err(|error| failed(Errno::of(&error)))?;
            memory = Some(own);
        }
        let (address, bytes) = memory.as_ref().map_or((std::ptr::null_mut(), 0), |own| {
            (own.start().as_ptr(), own.len())
        });
        // SAFETY: EAL is initialised; the name is terminated, and copied; memory
        // that is given has `bytes` bytes that nothing else uses, and lives as
        // long as the pool (see `drop`).
        let raw = unsafe {
            dpdk_sys::fullgate_pool_create(
                name.as_ptr(),
                config.count,
                cache,
                config.data_room,
                socket,
                address.cast(),
                bytes,
            )
        };
        let raw = NonNull::new(raw).ok_or_else(|| failed(Errno::last()))?;
        Ok(Self(Arc::new(Inner {
            raw,
            name: config.name.clone(),
            count: config.count,
            data_room: config.data_room,
            socket,
            memory,
            eal: eal.clone(),
        })))
    }

    /// An empty packet, or `None` when all buffers are in use.
    #[inline]
    pub fn allocate(&self) -> Option<Mbuf> {
        // SAFETY: the pool is live as long as `self`.
        let raw = unsafe { dpdk_sys::fullgate_mbuf_alloc(self.0.raw.as_ptr()) };
        // SAFETY: a fresh mbuf is initialised and its holder's alone, and `Drop`
        // below keeps the pool as long as an mbuf is out.
        NonNull::new(raw).map(|raw| unsafe { Mbuf::from_raw(raw) })
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Buffers in all.
    pub fn count(&self) -> u32 {
        self.0.count
    }

    /// Buffers that are free, those in the caches of threads included.
    /// Approximate while other threads take and give.
    pub fn free(&self) -> u32 {
        self.0.free()
    }

    /// Bytes that a frame can have in one buffer.
    pub fn frame_room(&self) -> u32 {
        u32::from(self.0.data_room).saturating_sub(dpdk_sys::RTE_PKTMBUF_HEADROOM)
    }

    pub(super) fn raw(&self) -> *mut dpdk_sys::rte_mempool {
        self.0.raw.as_ptr()
    }

    pub(super) fn socket(&self) -> c_int {
        self.0.socket
    }
}

/// Memory for the buffers of a pool, all of it there.
fn own_memory(config: &PoolConfig) -> std::io::Result<Mapping> {
    // SAFETY: computes, and has no precondition.
    let bytes = unsafe { dpdk_sys::fullgate_pool_bytes(config.count, config.data_room) };
    let mut memory = Mapping::anonymous(bytes)?;
    memory.populate()?;
    Ok(memory)
}

impl Inner {
    fn free(&self) -> u32 {
        // SAFETY: the pool is live as long as `self`.
        unsafe { dpdk_sys::rte_mempool_avail_count(self.raw.as_ptr()) }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let free = self.free();
        if free != self.count {
            // Somebody holds a packet. Its memory has to stay, and EAL with it;
            // a leak at the end of a process is the lesser evil.
            log::warn!(
                "packet pool {}: {} buffers are still in use; its memory is not released",
                self.name,
                self.count - free.min(self.count),
            );
            std::mem::forget(self.memory.take());
            self.eal.never_end();
            return;
        }
        // SAFETY: every buffer is back and no handle is left to take one. Giving
        // back moves a buffer from a thread's cache towards the pool in the same
        // direction as the count reads them, so none is counted twice.
        unsafe { dpdk_sys::rte_mempool_free(self.raw.as_ptr()) };
    }
}
