//! The translation itself: pure functions from headers and a mapping to
//! rewritten headers. Nothing here knows the table, the clock or DPDK.

pub mod fragments;
#[cfg(test)]
mod golden;
pub mod icmp;
pub mod ident;
pub mod reset;
pub mod rewrite;
pub mod split;
