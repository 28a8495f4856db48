//! Bindings to the part of DPDK that fullgate uses: what bindgen makes of the
//! installed headers, and the wrappers of `shim.c` (`fullgate_*`) around static
//! inline functions. Only `fullgate::dpdk` calls this crate.

#![allow(non_camel_case_types, non_snake_case, non_upper_case_globals)]
#![allow(clippy::all, clippy::undocumented_unsafe_blocks)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

// An mbuf is handled as a pointer whose fields are read at the offsets
// `FULLGATE_MBUF_*`: they must be aligned, and (what makes one load per packet
// enough) lie in its first cache line.
const _: () = {
    assert!(align_of::<rte_mbuf>() >= 8);
    assert!(size_of::<rte_mbuf>() == 128);
    assert!(FULLGATE_MBUF_BUF_ADDR % 8 == 0 && FULLGATE_MBUF_BUF_ADDR < 64);
    assert!(FULLGATE_MBUF_DATA_OFF % 2 == 0 && FULLGATE_MBUF_DATA_OFF < 64);
    assert!(FULLGATE_MBUF_NB_SEGS % 2 == 0 && FULLGATE_MBUF_NB_SEGS < 64);
    assert!(FULLGATE_MBUF_OL_FLAGS % 8 == 0 && FULLGATE_MBUF_OL_FLAGS < 64);
    assert!(FULLGATE_MBUF_PKT_LEN % 4 == 0 && FULLGATE_MBUF_PKT_LEN < 64);
    assert!(FULLGATE_MBUF_DATA_LEN % 2 == 0 && FULLGATE_MBUF_DATA_LEN < 64);
    assert!(FULLGATE_MBUF_BUF_LEN % 2 == 0 && FULLGATE_MBUF_BUF_LEN < 64);
    // Read off the fast path only.
    assert!(FULLGATE_MBUF_NEXT % 8 == 0 && FULLGATE_MBUF_NEXT < 128);
};
