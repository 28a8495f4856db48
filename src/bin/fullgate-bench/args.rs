//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// Measures the gateway's packet path on one core, without a network.
#[derive(Parser, Debug)]
#[command(name = "fullgate-bench", version)]
pub struct Args {
    #[command(subcommand)]
    pub mode: Mode,
}

#[derive(Subcommand, Debug)]
pub enum Mode {
    /// Packets of established connections.
    Packets(Packets),
    /// Whole connections, from SYN to the last acknowledgement.
    Connections(Connections),
    /// Packets through another program, over memif.
    Memif(Memif),
    /// Cache lines that one worker writes and another touches, by a trace of
    /// every memory access (valgrind's lackey).
    Lines(Lines),
    /// Draws packets/s and cycles against the number of flows, as SVG.
    Plot(Plot),
}

#[derive(clap::Args, Clone, Debug)]
pub struct Common {
    /// Real servers.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub servers: u16,
    /// Local addresses; by default as many as the connections need.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub locals: Option<u16>,
    /// Measured runs; what is reported is the median run.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub runs: u16,
    /// Bursts on the wire before the worker polls: what a NIC has written
    /// before the processor looks is no longer in its first-level cache.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub ahead: u16,
    /// Packet buffers on reserved huge pages; without, on transparent ones.
    #[arg(long)]
    pub hugepages: bool,
    /// Pins the process to a core.
    #[arg(long)]
    pub core: Option<u32>,
    /// One JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

#[derive(clap::Args, Clone, Debug)]
pub struct Packets {
    #[command(flatten)]
    pub common: Common,
    /// Established connections.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub flows: u32,
    /// Bytes of a packet on the wire, frame checksum included.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(64..=1518))]
    pub packet_size: u16,
    /// In which order the flows' packets come.
    #[arg(long, value_enum, default_value_t = Order::Random)]
    pub order: Order,
    /// From clients, from servers, or one of each in turn.
    #[arg(long, value_enum, default_value_t = Directions::Forward)]
    pub direction: Directions,
    /// Protocol of the flows.
    #[arg(long, value_enum, default_value_t = Proto::Tcp)]
    pub proto: Proto,
    /// Share of packets that belong to a flow; the others match none.
    #[arg(long, default_value_t = 1.0, value_parser = share)]
    pub hit_ratio: f64,
    /// Share of packets that belong to connections which are opened and closed
    /// meanwhile, of 8 packets each (TCP only).
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub new_connections: f64,
    /// Workers, each with `--flows` of its own, on a core of its own, first one
    /// after the other and then all at once. Beginning with the core that
    /// `--core` names, or with the first.
    #[arg(long, default_value_t = 1, conflicts_with_all = ["baseline", "compare", "load"],
          value_parser = clap::value_parser!(u8).range(1..=64))]
    pub workers: u8,
    /// Afterwards, packets arrive at this share of the measured capacity, at
    /// random times: how long each is in the worker.
    #[arg(long, conflicts_with_all = ["baseline", "hit_ratio", "new_connections"], value_parser = some)]
    pub load: Option<f64>,
    /// One flow in so many is captured meanwhile, all its packets whole.
    #[arg(long, value_name = "N", conflicts_with_all = ["workers", "baseline"],
          value_parser = clap::value_parser!(u32).range(1..))]
    pub capture: Option<u32>,
    /// Seconds of the worker's own time in a run.
    #[arg(long, default_value_t = 1.0, conflicts_with = "packets")]
    pub seconds: f64,
    /// Packets in a run, instead of seconds.
    #[arg(long)]
    pub packets: Option<u64>,
    /// Measures a forwarder that only swaps MAC addresses instead.
    #[arg(long, conflicts_with = "compare")]
    pub baseline: bool,
    /// Measures that forwarder and the gateway in turn.
    #[arg(long)]
    pub compare: bool,
}

#[derive(clap::Args, Debug)]
pub struct Connections {
    #[command(flatten)]
    pub common: Common,
    /// Connections under way at a time.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub concurrent: u32,
    /// Connections that are over and rest in the table, at most: each new one
    /// finds one to expire. 60 s of TIME-WAIT at the measured rate would be
    /// many more; what they cost is memory.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(100_000..=50_000_000))]
    pub resting: u32,
    /// Connections in a run.
    #[arg(long, default_value_t = 500_000)]
    pub connections: u64,
}

/// Whatever is at the other end has two ports of DPDK's net_memif in the role
/// of the server, with the MAC addresses 02:00:00:00:01:01 (clients' side) and
/// 02:00:00:00:01:02 (servers' side).
#[derive(clap::Args, Debug)]
pub struct Memif {
    #[command(flatten)]
    pub common: Common,
    /// Directory of the sockets `wan.sock` and `lan.sock`.
    #[arg(long)]
    pub sockets: PathBuf,
    /// Established connections, opened through the other end.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub flows: u32,
    /// The other end forwards without translating: no connection is opened.
    #[arg(long)]
    pub plain: bool,
    /// Seconds of a run.
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Prints the configuration with which `fullgate` is the other end, its
    /// worker on this core.
    #[arg(long, value_name = "CORE")]
    pub print_config: Option<u32>,
}

#[derive(clap::Args, Debug)]
pub struct Lines {
    /// Established connections of each worker.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub flows: u32,
    /// Batches of 512 packets that each worker gets, in turn.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..))]
    pub batches: u32,
    /// The program whose accesses are traced.
    #[arg(long, hide = true)]
    pub traced: bool,
}

#[derive(clap::Args, Debug)]
pub struct Plot {
    /// Files of JSON objects as `packets --json` writes them, one a line.
    #[arg(required = true)]
    pub input: Vec<PathBuf>,
    /// Where the drawing goes.
    #[arg(long, short)]
    pub output: PathBuf,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    Seq,
    Random,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Directions {
    Forward,
    Reverse,
    Both,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proto {
    Tcp,
    Udp,
}

fn some(text: &str) -> Result<f64, String> {
    share(text).and_then(|share| match share {
        0.0 => Err("give a number above 0".into()),
        share => Ok(share),
    })
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("give a number from 0 to 1".into()),
    }
}
