//! What passed an interface, by tcpdump, read by a parser that is not ours.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use nix::sys::signal::Signal;
use pcap_file::pcap::PcapReader;

use super::netns::Netns;
use super::process::Process;
use super::tcp::LIMIT;

/// A running tcpdump.
pub struct Capture {
    process: Process,
    file: PathBuf,
}

/// A TCP segment as captured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
    pub syn: bool,
    pub ack: bool,
    pub fin: bool,
    pub rst: bool,
    pub sequence: u32,
    pub acknowledgment: u32,
    /// Bytes of payload.
    pub length: usize,
}

impl Segment {
    /// The first segment of a connection.
    pub fn is_syn(&self) -> bool {
        self.syn && !self.ack
    }
}

impl Capture {
    /// Starts capturing IPv4 on `device` inside `netns`.
    pub fn start(netns: &Netns, directory: &Path, device: &str) -> Self {
        let name = format!("tcpdump-{}-{device}", netns.name());
        let file = directory.join(format!("{name}.pcap"));
        let arguments: Vec<&str> = "--immediate-mode -U -n -Z root -i"
            .split(' ')
            .chain([device, "-w"])
            .collect();
        let mut arguments: Vec<&std::ffi::OsStr> =
            arguments.iter().map(std::ffi::OsStr::new).collect();
        arguments.extend([file.as_os_str(), "ip".as_ref()]);
        let mut process = Process::start(Some(netns), directory, &name, "tcpdump", &arguments);
        let log = directory.join(format!("{name}.log"));
        process.until(LIMIT, || {
            std::fs::read_to_string(&log)
                .ok()?
                .contains("listening on")
                .then_some(())
        });
        Self { process, file }
    }

    /// What was captured so far.
    pub fn segments(&self) -> Vec<Segment> {
        read(&self.file)
    }

    /// Stops as soon as `complete` says that everything awaited was captured.
    pub fn stop_when(mut self, complete: impl Fn(&[Segment]) -> bool) -> Vec<Segment> {
        let deadline = Instant::now() + LIMIT;
        while !complete(&read(&self.file)) {
            assert!(
                Instant::now() < deadline,
                "incomplete: {:#?}",
                read(&self.file)
            );
            thread::sleep(Duration::from_millis(2));
        }
        self.process.signal(Signal::SIGTERM);
        self.process.ended(LIMIT);
        read(&self.file)
    }
}

/// Every TCP segment of a capture file, which may still grow.
fn read(file: &Path) -> Vec<Segment> {
    let mut segments = Vec::new();
    let Ok(mut reader) = PcapReader::new(File::open(file).expect("open the capture")) else {
        return segments;
    };
    // An error is the end of what has been written so far.
    while let Some(Ok(packet)) = reader.next_packet() {
        segments.extend(segment(&packet.data));
    }
    segments
}

fn segment(frame: &[u8]) -> Option<Segment> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(NetSlice::Ipv4(ip)) = &packet.net else {
        return None;
    };
    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else {
        return None;
    };
    let header = ip.header();
    let headers = usize::from(header.ihl()) * 4 + tcp.slice().len() - tcp.payload().len();
    Some(Segment {
        source: SocketAddrV4::new(header.source_addr(), tcp.source_port()),
        destination: SocketAddrV4::new(header.destination_addr(), tcp.destination_port()),
        syn: tcp.syn(),
        ack: tcp.ack(),
        fin: tcp.fin(),
        rst: tcp.rst(),
        sequence: tcp.sequence_number(),
        acknowledgment: tcp.acknowledgment_number(),
        length: usize::from(header.total_len()).saturating_sub(headers),
    })
}

/// Segments that occupy sequence numbers already seen on their connection.
pub fn retransmissions(segments: &[Segment]) -> usize {
    let mut seen = std::collections::HashSet::new();
    segments
        .iter()
        .filter(|segment| segment.length > 0 || segment.syn || segment.fin)
        .filter(|s| !seen.insert((s.source, s.destination, s.sequence, s.syn, s.fin)))
        .count()
}

/// Every address that is not `own`, each once.
pub fn peers_of(segments: &[Segment], own: Ipv4Addr) -> Vec<Ipv4Addr> {
    let mut peers: Vec<Ipv4Addr> = segments
        .iter()
        .flat_map(|segment| [*segment.source.ip(), *segment.destination.ip()])
        .filter(|address| *address != own)
        .collect();
    peers.sort();
    peers.dedup();
    peers
}
