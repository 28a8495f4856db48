//! A packet buffer that its holder owns.
//!
//! The fields read per packet are read here, at offsets that the C compiler
//! computed; C is entered only to give a buffer back.

use std::mem::ManuallyDrop;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use arrayvec::ArrayVec;

use crate::io::{ChecksumStatus, PacketBuf};

/// An mbuf. Whoever has it owns it: dropping it gives it back to its pool,
/// handing it to a driver moves it there.
///
/// Invariant: the pointer is to an initialised mbuf of a live pool, with a
/// reference count of 1, that nobody else refers to.
#[derive(Debug)]
#[repr(transparent)]
pub struct Mbuf(NonNull<dpdk_sys::rte_mbuf>);

// SAFETY: an mbuf is bound to no thread; pools are safe to give back to from
// any, and by the invariant no other thread refers to this one.
unsafe impl Send for Mbuf {}

impl Mbuf {
    /// Takes over an mbuf.
    ///
    /// # Safety
    /// The caller hands over what the type's invariant says.
    pub(super) unsafe fn from_raw(raw: NonNull<dpdk_sys::rte_mbuf>) -> Self {
        Self(raw)
    }

    /// Reads the field of type `T` at a byte offset.
    ///
    /// # Safety
    /// `OFFSET` is one of `dpdk_sys::FULLGATE_MBUF_*`, and `T` the type that
    /// shim.c asserts for that field.
    #[inline(always)]
    unsafe fn field<T: Copy, const OFFSET: usize>(&self) -> T {
        // SAFETY: inside the mbuf and aligned, as dpdk-sys asserts of these
        // offsets; initialised by the invariant.
        unsafe { self.0.as_ptr().byte_add(OFFSET).cast::<T>().read() }
    }

    #[inline(always)]
    fn data(&self) -> *mut u8 {
        // SAFETY: offsets and types as shim.c asserts them; the data starts
        // inside the buffer, so the sum stays in its allocation.
        unsafe {
            let buffer = self.field::<*mut u8, { dpdk_sys::FULLGATE_MBUF_BUF_ADDR }>();
            let offset = self.field::<u16, { dpdk_sys::FULLGATE_MBUF_DATA_OFF }>();
            buffer.add(offset.into())
        }
    }

    #[inline(always)]
    fn data_len(&self) -> usize {
        // SAFETY: offset and type as shim.c asserts them.
        unsafe { self.field::<u16, { dpdk_sys::FULLGATE_MBUF_DATA_LEN }>() }.into()
    }
}

impl Drop for Mbuf {
    fn drop(&mut self) {
        // SAFETY: owned by the invariant, and never used again.
        unsafe { dpdk_sys::fullgate_mbuf_free(self.0.as_ptr()) };
    }
}

impl PacketBuf for Mbuf {
    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        // SAFETY: data_len bytes from the data's start are inside the buffer
        // of the first segment; pool memory is initialised; nobody else
        // writes, as the mbuf is owned.
        unsafe { std::slice::from_raw_parts(self.data(), self.data_len()) }
    }

    #[inline(always)]
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and exclusive through `&mut self`.
        unsafe { std::slice::from_raw_parts_mut(self.data(), self.data_len()) }
    }

    #[inline(always)]
    fn total_len(&self) -> usize {
        // SAFETY: offset and type as shim.c asserts them.
        unsafe { self.field::<u32, { dpdk_sys::FULLGATE_MBUF_PKT_LEN }>() as usize }
    }

    #[inline(always)]
    fn ipv4_checksum(&self) -> ChecksumStatus {
        const GOOD: u64 = dpdk_sys::FULLGATE_RX_IP_CKSUM_GOOD;
        const BAD: u64 = dpdk_sys::FULLGATE_RX_IP_CKSUM_BAD;
        // SAFETY: offset and type as shim.c asserts them.
        let flags = unsafe { self.field::<u64, { dpdk_sys::FULLGATE_MBUF_OL_FLAGS }>() };
        // Both together mean "no checksum, but the data is known good", which
        // is a statement about tunnels, not about this header.
        match flags & (GOOD | BAD) {
            GOOD => ChecksumStatus::Good,
            BAD => ChecksumStatus::Bad,
            _ => ChecksumStatus::Unknown,
        }
    }

    #[inline]
    fn set_len(&mut self, len: usize) -> bool {
        // SAFETY: offsets and types as shim.c asserts them.
        let (segments, buffer_len, offset) = unsafe {
            (
                self.field::<u16, { dpdk_sys::FULLGATE_MBUF_NB_SEGS }>(),
                self.field::<u16, { dpdk_sys::FULLGATE_MBUF_BUF_LEN }>(),
                self.field::<u16, { dpdk_sys::FULLGATE_MBUF_DATA_OFF }>(),
            )
        };
        let room = usize::from(buffer_len).saturating_sub(offset.into());
        if segments != 1 || len > room {
            return false;
        }
        let base = self.0.as_ptr();
        // SAFETY: both fields are inside the owned mbuf, aligned and of the
        // types that shim.c asserts; `len` bytes fit the buffer, and its length
        // a u16.
        unsafe {
            base.byte_add(dpdk_sys::FULLGATE_MBUF_DATA_LEN)
                .cast::<u16>()
                .write(len as u16);
            base.byte_add(dpdk_sys::FULLGATE_MBUF_PKT_LEN)
                .cast::<u32>()
                .write(len as u32);
        }
        true
    }

    #[cold]
    fn parts(&self, see: &mut dyn FnMut(&[u8])) {
        see(self.bytes());
        // SAFETY: offset and type as shim.c asserts them.
        let mut next = unsafe { self.field::<*mut u8, { dpdk_sys::FULLGATE_MBUF_NEXT }>() };
        while let Some(raw) = NonNull::new(next.cast()) {
            // A segment of our own chain, borrowed: it must not be freed.
            // SAFETY: the segments of an mbuf are mbufs that belong to whoever
            // owns the first; `ManuallyDrop` never gives one back.
            let segment = ManuallyDrop::new(unsafe { Self::from_raw(raw) });
            see(segment.bytes());
            // SAFETY: offset and type as shim.c asserts them.
            next = unsafe { segment.field::<*mut u8, { dpdk_sys::FULLGATE_MBUF_NEXT }>() };
        }
    }

    #[inline]
    fn cut_front(&mut self, len: usize) -> bool {
        // SAFETY: offsets and types as shim.c asserts them.
        let (offset, data_len, total_len) = unsafe {
            (
                self.field::<u16, { dpdk_sys::FULLGATE_MBUF_DATA_OFF }>(),
                self.field::<u16, { dpdk_sys::FULLGATE_MBUF_DATA_LEN }>(),
                self.field::<u32, { dpdk_sys::FULLGATE_MBUF_PKT_LEN }>(),
            )
        };
        if len > usize::from(data_len) {
            return false;
        }
        let base = self.0.as_ptr();
        // SAFETY: the fields are inside the owned mbuf, aligned and of the types
        // that shim.c asserts; the data begins `len` bytes later, which are
        // inside the first segment, and so is the packet that much shorter.
        unsafe {
            base.byte_add(dpdk_sys::FULLGATE_MBUF_DATA_OFF)
                .cast::<u16>()
                .write(offset + len as u16);
            base.byte_add(dpdk_sys::FULLGATE_MBUF_DATA_LEN)
                .cast::<u16>()
                .write(data_len - len as u16);
            base.byte_add(dpdk_sys::FULLGATE_MBUF_PKT_LEN)
                .cast::<u32>()
                .write(total_len - len as u32);
        }
        true
    }

    #[inline(always)]
    fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads nothing, whatever the address.
        unsafe {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(self.data().cast_const().cast());
        }
    }
}

/// Removes the first `count` elements without dropping them.
///
/// # Safety
/// `count <= packets.len()`, and somebody else owns those elements now.
#[inline(always)]
pub(super) unsafe fn forget_front<const N: usize>(packets: &mut ArrayVec<Mbuf, N>, count: usize) {
    let left = packets.len() - count;
    // SAFETY: `left` elements from `count` on are inside the array; as bytes of
    // `MaybeUninit` they may overlap and be duplicated; the length then covers
    // exactly the moved ones.
    unsafe {
        let first = packets.as_mut_ptr().cast::<MaybeUninit<Mbuf>>();
        if count > 0 && left > 0 {
            std::ptr::copy(first.add(count), first, left);
        }
        packets.set_len(left);
    }
}
