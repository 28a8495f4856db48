//! What is asked of all workers at once, and what their answers come to.

use std::sync::Arc;
use std::time::Instant;

use super::gather::{Ask, Complete};
use super::{Management, PATIENCE, SAMPLE_EVERY, answer, answers, explain, report};
use crate::api;
use crate::conntrack::entry::Entry;
use crate::filter::Filter;
use crate::ids::WorkerIx;
use crate::time::Millis;
use crate::worker::message::{Command, DropScan, NeighborScan, Order, PoolScan, Scan, SetUse};

pub(super) struct ConnectionsAsk {
    pub(super) filter: Filter,
    pub(super) limit: usize,
    pub(super) sort: Option<Order>,
}

pub(super) struct Copied {
    pub(super) found: Vec<Entry>,
    pub(super) now: Millis,
}

impl Management {
    /// Hands each kind of question that waits to all workers, one of each kind at a
    /// time.
    pub(super) fn ask_workers(&mut self, now: Instant) {
        self.ask_connections();
        self.ask_neighbors();
        self.ask_last_drops();
        self.ask_flows();
        self.sample_ports(now);
        self.ask_pools();
    }

    fn ask_connections(&mut self) {
        if let Some(Ask {
            question:
                ConnectionsAsk {
                    filter,
                    limit,
                    sort,
                },
            reply,
            deadline,
        }) = self.connections.next()
        {
            self.connections.begin((limit, sort), reply, deadline);
            for (ix, worker) in self.workers.iter_mut().enumerate() {
                let is_asked = filter.worker.is_none_or(|wanted| wanted.ix() == ix);
                // One more than asked for tells whether there are more.
                let limit = if is_asked { limit + 1 } else { 0 };
                worker.send(Command::Scan(Box::new(Scan {
                    filter,
                    sort,
                    found: Vec::with_capacity(limit),
                    limit,
                    cursor: 0,
                    now: Millis(0),
                })));
            }
        }
    }

    fn ask_neighbors(&mut self) {
        if let Some(Ask {
            reply, deadline, ..
        }) = self.neighbors.next()
        {
            self.neighbors.begin((), reply, deadline);
            for worker in &mut self.workers {
                let room = worker.stats().next_hops.room.get() as usize;
                worker.send(Command::Neighbors(Box::new(NeighborScan::new(room))));
            }
        }
    }

    fn ask_last_drops(&mut self) {
        if let Some(Ask {
            question,
            reply,
            deadline,
        }) = self.last_drops.next()
        {
            self.last_drops.begin((), reply, deadline);
            for worker in &mut self.workers {
                worker.send(Command::LastDrops(Box::new(DropScan::new(question))));
            }
        }
    }

    fn ask_flows(&mut self) {
        if let Some(Ask {
            question,
            reply,
            deadline,
        }) = self.flows.next()
        {
            self.flows.begin(question, reply, deadline);
            let probe = explain::probe(self.state.snapshot(), question);
            for worker in &mut self.workers {
                worker.send(Command::Explain(Box::new(probe.clone())));
            }
        }
    }

    fn ask_pools(&mut self) {
        if let Some(Ask {
            reply, deadline, ..
        }) = self.pools.next()
        {
            let snapshot = self.state.snapshot();
            if self.sets.0 != snapshot.generation {
                self.sets = (snapshot.generation, report::sets(snapshot));
            }
            self.pools.begin(snapshot.generation, reply, deadline);
            for worker in &mut self.workers {
                let wanted = Arc::clone(&self.sets.1);
                worker.send(Command::Pools(Box::new(PoolScan::new(wanted))));
            }
        }
    }

    /// Has the workers asked how many local ports are left, if that shows
    /// anywhere and nobody else has it asked.
    fn sample_ports(&mut self, now: Instant) {
        let is_due = self
            .sampled
            .is_none_or(|at| now.saturating_duration_since(at) >= SAMPLE_EVERY);
        if self.metrics.is_served() && is_due && self.pools.is_idle() {
            self.sampled = Some(now);
            self.pools.ask(Ask {
                question: (),
                reply: None,
                deadline: now + PATIENCE,
            });
        }
    }

    pub(super) fn counted_ports(&mut self, complete: Complete<u64, Vec<SetUse>>, now: Instant) {
        let Complete {
            tag,
            reply,
            answers,
        } = complete;
        let (config, snapshot) = (
            self.state.shared_config(),
            Arc::clone(self.state.snapshot()),
        );
        let answers = Arc::new(answers);
        // With another snapshot the ids may mean other sets.
        if tag == snapshot.generation {
            self.metrics
                .note_ports(&self.changing, Arc::clone(&answers), now);
        }
        if reply.is_some() {
            self.answering.run(move || {
                let sets = answers.iter().flatten();
                let pools = report::pools(&config, &snapshot, sets);
                answer(reply, Ok(answers::value(&pools)));
            });
        }
    }

    pub(super) fn scanned(&mut self, complete: Complete<(usize, Option<Order>), Copied>) {
        let snapshot = Arc::clone(self.state.snapshot());
        self.answering.run(move || {
            let (limit, sort) = complete.tag;
            let snapshot = &*snapshot;
            let copies = complete.answers.iter().enumerate();
            let mut connections: Vec<api::Connection> = copies
                .flat_map(|(worker, copied)| {
                    let row = move |entry| {
                        report::connection(snapshot, WorkerIx(worker as u8), entry, copied.now)
                    };
                    copied.found.iter().map(row)
                })
                .collect();
            if let Some(order) = sort {
                connections.sort_by_key(|connection| {
                    std::cmp::Reverse(match order {
                        Order::Idle => connection.idle_ms,
                        Order::Age => connection.age_ms,
                    })
                });
            }
            let truncated = connections.len() > limit;
            connections.truncate(limit);
            answer(
                complete.reply,
                Ok(answers::value(&api::Connections {
                    connections,
                    truncated,
                })),
            );
        });
    }
}
