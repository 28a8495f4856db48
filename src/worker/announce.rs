//! Announcing our addresses by gratuitous ARP (RFC 5227 §3), so that neighbours
//! that knew them elsewhere turn to us at once: at the start, when a port's link
//! comes up, for addresses that are new, and when an operator asks for it. One
//! worker does it for all.
//!
//! Several times, since nobody confirms a broadcast and a switch may still be
//! learning; paced, since there may be thousands.

use std::net::Ipv4Addr;

use arrayvec::ArrayVec;

use super::Worker;
use crate::ids::PortIx;
use crate::io::BurstIo;
use crate::stats::Event;
use crate::time::Millis;
use crate::wire::arp::{ArpOp, ArpRepr};
use crate::wire::ethernet::MacAddr;

/// Addresses looked at, a millisecond.
const PER_TICK: usize = 16;
/// Announcements of each address.
const ROUNDS: u8 = 3;
/// Between two of them.
const ROUND_MS: u64 = 1_000;
/// New addresses that are told from the others.
const NEW: usize = 64;

/// All ports.
pub const ALL_PORTS: u32 = u32::MAX;

/// What is being announced.
#[derive(Debug)]
pub(super) struct Announcing {
    /// All addresses, on these ports.
    ports: u32,
    /// These addresses, on all ports.
    new: ArrayVec<Ipv4Addr, NEW>,
    rounds: u8,
    cursor: usize,
    due: Millis,
}

impl Announcing {
    /// All addresses on all ports.
    pub(super) fn everything(now: Millis) -> Self {
        Self {
            ports: ALL_PORTS,
            new: ArrayVec::new(),
            rounds: ROUNDS,
            cursor: 0,
            due: now,
        }
    }

    fn again(&mut self, now: Millis) {
        self.rounds = ROUNDS;
        self.cursor = 0;
        self.due = now;
    }

    /// All addresses on these ports, by their bits.
    pub(super) fn start(&mut self, ports: u32, now: Millis) {
        self.ports |= ports;
        self.again(now);
    }

    /// Those of `new` that are not in `old`; both are in order.
    pub(super) fn start_new(&mut self, old: &[Ipv4Addr], new: &[Ipv4Addr], now: Millis) {
        let mut any = false;
        for address in new.iter().filter(|new| old.binary_search(new).is_err()) {
            any = true;
            if self.new.try_push(*address).is_err() {
                self.ports = ALL_PORTS;
                break;
            }
        }
        if any {
            self.again(now);
        }
    }

    fn wants(&self, address: Ipv4Addr, port: PortIx) -> bool {
        self.ports & (1 << port.0) != 0 || self.new.contains(&address)
    }
}

impl<Io: BurstIo> Worker<Io> {
    /// Goes on with it, once a millisecond.
    pub(super) fn announce(&mut self) {
        if self.announcing.rounds > 0 && self.ix.0 == 0 && self.now.reached(self.announcing.due) {
            self.announce_some();
        }
    }

    fn announce_some(&mut self) {
        for _ in 0..PER_TICK {
            let Some(&address) = self.snapshot.announced().get(self.announcing.cursor) else {
                let round = &mut self.announcing;
                round.rounds -= 1;
                round.cursor = 0;
                round.due = self.now.plus(ROUND_MS);
                if round.rounds == 0 {
                    round.ports = 0;
                    round.new.clear();
                }
                return;
            };
            self.announcing.cursor += 1;
            for port in 0..self.ports.len() {
                let port = PortIx(port as u8);
                if self.announcing.wants(address, port) && self.snapshot.is_on_link(address, port) {
                    self.announce_one(address, port);
                }
            }
        }
    }

    /// One gratuitous ARP.
    pub(super) fn announce_one(&mut self, address: Ipv4Addr, port: PortIx) {
        let Some(facts) = self.ports.get(port.ix()) else {
            return;
        };
        let arp = ArpRepr {
            op: ArpOp::Request,
            sender_mac: facts.mac,
            sender_ip: address,
            target_mac: MacAddr([0; 6]),
            target_ip: address,
        };
        self.stats.event(Event::Announced).add(1);
        self.send_arp(&arp, MacAddr::BROADCAST, port);
    }
}
