//! What the packet path does to a packet besides looking it up: parse, hash,
//! rewrite, and the three together, for a burst of 32 frames of 60 bytes that
//! lie in the first-level cache. Time is per burst.
//!
//! A rewrite takes one from the TTL, so each starts from a fresh copy of its
//! header; `copy` is what that alone costs.

use std::hint::black_box;
use std::net::Ipv4Addr;

use criterion::{Bencher, Criterion, Throughput, criterion_group, criterion_main};
use fullgate::arena::KEY_BYTES;
use fullgate::conntrack::entry::FlowTuple;
use fullgate::conntrack::hash::HashKey;
use fullgate::io::memory::MemoryBuf;
use fullgate::io::{BURST, PacketBuf};
use fullgate::nat::rewrite::{Mapping, translate};
use fullgate::snat::toeplitz::{DEFAULT_KEY, Toeplitz};
use fullgate::wire::ethernet::{EtherType, EthernetRepr, MacAddr};
use fullgate::wire::ipv4::Ipv4Repr;
use fullgate::wire::proto;
use fullgate::wire::tcp::{Flags, TcpRepr};
use fullgate::worker::parse::{L3, Packet, Parsed, parse};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const MAPPING: Mapping = Mapping {
    src: Ipv4Addr::new(172, 16, 0, 1),
    dst: Ipv4Addr::new(192, 168, 0, 1),
    src_port: 2000,
    dst_port: 8443,
};

fn frame(n: u16) -> [u8; 60] {
    let src = Ipv4Addr::from_bits(0x0a00_0000 + u32::from(n));
    let mut frame = [0; 60];
    let (ethernet, rest) = frame.split_first_chunk_mut().expect("long enough");
    let (ip, rest) = rest.split_first_chunk_mut().expect("long enough");
    EthernetRepr {
        dst: MAC,
        src: MAC,
        ethertype: EtherType::IPV4,
    }
    .emit(ethernet);
    Ipv4Repr {
        src,
        dst: VIP,
        protocol: proto::TCP,
        payload_len: 20,
        ttl: 64,
        ident: n,
        dont_fragment: true,
        dscp: 0,
    }
    .emit(ip);
    TcpRepr {
        src_port: 10_000 + n,
        dst_port: 443,
        seq: 1,
        ack: 1,
        flags: Flags::ACK,
        window: 1_000,
    }
    .emit(src, VIP, rest.first_chunk_mut().expect("long enough"));
    frame
}

fn flow(buf: &MemoryBuf) -> Packet {
    match parse(buf, MAC) {
        Parsed::Flow(at) => at,
        other => panic!("{other:?}"),
    }
}

fn tuple(at: &Packet) -> FlowTuple {
    FlowTuple {
        src: at.src,
        dst: at.dst,
        src_port: at.src_port,
        dst_port: at.dst_port,
        protocol: at.protocol,
    }
}

fn rewrite(buf: &mut MemoryBuf, fresh: &[u8; 60], at: &Packet) {
    let bytes = buf.bytes_mut();
    bytes.copy_from_slice(fresh);
    let l4 = usize::from(at.l4) - L3;
    translate(&mut bytes[L3..], l4, at.protocol, &MAPPING).expect("whole");
}

fn packets(c: &mut Criterion) {
    let frames: [[u8; 60]; BURST] = std::array::from_fn(|n| frame(n as u16));
    let mut bufs: Vec<MemoryBuf> = frames.iter().map(|frame| MemoryBuf::new(frame)).collect();
    let looks: Vec<Packet> = bufs.iter().map(flow).collect();
    let tuples: Vec<FlowTuple> = looks.iter().map(tuple).collect();
    let key = HashKey::from_bytes([0x3c; KEY_BYTES]);
    let toeplitz = Toeplitz::new(DEFAULT_KEY);

    let mut group = c.benchmark_group("packet");
    group.throughput(Throughput::Elements(BURST as u64));
    let parses = |b: &mut Bencher<'_>| {
        b.iter(|| bufs.iter().for_each(|buf| _ = black_box(parse(buf, MAC))));
    };
    group.bench_function("parse", parses);
    group.bench_function("hash", |b| {
        b.iter(|| {
            for tuple in &tuples {
                black_box(key.flow(black_box(tuple)));
            }
        });
    });
    // What software steering adds.
    group.bench_function("toeplitz", |b| {
        b.iter(|| {
            for t in &tuples {
                let t = black_box(t);
                black_box(toeplitz.hash_v4(t.src, t.dst, t.src_port, t.dst_port));
            }
        });
    });
    group.bench_function("copy", |b| {
        b.iter(|| {
            for (buf, fresh) in bufs.iter_mut().zip(&frames) {
                buf.bytes_mut().copy_from_slice(black_box(fresh));
            }
        });
    });
    group.bench_function("rewrite", |b| {
        b.iter(|| {
            for ((buf, fresh), at) in bufs.iter_mut().zip(&frames).zip(&looks) {
                rewrite(buf, fresh, black_box(at));
            }
        });
    });
    group.bench_function("parse_hash_rewrite", |b| {
        b.iter(|| {
            for (buf, fresh) in bufs.iter_mut().zip(&frames) {
                buf.bytes_mut().copy_from_slice(fresh);
                let at = flow(buf);
                black_box(key.flow(&tuple(&at)));
                rewrite(buf, fresh, &at);
            }
        });
    });
    group.finish();
}

criterion_group!(benches, packets);
criterion_main!(benches);
