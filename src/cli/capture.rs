//! `capture`: polls the packets of a capture out of the daemon and writes them
//! as pcapng. Ends it with a signal, a number of packets or a time; the daemon
//! ends it where this program is gone.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::Args;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::PcapNgBlock;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::interface_statistics::{
    InterfaceStatisticsBlock, InterfaceStatisticsOption,
};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::{DataLink, Endianness, PcapError};
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::client::{CallError, Client};
use super::given;
use crate::api::{Captured, CapturedPacket, Capturing};
use crate::config;
use crate::say;

/// Between two looks where the last one found nothing.
const INTERVAL: Duration = Duration::from_millis(10);

/// What to capture, how much of it, and where to.
#[derive(Args, Debug)]
pub(super) struct Capture {
    /// Conditions: client, vip, local, server or host with
    /// ADDRESS[/LENGTH][:PORT[-PORT]]; port, proto, service, worker; drops,
    /// reason.
    filter: Vec<String>,
    /// The file; "-" is standard output.
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    /// End after so many packets; both legs count.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after so long, such as 30s.
    #[arg(long, value_parser = config::duration)]
    duration: Option<Duration>,
    /// One connection in N, with all its packets.
    #[arg(long, value_name = "1/N", value_parser = sample)]
    sample: Option<u32>,
    /// Most bytes kept of a packet.
    #[arg(short, long, value_name = "BYTES")]
    snaplen: Option<u32>,
    /// Packets that each worker can keep until they are fetched.
    #[arg(long, value_name = "N")]
    records: Option<u32>,
}

fn sample(text: &str) -> Result<u32, String> {
    let number = text.strip_prefix("1/").unwrap_or(text);
    number
        .parse()
        .map_err(|_| format!("{text:?} is no sample; give 1/N, such as 1/100"))
}

/// Captures until the end, and tells on standard error what there is in the
/// file.
pub(super) fn run(socket: &Path, wanted: &Capture) -> Result<String, CallError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| CallError::Failed(format!("signals: {error}")))?;
    }
    let mut client = Client::connect(socket)?;
    let filter = wanted.filter.join(" ");
    let begun: Capturing = client.get(
        "capture.start",
        &given([
            ("filter", Some(json!(filter))),
            ("sample", wanted.sample.map(|v| json!(v))),
            ("snaplen", wanted.snaplen.map(|v| json!(v))),
            ("records", wanted.records.map(|v| json!(v))),
        ]),
    )?;
    let failed = |source: io::Error| CallError::Io {
        path: wanted.write.clone(),
        source,
    };
    // Whoever reads has seen enough.
    let is_enough = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    let out = open(&wanted.write).map_err(failed)?;
    let snaplen = wanted.snaplen.unwrap_or(0);
    let id = json!({"capture": begun.capture});
    let mut trace = match Trace::new(out, &begun.ports, &filter, snaplen) {
        Err(error) if is_enough(&error) => {
            client.call("capture.end", &id)?;
            return Ok(String::new());
        }
        other => other.map_err(failed)?,
    };
    say::error(&"fullgatectl: capturing; end it with Ctrl-C");
    let ends = wanted.duration.map(|duration| Instant::now() + duration);
    let mut is_ending = false;
    loop {
        let is_full = |trace: &Trace<_>| wanted.count.is_some_and(|most| trace.packets >= most);
        let mut batch: Captured = client.get("capture.read", &id)?;
        let is_idle = batch.packets.is_empty();
        if let Some(most) = wanted.count {
            let left = most.saturating_sub(trace.packets);
            batch
                .packets
                .truncate(left.try_into().unwrap_or(usize::MAX));
        }
        match trace.write(&batch) {
            Err(error) if is_enough(&error) => {
                client.call("capture.end", &id)?;
                return Ok(String::new());
            }
            other => other.map_err(failed)?,
        }
        if batch.ended {
            break;
        }
        let is_over = is_full(&trace)
            || stop.load(Ordering::Relaxed)
            || ends.is_some_and(|ends| Instant::now() >= ends);
        if is_over && !is_ending {
            is_ending = true;
            client.call("capture.end", &id)?;
        }
        if is_idle {
            std::thread::sleep(INTERVAL);
        }
    }
    let packets = trace.packets;
    let lost = match trace.finish() {
        Err(error) if is_enough(&error) => return Ok(String::new()),
        other => other.map_err(failed)?,
    };
    say::error(&format_args!(
        "fullgatectl: {packets} packets captured, {lost} lost"
    ));
    Ok(String::new())
}

fn open(path: &Path) -> io::Result<Box<dyn Write>> {
    Ok(if path == Path::new("-") {
        Box::new(io::stdout())
    } else {
        Box::new(File::create(path)?)
    })
}

/// One interface of the file.
struct Interface {
    name: String,
    packets: u64,
    lost: u64,
}

/// A pcapng file.
struct Trace<W: Write> {
    writer: PcapNgWriter<BufWriter<W>>,
    interfaces: Vec<Interface>,
    packets: u64,
    last_ns: u64,
    snaplen: u32,
    filter: String,
}

/// For packets that had waited and were given up: none of the ports.
const NO_PORT: &str = "waiting";

impl<W: Write> Trace<W> {
    fn new(out: W, ports: &[String], filter: &str, snaplen: u32) -> io::Result<Self> {
        let section = SectionHeaderBlock {
            // The library writes 64-bit times right in this order alone.
            endianness: Endianness::Big,
            options: vec![SectionHeaderOption::UserApplication(
                concat!("fullgatectl ", env!("CARGO_PKG_VERSION")).into(),
            )],
            ..SectionHeaderBlock::default()
        };
        let writer = PcapNgWriter::with_section_header(BufWriter::new(out), section);
        let mut trace = Self {
            writer: writer.map_err(io_error)?,
            interfaces: Vec::new(),
            packets: 0,
            last_ns: 0,
            snaplen,
            filter: filter.into(),
        };
        for port in ports {
            trace.interface(port)?;
        }
        trace.writer.get_mut().flush()?;
        Ok(trace)
    }

    fn block<'a>(&mut self, block: impl PcapNgBlock<'a>) -> io::Result<()> {
        self.writer.write_pcapng_block(block).map_err(io_error)?;
        Ok(())
    }

    /// The interface of a name, described if it is new.
    fn interface(&mut self, name: &str) -> io::Result<u32> {
        let found = self.interfaces.iter().position(|known| known.name == name);
        if let Some(at) = found {
            return Ok(at as u32);
        }
        let mut options = vec![
            InterfaceDescriptionOption::IfName(name.into()),
            // Nanoseconds: 10^-9 s.
            InterfaceDescriptionOption::IfTsResol(9),
        ];
        if !self.filter.is_empty() {
            let text = format!("filter: {}", self.filter);
            options.push(InterfaceDescriptionOption::IfDescription(text.into()));
        }
        self.block(InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: self.snaplen,
            options: options.into_iter().map(owned).collect(),
        })?;
        self.interfaces.push(Interface {
            name: name.into(),
            packets: 0,
            lost: 0,
        });
        Ok(self.interfaces.len() as u32 - 1)
    }

    /// Appends packets, and has them in the file when it returns.
    fn write(&mut self, batch: &Captured) -> io::Result<()> {
        for packet in &batch.packets {
            self.packet(packet)?;
        }
        for (interface, &lost) in self.interfaces.iter_mut().zip(&batch.lost) {
            interface.lost = lost;
        }
        self.writer.get_mut().flush()
    }

    fn packet(&mut self, packet: &CapturedPacket) -> io::Result<()> {
        let at = self.interface(packet.port.as_deref().unwrap_or(NO_PORT))?;
        let data = BASE64
            .decode(&packet.data)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let mut options = vec![EnhancedPacketOption::Comment(Cow::Borrowed(
            packet.comment.as_str(),
        ))];
        let direction = match packet.direction.as_str() {
            "in" => 1,
            "out" => 2,
            _ => 0,
        };
        options.push(EnhancedPacketOption::Flags(direction));
        self.block(EnhancedPacketBlock {
            interface_id: at,
            timestamp: Duration::from_nanos(packet.time_ns),
            original_len: packet.length,
            data: data.into(),
            options,
        })?;
        self.packets += 1;
        self.last_ns = packet.time_ns;
        if let Some(interface) = self.interfaces.get_mut(at as usize) {
            interface.packets += 1;
        }
        Ok(())
    }

    /// Closes the file with what it has and has not; returns how many packets
    /// were lost.
    fn finish(&mut self) -> io::Result<u64> {
        let mut lost = 0;
        for at in 0..self.interfaces.len() {
            let interface = &self.interfaces[at];
            lost += interface.lost;
            let options = vec![
                InterfaceStatisticsOption::IsbIfRecv(interface.packets + interface.lost),
                InterfaceStatisticsOption::IsbIfDrop(interface.lost),
            ];
            self.block(InterfaceStatisticsBlock {
                interface_id: at as u32,
                timestamp: self.last_ns,
                options,
            })?;
        }
        self.writer.get_mut().flush()?;
        Ok(lost)
    }
}

/// The writer keeps the descriptions of interfaces.
fn owned(option: InterfaceDescriptionOption<'_>) -> InterfaceDescriptionOption<'static> {
    option.into_owned()
}

fn io_error(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

#[cfg(test)]
mod tests {
    use pcap_file::pcapng::{Block, PcapNgReader};

    use super::*;

    fn packet(port: Option<&str>, direction: &str) -> CapturedPacket {
        CapturedPacket {
            time_ns: 1_764_043_200_123_456_789,
            worker: 0,
            number: 7,
            port: port.map(Into::into),
            direction: direction.into(),
            length: 100,
            data: BASE64.encode([1, 2, 3, 4, 5]),
            comment: "dropped: no-service".into(),
        }
    }

    #[test]
    fn a_file_has_interfaces_packets_and_losses() {
        let ports = ["wan".to_owned(), "lan".to_owned()];
        let mut file = Vec::new();
        let mut trace = Trace::new(&mut file, &ports, "drops", 96).expect("begun");
        let batch = Captured {
            packets: vec![packet(Some("lan"), "out"), packet(None, "none")],
            lost: vec![3, 4],
            ended: true,
        };
        trace.write(&batch).expect("written");
        assert_eq!(trace.finish().expect("closed"), 7);
        drop(trace);
        let mut reader = PcapNgReader::new(&file[..]).expect("a file");
        let mut names = Vec::new();
        let mut packets = Vec::new();
        let mut losses = Vec::new();
        while let Some(block) = reader.next_block() {
            match block.expect("a block") {
                Block::InterfaceDescription(interface) => {
                    for option in interface.options {
                        if let InterfaceDescriptionOption::IfName(name) = option {
                            names.push(name.into_owned());
                        }
                    }
                }
                Block::EnhancedPacket(packet) => packets.push(packet.into_owned()),
                Block::InterfaceStatistics(statistics) => losses.push(statistics.into_owned()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(names, ["wan", "lan", NO_PORT]);
        assert_eq!(packets[0].interface_id, 1);
        assert_eq!(packets[1].interface_id, 2);
        assert_eq!(
            packets[0].timestamp,
            Duration::from_nanos(1_764_043_200_123_456_789)
        );
        assert_eq!((packets[0].original_len, packets[0].data.len()), (100, 5));
        assert!(packets[0].options.contains(&EnhancedPacketOption::Flags(2)));
        let comment = EnhancedPacketOption::Comment("dropped: no-service".into());
        assert!(packets[0].options.contains(&comment));
        let lost = InterfaceStatisticsOption::IsbIfDrop(4);
        assert!(losses[1].options.contains(&lost), "{losses:?}");
        assert_eq!(losses[1].timestamp, 1_764_043_200_123_456_789);
    }

    #[test]
    fn samples_are_read() {
        assert_eq!(sample("1/100"), Ok(100));
        assert_eq!(sample("100"), Ok(100));
        assert!(sample("2/100").is_err());
    }
}
