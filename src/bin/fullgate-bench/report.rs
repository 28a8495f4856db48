//! What a measurement says: for people, or as one JSON object a line.

use serde::Serialize;

use fullgate::dpdk::Clock;
use fullgate::stats::{DropReason, WorkerStats};

use super::Failure;
use super::measure::{Meter, core_cycles_per_tsc};

/// Figures of one run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Run {
    pub packets: u64,
    /// Packets the worker can see to in a second of its core.
    pub packets_per_second: f64,
    /// TSC cycles of processor time in the worker, for each packet.
    pub cycles_per_packet: f64,
    /// TSC cycles of the median poll, for each packet of a full poll.
    pub median_cycles_per_packet: f64,
    /// TSC cycles of a poll.
    pub poll_p50: u64,
    pub poll_p99: u64,
    pub poll_p999: u64,
    /// Whole connections that came and went beside, in a second of the core.
    pub connections_per_second: f64,
}

impl Run {
    /// `in_poll` packets are in a full poll.
    pub fn new(meter: &Meter, clock: &Clock, in_poll: u64) -> Self {
        let seconds = meter.cpu_ns as f64 / 1e9;
        let cycles = seconds * tsc_hz(clock);
        let p50 = meter.polls.percentile(0.5);
        Self {
            packets: meter.packets,
            packets_per_second: meter.packets as f64 / seconds,
            cycles_per_packet: cycles / meter.packets as f64,
            median_cycles_per_packet: p50 as f64 / in_poll as f64,
            poll_p50: p50,
            poll_p99: meter.polls.percentile(0.99),
            poll_p999: meter.polls.percentile(0.999),
            connections_per_second: 0.0,
        }
    }

    fn print(&self, name: &str) {
        println!(
            "{name:<9} {:>7.2} Mpps  {:>6.1} cycles/packet (median poll {:.1})  poll p50 {} p99 {} p99.9 {}",
            self.packets_per_second / 1e6,
            self.cycles_per_packet,
            self.median_cycles_per_packet,
            self.poll_p50,
            self.poll_p99,
            self.poll_p999,
        );
    }
}

/// The run in the middle.
pub fn median(mut runs: Vec<Run>) -> Option<Run> {
    runs.sort_by(|a, b| a.cycles_per_packet.total_cmp(&b.cycles_per_packet));
    let middle = runs.len() / 2;
    runs.get(middle).copied()
}

pub fn tsc_hz(clock: &Clock) -> f64 {
    clock.cycles_per_ms() as f64 * 1e3
}

/// Where it was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub tsc_mhz: f64,
    /// Cycles of the core for one of the TSC.
    pub core_cycles_per_tsc: f64,
    pub hugepages: bool,
    pub version: &'static str,
}

impl Machine {
    pub fn here(tsc_hz: f64, hugepages: bool) -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .and_then(|rest| rest.split(':').nth(1))
            .map_or_else(|| "unknown".into(), |name| name.trim().to_owned());
        Self {
            cpu,
            tsc_mhz: tsc_hz / 1e6,
            core_cycles_per_tsc: core_cycles_per_tsc(),
            hugepages,
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    pub fn print(&self) {
        println!(
            "{}; TSC {:.0} MHz, the core runs {:.2} cycles for one of it; buffers on {} pages",
            self.cpu,
            self.tsc_mhz,
            self.core_cycles_per_tsc,
            if self.hugepages {
                "reserved huge"
            } else {
                "transparent huge"
            },
        );
    }
}

/// Packets of established connections.
#[derive(Clone, Debug, Serialize)]
pub struct PacketsReport {
    pub mode: &'static str,
    pub flows: u32,
    pub packet_size: u16,
    pub order: String,
    pub direction: String,
    pub proto: String,
    pub servers: u16,
    pub locals: u16,
    pub hit_ratio: f64,
    /// Share of packets of connections that came and went meanwhile.
    pub new_connections: f64,
    /// One flow in so many is captured.
    pub capture: Option<u32>,
    pub packets_in_poll: u64,
    pub runs: u16,
    pub gateway: Option<Run>,
    pub baseline: Option<Run>,
    /// Cycles a packet, the gateway's less the baseline's.
    pub added_cycles: Option<f64>,
    /// Packets/s, the gateway's by the baseline's.
    pub ratio: Option<f64>,
    pub latency: Option<Latency>,
    /// The MAC swap's at the same packets/s.
    pub baseline_latency: Option<Latency>,
    /// Growth of the process's resident memory by the connections, each.
    pub bytes_per_connection: f64,
    /// Resident memory of the process before the first connection, the
    /// generator's included.
    pub fixed_bytes: u64,
    pub drops: Vec<(&'static str, u64)>,
    pub machine: Machine,
}

impl PacketsReport {
    pub fn print(&self, json: bool) -> Result<(), Failure> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        println!(
            "{} {} flows, {} order, {}, {} bytes, {} servers, {} local addresses, hit ratio {}, new connections {}; median of {} runs",
            self.flows,
            self.proto,
            self.order,
            self.direction,
            self.packet_size,
            self.servers,
            self.locals,
            self.hit_ratio,
            self.new_connections,
            self.runs,
        );
        if let Some(sample) = self.capture {
            println!("capture   of one flow in {sample}");
        }
        if let Some(run) = &self.gateway {
            run.print("gateway");
            if self.new_connections > 0.0 {
                let millions = run.connections_per_second / 1e6;
                println!("beside    {millions:.3} M whole connections/s");
            }
        }
        if let Some(run) = &self.baseline {
            run.print("MAC swap");
        }
        if let (Some(added), Some(ratio)) = (self.added_cycles, self.ratio) {
            println!("added     {added:.1} cycles/packet; {ratio:.2} of the MAC swap's packets/s");
        }
        if let Some(latency) = &self.latency {
            latency.print("load", "the capacity");
        }
        if let Some(latency) = &self.baseline_latency {
            latency.print("MAC swap", "the gateway's capacity");
        }
        println!(
            "memory    {:.1} bytes/connection, and {} MB without any",
            self.bytes_per_connection,
            self.fixed_bytes >> 20,
        );
        print_drops(&self.drops);
        self.machine.print();
        Ok(())
    }
}

impl Latency {
    fn print(&self, name: &str, of: &str) {
        println!(
            "{name:<9} {:.2} of {of}, {:.2} Mpps: {}; {:.1} the longest",
            self.load,
            self.packets_per_second / 1e6,
            self.all.text(),
            self.longest_us,
        );
        println!(
            "          undisturbed, {:.1} % of packets: {}",
            self.undisturbed.packets as f64 * 100.0 / self.all.packets as f64,
            self.undisturbed.text(),
        );
        println!(
            "          {:.0} polls/s took over 10 us; a loop that does nothing stops {:.0} times/s for as long",
            self.interrupted_per_second, self.idle_gaps_per_second,
        );
    }
}

impl Spent {
    fn text(&self) -> String {
        let (p50, p99, p999) = (self.p50_us, self.p99_us, self.p999_us);
        format!("{p50:.2} us (p50), {p99:.2} (p99), {p999:.2} (p99.9)")
    }
}

/// Several workers at once.
#[derive(Clone, Debug, Serialize)]
pub struct WorkersReport {
    pub mode: &'static str,
    /// Of each worker.
    pub flows: u32,
    pub packet_size: u16,
    pub locals: u16,
    pub runs: u16,
    /// Packets/s of one worker while the others rest.
    pub alone: f64,
    /// Packets/s of all at once.
    pub together: f64,
    pub ratio: f64,
    /// Least share of a round in which all were being measured.
    pub overlap: f64,
    pub workers: Vec<OneWorker>,
    pub machine: Machine,
}

impl WorkersReport {
    pub fn print(&self, json: bool) -> Result<(), Failure> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        println!(
            "{} workers, {} tcp flows each, {} bytes; median of {} runs",
            self.workers.len(),
            self.flows,
            self.packet_size,
            self.runs,
        );
        for (number, one) in self.workers.iter().enumerate() {
            one.alone.print(&format!("{number} alone"));
            one.together.print(&format!("{number} of all"));
            print_drops(&one.drops);
        }
        println!(
            "ratio     {:.3}: {:.2} Mpps of all against {:.2} of one alone; {:.0} % of the time all were measured",
            self.ratio,
            self.together / 1e6,
            self.alone / 1e6,
            self.overlap * 100.0,
        );
        self.machine.print();
        Ok(())
    }
}

/// Whole connections.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionsReport {
    pub mode: &'static str,
    pub packets_per_connection: u64,
    pub concurrent: u32,
    pub resting: u32,
    pub servers: u16,
    pub locals: u16,
    pub runs: u16,
    pub connections_per_second: f64,
    pub cycles_per_connection: f64,
    pub gateway: Run,
    pub drops: Vec<(&'static str, u64)>,
    pub machine: Machine,
}

impl ConnectionsReport {
    pub fn print(&self, json: bool) -> Result<(), Failure> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        println!(
            "connections of {} packets, {} at a time, {} resting, {} servers, {} local addresses; median of {} runs",
            self.packets_per_connection,
            self.concurrent,
            self.resting,
            self.servers,
            self.locals,
            self.runs,
        );
        println!(
            "gateway   {:.3} M connections/s, {:.0} cycles/connection",
            self.connections_per_second / 1e6,
            self.cycles_per_connection,
        );
        self.gateway.print("packets");
        print_drops(&self.drops);
        self.machine.print();
        Ok(())
    }
}

/// Microseconds from arrival to transmission that so many do not exceed.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spent {
    pub packets: u64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// Share of the gateway's capacity that was offered.
    pub load: f64,
    pub packets_per_second: f64,
    /// Every packet.
    pub all: Spent,
    pub longest_us: f64,
    /// Those that neither came during an interrupted poll nor found packets
    /// waiting that did.
    pub undisturbed: Spent,
    /// Polls longer than 10 us, in a second of the forwarder's time.
    pub interrupted_per_second: f64,
    /// Gaps longer than that in a loop that does nothing, in a second.
    pub idle_gaps_per_second: f64,
}

/// One worker in the figures.
#[derive(Clone, Debug, Serialize)]
pub struct OneWorker {
    pub alone: Run,
    pub together: Run,
    pub drops: Vec<(&'static str, u64)>,
}

/// What the gateway did not forward, by reason.
pub fn drops(stats: &WorkerStats) -> Vec<(&'static str, u64)> {
    DropReason::ALL
        .iter()
        .map(|&reason| (reason.name(), stats.drop_counter(reason).get()))
        .filter(|&(_, count)| count > 0)
        .collect()
}

fn print_drops(drops: &[(&'static str, u64)]) {
    for (reason, count) in drops {
        println!("dropped   {count} {reason}");
    }
}
