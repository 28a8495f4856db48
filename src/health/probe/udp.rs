//! UDP: a datagram, and its answer; where none is expected, at least a host
//! that answers ARP, and no ICMP error.

use std::sync::Arc;
use std::time::Duration;

use socket2::{Protocol, Socket, Type};

use super::{Cause, Ending, Probe, arp, connect, failure_of, no_answer, open, unmade, would_block};
use crate::health::spec::Udp;
use crate::health::{Target, Via};

/// Longest answer looked at.
const ANSWER_MAX: usize = 65_535;

pub(super) struct Datagram {
    socket: Socket,
    target: Arc<Target>,
    expect: Option<Vec<u8>>,
}

impl Datagram {
    pub(super) fn start(target: &Arc<Target>, udp: &Udp) -> Result<Self, Ending> {
        let socket = open(Type::DGRAM, Protocol::UDP, &target.via)?;
        connect(&socket, target.address)?;
        socket.send(&udp.send).map_err(unmade("send"))?;
        Ok(Self {
            socket,
            target: Arc::clone(target),
            expect: udp.expect.clone(),
        })
    }
}

impl Datagram {
    /// Whether the host is on the network here, and does not answer ARP.
    fn is_off(&self) -> bool {
        let interface = match &self.target.via {
            Via::Host => None,
            Via::Interface { name, .. } => Some(name.as_str()),
        };
        arp::is_silent(*self.target.address.ip(), interface)
    }
}

/// Whether `text` contains `part`.
pub(super) fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|window| window == part)
}

impl Probe for Datagram {
    fn socket(&self) -> &Socket {
        &self.socket
    }

    fn step(&mut self) -> Option<Ending> {
        let mut answer = vec![0; ANSWER_MAX];
        let length = match std::io::Read::read(&mut &self.socket, &mut answer) {
            Ok(length) => length,
            Err(error) if would_block(&error) => return None,
            Err(error) => return Some(Ending::Failure(failure_of(&error))),
        };
        Some(match &self.expect {
            Some(expect) if !contains(&answer[..length], expect) => {
                let text = format!("an answer of {length} bytes without what is expected");
                Ending::failure(Cause::Response, text)
            }
            _ => Ending::Success,
        })
    }

    fn expire(&self, after: Duration) -> Ending {
        match self.expect {
            Some(_) => no_answer(after),
            // The kernel gives up on ARP after three seconds, and most checks
            // are over by then.
            None if self.is_off() => Ending::failure(Cause::Unreachable, "no answer to ARP"),
            None => Ending::Success,
        }
    }
}
