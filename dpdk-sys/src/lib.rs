//! Bindings to the part of DPDK that fullgate uses.
