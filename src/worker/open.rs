//! New connections: schedule, lend a local port, enter into the table.

use std::net::Ipv4Addr;

use super::Worker;
use super::health::{is_sound, is_up};
use super::lend::Lent;
use super::message::Notice;
use super::parse::Packet;
use crate::conntrack::entry::{Direction, Entry, NIL, State, mark};
use crate::conntrack::isn;
use crate::conntrack::tcp::{self, Segment};
use crate::ids::{PortIx, ServerIx, ServiceIx, SlotIx};
use crate::io::BurstIo;
use crate::stats::{DropReason, Event};
use crate::wire::proto;

/// What is known of a connection to be made, beyond its first packet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Opening {
    /// The client's SYN with its options read; `None` for UDP.
    pub(super) syn: Option<Segment>,
    /// SYNs sent to other servers for this connection before.
    pub(super) attempts: u8,
    /// The server that failed the last attempt.
    pub(super) avoid: Option<ServerIx>,
    /// Of a SYN: the attempt before, which rests now.
    pub(super) earlier: Option<SlotIx>,
}

impl From<Segment> for Opening {
    fn from(syn: Segment) -> Self {
        Self {
            syn: Some(syn),
            ..Self::default()
        }
    }
}

impl<Io: BurstIo> Worker<Io> {
    /// Makes a connection for its first packet, and sends that.
    pub(super) fn open(
        &mut self,
        packet: Io::Buf,
        at: &Packet,
        service_ix: ServiceIx,
        port: PortIx,
        opening: Opening,
    ) {
        let Some(server_ix) = self.pick(service_ix, at.src, &opening) else {
            self.stats.service(service_ix).no_server.add(1);
            self.notice(Notice::NoServer(service_ix));
            return self.refuse(packet, at, DropReason::NoServer, Event::ResetRefused);
        };
        if self.table.len() >= self.table.capacity() && !self.evict() {
            return self.refuse_full(packet, at, service_ix);
        }
        let avoid = opening.earlier.map(|slot| self.table.get(slot).local);
        match self.lend_rested(server_ix, at.protocol, avoid) {
            Some(lent) => {
                self.open_with(
                    packet,
                    at,
                    service_ix,
                    port,
                    &opening,
                    Ok((server_ix, lent)),
                );
            }
            None => self.open_short_of_ports(packet, at, service_ix, server_ix, port, &opening),
        }
    }

    /// Makes a connection on a local port; refuses it where there is none, `Err`
    /// with the server that was chosen.
    #[inline]
    pub(super) fn open_with(
        &mut self,
        packet: Io::Buf,
        at: &Packet,
        service_ix: ServiceIx,
        port: PortIx,
        opening: &Opening,
        lent: Result<(ServerIx, Lent), ServerIx>,
    ) {
        let (server_ix, lent) = match lent {
            Ok(lent) => lent,
            Err(chosen) => {
                self.stats.service(service_ix).no_local_port.add(1);
                self.notice(Notice::NoLocalPort(chosen));
                return self.refuse(packet, at, DropReason::NoLocalPort, Event::ResetRefused);
            }
        };
        let Some(entry) = self.entry_for(at, server_ix, &lent, opening) else {
            // The lender of a borrowed one asks for it.
            if lent.loan.is_none() {
                self.give_back(lent.set, lent.port);
            }
            return self.discard(packet, DropReason::NoServer);
        };
        self.table
            .prefetch_bucket(self.table.server_hash(&entry.server_tuple()));
        let Ok(slot) = self.table.insert(entry) else {
            self.give_back_of(&entry);
            return self.refuse_full(packet, at, service_ix);
        };

        self.note_trial(server_ix, entry.set);
        let counters = self.stats.server(server_ix);
        counters.connections.add(1);
        counters.inactive.add(1);
        if opening.syn.is_some() {
            self.stats.half_open.add(1);
            self.hold_syn(slot, &packet, at);
        }
        if entry.is_marked(mark::BORROWED) {
            self.stats.event(Event::LocalPortBorrowed).add(1);
            self.loans.half_open_begins();
        }
        self.count_active(slot);
        self.arm(slot);
        self.forward(packet, at, slot, Direction::Forward, port);
    }

    pub(super) fn refuse_full(&mut self, packet: Io::Buf, at: &Packet, service: ServiceIx) {
        self.stats.service(service).table_full.add(1);
        self.notice(Notice::TableFull);
        self.refuse(packet, at, DropReason::TableFull, Event::ResetRefused);
    }

    /// The entry of a new connection.
    fn entry_for(
        &mut self,
        at: &Packet,
        server_ix: ServerIx,
        lent: &Lent,
        opening: &Opening,
    ) -> Option<Entry> {
        let server = self.snapshot.server(server_ix)?;
        let mut entry = Entry {
            attempts: opening.attempts.saturating_add(1),
            earlier: opening.earlier.map_or(NIL, |slot| slot.0),
            state: State::UdpOneWay,
            ..lent.entry(at, server_ix, server, self.now)
        };
        if let Some(syn) = &opening.syn {
            if let Some(previous) = lent.previous {
                let tuple = entry.server_tuple();
                isn::after_previous(&self.isn_secret, &tuple, self.now, syn, previous)
                    .apply(&mut entry);
            }
            tcp::open(&mut entry, syn);
            if let Some((lender, number)) = lent.loan {
                entry.marks |= mark::BORROWED;
                entry.partner = lender;
                entry.loan = number;
            }
        }
        self.recall_path_mtu(&mut entry);
        Some(entry)
    }

    /// The service's next server: one that is up and not out of use; where all
    /// are, one that is up, since trying beats refusing. After a failed attempt
    /// another one.
    pub(super) fn pick(
        &mut self,
        service_ix: ServiceIx,
        client: Ipv4Addr,
        opening: &Opening,
    ) -> Option<ServerIx> {
        let picked = match opening.earlier {
            Some(last) => self.pick_another(service_ix, client, last),
            None => {
                let avoid = opening.avoid;
                // What is known of a server's failures with UDP is proof, and a
                // client may have no second try.
                let choosy = self
                    .snapshot
                    .service(service_ix)
                    .is_some_and(|service| service.protocol == proto::UDP);
                self.pick_where(service_ix, client, |worker, server| {
                    let (snapshot, health) = (&worker.snapshot, &worker.health);
                    is_sound(snapshot, health, server, worker.now, avoid, choosy)
                })
            }
        };
        picked.or_else(|| {
            self.pick_where(service_ix, client, |worker, server| {
                is_up(&worker.snapshot, server)
            })
        })
    }

    /// The service's next server by its schedule, of those that `usable` lets.
    #[inline]
    pub(super) fn pick_where(
        &mut self,
        service_ix: ServiceIx,
        client: Ipv4Addr,
        usable: impl Fn(&Self, ServerIx) -> bool,
    ) -> Option<ServerIx> {
        let mut cursor = *self.cursors.get(service_ix.ix())?;
        let service = self.snapshot.service(service_ix)?;
        let active = |server| self.stats.server(server).active.get();
        let usable = |server| usable(self, server);
        let picked = service.plan.pick(&mut cursor, client, active, usable);
        self.cursors[service_ix.ix()] = cursor;
        picked
    }
}
