//! Which local port a connection gets, and which worker a packet belongs to.
//!
//! `toeplitz` is the hash a NIC computes over an IPv4 tuple, `steering` the
//! NIC's redirection table behind it, `ports` the free local ports towards one
//! real server whose replies the NIC delivers to one worker.
//!
//! The management core builds all of it. Workers share [`steering::Steering`]
//! read-only and own their [`ports::PortSet`]s. Nothing a worker calls here
//! allocates, locks, logs or reads a clock.

mod index_set;
pub mod ports;
pub mod steering;
pub mod toeplitz;
