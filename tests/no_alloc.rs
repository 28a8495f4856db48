//! A worker allocates nothing and releases nothing once it is made, whatever
//! comes: the allocator counts while the worker is polled.

mod rig;

use std::sync::Arc;

use fullgate::capture::{Ring, Tap};
use fullgate::conntrack::timeouts::Timeouts;
use fullgate::filter::Filter;
use fullgate::io::PacketBuf as _;
use fullgate::service::snapshot::Answer;
use fullgate::snat::steering::SteeringMode;
use fullgate::stats::{DropReason, Event};
use fullgate::wire::tcp::Flags;
use fullgate::worker::message::{Command, DropScan, Order, PoolScan, Reply, Scan};

use rig::counting::{Counting, calls};
use rig::{GATEWAY, KERNEL_DEPTH, LAN, Options, Rig, Segment, WAN, reload};

#[global_allocator]
static COUNTING: Counting = Counting;

fn options() -> Options {
    let timeouts = Timeouts {
        established: 5_000,
        ..Timeouts::default()
    };
    Options {
        connections: 256,
        services: vec![(timeouts, Answer::Reset), (timeouts, Answer::Silent)],
        servers: 4,
        resets_per_second: 100_000,
        kernel: false,
    }
}

fn connect(rig: &mut Rig, clients: std::ops::Range<u32>, service: u16) {
    for n in clients {
        rig.receive_segment(WAN, &Segment::syn(n, service));
        rig.settle();
    }
}

#[test]
fn the_allocator_is_counted() {
    let before = calls();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(calls(), before + 2);
}

#[test]
fn connections_begin_live_and_end_without_the_allocator() {
    let mut rig = Rig::new(&options());
    connect(&mut rig, 0..100, 0);
    connect(&mut rig, 100..200, 1);
    assert_eq!(rig.worker.table().len(), 200);
    let table = rig.worker.table();
    let entries: Vec<_> = table
        .slots(fullgate::ids::SlotIx(0), table.slots_end())
        .map(|slot| *table.get(slot))
        .collect();
    for entry in &entries {
        rig.receive_segment(WAN, &Segment::from_client(entry));
        rig.receive_segment(LAN, &Segment::from_server(entry));
        rig.settle();
    }
    for entry in &entries[..50] {
        let fin = Flags(Flags::FIN.0 | Flags::ACK.0);
        let segments = [
            (WAN, Segment::from_client(entry)),
            (LAN, Segment::from_server(entry)),
        ];
        for (port, segment) in segments {
            rig.receive_segment(
                port,
                &Segment {
                    flags: fin,
                    ..segment
                },
            );
            rig.settle();
        }
    }
    rig.pass(180_000);
    assert_eq!(rig.worker.table().len(), 0);
    assert_eq!(rig.stats.event(Event::IdledOut).get(), 150);
    assert_eq!(rig.dropped(), 0);
    assert_eq!(rig.allocator_calls, 0);
}

#[test]
fn what_is_refused_costs_no_allocation() {
    let mut rig = Rig::new(&options());
    // More than the table holds, most of them never answered.
    for n in 0..1_000 {
        rig.receive_segment(WAN, &Segment::syn(n, 0));
        rig.poll();
        while rig.sent(LAN).is_some() {}
    }
    assert!(rig.stats.event(Event::HalfOpenEvicted).get() > 0);
    let stray = Segment {
        flags: Flags::ACK,
        ..Segment::syn(5_000, 1)
    };
    rig.receive_segment(WAN, &stray);
    rig.receive_datagram(WAN, &stray);
    rig.receive(WAN, |frame| frame.fill(0xff));
    rig.settle();
    // Their second attempts, the end of the half-open ones, and of what is kept
    // of those to answer latecomers.
    rig.pass(180_000);
    assert_eq!(rig.stats.event(Event::ResetUnknownClient).get(), 1);
    assert_eq!(rig.stats.drop_counter(DropReason::NoService).get(), 1);
    assert_eq!(rig.worker.table().len(), 0);
    assert_eq!(rig.allocator_calls, 0);
}

#[test]
fn commands_are_taken_and_answered_without_the_allocator() {
    let mut rig = Rig::new(&options());
    connect(&mut rig, 0..100, 0);
    let scan = Scan {
        filter: Filter::default(),
        sort: Some(Order::Idle),
        found: Vec::with_capacity(64),
        limit: 64,
        cursor: 0,
        now: rig.now,
    };
    let pools = PoolScan::new((0..8).map(fullgate::ids::SetIx).collect());
    for command in [
        Command::Apply(reload(&options(), 2)),
        Command::Scan(Box::new(scan)),
        Command::Pools(Box::new(pools)),
        Command::LastDrops(Box::new(DropScan::new(None))),
        Command::Stop,
    ] {
        rig.link.commands.push(command).expect("room");
    }
    for _ in 0..100 {
        rig.poll();
    }
    let replies: Vec<Reply> = std::iter::from_fn(|| rig.link.replies.pop()).collect();
    let count = |wanted: fn(&Reply) -> bool| replies.iter().filter(|reply| wanted(reply)).count();
    assert_eq!(count(|reply| matches!(reply, Reply::Applied(_))), 2);
    assert_eq!(
        count(|reply| matches!(reply, Reply::Scanned(s) if s.found.len() == 64)),
        1
    );
    assert_eq!(count(|reply| matches!(reply, Reply::Pools(_))), 1);
    assert_eq!(count(|reply| matches!(reply, Reply::LastDrops(_))), 1);
    assert_eq!(count(|reply| matches!(reply, Reply::Stopped)), 1);
    assert_eq!(rig.allocator_calls, 0);
}

#[test]
fn handing_over_costs_no_allocation() {
    let mut rigs = Rig::several(&options(), 2, SteeringMode::Software);
    for n in 0..200 {
        rigs[0].receive_segment(WAN, &Segment::syn(n, 0));
        for rig in &mut rigs {
            rig.settle();
        }
    }
    assert!(rigs[0].stats.handed_over.get() > 0);
    assert!(!rigs[1].worker.table().is_empty());
    assert_eq!(rigs[0].allocator_calls + rigs[1].allocator_calls, 0);
}

#[test]
fn borrowing_local_ports_costs_no_allocation() {
    let options = Options {
        servers: 1,
        ..options()
    };
    let mut rigs = Rig::with_ports(&options, 2, SteeringMode::Software, 2_000..=2_063);
    for n in 0..100 {
        // Ports in a row would be the workers' in turn.
        rigs[0].receive_segment(WAN, &Segment::syn(n * 7_919 % 50_000, 0));
        for _ in 0..4 {
            for rig in &mut rigs {
                rig.now = rig.now.plus(1);
                rig.settle();
            }
        }
    }
    let stats = rigs.iter().map(|rig| &rig.stats);
    let borrowed = stats.map(|stats| stats.event(Event::LocalPortBorrowed).get());
    assert!(borrowed.sum::<u64>() > 0);
    // They time out, rest, and go back.
    for _ in 0..200_000 {
        for rig in &mut rigs {
            rig.now = rig.now.plus(1);
            rig.settle();
        }
    }
    assert!(rigs.iter().all(|rig| rig.worker.table().is_empty()));
    assert_eq!(rigs[0].allocator_calls + rigs[1].allocator_calls, 0);
}

#[test]
fn fragments_cost_no_allocation() {
    const MORE: u16 = 0x2000;
    let mut rig = Rig::new(&options());
    connect(&mut rig, 0..1, 0);
    let table = rig.worker.table();
    let slot = table
        .slots(fullgate::ids::SlotIx(0), table.slots_end())
        .next();
    let segment = Segment::from_client(table.get(slot.expect("a connection")));
    // In order, and against it.
    for (ident, words) in [(1, [MORE, 3]), (2, [3, MORE])] {
        for word in words {
            rig.receive_fragment(WAN, &segment, ident, word);
            rig.poll();
        }
    }
    assert_eq!(rig.stats.event(Event::Fragmented).get(), 4);
    // More than can be remembered, and more than can wait.
    for ident in 0..10_000 {
        let other = Segment {
            src: std::net::Ipv4Addr::from_bits(0x6440_0000 + u32::from(ident) % 50),
            ..segment
        };
        rig.receive_fragment(WAN, &segment, ident, MORE);
        rig.receive_fragment(WAN, &other, ident, 3);
        rig.poll();
        for port in [WAN, LAN] {
            while rig.sent(port).is_some() {}
        }
    }
    assert!(rig.stats.drop_counter(DropReason::FragmentsFull).get() > 0);
    rig.pass(20_000);
    assert!(rig.stats.drop_counter(DropReason::Ipv4Fragment).get() > 0);
    assert_eq!(rig.allocator_calls, 0);
}

#[test]
fn a_narrow_path_costs_no_allocation() {
    let mut rig = Rig::new(&options());
    connect(&mut rig, 0..1, 0);
    let table = rig.worker.table();
    let slot = table
        .slots(fullgate::ids::SlotIx(0), table.slots_end())
        .next();
    let segment = Segment::from_server(table.get(slot.expect("a connection")));
    rig.receive_long(LAN, &segment, 1_500);
    rig.poll();
    let sent = rig.sent(WAN).expect("the segment").bytes().to_vec();
    rig.receive_too_big(&sent, 552);
    rig.poll();
    assert_eq!(rig.stats.event(Event::PathMtuClamped).get(), 1);
    assert!(rig.sent(LAN).is_some());
    for ip_len in [1_500, 1_280, 552, 40] {
        rig.receive_long(LAN, &segment, ip_len);
        rig.poll();
    }
    assert_eq!(rig.stats.event(Event::FragmentsMade).get(), 6);
    assert_eq!(std::iter::from_fn(|| rig.sent(WAN)).count(), 8);
    assert_eq!(rig.dropped(), 0);
    assert_eq!(rig.allocator_calls, 0);
}

#[test]
fn what_is_the_kernels_costs_no_allocation() {
    let mut rig = Rig::new(&Options {
        kernel: true,
        ..options()
    });
    let to_port = Segment {
        dst: GATEWAY,
        ..Segment::syn(1, 0)
    };
    // More than the ring holds.
    for _ in 0..2 * KERNEL_DEPTH {
        rig.receive_segment(WAN, &to_port);
        rig.poll();
    }
    assert_eq!(rig.kernel.to.len(), KERNEL_DEPTH);
    let full = rig.stats.drop_counter(DropReason::KernelRingFull).get();
    assert_eq!(full, KERNEL_DEPTH as u64);
    let from = rig.kernel.from.clone().expect("a ring");
    while let Some(mut frame) = rig.kernel.to.receive() {
        if let Some(mut answer) = from.take_empty() {
            answer.port = WAN;
            answer.set_len(frame.bytes().len());
            answer.room_mut()[..frame.bytes().len()].copy_from_slice(frame.bytes());
            from.send(answer);
        }
        frame.set_len(0);
        rig.kernel.to.give_empty(frame);
    }
    for _ in 0..KERNEL_DEPTH {
        rig.poll();
        while rig.sent(WAN).is_some() {}
    }
    let sent = rig.stats.event(Event::FromKernel).get();
    assert_eq!(sent, KERNEL_DEPTH as u64);
    assert_eq!(rig.allocator_calls, 0);
}

#[test]
fn a_capture_costs_no_allocation() {
    let mut rig = Rig::new(&options());
    let ring = Arc::new(Ring::new(64, 128, 2));
    let drops = Filter {
        drops: true,
        ..Filter::default()
    };
    let taps = [(1, Filter::default()), (2, drops)];
    for (id, filter) in taps {
        let tap = Tap::new(id, filter, 1, Arc::clone(&ring));
        rig.link
            .commands
            .push(Command::Capture(Box::new(tap)))
            .expect("room");
    }
    rig.poll();
    connect(&mut rig, 0..20, 0);
    let stray = Segment {
        flags: Flags::ACK,
        ..Segment::syn(5_000, 1)
    };
    rig.receive_segment(WAN, &stray);
    rig.settle();
    for id in [1, 2] {
        rig.link
            .commands
            .push(Command::EndCapture(id))
            .expect("room");
    }
    rig.poll();
    let replies: Vec<Reply> = std::iter::from_fn(|| rig.link.replies.pop()).collect();
    let count = |wanted: fn(&Reply) -> bool| replies.iter().filter(|reply| wanted(reply)).count();
    assert_eq!(count(|reply| matches!(reply, Reply::Capturing(_))), 2);
    assert_eq!(count(|reply| matches!(reply, Reply::Captured(_))), 2);
    assert!(ring.lost().sum::<u64>() > 0, "the ring is filled");
    assert!(ring.take().is_some());
    assert_eq!(rig.allocator_calls, 0);
}
