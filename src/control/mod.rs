//! The management core: everything that is not the packet path. It may
//! allocate, block and log; it talks to workers by message only.
#![deny(unsafe_code)]

pub mod access;
pub mod api;
pub mod cli;
pub mod config;
pub mod headers;
pub mod import;
mod jobs;
pub mod kernel;
pub mod lock;
pub mod management;
pub mod metrics;
pub mod patience;
mod places;
pub mod preflight;
pub mod privileges;
pub mod rpc;
pub mod say;
pub mod socket;
pub mod state;
pub mod steer;
pub mod supervisor;
