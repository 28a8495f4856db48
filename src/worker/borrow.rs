//! Local ports of other workers, for connections that would take somebody's
//! port here or be refused.
//!
//! A worker may use only local ports whose replies reach it, so the ports towards
//! a server are divided among the workers, while connections are divided by their
//! clients. `open` asks here once no server of the service has a port left that is
//! free or resting. The packet that opens the connection goes to another worker
//! and comes back with a port of that one's: the *lender* keeps a
//! [`State::Redirect`] for the server-side tuple, and hands over what the server
//! sends. The *borrower* has the connection.
//!
//! - Every other worker is asked once, one after the other. Where none has a port,
//!   or a ring is full, it goes on as without this.
//! - A borrower has few of these connections half-open: strangers can't use up
//!   the ports of all workers by sending to one.
//! - A lent port comes back when the borrower's entry goes, rested. If that
//!   message is lost, the lender, which asks once a minute, learns of it: it
//!   never frees a port because of time alone. Loans have numbers, so an old
//!   message ends no new loan.
//! - TCP only.
//!
//! Rings are looked into once a millisecond. Nothing is allocated or shared.

use super::lend::{Asked, Lent};
use super::open::Opening;
use super::parse::Packet;
use super::path::tuple_of;
use super::{Worker, evict};
use crate::conntrack::entry::{ClientTuple, Entry, ServerTuple, State, mark};
use crate::conntrack::isn::Previous;
use crate::ids::{PortIx, ServerIx, ServiceIx, SetIx, SlotIx, WorkerIx};
use crate::io::BurstIo;
use crate::stats::DropReason;
use crate::time::Millis;
use crate::wire::proto;

/// Half-open connections that a worker has on others' ports at a time.
const HALF_OPEN: u32 = 128;

/// Where nobody had a port for a service, nobody is asked again so soon.
const PAUSE_MS: u64 = 20;

/// Messages that the ring from one worker to another has room for.
pub(super) const LOAN_MESSAGES: usize = 128;

/// Messages taken from each of them at a time.
const LOANS_PER_TICK: usize = 64;

/// What workers tell each other about ports.
#[derive(Debug)]
pub enum LoanMessage<B> {
    /// Somebody wants a port for the connection that this packet opens.
    Wanted(Wish<B>),
    /// What came of it; `None`: nobody has one.
    Lent(Wish<B>, Option<Offer>),
    /// The borrower does not need the port any more.
    Back(Loan),
    /// The lender asks whether the port is still needed.
    Check(Loan),
}

/// A packet on its way to a port.
#[derive(Debug)]
pub struct Wish<B> {
    packet: B,
    at: Packet,
    port: PortIx,
    /// The borrower.
    by: WorkerIx,
    service: ServiceIx,
    /// The server that it would rather have.
    server: ServerIx,
    /// See [`Opening`].
    attempts: u8,
    avoid: Option<ServerIx>,
    earlier: Option<SlotIx>,
}

/// A port towards a server, for its borrower.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    loan: Loan,
    lender: WorkerIx,
    server: ServerIx,
    set: SetIx,
    previous: Option<Previous>,
}

/// A port that is lent, and the lender's number of the loan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loan {
    tuple: ServerTuple,
    number: u32,
}

impl Loan {
    fn of(entry: &Entry) -> Self {
        Self {
            tuple: entry.server_tuple(),
            number: entry.loan,
        }
    }
}

/// What a worker knows of its loans.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loans {
    /// Half-open connections on others' ports.
    half_open: u32,
    /// Loans to others so far.
    number: u32,
    /// For this service nobody is asked before then.
    pause: (ServiceIx, Millis),
}

impl Loans {
    pub(super) const NONE: Self = Self {
        half_open: 0,
        number: 0,
        pause: (ServiceIx(0), Millis(0)),
    };

    /// A connection on another worker's port is half-open.
    pub(super) fn half_open_begins(&mut self) {
        self.half_open = self.half_open.saturating_add(1);
    }

    /// One is no longer.
    pub(super) fn half_open_ends(&mut self) {
        self.half_open = self.half_open.saturating_sub(1);
    }
}

impl<Io: BurstIo> Worker<Io> {
    /// Makes a connection where the chosen server has no local port free or
    /// resting: with one towards another server, one of another worker, or one
    /// whose connection gives way.
    #[cold]
    #[inline(never)]
    pub(super) fn open_short_of_ports(
        &mut self,
        mut packet: Io::Buf,
        at: &Packet,
        service_ix: ServiceIx,
        chosen: ServerIx,
        port: PortIx,
        opening: &Opening,
    ) {
        if self.may_borrow(at.protocol, service_ix) {
            let rested =
                self.lend_elsewhere(service_ix, chosen, at, opening.avoid, Asked::WithPorts);
            if let Some(rested) = rested {
                return self.open_with(packet, at, service_ix, port, opening, Ok(rested));
            }
            let wish = Wish {
                packet,
                at: *at,
                port,
                by: self.ix,
                service: service_ix,
                server: chosen,
                attempts: opening.attempts,
                avoid: opening.avoid,
                earlier: opening.earlier,
            };
            packet = match self.send_loan(self.after(self.ix), LoanMessage::Wanted(wish)) {
                Some(LoanMessage::Wanted(wish)) => wish.packet,
                _ => return,
            };
        }
        let lent = self.lend_giving_way(service_ix, chosen, at, opening.avoid);
        self.open_with(packet, at, service_ix, port, opening, lent.ok_or(chosen));
    }

    fn may_borrow(&self, protocol: u8, service: ServiceIx) -> bool {
        let (paused, until) = self.loans.pause;
        // One-way flows of UDP are made with one datagram, and many at a time.
        protocol == proto::TCP
            && self.handover.to.len() > 1
            && self.loans.half_open < HALF_OPEN
            && (paused != service || self.now.reached(until))
    }

    /// The worker to ask after `worker`.
    fn after(&self, worker: WorkerIx) -> WorkerIx {
        let next = worker.ix() + 1;
        WorkerIx(if next < self.handover.to.len() {
            next as u8
        } else {
            0
        })
    }

    /// Gives the message back where there is no room for it.
    fn send_loan(
        &self,
        to: WorkerIx,
        message: LoanMessage<Io::Buf>,
    ) -> Option<LoanMessage<Io::Buf>> {
        match self.handover.loans_to.get(to.ix()) {
            Some(ring) => ring.push(message).err(),
            None => Some(message),
        }
    }

    /// Takes what other workers say about ports.
    pub(super) fn loan_messages(&mut self) -> usize {
        let mut count = 0;
        for from in 0..self.handover.loans_from.len() {
            for _ in 0..LOANS_PER_TICK {
                let Some(message) = self.handover.loans_from[from].pop() else {
                    break;
                };
                count += 1;
                let from = WorkerIx(from as u8);
                self.aside(|worker| match message {
                    LoanMessage::Wanted(wish) => worker.port_wanted(wish),
                    LoanMessage::Lent(wish, offer) => worker.port_lent(wish, offer),
                    LoanMessage::Back(loan) => worker.port_back(from, loan),
                    LoanMessage::Check(loan) => worker.check_borrowed(from, loan),
                });
            }
        }
        count
    }

    /// Another worker wants a port.
    fn port_wanted(&mut self, wish: Wish<Io::Buf>) {
        let (by, next) = (wish.by, self.after(self.ix));
        let offer = self.offer(&wish);
        let message = if offer.is_none() && next != by {
            match self.send_loan(next, LoanMessage::Wanted(wish)) {
                Some(LoanMessage::Wanted(wish)) => LoanMessage::Lent(wish, None),
                _ => return,
            }
        } else {
            LoanMessage::Lent(wish, offer)
        };
        if let Some(LoanMessage::Lent(wish, offer)) = self.send_loan(by, message) {
            if let Some(offer) = offer {
                self.port_back(by, offer.loan);
            }
            self.discard(wish.packet, DropReason::HandoverFull);
        }
    }

    /// A port for another worker's connection, if there is one free or resting.
    fn offer(&mut self, wish: &Wish<Io::Buf>) -> Option<Offer> {
        if evict::is_nearly_full(&self.table) {
            return None;
        }
        let at = &wish.at;
        let (server, lent) = match self.lend_rested(wish.server, at.protocol, None) {
            Some(lent) => (wish.server, lent),
            None => {
                self.lend_elsewhere(wish.service, wish.server, at, wish.avoid, Asked::WithPorts)?
            }
        };
        self.loans.number = self.loans.number.wrapping_add(1);
        let Some(known) = self.snapshot.server(server) else {
            self.give_back(lent.set, lent.port);
            return None;
        };
        let entry = Entry {
            partner: wish.by,
            loan: self.loans.number,
            state: State::Redirect,
            ..lent.entry(at, server, known, self.now)
        };
        let Ok(slot) = self.table.insert(entry) else {
            self.give_back(lent.set, lent.port);
            return None;
        };
        self.arm(slot);
        Some(Offer {
            loan: Loan::of(&entry),
            lender: self.ix,
            server,
            set: lent.set,
            previous: lent.previous,
        })
    }

    /// What came of a wish.
    fn port_lent(&mut self, wish: Wish<Io::Buf>, offer: Option<Offer>) {
        let (at, port) = (wish.at, wish.port);
        let tuple = tuple_of(&at);
        let found = self.table.find(self.table.hash(&tuple), &tuple);
        let known = offer.filter(|offer| !self.is_gone(offer.server));
        // The client may have asked again meanwhile.
        if let Some(offer) = &offer
            && (known.is_none() || found.is_some())
        {
            self.return_loan(offer.lender, offer.loan);
        }
        if found.is_some() {
            return self.flow(wish.packet, &at, found, port);
        }
        if self.table.len() >= self.table.capacity() && !self.evict() {
            if let Some(offer) = &known {
                self.return_loan(offer.lender, offer.loan);
            }
            return self.refuse_full(wish.packet, &at, wish.service);
        }
        let opening = Opening {
            attempts: wish.attempts,
            avoid: wish.avoid,
            earlier: wish.earlier.filter(|slot| {
                let earlier = self.table.get(*slot);
                earlier.state == State::Resting && earlier.client_tuple() == client_tuple(&at)
            }),
            ..self.opening_of(&wish.packet, &at)
        };
        let lent = match known {
            Some(offer) => Some((
                offer.server,
                Lent {
                    local: offer.loan.tuple.local,
                    port: offer.loan.tuple.local_port,
                    set: offer.set,
                    previous: offer.previous,
                    loan: Some((offer.lender, offer.loan.number)),
                },
            )),
            None => {
                self.loans.pause = (wish.service, self.now.plus(PAUSE_MS));
                self.lend_giving_way(wish.service, wish.server, &at, wish.avoid)
            }
        };
        self.open_with(
            wish.packet,
            &at,
            wish.service,
            port,
            &opening,
            lent.ok_or(wish.server),
        );
    }

    /// A port that was lent is not needed any more.
    fn port_back(&mut self, from: WorkerIx, loan: Loan) {
        let hash = self.table.server_hash(&loan.tuple);
        let Some(slot) = self.table.find_server(hash, &loan.tuple) else {
            return;
        };
        let entry = self.table.get(slot);
        if entry.state != State::Redirect || entry.partner != from || entry.loan != loan.number {
            return;
        }
        let (set, port) = (entry.set, entry.local_port);
        self.table.remove(slot);
        self.give_back(set, port);
    }

    /// The timer of a port that is lent: its borrower is asked.
    pub(super) fn check_loan(&mut self, slot: SlotIx, entry: &Entry) {
        // Where there is no room, it is asked a minute later.
        let _ = self.send_loan(entry.partner, LoanMessage::Check(Loan::of(entry)));
        self.table.get_mut(slot).last_seen = self.now.stamp();
        self.arm(slot);
    }

    /// The lender asks whether a port is still needed.
    fn check_borrowed(&mut self, lender: WorkerIx, loan: Loan) {
        let hash = self.table.server_hash(&loan.tuple);
        let holds = self
            .table
            .find_server(hash, &loan.tuple)
            .is_some_and(|slot| {
                let entry = self.table.get(slot);
                entry.is_marked(mark::BORROWED)
                    && entry.partner == lender
                    && entry.loan == loan.number
            });
        if !holds {
            self.return_loan(lender, loan);
        }
    }

    /// The borrowed port of an entry that goes is its lender's again.
    #[cold]
    #[inline(never)]
    pub(super) fn return_borrowed(&mut self, entry: &Entry) {
        self.return_loan(entry.partner, Loan::of(entry));
    }

    fn return_loan(&mut self, lender: WorkerIx, loan: Loan) {
        // Where there is no room, the lender asks within a minute.
        let _ = self.send_loan(lender, LoanMessage::Back(loan));
    }

    /// A packet of a server to a local port that is lent: for the borrower.
    #[cold]
    #[inline(never)]
    pub(super) fn redirect(&mut self, packet: Io::Buf, slot: SlotIx, port: PortIx) {
        let borrower = self.table.get(slot).partner;
        self.hand_over_as(borrower, port, packet, true);
    }
}

fn client_tuple(at: &Packet) -> ClientTuple {
    ClientTuple {
        client: at.src,
        vip: at.dst,
        client_port: at.src_port,
        vip_port: at.dst_port,
        protocol: at.protocol,
    }
}
