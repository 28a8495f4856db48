//! A NIC in software before several workers: Toeplitz hash and redirection
//! table choose the queue, as a NIC's would. Or a NIC without: it delivers
//! anywhere, and the workers sort it out.

use super::*;
use crate::worker::borrow::LoanMessage;
use crate::worker::message::ArpNews;

/// How the NIC chooses a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Delivery {
    /// TCP and UDP by the hash over addresses and ports, their fragments over
    /// addresses, the rest to queue 0.
    Hashed,
    /// By nothing.
    Anywhere,
}

/// Workers behind one NIC port towards the clients and one towards the servers.
pub(in super::super) struct Nic {
    workers: Vec<Worker<MemoryIo>>,
    links: Vec<Link>,
    steering: Arc<Steering>,
    delivery: Delivery,
    now: Millis,
    random: u64,
    /// What workers say of local ports that they give back gets lost.
    pub loses_returns: bool,
}

impl Nic {
    pub fn new(workers: u8, reta: Reta, delivery: Delivery) -> Self {
        let parts = |servers: &[Server], steering: &Arc<Steering>| parts(servers, steering, 1, 0);
        Self::build(workers, reta, delivery, 1024..=65535, parts)
    }

    /// The TCP service has one server only, and these local ports towards it.
    /// Its connections may be idle for longer.
    pub fn with_ports(
        workers: u8,
        reta: Reta,
        delivery: Delivery,
        ports: RangeInclusive<u16>,
    ) -> Self {
        let parts = |servers: &[Server], steering: &Arc<Steering>| {
            let mut servers = servers.to_vec();
            servers[1].state = ServerState::Down;
            let mut parts = parts(&servers, steering, 1, 0);
            let service = parts.services[0].as_mut().expect("the TCP service");
            service.timeouts = Timeouts::default();
            parts
        };
        Self::build(workers, reta, delivery, ports, parts)
    }

    fn build(
        workers: u8,
        reta: Reta,
        delivery: Delivery,
        ports: RangeInclusive<u16>,
        parts: impl Fn(&[Server], &Arc<Steering>) -> Parts,
    ) -> Self {
        let mode = match delivery {
            Delivery::Hashed => SteeringMode::Rss,
            Delivery::Anywhere => SteeringMode::Software,
        };
        let steering = Arc::new(Steering::new(DEFAULT_KEY, reta, mode).expect("steering"));
        let classes = Arc::new(PortClasses::new(Arc::clone(&steering), ports));
        let servers = servers();
        let snapshot = Arc::new(Snapshot::new(parts(&servers, &steering)));
        let now = Millis(1_000);
        let (mut all, mut links) = (Vec::new(), Vec::new());
        let handovers = Handover::mesh(usize::from(workers), 64);
        for (ix, handover) in (0..workers).map(WorkerIx).zip(handovers) {
            let lends = Arc::new(WorkerPorts::new(Arc::clone(&classes), ix));
            let first = Box::new(Update {
                new_sets: sets(&servers, &lends),
                ..Update::new(Arc::clone(&snapshot))
            });
            let setup = setup(ix, 1 << 12, now, handover);
            links.push(setup.link.clone());
            let at = Now { ms: now, tsc: 0 };
            all.push(Worker::new(setup, MemoryIo::new(2), first, at));
        }
        let mut nic = Self {
            workers: all,
            links,
            steering,
            delivery,
            now,
            random: 1,
            loses_returns: false,
        };
        nic.settle();
        nic
    }

    /// The queue that the NIC puts a packet into.
    fn queue(&mut self, packet: &[u8]) -> usize {
        if self.delivery == Delivery::Anywhere {
            // The next of a sequence of full period (Knuth's MMIX constants).
            self.random = self
                .random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            return (self.random >> 33) as usize % self.workers.len();
        }
        let ip = Ipv4View::new_quoted(packet).expect("IPv4");
        if !matches!(ip.protocol(), proto::TCP | proto::UDP) {
            return 0;
        }
        // Without ports the hash is that over the addresses alone.
        let (src_port, dst_port) = if ip.is_fragment() {
            (0, 0)
        } else {
            let tuple = Tcp::read_quoted(packet);
            (tuple.src_port, tuple.dst_port)
        };
        let toeplitz = self.steering.toeplitz();
        let hash = toeplitz.hash_v4(ip.src(), ip.dst(), src_port, dst_port);
        let queues = self.steering.reta().queues();
        queues[hash as usize % queues.len()].ix()
    }

    fn send(&mut self, port: PortIx, packet: &[u8]) -> Out {
        let queue = self.queue(packet);
        self.workers[queue].io.rx[port.ix()].push_back(frame(port, EtherType::IPV4, packet));
        self.settle()
    }

    pub fn client_sends(&mut self, packet: Tcp) -> Out {
        self.send(WAN, &packet.packet())
    }

    pub fn client_sends_packet(&mut self, packet: &[u8]) -> Out {
        self.send(WAN, packet)
    }

    pub fn server_sends(&mut self, packet: Tcp) -> Out {
        self.send(LAN, &packet.packet())
    }

    /// A server has no such port.
    pub fn server_is_unreachable(&mut self, about: &Tcp) -> Out {
        self.send(LAN, &icmp_error(3, 3, about))
    }

    /// Polls until nothing moves any more: packets go out, ARP requests are
    /// answered to queue 0, and what one worker learns all are told.
    fn settle(&mut self) -> Out {
        let mut out = Out::default();
        loop {
            self.now = self.now.plus(1);
            let (mut work, mut asked) = (0, Vec::new());
            for worker in &mut self.workers {
                if self.loses_returns {
                    lose_returns(worker);
                }
                let now = Now {
                    ms: self.now,
                    tsc: 0,
                };
                work += worker.poll(now);
                asked.extend(take(&mut worker.io, &mut out, PEER));
            }
            work += asked.len();
            for (port, addr) in asked {
                self.workers[0].io.rx[port.ix()].push_back(arp_answer(port, addr, PEER));
            }
            for from in 0..self.links.len() {
                while let Some(news) = self.links[from].heard.pop() {
                    let (ArpNews::Learned(learned) | ArpNews::Overheard(learned)) = news else {
                        continue;
                    };
                    for to in (0..self.links.len()).filter(|&to| to != from) {
                        self.links[to].told.push(learned).expect("room");
                        // They take it within the next millisecond.
                        work += 1;
                    }
                }
            }
            if work == 0 {
                return out;
            }
        }
    }

    /// Time passes; the workers poll on.
    pub fn pass(&mut self, ms: u64) {
        let end = self.now.plus(ms);
        while !self.now.reached(end) {
            self.now = self.now.plus(50);
            let _ = self.settle();
        }
    }

    pub fn server_sends_packet(&mut self, packet: &[u8]) -> Out {
        self.send(LAN, packet)
    }

    /// The worker that owns the flow of a client.
    pub fn owner(&self, client: Ipv4Addr, client_port: u16) -> usize {
        self.steering.owner(client, VIP, client_port, 80).ix()
    }

    /// Local ports that are not free, of each worker.
    pub fn ports_taken(&self) -> Vec<u32> {
        let taken = |worker: &Worker<MemoryIo>| {
            let sets = worker.sets.iter().flatten();
            sets.map(|set| set.used_count() + set.resting_count()).sum()
        };
        self.workers.iter().map(taken).collect()
    }

    pub fn event(&self, event: Event) -> u64 {
        let counts = self.workers.iter().map(|w| w.stats.event(event).get());
        counts.sum()
    }

    /// Half-open connections, and active ones.
    pub fn gauges(&self) -> (u64, u64) {
        let half_open = self.workers.iter().map(|w| w.stats.half_open.get());
        let active = self.workers.iter().map(|w| {
            let server = w.stats.server(ServerIx(0));
            server.active.get()
        });
        (half_open.sum(), active.sum())
    }

    /// The workers that have a connection of this client.
    pub fn holders(&self, client: Ipv4Addr, client_port: u16) -> Vec<usize> {
        let holds = |worker: &Worker<MemoryIo>| {
            let table = worker.table();
            table.slots(SlotIx(0), table.slots_end()).any(|slot| {
                let entry = table.get(slot);
                entry.state != State::Redirect
                    && (entry.client, entry.client_port) == (client, client_port)
            })
        };
        let workers = self.workers.iter().enumerate();
        workers
            .filter(|(_, worker)| holds(worker))
            .map(|(ix, _)| ix)
            .collect()
    }

    /// States of all connections.
    pub fn states(&self) -> Vec<State> {
        self.workers.iter().flat_map(states).collect()
    }

    pub fn handed_over(&self) -> u64 {
        let counts = self.workers.iter().map(|w| w.stats.handed_over.get());
        counts.sum()
    }

    /// Packets dropped, for whatever reason.
    pub fn dropped(&self) -> u64 {
        let counts = self.workers.iter().flat_map(|worker| {
            DropReason::ALL
                .iter()
                .map(|&reason| worker.stats.drop_counter(reason).get())
        });
        counts.sum()
    }
}

fn lose_returns(worker: &Worker<MemoryIo>) {
    for ring in &worker.handover.loans_from {
        for _ in 0..ring.len() {
            let message = ring.pop().expect("one");
            if !matches!(message, LoanMessage::Back(_)) {
                ring.push(message).expect("room");
            }
        }
    }
}
