//! fullgate: a FULLNAT layer-4 load-balancing gateway.
//!
//! Rooms, each of which knows only those above it:
//!
//! ```text
//! ids  time  wire  api  serve           numbers, instants, bytes, the protocol
//! io  stats  rate  snat  arena  health  packets' source, counters, local ports
//! conntrack  dpdk                       connections; the drivers
//! nat  service  filter                  rewriting; snapshots
//! neighbor  capture                     next hops; records
//! worker                                the packet path
//! config  exception                     the file; the kernel's interfaces
//! host  admin  metrics  import          the host, and who asks
//! preflight
//! management  cli                       the loop that holds it together; people
//! ```
#![deny(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable
    )
)]

pub mod admin;
pub mod api;
#[allow(unsafe_code)]
pub mod arena;
pub mod capture;
pub mod cli;
pub mod config;
pub mod conntrack;
#[cfg(feature = "dpdk")]
#[allow(unsafe_code)]
pub mod dpdk;
pub mod exception;
pub mod filter;
pub mod health;
pub mod host;
pub mod ids;
pub mod import;
pub mod io;
mod jobs;
pub mod management;
pub mod metrics;
pub mod nat;
pub mod neighbor;
pub mod preflight;
pub mod rate;
pub mod say;
pub mod serve;
pub mod service;
pub mod snat;
pub mod stats;
pub mod time;
pub mod wire;
pub mod worker;
