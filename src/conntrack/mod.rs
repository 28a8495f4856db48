//! The connection table of one worker: entries in an arena, an index from both
//! tuples to the entry, timers, and the TCP state machine.

pub mod entry;
pub mod hash;
pub mod index;
pub mod isn;
#[allow(unsafe_code)]
mod plain;
pub mod table;
pub mod tcp;
pub mod timeouts;
pub mod wheel;
