//! (skeleton)
#![deny(unsafe_code)]
pub mod message;
