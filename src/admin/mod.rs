//! The admin socket: who may connect, and how a request gets to whoever executes
//! it.

pub mod access;
pub mod socket;
