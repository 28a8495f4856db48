//! The host that the gateway runs on: the kernel's interfaces and routes, what
//! the process may do, the lock of an instance, and systemd.

pub mod kernel;
pub mod lock;
pub mod privileges;
pub mod supervisor;
