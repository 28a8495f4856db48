//! TCP: a connection that is accepted.

use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;

use super::{Ending, Probe, connected, connecting, no_answer};
use crate::health::Target;

pub(super) struct Connect(Socket);

impl Connect {
    pub(super) fn start(target: &Arc<Target>) -> Result<Self, Ending> {
        connecting(target).map(Self)
    }
}

impl Probe for Connect {
    fn socket(&self) -> &Socket {
        &self.0
    }

    fn step(&mut self) -> Option<Ending> {
        match connected(&self.0) {
            Ok(connected) => connected.then_some(Ending::Success),
            Err(failure) => Some(Ending::Failure(failure)),
        }
    }

    fn expire(&self, after: Duration) -> Ending {
        no_answer(after)
    }
}
