//! How much a worker says in its own voice: a rate for each kind of answer, so
//! that a flood that provokes one kind takes nothing from the others, and within
//! a kind a share for each source (see [`FairLimit`]).
//!
//! What is withheld is an event ([`Event::IcmpWithheld`],
//! [`Event::ResetWithheld`]), and the packet that it would have answered is
//! counted under its own drop reason.

use std::net::Ipv4Addr;

use super::Worker;
use crate::conntrack::entry::Entry;
use crate::conntrack::isn::IsnSecret;
use crate::io::BurstIo;
use crate::rate::fair::FairLimit;
use crate::service::snapshot::{AddressKind, Limits};
use crate::time::Millis;
use crate::wire::icmp::IcmpError;

/// Bits of a client's address that share a bucket: what one host can spoof on
/// most networks (RFC 2827), and what one customer mostly has.
const PREFIX: u32 = 24;

/// The limits of one worker.
#[derive(Debug)]
pub(super) struct AnswerLimits {
    /// Answers to pings.
    echo: FairLimit,
    /// "Fragmentation needed": what is withheld here keeps somebody waiting.
    path_mtu: FairLimit,
    /// All other ICMP errors of our own.
    icmp: FairLimit,
    /// ICMP errors about connections, passed on.
    translated: FairLimit,
    /// RSTs to clients whose segments match no connection.
    resets: FairLimit,
    /// RSTs to real servers for the same reason.
    server_resets: FairLimit,
}

impl AnswerLimits {
    pub(super) fn new(limits: &Limits, secret: &IsnSecret, now: Millis) -> Self {
        let key = secret
            .0
            .iter()
            .fold(0, |key: u64, &byte| key.rotate_left(8) ^ u64::from(byte));
        Self {
            echo: FairLimit::new(limits.echo_per_second, key, now),
            path_mtu: FairLimit::new(limits.path_mtu_per_second, key, now),
            icmp: FairLimit::new(limits.icmp_per_second, key, now),
            translated: FairLimit::new(limits.icmp_per_second, key, now),
            resets: FairLimit::new(limits.resets_per_second, key, now),
            server_resets: FairLimit::new(limits.server_resets_per_second, key, now),
        }
    }

    pub(super) fn set_rates(&mut self, limits: &Limits, now: Millis) {
        self.echo.set_rate(limits.echo_per_second, now);
        self.path_mtu.set_rate(limits.path_mtu_per_second, now);
        self.icmp.set_rate(limits.icmp_per_second, now);
        self.translated.set_rate(limits.icmp_per_second, now);
        self.resets.set_rate(limits.resets_per_second, now);
        self.server_resets
            .set_rate(limits.server_resets_per_second, now);
    }
}

fn prefix_of(address: Ipv4Addr) -> u32 {
    u32::from(address) >> (32 - PREFIX)
}

impl<Io: BurstIo> Worker<Io> {
    /// Whether a ping may be answered.
    pub(super) fn may_echo(&mut self, to: Ipv4Addr) -> bool {
        self.limits.echo.take(prefix_of(to), self.now)
    }

    /// Whether an ICMP error of our own may be sent.
    pub(super) fn may_send_error(&mut self, to: Ipv4Addr, error: IcmpError) -> bool {
        let limit = match error {
            IcmpError::FragNeeded { .. } => &mut self.limits.path_mtu,
            _ => &mut self.limits.icmp,
        };
        limit.take(prefix_of(to), self.now)
    }

    /// Whether an ICMP error may be passed on that `from` sent.
    pub(super) fn may_translate_error(&mut self, from: Ipv4Addr) -> bool {
        self.limits.translated.take(prefix_of(from), self.now)
    }

    /// Whether both ends of a connection may be sent a RST.
    pub(super) fn may_reset_both(&mut self, entry: &Entry) -> bool {
        self.may_reset(entry.client, entry.vip) && self.may_reset(entry.server_addr, entry.local)
    }

    /// Whether a segment from `to` for our address `ours` may be answered with
    /// a RST. Servers have shares of their own each: they are few, and in one
    /// network.
    pub(super) fn may_reset(&mut self, to: Ipv4Addr, ours: Ipv4Addr) -> bool {
        if self.snapshot.address(ours) == Some(AddressKind::Local) {
            self.limits.server_resets.take(to.into(), self.now)
        } else {
            self.limits.resets.take(prefix_of(to), self.now)
        }
    }
}
