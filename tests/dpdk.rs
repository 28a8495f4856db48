//! The DPDK layer against real drivers. EAL starts once per process, so all of
//! it is one binary with one thread of tests; those that make interfaces or
//! namespaces need root and are counted as ignored without it.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use fullgate::dpdk::{
    Clock, CuckooHash, Device, DpdkIo, Eal, EalConfig, Error, Mbuf, Memory, Mempool, PoolConfig,
    Port, PortConfig, RssStatus, ring_port, soft_rss, spawn, take_signals,
};
use fullgate::ids::{PortIx, WorkerIx};
use fullgate::io::{BURST, BurstIo, ChecksumStatus, PacketBuf, TX_BURST};
use fullgate::snat::ports::{Lease, PortClasses, PortSet, WorkerPorts};
use fullgate::snat::steering::{Reta, Steering, SteeringMode};
use fullgate::snat::toeplitz::{DEFAULT_KEY, Toeplitz};
use libtest_mimic::{Arguments, Failed, Trial};

static EAL: OnceLock<Eal> = OnceLock::new();

fn eal() -> &'static Eal {
    EAL.get_or_init(|| {
        let config = EalConfig {
            memory: Memory::Ordinary { total_mb: 128 },
            file_prefix: format!("fullgate-test-{}", std::process::id()),
            ..EalConfig::default()
        };
        Eal::init(&config).expect("EAL starts without hugepages")
    })
}

fn main() {
    // Where EAL refuses, its own lines say why.
    env_logger::init();
    let mut arguments = Arguments::from_args();
    // Tests share one EAL, whose control calls are for one thread.
    arguments.test_threads = Some(1);
    // SAFETY: has no precondition.
    let root = unsafe { libc::geteuid() } == 0;
    let unprivileged: [(&str, fn()); 15] = [
        ("eal_starts_once", eal_starts_once),
        ("pool_counts_what_is_out", pool_counts_what_is_out),
        ("a_pool_s_memory_has_a_name", a_pool_s_memory_has_a_name),
        (
            "mbuf_length_stays_in_its_buffer",
            mbuf_length_stays_in_its_buffer,
        ),
        ("ring_port_moves_ownership", ring_port_moves_ownership),
        (
            "untaken_packets_stay_in_order",
            untaken_packets_stay_in_order,
        ),
        (
            "memif_takes_bursts_of_any_size",
            memif_takes_bursts_of_any_size,
        ),
        ("queues_keep_the_port_running", queues_keep_the_port_running),
        (
            "a_packet_outlives_its_pool_handle",
            a_packet_outlives_its_pool_handle,
        ),
        ("a_worker_thread_polls", a_worker_thread_polls),
        (
            "driver_signals_are_for_who_takes_them",
            driver_signals_are_for_who_takes_them,
        ),
        (
            "a_hash_table_finds_what_is_in_it",
            a_hash_table_finds_what_is_in_it,
        ),
        ("refusals_say_what_to_do", refusals_say_what_to_do),
        ("our_hash_is_dpdk_s", our_hash_is_dpdk_s),
        (
            "replies_hash_to_the_worker_that_took_the_port",
            replies_hash_to_the_worker_that_took_the_port,
        ),
    ];
    let privileged: [(&str, fn()); 4] = [
        (
            "tap_in_a_namespace_carries_traffic",
            tap_in_a_namespace_carries_traffic,
        ),
        ("tap_restarts_and_changes_mtu", tap_restarts_and_changes_mtu),
        ("tap_refuses_too_many_queues", tap_refuses_too_many_queues),
        ("tap_is_gone_after_close", tap_is_gone_after_close),
    ];
    let trial = |(name, test): (&str, fn())| {
        Trial::test(name, move || {
            test();
            Ok::<(), Failed>(())
        })
    };
    let trials = unprivileged.into_iter().map(trial).chain(
        privileged
            .into_iter()
            .map(|test| trial(test).with_kind("root").with_ignored_flag(!root)),
    );
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

fn pool(name: &str, count: u32) -> Mempool {
    let config = PoolConfig {
        name: name.to_owned(),
        count,
        data_room: 2176,
        socket: None,
        processor_only: true,
    };
    Mempool::new(eal(), &config).unwrap()
}

fn frame(pool: &Mempool, number: u8) -> Mbuf {
    let mut packet = pool.allocate().unwrap();
    assert!(packet.set_len(60));
    packet.bytes_mut().fill(number);
    packet
}

fn numbers<const N: usize>(packets: &ArrayVec<Mbuf, N>) -> Vec<u8> {
    packets.iter().map(|packet| packet.bytes()[0]).collect()
}

fn eal_starts_once() {
    eal();
    let again = Eal::init(&EalConfig {
        memory: Memory::Ordinary { total_mb: 64 },
        ..EalConfig::default()
    });
    assert!(matches!(again, Err(Error::AlreadyInitialised)), "{again:?}");
}

fn pool_counts_what_is_out() {
    let pool = pool("count", 63);
    assert_eq!(pool.free(), 63);
    let mut all: Vec<Mbuf> = std::iter::from_fn(|| pool.allocate()).collect();
    assert_eq!((all.len(), pool.free()), (63, 0));
    assert!(pool.allocate().is_none());
    for (number, packet) in (0..).zip(&mut all) {
        assert!(packet.set_len(2048));
        packet.bytes_mut().fill(number);
    }
    for (number, packet) in (0..).zip(&all) {
        assert!(packet.bytes().iter().all(|&byte| byte == number));
    }
    drop(all);
    assert_eq!(pool.free(), 63);
}

fn a_pool_s_memory_has_a_name() {
    let pool = pool("named", 63);
    let zones = eal().zones();
    let ring = zones.iter().find(|zone| zone.name == "RG_MP_named");
    let ring = ring.expect("the ring of the pool's free buffers");
    assert!(ring.address != 0 && ring.len >= 64 * size_of::<usize>());
    drop(pool);
    assert!(eal().zones().iter().all(|zone| zone.name != "RG_MP_named"));
}

fn mbuf_length_stays_in_its_buffer() {
    let pool = pool("length", 63);
    let mut packet = pool.allocate().unwrap();
    assert_eq!(packet.total_len(), 0);
    assert_eq!(packet.ipv4_checksum(), ChecksumStatus::Unknown);
    assert!(packet.set_len(2048));
    assert!(!packet.set_len(2049), "beyond the data room");
    assert!(!packet.set_len(usize::MAX));
    assert_eq!((packet.bytes().len(), packet.total_len()), (2048, 2048));
    packet.bytes_mut()[2047] = 7;
    assert!(packet.set_len(0));
    assert!(packet.bytes().is_empty());
    assert!(packet.set_len(2048));
    assert_eq!(packet.bytes()[2047], 7);
}

/// By its own hash, by ours, and by one that is the same for all keys.
fn a_hash_table_finds_what_is_in_it() {
    let key = |n: u32| u128::from(n).to_ne_bytes();
    let hashes: [fn(u32) -> Option<u32>; 3] = [
        |_| None,
        |n| Some(n.wrapping_mul(0x9e37_79b9)),
        |_| Some(7 << 16 | 1),
    ];
    for (count, hash) in [1000, 1000, 16].into_iter().zip(hashes) {
        let mut table = CuckooHash::new(eal(), "found", 1024).unwrap();
        assert!(table.bytes() >= 1024 * 40);
        for n in 0..count {
            table.insert(&key(n), hash(n), !n).unwrap();
        }
        assert!(table.remove(&key(1), hash(1)));
        assert!(!table.remove(&key(1), hash(1)));
        let asked = [0, 1, count - 1, count];
        let all = asked.map(hash).map(Option::unwrap_or_default);
        let (hit, values) = table.lookup(&asked.map(key), hash(0).map(|_| &all));
        assert_eq!((hit, values[0], values[2]), (0b101, !0, !(count - 1)));
        table.insert(&key(1), hash(1), 9).unwrap();
        table.insert(&key(1), hash(1), 10).unwrap();
        let (hit, values) = table.lookup(&[key(1)], hash(1).as_ref().map(std::array::from_ref));
        assert_eq!((hit, values), (1, [10]));
        if count == 16 {
            table
                .insert(&key(16), hash(16), 0)
                .expect_err("two buckets of 8");
        }
    }
    let error = CuckooHash::new(eal(), "found", 1 << 28).unwrap_err();
    assert!(error.to_string().contains("hash table found"), "{error}");
}

fn ring_port_moves_ownership() {
    let pool = pool("own", 255);
    {
        let (mut port, mut ends) = ring_port(eal(), "own", 2, 64, &pool).unwrap();
        assert_eq!(port.driver(), "net_ring");
        assert!(matches!(port.rss(), RssStatus::Unavailable(_)));
        port.start().unwrap();
        let mut queues = port.take_queues().unwrap();
        let second = queues.pop().unwrap();
        assert_eq!(second.index(), 1);
        let mut io = DpdkIo::new(vec![second], pool.clone());
        assert_eq!(io.ports(), 1);

        let mut wire: ArrayVec<Mbuf, 64> = (0..40).map(|n| frame(&pool, n)).collect();
        ends[1].send(&mut wire);
        assert!(wire.is_empty());
        let mut received: ArrayVec<Mbuf, BURST> = ArrayVec::new();
        received.push(frame(&pool, 99));
        io.receive(PortIx(0), &mut received);
        // What was there stays in front, and the array is not overfilled.
        assert_eq!(received.len(), BURST);
        assert_eq!(numbers(&received)[..3], [99, 0, 1]);

        let mut sent: ArrayVec<Mbuf, TX_BURST> = received.drain(..10).collect();
        io.transmit(PortIx(0), &mut sent);
        assert!(sent.is_empty());
        let mut back: ArrayVec<Mbuf, 64> = ArrayVec::new();
        ends[0].receive(&mut back);
        assert!(back.is_empty(), "not on the other queue's wire");
        ends[1].receive(&mut back);
        assert_eq!(numbers(&back), [99, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        // 41 packets exist: in `back`, in `received`, and 9 on the wire.
        assert_eq!(pool.free(), 255 - 41);
        let stats = port.stats().unwrap();
        assert_eq!((stats.rx_packets, stats.tx_packets), (31, 10));
        assert!(port.link().unwrap().up);
    }
    // Also those left on the wire.
    assert_eq!(pool.free(), 255);
}

fn untaken_packets_stay_in_order() {
    let pool = pool("order", 255);
    let (mut port, mut ends) = ring_port(eal(), "order", 1, 16, &pool).unwrap();
    port.start().unwrap();
    let mut io = DpdkIo::new(port.take_queues().unwrap(), pool.clone());
    let mut packets: ArrayVec<Mbuf, TX_BURST> = (0..40).map(|n| frame(&pool, n)).collect();
    io.transmit(PortIx(0), &mut packets);
    assert_eq!(numbers(&packets), (15..40).collect::<Vec<u8>>());
    let mut wire: ArrayVec<Mbuf, 64> = ArrayVec::new();
    ends[0].receive(&mut wire);
    io.transmit(PortIx(0), &mut packets);
    assert_eq!(numbers(&packets), (30..40).collect::<Vec<u8>>());
    ends[0].receive(&mut wire);
    assert_eq!(numbers(&wire), (0..30).collect::<Vec<u8>>());
}

/// The driver of some versions of DPDK looks at the first packet of none, or
/// counts packets in 8 bits.
fn memif_takes_bursts_of_any_size() {
    const COUNT: u32 = 1023;
    let pool = pool("memif", COUNT);
    let sockets = tempfile::tempdir().unwrap();
    {
        let end = |number: u32, role: &str| {
            let device = Device::Vdev(format!(
                "net_memif{number},role={role},id=0,socket={},socket-abstract=no",
                sockets.path().join("wire").display()
            ));
            let mut port = Port::open(eal(), &config(device), std::slice::from_ref(&pool)).unwrap();
            port.start().unwrap();
            port
        };
        let mut ports = [end(0, "server"), end(1, "client")];
        eventually("a link", || {
            ports.iter().all(|port| port.link().unwrap().up)
        });
        let [mut near, mut far] = ports
            .each_mut()
            .map(|port| DpdkIo::new(port.take_queues().unwrap(), pool.clone()));

        let mut received: ArrayVec<Mbuf, BURST> = ArrayVec::new();
        for io in [&mut near, &mut far] {
            // A server sends once its client has offered buffers.
            io.receive(PortIx(0), &mut received);
            assert!(received.is_empty());
            io.transmit(PortIx(0), &mut ArrayVec::new());
        }
        for _ in 0..2 {
            std::mem::swap(&mut near, &mut far);
            let (from, to) = (&mut near, &mut far);
            for count in [1, BURST, TX_BURST] {
                let sent = || (0..count).map(|number| number as u8);
                let mut packets: ArrayVec<Mbuf, TX_BURST> =
                    sent().map(|number| frame(&pool, number)).collect();
                from.transmit(PortIx(0), &mut packets);
                assert!(packets.is_empty(), "{count} packets are taken at once");
                let mut arrived = Vec::new();
                while arrived.len() < count {
                    to.receive(PortIx(0), &mut received);
                    assert!(!received.is_empty(), "{} of {count}", arrived.len());
                    arrived.append(&mut numbers(&received));
                    received.clear();
                }
                assert_eq!(arrived, sent().collect::<Vec<u8>>());
            }
        }
    }
    assert_eq!(pool.free(), COUNT);
}

fn queues_keep_the_port_running() {
    let pool = pool("busy", 63);
    let (mut port, _ends) = ring_port(eal(), "busy", 1, 16, &pool).unwrap();
    assert!(matches!(port.take_queues(), Err(Error::NotStarted(_))));
    port.start().unwrap();
    let queues = port.take_queues().unwrap();
    assert!(matches!(port.take_queues(), Err(Error::Busy(_))));
    assert!(matches!(port.stop(), Err(Error::Busy(_))));
    assert!(matches!(port.set_mtu(1400), Err(Error::Busy(_))));
    assert!(port.started());
    drop(queues);
    port.stop().unwrap();
    assert!(!port.started());
    port.start().unwrap();
    assert_eq!(port.take_queues().unwrap().len(), 1);
}

fn a_packet_outlives_its_pool_handle() {
    for processor_only in [false, true] {
        let config = PoolConfig {
            name: format!("outlive-{processor_only}"),
            count: 63,
            data_room: 2176,
            socket: None,
            processor_only,
        };
        let pool = Mempool::new(eal(), &config).unwrap();
        let packet = frame(&pool, 5);
        drop(pool);
        assert_eq!(packet.bytes(), [5; 60]);
        // The pool is still there, so its name is taken.
        let again = Mempool::new(eal(), &config).unwrap_err().to_string();
        assert!(again.contains("File exists"), "{again}");
        drop(packet);
    }
}

fn a_worker_thread_polls() {
    let pool = pool("thread", 255);
    let (mut port, mut ends) = ring_port(eal(), "thread", 1, 64, &pool).unwrap();
    port.start().unwrap();
    let mut io = DpdkIo::new(port.take_queues().unwrap(), pool.clone());
    let (done, end) = mpsc::channel::<()>();
    let clock = Clock::new(eal());
    assert!(clock.cycles_per_ms() > 1000);
    let worker = spawn(eal(), "worker-0", Some(0), move || {
        let mut burst: ArrayVec<Mbuf, BURST> = ArrayVec::new();
        let mut out: ArrayVec<Mbuf, TX_BURST> = ArrayVec::new();
        while end.try_recv() != Err(mpsc::TryRecvError::Disconnected) {
            io.receive(PortIx(0), &mut burst);
            out.extend(burst.drain(..));
            io.transmit(PortIx(0), &mut out);
            std::thread::yield_now();
        }
    })
    .unwrap();
    let mut wire: ArrayVec<Mbuf, 64> = (0..20).map(|n| frame(&pool, n)).collect();
    ends[0].send(&mut wire);
    eventually("20 packets came back", || {
        ends[0].receive(&mut wire);
        wire.len() == 20
    });
    drop(done);
    worker.join().unwrap();
    assert_eq!(numbers(&wire), (0..20).collect::<Vec<u8>>());
    drop(wire);
    // Given back here, taken there: nothing is lost in either thread's cache.
    assert_eq!(pool.free(), 255);
    // The worker's queue went with it.
    port.stop().unwrap();

    let no_core = spawn(eal(), "worker-x", Some(1000), || {}).unwrap_err();
    assert!(no_core.to_string().contains("core 1000"), "{no_core}");
}

fn config(device: Device) -> PortConfig {
    PortConfig {
        device,
        queues: 1,
        rx_desc: 64,
        tx_desc: 64,
        mtu: 1500,
        promiscuous: false,
        netns: None,
        rss_key: [0x6d; 40],
        one_pool: true,
    }
}

/// Real-time signals that a thread blocks, as bits from SIGRTMIN on.
fn blocked_signals(thread: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
    u64::from_str_radix(mask.unwrap().trim(), 16).unwrap() >> (libc::SIGRTMIN() - 1)
}

fn driver_signals_are_for_who_takes_them() {
    eal();
    let all = u64::MAX >> (libc::SIGRTMIN() - 1);
    // EAL's own threads, by their names in DPDK 22.11 and in 23.11 and later.
    let is_eal_s = |thread: &String| {
        let comm = std::fs::read_to_string(format!("/proc/self/task/{thread}/comm"));
        comm.is_ok_and(|comm| comm.starts_with("eal-") || comm.starts_with("dpdk-"))
    };
    let threads: Vec<String> = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|thread| thread.unwrap().file_name().into_string().unwrap())
        .filter(is_eal_s)
        .collect();
    assert!(!threads.is_empty(), "the one that waits for interrupts");
    for thread in &threads {
        assert_eq!(blocked_signals(thread), all);
    }
    let taken = std::thread::spawn(|| {
        take_signals(eal());
        // SAFETY: has no precondition.
        blocked_signals(&unsafe { libc::gettid() }.to_string())
    });
    assert_eq!(taken.join().unwrap(), 0);
}

fn refusals_say_what_to_do() {
    let pool = pool("refuse", 63);
    let pools = std::slice::from_ref(&pool);
    let refusal = |config: PortConfig| Port::open(eal(), &config, pools).unwrap_err().to_string();
    let null = || config(Device::Vdev("net_null0".to_owned()));

    let text = refusal(config(Device::Vdev("net_nosuch0".to_owned())));
    assert!(text.starts_with("port vdev:net_nosuch0: "), "{text}");
    let text = refusal(config(Device::Pci("0000:ff:1f.7".to_owned())));
    assert!(text.contains("no DPDK driver took the device"), "{text}");
    let text = refusal(config(Device::Tap {
        name: "much-too-long-a-name".to_owned(),
    }));
    assert!(text.contains("1 to 15 characters"), "{text}");
    let text = refusal(PortConfig {
        netns: Some("fullgate-no-such".to_owned()),
        ..null()
    });
    assert!(text.contains("ip netns add fullgate-no-such"), "{text}");
    let text = refusal(PortConfig {
        queues: 0,
        ..null()
    });
    assert!(text.contains("1 packet pools for 0 queues"), "{text}");
    let text = refusal(PortConfig {
        queues: 9999,
        ..null()
    });
    assert!(text.contains("the driver net_null has"), "{text}");
    let text = refusal(PortConfig { mtu: 20, ..null() });
    assert!(text.contains("MTU 20: the driver net_null takes"), "{text}");
    // A refusal leaves nothing behind that the next attempt trips over.
    Port::open(eal(), &null(), pools).unwrap();

    for (processor_only, count, data_room) in [(false, 1 << 26, 2176), (true, u32::MAX, 65_535)] {
        let no_memory = Mempool::new(
            eal(),
            &PoolConfig {
                name: "huge".to_owned(),
                count,
                data_room,
                socket: None,
                processor_only,
            },
        );
        let text = no_memory.unwrap_err().to_string();
        assert!(text.contains("Cannot allocate memory"), "{text}");
    }
}

/// What a NIC computes, says DPDK.
fn reference(src: Ipv4Addr, dst: Ipv4Addr, sport: u16, dport: u16) -> u32 {
    let ports = u32::from(sport) << 16 | u32::from(dport);
    soft_rss(&[src.to_bits(), dst.to_bits(), ports], &DEFAULT_KEY)
}

/// The next of a sequence of full period (Knuth's MMIX constants).
fn next(random: &mut u64) -> u32 {
    *random = random
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*random >> 32) as u32
}

fn our_hash_is_dpdk_s() {
    let toeplitz = Toeplitz::new(DEFAULT_KEY);
    let mut random = 1;
    for _ in 0..10_000 {
        let [src, dst, ports] = [(); 3].map(|()| next(&mut random));
        let (src, dst) = (Ipv4Addr::from_bits(src), Ipv4Addr::from_bits(dst));
        let (sport, dport) = ((ports >> 16) as u16, ports as u16);
        assert_eq!(
            toeplitz.hash_v4(src, dst, sport, dport),
            reference(src, dst, sport, dport),
            "{src}:{sport} to {dst}:{dport}"
        );
    }
}

/// Every local port that any worker's set lends, to the last free one, brings
/// its reply to that worker's queue, says DPDK; and each port is lent once.
fn replies_hash_to_the_worker_that_took_the_port() {
    const FIRST: u16 = 1024;
    let mut random = 2;
    for size in [64, 128, 512] {
        // Another connection for each size; the hashes of its ports are the
        // same whatever the queues.
        let [server, local, port] = [(); 3].map(|()| next(&mut random));
        let (server, local) = (Ipv4Addr::from_bits(server), Ipv4Addr::from_bits(local));
        let server_port = port as u16;
        let hashes: Vec<u32> = (0..=u16::MAX)
            .map(|port| reference(server, local, server_port, port))
            .collect();
        for queues in 1..=64u8 {
            // Uneven: queues drawn for each slot; some may have none.
            let drawn = (0..size).map(|_| WorkerIx((next(&mut random) % u32::from(queues)) as u8));
            for reta in [Reta::even(size, queues), Reta::new(drawn.collect())] {
                let reta = reta.unwrap();
                let table = reta.queues().to_vec();
                let steering = Steering::new(DEFAULT_KEY, reta, SteeringMode::Rss).unwrap();
                let classes = Arc::new(PortClasses::new(Arc::new(steering), FIRST..=u16::MAX));
                let mut lent = vec![false; 65536];
                for worker in (0..queues).map(WorkerIx) {
                    let ports = Arc::new(WorkerPorts::new(Arc::clone(&classes), worker));
                    let mut set = PortSet::new(ports, local, server, server_port, 7);
                    while let Some(port) = set.allocate().map(Lease::into_port) {
                        let slot = hashes[usize::from(port)] as usize % size;
                        assert_eq!(table[slot], worker, "port {port} of {size} slots");
                        let again = std::mem::replace(&mut lent[usize::from(port)], true);
                        assert!(!again, "port {port} twice");
                    }
                    assert_eq!(set.free_count(), 0);
                }
                let lent = lent.iter().filter(|&&lent| lent).count();
                assert_eq!(lent, usize::from(u16::MAX - FIRST) + 1);
            }
        }
    }
}

/// A network namespace of this process, gone at the end.
struct Namespace(String);

impl Namespace {
    fn new(suffix: &str) -> Self {
        let name = format!("fgt{}{suffix}", std::process::id());
        ip(&["netns", "add", &name]);
        Self(name)
    }

    fn ip(&self, arguments: &[&str]) -> String {
        let mut all = vec!["-n", &self.0];
        all.extend(arguments);
        ip(&all)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

/// Moves the calling thread into a namespace.
fn enter(netns: &str) {
    let file = std::fs::File::open(format!("/var/run/netns/{netns}")).unwrap();
    // SAFETY: an open descriptor; changes this thread's namespace only.
    let code = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(code, 0, "{}", io::Error::last_os_error());
}

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "ip {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn tap(netns: &Namespace, name: &str, queues: u16) -> PortConfig {
    PortConfig {
        queues,
        netns: Some(netns.0.clone()),
        ..config(Device::Tap {
            name: name.to_owned(),
        })
    }
}

/// Waits for something that takes the kernel a moment.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A host in two answers: ARP requests for any address but the kernel's own,
/// and UDP datagrams with their payload. Returns whether it was such a packet.
fn answer(bytes: &mut [u8], mac: [u8; 6]) -> bool {
    let is_arp_request = bytes.len() >= 42 && bytes[12..14] == [8, 6] && bytes[21] == 1;
    let is_udp = bytes.len() >= 42 && bytes[12..14] == [8, 0] && bytes[23] == 17;
    if is_arp_request {
        bytes[21] = 2;
        let (sender, target) = (bytes[22..32].to_vec(), bytes[38..42].to_vec());
        bytes[32..42].copy_from_slice(&sender);
        bytes[22..28].copy_from_slice(&mac);
        bytes[28..32].copy_from_slice(&target);
    } else if is_udp {
        // Swapping addresses and ports leaves both checksums right.
        for i in 26..30 {
            bytes.swap(i, i + 4);
        }
        bytes.swap(34, 36);
        bytes.swap(35, 37);
    } else {
        return false;
    }
    bytes.copy_within(6..12, 0);
    bytes[6..12].copy_from_slice(&mac);
    true
}

/// One round over all queues.
fn poll_host(ios: &mut [DpdkIo], mac: [u8; 6]) {
    let mut burst: ArrayVec<Mbuf, BURST> = ArrayVec::new();
    let mut out: ArrayVec<Mbuf, TX_BURST> = ArrayVec::new();
    for io in ios {
        io.receive(PortIx(0), &mut burst);
        for mut packet in burst.drain(..) {
            if answer(packet.bytes_mut(), mac) {
                out.push(packet);
            }
        }
        io.transmit(PortIx(0), &mut out);
        out.clear();
    }
}

fn split(port: &mut Port, pool: &Mempool) -> Vec<DpdkIo> {
    let queues = port.take_queues().unwrap();
    queues
        .into_iter()
        .map(|queue| DpdkIo::new(vec![queue], pool.clone()))
        .collect()
}

fn tap_in_a_namespace_carries_traffic() {
    let netns = Namespace::new("a");
    let pool = pool("tap", 1023);
    let config = tap(&netns, "fgtap0", 2);
    let mut port = Port::open(eal(), &config, std::slice::from_ref(&pool)).unwrap();
    port.start().unwrap();
    assert_eq!(port.driver(), "net_tap");
    assert_eq!((port.queues(), port.mtu()), (2, 1500));
    assert_eq!(port.name(), "tap:fgtap0");
    assert!(matches!(port.rss(), RssStatus::Unavailable(_)));
    // There, and only there: also the second queue is not a second interface.
    let links = netns.ip(&["-o", "link"]);
    assert_eq!(links.matches("fgtap0").count(), 1, "{links}");
    assert!(!ip(&["-o", "link"]).contains("fgtap0"));
    netns.ip(&["addr", "add", "10.9.0.1/24", "dev", "fgtap0"]);
    netns.ip(&["link", "set", "fgtap0", "up"]);
    eventually("link up", || port.link().unwrap().up);

    let mac = port.mac();
    assert_ne!(mac, [0; 6]);
    let mut ios = split(&mut port, &pool);
    // Many flows, so that the kernel uses both queues.
    let name = netns.0.clone();
    let client = std::thread::spawn(move || {
        enter(&name);
        (0..32u8).filter(|n| echo(*n).is_ok()).count()
    });
    take_signals(eal());
    eventually("the client is done", || {
        poll_host(&mut ios, mac);
        client.is_finished()
    });
    assert_eq!(client.join().unwrap(), 32);
    let stats = port.stats().unwrap();
    assert!(stats.rx_packets >= 33, "{stats:?}");
    assert!(stats.tx_packets >= 33, "{stats:?}");
    drop(ios);
    drop(port);
    assert_eq!(pool.free(), 1023);
}

/// Sends a datagram from a fresh port and waits for its echo.
fn echo(number: u8) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::new(10, 9, 0, 1), 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.connect((Ipv4Addr::new(10, 9, 0, 2), 7))?;
    let payload = [number; 100];
    socket.send(&payload)?;
    let mut answer = [0; 200];
    let len = socket.recv(&mut answer)?;
    if answer[..len] == payload {
        Ok(())
    } else {
        Err(io::Error::from(io::ErrorKind::InvalidData))
    }
}

fn tap_restarts_and_changes_mtu() {
    let netns = Namespace::new("b");
    let pool = pool("mtu", 511);
    let config = tap(&netns, "fgtap1", 2);
    let mut port = Port::open(eal(), &config, std::slice::from_ref(&pool)).unwrap();
    port.start().unwrap();
    port.stop().unwrap();
    port.start().unwrap();
    port.set_mtu(1400).unwrap();
    assert_eq!(port.mtu(), 1400);
    assert!(port.started());
    let link = netns.ip(&["link", "show", "fgtap1"]);
    assert!(link.contains("mtu 1400"), "{link}");
    let error = port.set_mtu(9000).unwrap_err();
    // The driver of DPDK 22.11 can't; that of 24.11 could, but not in one buffer.
    assert!(
        matches!(error, Error::Mtu { .. } | Error::OneBuffer { .. }),
        "{error}"
    );
    let text = error.to_string();
    assert!(text.starts_with("port tap:fgtap1: MTU 9000: "), "{text}");
    assert_eq!(port.mtu(), 1400);
    port.take_queues().unwrap();
}

fn tap_refuses_too_many_queues() {
    let netns = Namespace::new("c");
    let pool = pool("many", 63);
    // More than any version of the driver has; that of 22.11 has 16.
    let config = tap(&netns, "fgtap2", 1000);
    let refused = Port::open(eal(), &config, std::slice::from_ref(&pool));
    let text = refused.unwrap_err().to_string();
    let has = text
        .strip_prefix("port tap:fgtap2: 1000 workers need as many queues; the driver net_tap has ")
        .and_then(|count| count.parse::<u16>().ok());
    assert!(
        has.is_some_and(|count| (16..1000).contains(&count)),
        "{text}"
    );
    assert!(!netns.ip(&["-o", "link"]).contains("fgtap2"));
}

fn tap_is_gone_after_close() {
    let netns = Namespace::new("d");
    let pool = pool("gone", 511);
    for _ in 0..3 {
        let config = tap(&netns, "fgtap3", 1);
        let mut port = Port::open(eal(), &config, std::slice::from_ref(&pool)).unwrap();
        port.start().unwrap();
        let queues = port.take_queues().unwrap();
        drop(port);
        assert!(
            netns.ip(&["-o", "link"]).contains("fgtap3"),
            "as long as a worker holds its queue"
        );
        drop(queues);
        assert!(!netns.ip(&["-o", "link"]).contains("fgtap3"));
    }
    assert_eq!(pool.free(), 511);
}
