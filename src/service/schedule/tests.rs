//! Properties: a cycle of `wrr` holds exact shares and every prefix of it is
//! within one pick of them; `wlc` picks a least loaded server; `sh` keeps a
//! client where it is unless its server goes or the new one gets it; no plan
//! returns an unusable server, and each finds one if there is one.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

use super::*;

const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

fn servers(weights: &[u32]) -> Vec<(ServerIx, u32)> {
    weights
        .iter()
        .enumerate()
        .map(|(ix, &weight)| (ServerIx(ix as u32), weight))
        .collect()
}

fn plan(kind: Scheduler, weights: &[u32]) -> Plan {
    Plan::build(kind, &servers(weights))
}

fn picks(plan: &Plan, count: usize) -> Vec<u32> {
    let mut cursor = Cursor::default();
    (0..count)
        .map(|_| {
            plan.pick(&mut cursor, CLIENT, |_| 0, |_| true)
                .expect("a server")
                .0
        })
        .collect()
}

#[test]
fn round_robin_ignores_weights_but_zero() {
    assert_eq!(
        picks(&plan(Scheduler::RoundRobin, &[1, 0, 9, 2]), 7),
        [0, 2, 3, 0, 2, 3, 0]
    );
}

#[test]
fn weighted_round_robin_interleaves() {
    assert_eq!(
        picks(&plan(Scheduler::WeightedRoundRobin, &[4, 2, 2]), 8),
        [0, 1, 0, 2, 0, 1, 0, 2]
    );
    assert_eq!(
        picks(&plan(Scheduler::WeightedRoundRobin, &[100, 300]), 4),
        [1, 1, 0, 1]
    );
}

#[test]
fn huge_coprime_weights_are_scaled() {
    let plan = plan(Scheduler::WeightedRoundRobin, &[65_535, 65_534, 65_533, 1]);
    assert!(plan.sequence.len() as u64 <= SEQUENCE_MAX + 4);
    let mut counts = [0_u32; 4];
    for server in plan.sequence.iter() {
        counts[server.ix()] += 1;
    }
    assert_eq!(counts[3], 1);
    assert!(
        counts[..3]
            .iter()
            .all(|&count| (21_843..=21_846).contains(&count)),
        "{counts:?}"
    );
}

#[test]
fn an_empty_plan_picks_nothing() {
    for kind in Scheduler::ALL {
        for weights in [&[][..], &[0, 0]] {
            let picked = plan(kind, weights).pick(&mut Cursor(7), CLIENT, |_| 0, |_| true);
            assert_eq!(picked, None, "{kind}");
        }
    }
}

#[test]
fn least_connections_of_idle_servers_takes_turns() {
    let picked = picks(&plan(Scheduler::WeightedLeastConnections, &[1, 1, 1]), 6);
    assert_eq!(picked, [0, 1, 2, 0, 1, 2]);
}

/// Connections that `wlc` gives each of `weights` when none ends.
fn loads(weights: &[u32], connections: usize) -> Vec<u64> {
    let plan = plan(Scheduler::WeightedLeastConnections, weights);
    let mut active = vec![0_u64; weights.len()];
    let mut cursor = Cursor::default();
    for _ in 0..connections {
        let server = plan
            .pick(&mut cursor, CLIENT, |s| active[s.ix()], |_| true)
            .expect("one");
        active[server.ix()] += 1;
    }
    active
}

#[test]
fn least_connections_reaches_every_server_of_a_large_service() {
    let active = loads(&[1; 200], 20_000);
    let (least, most) = (active.iter().min(), active.iter().max());
    assert!(
        *least.expect("200") >= 98 && *most.expect("200") <= 102,
        "{least:?} {most:?}"
    );
}

#[test]
fn least_connections_of_a_large_service_follow_the_weights_in_any_order() {
    let block = |server: usize| if server < 500 { 10 } else { 1 };
    let striped = |server: usize| if server.is_multiple_of(2) { 10 } else { 1 };
    for weight in [block, striped] {
        let weights: Vec<u32> = (0..1_000).map(weight).collect();
        // 20 for each unit of weight.
        for (load, weight) in loads(&weights, 110_000).into_iter().zip(weights) {
            let share = load as f64 / f64::from(weight);
            assert!((16.0..=24.0).contains(&share), "{load} of weight {weight}");
        }
    }
}

#[test]
fn source_hash_shares_follow_the_weights() {
    let plan = plan(Scheduler::SourceHash, &[1, 2, 5]);
    let mut counts = [0_u32; 3];
    for client in 0..80_000_u32 {
        let client = Ipv4Addr::from(0x0a00_0000 + client);
        let server = plan
            .pick(&mut Cursor::default(), client, |_| 0, |_| true)
            .expect("one");
        counts[server.ix()] += 1;
    }
    for (count, ideal) in counts.into_iter().zip([10_000.0, 20_000.0, 50_000.0]) {
        assert!((f64::from(count) / ideal - 1.0).abs() < 0.25, "{counts:?}");
    }
}

#[test]
fn clients_of_a_dead_server_spread_over_all_others() {
    let plan = plan(Scheduler::SourceHash, &[1; 8]);
    let mut takers: BTreeMap<u32, u32> = BTreeMap::new();
    for client in 0..8_000_u32 {
        let client = Ipv4Addr::from(client);
        let first = plan.pick(&mut Cursor::default(), client, |_| 0, |_| true);
        let then = plan.pick(&mut Cursor::default(), client, |_| 0, |s| s != ServerIx(3));
        if first == Some(ServerIx(3)) {
            *takers.entry(then.expect("one").0).or_default() += 1;
        } else {
            assert_eq!(first, then, "a client of a live server stays");
        }
    }
    assert_eq!(takers.len(), 7, "{takers:?}");
}

fn any_kind() -> impl Strategy<Value = Scheduler> {
    (0..Scheduler::ALL.len()).prop_map(|at| Scheduler::ALL[at])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_prefix_is_within_one_pick_of_the_shares(
        weights in prop::collection::vec(1_u32..40, 1..12),
    ) {
        let plan = plan(Scheduler::WeightedRoundRobin, &weights);
        let divisor = weights.iter().fold(0, |a, &b| greatest_common_divisor(a, u64::from(b)));
        let total: u64 = weights.iter().map(|&weight| u64::from(weight) / divisor).sum();
        prop_assert_eq!(plan.sequence.len() as u64, total);
        let mut counts = vec![0_u64; weights.len()];
        for (slot, server) in plan.sequence.iter().enumerate() {
            counts[server.ix()] += 1;
            for (count, &weight) in counts.iter().zip(&weights) {
                let ideal = (slot as u64 + 1) * (u64::from(weight) / divisor);
                prop_assert!(*count >= ideal / total && *count <= ideal.div_ceil(total));
            }
        }
    }

    #[test]
    fn no_gap_is_twice_the_ideal(weights in prop::collection::vec(1_u32..40, 2..12)) {
        let plan = plan(Scheduler::WeightedRoundRobin, &weights);
        let total: u32 = weights.iter().sum();
        let picked = picks(&plan, plan.sequence.len() * 2);
        for (server, &weight) in weights.iter().enumerate() {
            let turns: Vec<_> =
                (0..picked.len()).filter(|&at| picked[at] == server as u32).collect();
            let widest = turns.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
            prop_assert!((widest as f64) < 2.0 * f64::from(total) / f64::from(weight) + 1.0);
        }
    }

    #[test]
    fn least_connections_is_least(
        loads in prop::collection::vec((0_u64..50, 1_u32..20), 1..COMPARED),
        cursor: u32,
    ) {
        let weights: Vec<_> = loads.iter().map(|&(_, weight)| weight).collect();
        let plan = plan(Scheduler::WeightedLeastConnections, &weights);
        let picked = plan.pick(&mut Cursor(cursor), CLIENT, |s| loads[s.ix()].0, |_| true);
        let ratio = |(load, weight): (u64, u32)| (load + 1) as f64 / f64::from(weight);
        let picked = ratio(loads[picked.expect("one").ix()]);
        prop_assert!(loads.iter().all(|&load| picked <= ratio(load) + 1e-9));
    }

    #[test]
    fn source_hash_moves_only_the_share_of_who_comes_or_goes(
        weights in prop::collection::vec(1_u32..10, 2..8),
        gone in any::<prop::sample::Index>(),
    ) {
        let all = servers(&weights);
        let gone = all[gone.index(all.len())].0;
        let rest: Vec<_> = all.iter().copied().filter(|&(server, _)| server != gone).collect();
        let with = Plan::build(Scheduler::SourceHash, &all);
        let without = Plan::build(Scheduler::SourceHash, &rest);
        for (before, after) in with.sequence.iter().zip(without.sequence.iter()) {
            prop_assert!(before == after || *before == gone);
        }
    }

    #[test]
    fn finds_a_usable_server_if_there_is_one(
        kind in any_kind(),
        weights in prop::collection::vec(0_u32..50, 0..120),
        usable in prop::collection::hash_set(0_u32..120, 0..6),
        cursor: u32,
        client: u32,
    ) {
        let plan = plan(kind, &weights);
        let candidates: HashSet<u32> = usable
            .into_iter()
            .filter(|&ix| weights.get(ix as usize).is_some_and(|&weight| weight > 0))
            .collect();
        let mut cursor = Cursor(cursor);
        for _ in 0..3 {
            let picked =
                plan.pick(&mut cursor, client.into(), |s| u64::from(s.0), |s| candidates.contains(&s.0));
            match picked {
                Some(server) => prop_assert!(candidates.contains(&server.0)),
                None => prop_assert!(candidates.is_empty()),
            }
        }
    }
}
