//! ICMP: an echo request and its reply (RFC 792).

use std::io::Read;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Protocol, Socket, Type};

use super::{Ending, Probe, connect, failure_of, no_answer, open, unmade, would_block};
use crate::health::Target;
use crate::wire::icmp::{HEADER_LEN, IcmpType, IcmpView};
use crate::wire::ipv4::Ipv4View;

const NONCE_LEN: usize = 8;
const REQUEST_LEN: usize = HEADER_LEN + NONCE_LEN;

pub(super) struct Echo {
    socket: Socket,
    /// Identifier, sequence number and data, as the reply repeats them.
    wanted: [u8; REQUEST_LEN - 4],
}

impl Echo {
    pub(super) fn start(target: &Arc<Target>, nonce: u64) -> Result<Self, Ending> {
        let socket = open(Type::RAW, Protocol::ICMPV4, &target.via)?;
        // Connected, the socket gets nothing of what others send.
        connect(&socket, SocketAddrV4::new(*target.address.ip(), 0))?;
        let request = request(nonce);
        socket.send(&request).map_err(unmade("send"))?;
        let mut wanted = [0; REQUEST_LEN - 4];
        wanted.copy_from_slice(&request[4..]);
        Ok(Self { socket, wanted })
    }
}

/// The request: its identifier and sequence number are a part of the nonce,
/// its data all of it.
fn request(nonce: u64) -> [u8; REQUEST_LEN] {
    let mut request = [0; REQUEST_LEN];
    let nonce = nonce.to_be_bytes();
    request[0] = IcmpType::ECHO_REQUEST.0;
    request[4..8].copy_from_slice(&nonce[4..]);
    request[8..].copy_from_slice(&nonce);
    if let Ok(mut view) = IcmpView::new_checked(&mut request[..]) {
        view.fill_checksum();
    }
    request
}

/// Whether a packet, IP header and all, is the reply.
fn is_reply(packet: &[u8], wanted: &[u8]) -> bool {
    Ipv4View::new_checked(packet, packet.len()).is_ok_and(|ip| {
        let icmp = ip.payload();
        icmp.first() == Some(&IcmpType::ECHO_REPLY.0) && icmp.get(4..) == Some(wanted)
    })
}

impl Probe for Echo {
    fn socket(&self) -> &Socket {
        &self.socket
    }

    fn step(&mut self) -> Option<Ending> {
        let mut packet = [0; 256];
        loop {
            match (&mut &self.socket).read(&mut packet) {
                Ok(length) if is_reply(&packet[..length], &self.wanted) => {
                    return Some(Ending::Success);
                }
                Ok(_) => {}
                Err(error) if would_block(&error) => return None,
                Err(error) => return Some(Ending::Failure(failure_of(&error))),
            }
        }
    }

    fn expire(&self, after: Duration) -> Ending {
        no_answer(after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        assert_eq!(
            request(0x0102_0304_0506_0708),
            [8, 0, 0xdb, 0xdd, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8]
        );
    }

    #[test]
    fn only_the_reply_is_one() {
        let request = request(7);
        let mut packet = [0_u8; 20 + REQUEST_LEN];
        packet[0] = 0x45;
        packet[3] = packet.len() as u8;
        packet[20..].copy_from_slice(&request);
        let wanted = &request[4..];
        assert!(!is_reply(&packet, wanted), "a request");
        packet[20] = 0;
        assert!(is_reply(&packet, wanted));
        for length in 0..packet.len() {
            assert!(!is_reply(&packet[..length], wanted), "{length}");
        }
        packet[35] ^= 1;
        assert!(!is_reply(&packet, wanted), "another nonce");
    }
}
