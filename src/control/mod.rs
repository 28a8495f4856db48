//! The management core: everything that is not the packet path. It may
//! allocate, block and log; it talks to workers by message only.
#![deny(unsafe_code)]

pub mod config;
pub mod state;
