//! fullgate: a FULLNAT layer-4 load-balancing gateway.
//!
//! Rooms, each of which knows only those above it:
//!
//! ```text
//! wire  time  ids                   bytes, instants, numbers of things
//! arena  conntrack  nat  snat       connections and what rewriting them takes
//! neighbor  health  service  filter
//! stats  io                         counters; where packets come from
//! worker                            the packet path
//! dpdk                              the same on DPDK
//! api  config  import               what people say
//! host  serve  admin  metrics       the host, and who asks
//! management                        the loop that holds it together
//! cli  preflight                    programs
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
