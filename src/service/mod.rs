//! What the gateway balances: services, real servers, and the immutable
//! snapshot of them that workers read. Schedulers are pure functions over it.

pub mod route;
pub mod schedule;
pub mod snapshot;
