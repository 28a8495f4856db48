//! Cache-line prefetch as a safe call. A hint only: it never faults, whatever
//! the address, and a processor may ignore it.

/// Bytes of a cache line on every processor the gateway is built for.
pub const CACHE_LINE: usize = 64;

/// Starts loading the first cache line of `value` into every cache level.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    prefetch_address(std::ptr::from_ref(value).cast());
}

/// Starts loading the first cache line of `slice[ix]`; nothing where `ix` is
/// out of range.
#[inline(always)]
pub fn prefetch_slice<T>(slice: &[T], ix: usize) {
    if let Some(value) = slice.get(ix) {
        prefetch(value);
    }
}

/// Starts loading the first two cache lines of `slice[ix]`: all of a
/// connection's entry. Nothing where `ix` is out of range.
#[inline(always)]
pub fn prefetch_pair<T>(slice: &[T], ix: usize) {
    if let Some(value) = slice.get(ix) {
        let address = std::ptr::from_ref(value).cast::<u8>();
        prefetch_address(address);
        prefetch_address(address.wrapping_add(CACHE_LINE));
    }
}

#[inline(always)]
fn prefetch_address(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: PREFETCHT0 is part of SSE, which every x86-64 processor has. It
    // reads nothing that the program can observe and raises no exception for
    // any address (Intel SDM vol. 2B, PREFETCHh), so there is no condition on
    // `address`.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
