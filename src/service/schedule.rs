//! Schedulers (skeleton).

/// How the next server of a service is picked.
#[derive(Clone, Debug)]
pub struct Plan;
