//! The translation itself: pure functions from headers and a mapping to
//! rewritten headers. Nothing here knows the table, the clock or DPDK.

pub mod fair;
pub mod fragments;
#[cfg(test)]
mod golden;
pub mod icmp;
pub mod ident;
pub mod rate;
pub mod reset;
pub mod rewrite;
pub mod split;
