//! fullgate: a FULLNAT layer-4 load-balancing gateway.

#[allow(unsafe_code)]
pub mod arena;
pub mod capture;
pub mod conntrack;
pub mod control;
#[cfg(feature = "dpdk")]
#[allow(unsafe_code)]
pub mod dpdk;
pub mod exception;
pub mod filter;
pub mod health;
pub mod ids;
pub mod io;
pub mod nat;
pub mod neighbor;
pub mod service;
pub mod snat;
pub mod stats;
pub mod time;
pub mod wire;
pub mod worker;
