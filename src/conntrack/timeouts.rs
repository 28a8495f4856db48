//! How long a connection may be idle in each state before its entry goes.

use super::entry::{Entry, State};
use crate::wire::proto;

const SECOND: u32 = 1_000;
const MINUTE: u32 = 60 * SECOND;
const HOUR: u32 = 60 * MINUTE;

/// Idle timeouts of one service, in milliseconds. None may exceed 24 days
/// ([`crate::time::Stamp`] compares no further).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// TCP handshake not complete.
    pub half_open: u32,
    /// TCP handshake complete, no FIN seen.
    pub established: u32,
    /// One side sent FIN, the other may still send.
    pub half_closed: u32,
    /// Both sides sent FIN: while the last acknowledgements are out, and then
    /// for as long as the server's TIME-WAIT lasts.
    pub time_wait: u32,
    /// Torn down by a RST.
    pub closed: u32,
    /// UDP, packets seen both ways.
    pub udp: u32,
    /// UDP, packets seen from the client only: anybody can make such a flow with
    /// one made-up packet.
    pub udp_one_way: u32,
}

impl Timeouts {
    /// What applies where a service says nothing else.
    pub const DEFAULT: Self = Self {
        half_open: 30 * SECOND,
        // RFC 5382 REQ-5: not less than 2 hours 4 minutes, so that a
        // keep-alive of RFC 9293 §3.8.4 (2 hours) comes in time.
        established: 2 * HOUR + 4 * MINUTE,
        // RFC 5382 REQ-5 allows 4 minutes; a client may think longer than
        // that before it closes its half.
        half_closed: HOUR,
        // Linux keeps TIME-WAIT for 60 s, whatever RFC 9293 §3.4.2 says.
        time_wait: MINUTE,
        closed: 10 * SECOND,
        // RFC 4787 REQ-5: not less than 2 minutes, 5 recommended.
        udp: 5 * MINUTE,
        // RFC 4787 REQ-5 makes no difference, and so means the same for flows
        // that nobody has answered. Its reason is what an answer would find
        // closed; a server that has not answered for so long will not.
        udp_one_way: 30 * SECOND,
    };
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// After so long, the borrower of a local port is asked whether it still has it.
const LOAN_CHECKED: u32 = MINUTE;

/// Milliseconds an entry in `state` may be idle.
#[inline]
pub const fn timeout_of(state: State, timeouts: &Timeouts) -> u32 {
    match state {
        State::Free => 0,
        State::SynSent | State::SynReceived => timeouts.half_open,
        State::Established => timeouts.established,
        State::ClientClosed | State::ServerClosed => timeouts.half_closed,
        State::Closing | State::TimeWait | State::Resting => timeouts.time_wait,
        State::Closed => timeouts.closed,
        State::UdpOneWay => timeouts.udp_one_way,
        State::UdpTwoWay => timeouts.udp,
        State::Redirect => LOAN_CHECKED,
    }
}

/// Milliseconds that `entry` may be idle.
#[inline]
pub const fn timeout_for(entry: &Entry, timeouts: &Timeouts) -> u32 {
    match entry.state {
        // No TIME-WAIT to sit out: late answers alone.
        State::Resting if entry.protocol == proto::UDP => timeouts.closed,
        state => timeout_of(state, timeouts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_keep_the_floors_of_the_rfcs() {
        let t = Timeouts::default();
        assert!(t.established >= 7_440_000, "RFC 5382 REQ-5");
        assert!(
            t.half_open >= 4_000 && t.half_closed >= 240_000,
            "RFC 5382 REQ-5"
        );
        assert!(t.udp >= 120_000, "RFC 4787 REQ-5");
    }

    #[test]
    fn every_state_in_use_has_a_timeout_that_the_clock_can_compare() {
        let t = Timeouts::default();
        for state in State::ALL {
            let ms = timeout_of(state, &t);
            assert!(ms > 0 && ms < i32::MAX as u32, "{}", state.name());
        }
        assert_eq!(timeout_of(State::Free, &t), 0);
    }

    #[test]
    fn the_port_of_a_udp_flow_rests_for_less() {
        let t = Timeouts::default();
        let resting = |protocol| Entry {
            protocol,
            state: State::Resting,
            ..Entry::FREE
        };
        assert_eq!(timeout_for(&resting(proto::UDP), &t), t.closed);
        assert_eq!(timeout_for(&resting(proto::TCP), &t), t.time_wait);
    }

    #[test]
    fn each_state_reads_its_own_field() {
        let t = Timeouts {
            half_open: 1,
            established: 2,
            half_closed: 3,
            time_wait: 4,
            closed: 5,
            udp: 6,
            udp_one_way: 7,
        };
        let rows = [
            (State::SynSent, 1),
            (State::SynReceived, 1),
            (State::Established, 2),
            (State::ClientClosed, 3),
            (State::ServerClosed, 3),
            (State::Closing, 4),
            (State::TimeWait, 4),
            (State::Resting, 4),
            (State::Closed, 5),
            (State::UdpTwoWay, 6),
            (State::UdpOneWay, 7),
        ];
        for (state, ms) in rows {
            assert_eq!(timeout_of(state, &t), ms, "{}", state.name());
        }
    }
}
