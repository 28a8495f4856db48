//! Properties of port sets:
//! - a set does what a map from port to state does, in the cyclic order that a
//!   fresh set shows;
//! - every port handed out brings its reply to the worker that took it, and the
//!   workers' sets together are the whole range, each port once;
//! - a port taken and given back within a lap comes last.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::snat::steering::{Reta, SteeringMode};
use crate::snat::toeplitz::DEFAULT_KEY;

const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 3, 4);
const SERVER_PORT: u16 = 8080;
const ALL_PORTS: RangeInclusive<u16> = 1024..=u16::MAX;

fn classes(reta: Reta, range: RangeInclusive<u16>) -> Arc<PortClasses> {
    let steering = Steering::new(DEFAULT_KEY, reta, SteeringMode::Rss).unwrap();
    Arc::new(PortClasses::new(Arc::new(steering), range))
}

fn set(classes: &Arc<PortClasses>, worker: u8, seed: u64) -> PortSet {
    let worker = WorkerPorts::new(classes.clone(), WorkerIx(worker));
    PortSet::new(Arc::new(worker), LOCAL, SERVER, SERVER_PORT, seed)
}

/// Takes what is free, to the last port.
fn drain(set: &mut PortSet) -> Vec<u16> {
    std::iter::from_fn(|| set.allocate().map(Lease::into_port)).collect()
}

/// Drains the sets of every worker that `reta` can name, and sees every port
/// of `range` exactly once, on the worker that its reply reaches.
fn partitions(reta: Reta, range: RangeInclusive<u16>) {
    let classes = classes(reta, range.clone());
    let mut seen = vec![false; 65536];
    for worker in 0..=u8::MAX {
        if classes.steering.classes_of(WorkerIx(worker)).is_empty() {
            assert_eq!(set(&classes, worker, 1).capacity(), 0);
            assert_eq!(set(&classes, worker, 1).allocate(), None);
            continue;
        }
        let mut set = set(&classes, worker, u64::from(worker) * 977);
        let ports = drain(&mut set);
        assert_eq!(ports.len() as u32, set.capacity());
        for port in ports {
            let owner = classes.steering.owner(SERVER, LOCAL, SERVER_PORT, port);
            assert_eq!(owner, WorkerIx(worker), "port {port}");
            assert!(!seen[usize::from(port)], "port {port} twice");
            seen[usize::from(port)] = true;
        }
    }
    for port in 0..=u16::MAX {
        let wanted = port != 0 && range.contains(&port);
        assert_eq!(seen[usize::from(port)], wanted, "port {port}");
    }
}

#[test]
fn sets_can_be_sent_to_their_worker() {
    fn sends<T: Send>() {}
    sends::<Box<PortSet>>();
}

#[test]
fn even_tables_divide_all_ports_among_the_workers() {
    for size in [64, 128, 512] {
        for queues in 1..=64 {
            partitions(Reta::even(size, queues).unwrap(), ALL_PORTS);
        }
    }
}

#[test]
fn every_size_of_table_and_odd_ranges_divide() {
    for bits in 1..=12 {
        partitions(Reta::even(1 << bits, 3).unwrap(), ALL_PORTS);
        partitions(Reta::even(1 << bits, 2).unwrap(), 0..=u16::MAX);
        partitions(Reta::even(1 << bits, 5).unwrap(), 65535..=65535);
        partitions(Reta::even(1 << bits, 5).unwrap(), 5001..=5009);
    }
}

#[test]
fn even_tables_give_even_shares() {
    let classes = classes(Reta::even(128, 4).unwrap(), ALL_PORTS);
    for worker in 0..4 {
        assert_eq!(set(&classes, worker, 0).capacity(), 64512 / 4);
    }
}

#[test]
fn seed_decides_the_first_port() {
    let classes = classes(Reta::even(128, 1).unwrap(), ALL_PORTS);
    let first = |seed| set(&classes, 0, seed).allocate();
    assert_eq!(first(7), first(7));
    assert_ne!(first(7), first(8));
}

#[test]
fn full_set_lends_only_what_rests() {
    let classes = classes(Reta::even(128, 2).unwrap(), ALL_PORTS);
    let mut set = set(&classes, 1, 12345);
    let ports = drain(&mut set);
    assert_eq!(set.free_count(), 0);
    assert_eq!(set.steal(), None);

    // Of those resting, the one taken longest ago goes first.
    for at in [30_000, 7, 20_000] {
        set.mark_resting(ports[at]).unwrap();
    }
    assert_eq!((set.used_count(), set.resting_count()), (32253, 3));
    assert_eq!(set.allocate(), None);
    for at in [7, 20_000, 30_000] {
        assert_eq!(set.steal().map(Lease::into_port), Some(ports[at]));
    }
    assert_eq!(set.steal(), None);
    assert_eq!((set.used_count(), set.resting_count()), (32256, 0));

    set.release(ports[99]).unwrap();
    assert_eq!(set.allocate().map(Lease::into_port), Some(ports[99]));
    assert_eq!(set.allocate(), None);
}

#[test]
fn ports_of_others_are_refused() {
    let classes = classes(Reta::even(128, 2).unwrap(), ALL_PORTS);
    let (mut mine, mut other) = (set(&classes, 0, 0), set(&classes, 1, 0));
    let foreign = other.allocate().unwrap().into_port();
    for port in [0, 1023, foreign] {
        assert_eq!(mine.release(port), Err(PortError::Foreign(port)));
        assert_eq!(mine.mark_resting(port), Err(PortError::Foreign(port)));
        assert_eq!(mine.restore(port), Err(PortError::Foreign(port)));
    }
    assert_eq!(mine.free_count(), mine.capacity());
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PortState {
    Free,
    Used,
    Resting,
}

/// What a set has to do, over its ports in the order of its bits.
struct Model {
    order: Vec<u16>,
    state: BTreeMap<u16, PortState>,
    cursor: usize,
}

impl Model {
    fn take(&mut self, wanted: PortState) -> Option<u16> {
        let len = self.order.len();
        let at = (self.cursor..self.cursor + len)
            .map(|at| at % len)
            .find(|&at| self.state[&self.order[at]] == wanted)?;
        self.cursor = (at + 1) % len;
        self.state.insert(self.order[at], PortState::Used);
        Some(self.order[at])
    }

    /// Moves `port` to `to`, if it is there and in one of the states `from`.
    fn change(&mut self, port: u16, from: &[PortState], to: PortState) -> Result<(), PortError> {
        let Some(state) = self.state.get_mut(&port) else {
            return Err(PortError::Foreign(port));
        };
        if from.contains(state) {
            *state = to;
            return Ok(());
        }
        Err(match state {
            PortState::Free => PortError::Free(port),
            PortState::Used => PortError::InUse(port),
            PortState::Resting => PortError::Resting(port),
        })
    }

    fn count(&self, wanted: PortState) -> u32 {
        self.state
            .values()
            .filter(|&&state| state == wanted)
            .count() as u32
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Allocate,
    Steal,
    MarkResting(u16),
    Resume(u16),
    Release(u16),
    Restore(u16),
}

fn step(range: RangeInclusive<u16>) -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Allocate),
        2 => Just(Step::Steal),
        4 => range.clone().prop_map(Step::MarkResting),
        4 => range.clone().prop_map(Step::Release),
        2 => range.clone().prop_map(Step::Resume),
        1 => range.prop_map(Step::Restore),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn behaves_as_a_map_of_states(
        (bits, queues) in (1u32..=9, 1u8..5),
        ports in prop_oneof![Just(40u16), 1u16..600],
        seed: u64,
        steps in prop::collection::vec(step(29_990..=30_100), 1..600),
    ) {
        let range = 30_000..=30_000 + (ports - 1);
        let classes = classes(Reta::even(1 << bits, queues).unwrap(), range);
        let mut set = set(&classes, 0, seed);
        let order = drain(&mut set);
        prop_assume!(!order.is_empty());
        for &port in &order {
            set.release(port).unwrap();
        }
        let state = order.iter().map(|&port| (port, PortState::Free)).collect();
        let mut model = Model { order, state, cursor: 0 };
        use PortState::{Free, Resting, Used};
        for step in steps {
            match step {
                Step::Allocate => prop_assert_eq!(set.allocate().map(Lease::into_port), model.take(Free)),
                Step::Steal => prop_assert_eq!(set.steal().map(Lease::into_port), model.take(Resting)),
                Step::MarkResting(port) =>
                    prop_assert_eq!(set.mark_resting(port), model.change(port, &[Used], Resting)),
                Step::Resume(port) =>
                    prop_assert_eq!(set.resume(port), model.change(port, &[Resting], Used)),
                Step::Release(port) =>
                    prop_assert_eq!(set.release(port), model.change(port, &[Used, Resting], Free)),
                Step::Restore(port) =>
                    prop_assert_eq!(set.restore(port), model.change(port, &[Free], Used)),
            }
            prop_assert_eq!(set.free_count(), model.count(Free));
            prop_assert_eq!(set.used_count(), model.count(Used));
            prop_assert_eq!(set.resting_count(), model.count(Resting));
        }
    }

    #[test]
    fn port_given_back_within_a_lap_comes_last(
        seed: u64, held in prop::collection::vec(1024u16.., 0..3000), taken in 1usize..300, at: usize,
    ) {
        let classes = classes(Reta::even(128, 3).unwrap(), ALL_PORTS);
        let mut set = set(&classes, 2, seed);
        for port in held {
            _ = set.restore(port);
        }
        let fresh: Vec<u16> = (0..taken).map(|_| set.allocate().unwrap().into_port()).collect();
        let given_back = fresh[at % taken];
        set.release(given_back).unwrap();
        let order = drain(&mut set);
        prop_assert_eq!(order.last(), Some(&given_back));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// `skew` leaves some queues with very few slots or none.
    #[test]
    fn uneven_tables_divide_too(
        bits in 1u32..=9,
        slots in prop::collection::vec(0f64..1.0, 512),
        (skew, queues) in (1i32..8, 1u8..=64),
        a: u16, b: u16,
    ) {
        let queues = slots[..1 << bits]
            .iter()
            .map(|slot| WorkerIx((slot.powi(skew) * f64::from(queues)) as u8))
            .collect();
        partitions(Reta::new(queues).unwrap(), a.min(b)..=a.max(b));
    }
}
