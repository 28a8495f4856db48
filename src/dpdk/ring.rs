//! Ports whose wire is a pair of rings in memory: tests and the benchmark put
//! packets on it and take them off, everything between is the real thing.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::error::{Errno, Error};
use super::mbuf::forget_front;
use super::{Eal, Mbuf};

/// A ring of packets, for one thread at each end.
#[derive(Debug)]
pub(super) struct Ring {
    pub(super) raw: NonNull<dpdk_sys::rte_ring>,
    _eal: Eal,
}

// SAFETY: each end is used by one thread at a time: the driver's by the holder
// of the queue, the other by the holder of the `RingEnd`.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

impl Ring {
    pub(super) fn new(eal: &Eal, port: &str, name: &str, size: u32) -> Result<Arc<Self>, Error> {
        let name = CString::new(name).map_err(|_| Error::ZeroByte {
            what: "ring",
            value: name.to_owned(),
        })?;
        // SAFETY: EAL is initialised; the name is terminated, and copied.
        let raw = unsafe {
            dpdk_sys::rte_ring_create(name.as_ptr(), size, -1, dpdk_sys::FULLGATE_RING_SP_SC)
        };
        let raw = NonNull::new(raw).ok_or_else(|| Error::Call {
            port: port.to_owned(),
            call: "rte_ring_create",
            errno: Errno::last(),
        })?;
        Ok(Arc::new(Self {
            raw,
            _eal: eal.clone(),
        }))
    }

    /// Moves packets from the front of `from` into the ring, as many as fit.
    ///
    /// # Safety
    /// Nobody else puts packets in during the call.
    unsafe fn put<const N: usize>(&self, from: &mut ArrayVec<Mbuf, N>) {
        // SAFETY: the elements are owned mbufs, as pointers; those the ring took
        // belong to it and leave the array undropped.
        unsafe {
            let taken = dpdk_sys::fullgate_ring_enqueue_burst(
                self.raw.as_ptr(),
                from.as_ptr().cast(),
                from.len() as u32,
            );
            forget_front(from, taken as usize);
        }
    }

    /// Moves packets from the ring to the end of `into`, as many as fit.
    ///
    /// # Safety
    /// Nobody else takes packets out during the call.
    unsafe fn take<const N: usize>(&self, into: &mut ArrayVec<Mbuf, N>) {
        let len = into.len();
        let room = into.remaining_capacity() as u32;
        let mut free: *mut MaybeUninit<Mbuf> = into.as_mut_ptr().cast();
        // SAFETY: the free part has room for that many pointers; what is in the
        // ring are owned mbufs, and their ownership passes to the array.
        unsafe {
            free = free.add(len);
            let taken = dpdk_sys::fullgate_ring_dequeue_burst(self.raw.as_ptr(), free.cast(), room);
            into.set_len(len + taken as usize);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut left: ArrayVec<Mbuf, 64> = ArrayVec::new();
        loop {
            // SAFETY: the last handle of the ring, so nobody else uses it.
            unsafe { self.take(&mut left) };
            if left.is_empty() {
                break;
            }
            left.clear();
        }
        // SAFETY: as above, and the port that used it is closed.
        unsafe { dpdk_sys::rte_ring_free(self.raw.as_ptr()) };
    }
}

/// The far end of the wire of one queue.
#[derive(Debug)]
pub struct RingEnd {
    pub(super) to_port: Arc<Ring>,
    pub(super) from_port: Arc<Ring>,
}

impl RingEnd {
    /// Puts packets on the wire, from the front; what does not fit is left.
    pub fn send<const N: usize>(&mut self, packets: &mut ArrayVec<Mbuf, N>) {
        // SAFETY: the driver only takes out of this ring, and there is one
        // `RingEnd`, borrowed exclusively.
        unsafe { self.to_port.put(packets) };
    }

    /// Takes packets off the wire, at most the free capacity of `into`.
    pub fn receive<const N: usize>(&mut self, into: &mut ArrayVec<Mbuf, N>) {
        // SAFETY: the driver only puts into this ring, and there is one
        // `RingEnd`, borrowed exclusively.
        unsafe { self.from_port.take(into) };
    }
}
