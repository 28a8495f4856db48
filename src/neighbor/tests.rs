use std::collections::HashMap;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

const HOP: NextHop = NextHop {
    port: PortIx(0),
    addr: Ipv4Addr::new(10, 0, 0, 1),
};
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

/// Room for 32 residents, 12 strangers, 20 guests.
const ROOM: usize = 96;

fn hop(n: u32) -> NextHop {
    NextHop {
        addr: (0x0a01_0000 + n).into(),
        ..HOP
    }
}

fn empty() -> Neighbors<u32> {
    Neighbors::new(ROOM)
}

fn table() -> (Neighbors<u32>, NeighborIx) {
    let mut table = empty();
    let ix = table.index_of(HOP, Room::Any, Millis(0)).expect("room");
    (table, ix)
}

fn resident() -> (Neighbors<u32>, NeighborIx) {
    let mut table = empty();
    table.adopt(&[], &[HOP], Millis(0));
    let ix = table.index_of(HOP, Room::Any, Millis(0)).expect("there");
    (table, ix)
}

fn condition(table: &Neighbors<u32>, hop: NextHop) -> Option<Condition> {
    table.known(hop).map(|known| known.condition)
}

fn is_sent(resolution: Resolution) -> bool {
    matches!(resolution, Resolution::Send(..))
}

/// A walk over connections that hold nothing.
fn walk(table: &mut Neighbors<u32>, now: Millis) {
    if table.start_walk(now) {
        table.end_walk(now);
    }
}

#[test]
fn an_unknown_next_hop_is_asked_at_once_and_holds_packets() {
    let (mut table, ix) = table();
    assert_eq!(table.resolve(ix, Millis(0)), Resolution::Wait);
    assert_eq!(table.wait(ix, Room::Any, 7), Wait::Waits);
    assert_eq!(
        table.due(Millis(0)),
        Some(Due::Ask(HOP, MacAddr::BROADCAST))
    );
    assert_eq!(table.due(Millis(50)), None);
    assert!(table.due(Millis(RETRY_MS)).is_some());
    assert_eq!(table.take_waiting(), None);
    assert_eq!(table.learn(HOP, MAC, OWN, Millis(120)), Heard::News);
    assert_eq!(table.take_waiting(), Some((Over::Known(ix), 7)));
    assert_eq!(table.take_waiting(), None);
    assert_eq!(
        table.resolve(ix, Millis(121)),
        Resolution::Send([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9], PortIx(0))
    );
    assert_eq!(table.due(Millis(10_000)), None);
}

#[test]
fn one_that_never_answers_fails_and_is_asked_again_at_once() {
    let (mut table, ix) = resident();
    assert_eq!(table.resolve(ix, Millis(0)), Resolution::Wait);
    assert_eq!(table.wait(ix, Room::Any, 7), Wait::Waits);
    let mut now = Millis(0);
    for _ in 0..RESOLVE_TRIES {
        assert_eq!(table.due(now), Some(Due::Ask(HOP, MacAddr::BROADCAST)));
        now = now.plus(RETRY_MS);
    }
    assert_eq!(table.due(now), Some(Due::Lost(HOP, true)));
    assert_eq!(table.take_waiting(), Some((Over::Failed, 7)));
    assert_eq!(condition(&table, HOP), Some(Condition::Failed));
    // Whoever sends to it again has it asked with the same packet, for less.
    assert_eq!(table.resolve(ix, now), Resolution::Wait);
    for _ in 0..AGAIN_TRIES {
        assert!(matches!(table.due(now), Some(Due::Ask(..))));
        now = now.plus(RETRY_MS);
    }
    assert_eq!(table.due(now), Some(Due::Lost(HOP, false)), "told once");
    assert!(table.known(HOP).expect("there").silent);
    assert_eq!(table.learn(HOP, MAC, OWN, now), Heard::Returned);
    assert!(is_sent(table.resolve(ix, now)));
}

#[test]
fn one_in_use_is_confirmed_without_a_gap() {
    let (mut table, ix) = resident();
    let _ = table.resolve(ix, Millis(0));
    table.learn(HOP, MAC, OWN, Millis(1));
    assert!(is_sent(table.resolve(ix, Millis(2))));
    let now = Millis(RESIDENT_FRESH_MS + 1);
    table.age(now, 8);
    assert_eq!(table.due(now), Some(Due::Ask(HOP, MAC)), "by unicast");
    assert!(is_sent(table.resolve(ix, now.plus(1))));
    assert_eq!(table.learn(HOP, MAC, OWN, now.plus(2)), Heard::News);
    table.age(now.plus(3), 8);
    assert_eq!(table.due(now.plus(200)), None);
}

#[test]
fn one_that_falls_silent_is_asked_by_broadcast_before_it_is_given_up() {
    let (mut table, ix) = resident();
    let _ = table.resolve(ix, Millis(0));
    table.learn(HOP, MAC, OWN, Millis(1));
    let _ = table.resolve(ix, Millis(2));
    let mut now = Millis(RESIDENT_FRESH_MS + 1);
    table.age(now, 8);
    for try_ in 0..CONFIRM_TRIES {
        let to = if try_ < UNICAST_TRIES {
            MAC
        } else {
            MacAddr::BROADCAST
        };
        assert_eq!(table.due(now), Some(Due::Ask(HOP, to)));
        assert!(is_sent(table.resolve(ix, now)), "to the old MAC meanwhile");
        now = now.plus(RETRY_MS);
    }
    assert_eq!(table.due(now), Some(Due::Lost(HOP, true)));
    assert_eq!(condition(&table, HOP), Some(Condition::Failed));
    assert_eq!(table.known(HOP).expect("there").mac(), None);
}

#[test]
fn doubt_asks_by_broadcast_at_once() {
    let (mut table, ix) = resident();
    let _ = table.resolve(ix, Millis(0));
    table.learn(HOP, MAC, OWN, Millis(1));
    table.doubt(ix, Millis(DOUBT_MS));
    assert_eq!(table.due(Millis(DOUBT_MS)), None, "heard just now");
    let now = Millis(DOUBT_MS + 1);
    table.doubt(ix, now);
    table.doubt(ix, now);
    assert_eq!(table.due(now), Some(Due::Ask(HOP, MacAddr::BROADCAST)));
    assert_eq!(table.due(now), None, "once");
    let other = MacAddr([2, 0, 0, 0, 0, 2]);
    assert_eq!(table.learn(HOP, other, OWN, now), Heard::Moved);
    let neighbor = table.known(HOP).expect("there");
    assert_eq!(
        (neighbor.mac(), neighbor.moved_at()),
        (Some(other), Some(now))
    );
    assert_eq!(table.learn(HOP, other, OWN, now.plus(1)), Heard::Same);
    assert_eq!(table.known(HOP).expect("there").moved_at(), None);
}

#[test]
fn an_idle_resident_stays_known() {
    let (mut table, ix) = resident();
    let _ = table.resolve(ix, Millis(0));
    table.learn(HOP, MAC, OWN, Millis(1));
    let mut now = Millis(0);
    for _ in 0..1_000 {
        now = now.plus(1_000);
        table.age(now, 8);
        while let Some(due) = table.due(now) {
            assert_eq!(due, Due::Ask(HOP, MAC));
            table.learn(HOP, MAC, OWN, now);
        }
    }
    assert!(is_sent(table.resolve(ix, now)));
}

#[test]
fn strangers_are_not_learned() {
    let (mut table, _) = table();
    assert_eq!(table.learn(hop(2), MAC, OWN, Millis(0)), Heard::Unknown);
    assert_eq!(table.known(hop(2)).map(|known| known.hop), None);
}

#[test]
fn strangers_make_way_for_one_another_and_for_nobody_else() {
    let mut table = empty();
    let residents: Vec<_> = (0..32).map(hop).collect();
    table.adopt(&[], &residents, Millis(0));
    let clients: Vec<_> = (100..120).map(hop).collect();
    for client in &clients {
        let ix = table.index_of(*client, Room::Any, Millis(0)).expect("room");
        let _ = table.resolve(ix, Millis(0));
        assert_eq!(table.learn(*client, MAC, OWN, Millis(0)), Heard::News);
        assert!(table.keep(ix));
    }
    let mut now = Millis(1);
    for n in 0..20_000 {
        now = now.plus(u64::from(n % 3 == 0));
        let stranger = table
            .index_of(hop(1_000 + n), Room::Any, now)
            .expect("room");
        assert_eq!(table.resolve(stranger, now), Resolution::Wait);
        assert!(!table.keep(stranger));
        let _ = table.wait(stranger, Room::Any, n);
        while table.due(now).is_some() {}
        while table.take_waiting().is_some() {}
    }
    for hop in &residents {
        assert_eq!(condition(&table, *hop), Some(Condition::Unasked));
    }
    for client in &clients {
        assert_eq!(condition(&table, *client), Some(Condition::Known));
    }
    let newcomer = table.index_of(hop(500_000), Room::Any, now).expect("room");
    assert_eq!(table.resolve(newcomer, now), Resolution::Wait);
    assert_eq!(table.wait(newcomer, Room::Any, 1), Wait::Waits);
    assert_eq!(
        table.due(now),
        Some(Due::Ask(hop(500_000), MacAddr::BROADCAST))
    );
    assert!(matches!(
        table.take_waiting(),
        None | Some((Over::Displaced, _))
    ));
    table.learn(hop(500_000), MAC, OWN, now);
    assert_eq!(table.take_waiting(), Some((Over::Known(newcomer), 1)));
}

#[test]
fn what_the_gateway_says_by_itself_takes_nobodys_place() {
    let mut table = empty();
    let newcomer = table.index_of(HOP, Room::Any, Millis(0)).expect("room");
    assert_eq!(table.resolve(newcomer, Millis(0)), Resolution::Wait);
    assert_eq!(table.wait(newcomer, Room::Any, 1), Wait::Waits);
    let mut turned_away = 0;
    for n in 0..2 * WAITING as u32 {
        let Some(stranger) = table.index_of(hop(1_000 + n), Room::Spare, Millis(0)) else {
            turned_away += 1;
            continue;
        };
        let _ = table.resolve(stranger, Millis(0));
        assert_eq!(table.wait(stranger, Room::Spare, n), Wait::Waits);
    }
    assert!(turned_away > 0);
    for n in 0..2 * WAITING as u32 {
        let wait = table.wait(newcomer, Room::Spare, n);
        assert!(matches!(wait, Wait::Waits | Wait::NoRoom(_)));
    }
    table.learn(HOP, MAC, OWN, Millis(1));
    assert_eq!(table.take_waiting(), Some((Over::Known(newcomer), 1)));
}

#[test]
fn a_stranger_is_asked_less_and_less_often_and_has_as_long_to_answer() {
    let mut table = empty();
    let stranger = table.index_of(HOP, Room::Any, Millis(0)).expect("room");
    let _ = table.resolve(stranger, Millis(0));
    let mut asked = Vec::new();
    let lost = (0..2_000).find(|ms| {
        let due = table.due(Millis(*ms));
        if matches!(due, Some(Due::Ask(..))) {
            asked.push(*ms);
        }
        matches!(due, Some(Due::Lost(..)))
    });
    assert_eq!(asked, [0, 100, 300, 700]);
    assert_eq!(lost, Some(u64::from(RESOLVE_TRIES) * RETRY_MS));
}

#[test]
fn the_guest_unused_for_longest_makes_way() {
    let mut table = empty();
    let mut kept = Vec::new();
    for n in 0..20 {
        let ix = table.index_of(hop(n), Room::Any, Millis(0)).expect("room");
        table.learn(hop(n), MAC, OWN, Millis(0));
        assert!(table.keep(ix));
        kept.push(ix);
    }
    let now = Millis(10);
    for (n, ix) in kept.iter().enumerate() {
        if n != 5 {
            assert!(is_sent(table.resolve(*ix, now)));
        }
    }
    table.age(now, ROOM);
    table.index_of(hop(100), Room::Any, now).expect("room");
    table.learn(hop(100), MAC, OWN, now);
    assert_eq!(condition(&table, hop(5)), None);
    assert_eq!(table.resolve(kept[5], now), Resolution::Stale);
    assert!(!table.is_good(kept[5]));
    for (n, ix) in kept.iter().enumerate().filter(|(n, _)| *n != 5) {
        assert_eq!(table.hop(*ix).expect("there").hop, hop(n as u32));
    }
    assert_eq!(table.replaced(), 1);
}

#[test]
fn a_guest_that_nobody_sends_to_leaves() {
    let (mut table, ix) = table();
    table.learn(HOP, MAC, OWN, Millis(0));
    assert!(table.keep(ix));
    table.age(Millis(GUEST_IDLE_MS), 8);
    assert_eq!(condition(&table, HOP), None);
    walk(&mut table, Millis(GUEST_IDLE_MS));
    assert_eq!(table.unused(), ROOM);
}

#[test]
fn servers_come_and_go_for_ever() {
    let mut table = empty();
    let mut before: Vec<NextHop> = Vec::new();
    for round in 0..200 {
        let now = Millis(round * 100);
        let now_named: Vec<_> = (0..30).map(|n| hop(round as u32 * 30 + n)).collect();
        table.adopt(&before, &now_named, now);
        before = now_named;
        for hop in &before {
            let ix = table.index_of(*hop, Room::Any, now).expect("room");
            assert!(table.hop(ix).expect("there").is_resident(), "{round}");
            let _ = table.resolve(ix, now);
            table.learn(*hop, MAC, OWN, now);
            assert!(table.keep(ix));
        }
        walk(&mut table, now);
        assert_eq!(table.residents, 30);
    }
}

#[test]
fn residents_without_a_place_get_one_after_the_walk() {
    let mut table = empty();
    let all: Vec<Vec<_>> = (0..4)
        .map(|of| (0..32).map(|n| hop(of * 32 + n)).collect())
        .collect();
    let mut before: &[NextHop] = &[];
    for named in &all {
        table.adopt(before, named, Millis(0));
        before = named;
        for hop in named.iter() {
            table.learn(*hop, MAC, OWN, Millis(0));
            if let Some(ix) = table.index_of(*hop, Room::Any, Millis(0)) {
                table.keep(ix);
            }
        }
    }
    assert!(table.unplaced);
    assert!(table.start_walk(Millis(0)));
    assert!(table.end_walk(Millis(0)));
    table.adopt(before, before, Millis(0));
    assert_eq!(table.residents, 32);
}

#[test]
fn places_for_waiting_packets_are_shared() {
    let mut table: Neighbors<u32> = Neighbors::new(1_024);
    let residents: Vec<_> = (0..8).map(hop).collect();
    table.adopt(&[], &residents, Millis(0));
    for n in 0..1_000 {
        let ix = table
            .index_of(hop(1_000 + n), Room::Any, Millis(0))
            .expect("room");
        let _ = table.resolve(ix, Millis(0));
        let wait = table.wait(ix, Room::Any, n);
        assert!(!matches!(wait, Wait::NoRoom(_)), "{n}");
        while table.take_waiting().is_some() {}
    }
    assert!(table.waiting() <= WAITING_FOR_GUESTS);
    let ix = table
        .index_of(residents[0], Room::Any, Millis(0))
        .expect("there");
    for n in 0..u32::from(WAITING_PER_HOP) {
        assert!(!matches!(table.wait(ix, Room::Any, n), Wait::NoRoom(_)));
    }
    assert_eq!(table.wait(ix, Room::Any, 99), Wait::NoRoom(99));
}

#[test]
fn counts_follow_the_walk() {
    let (mut table, ix) = resident();
    let _ = table.index_of(hop(5), Room::Any, Millis(0));
    table.learn(HOP, MAC, OWN, Millis(0));
    assert!(is_sent(table.resolve(ix, Millis(0))));
    table.age(Millis(1), 8);
    table.age(Millis(2), 8);
    let counts = table.counts();
    assert_eq!(counts.residents, [1, 0, 0, 0]);
    assert_eq!(counts.guests, [0, 0, 0, 1]);
}

/// What may happen to a table.
#[derive(Clone, Debug)]
enum Step {
    /// A packet of a connection, which keeps the index where it may.
    Packet(u16, u32),
    /// Somebody answers or announces himself.
    Hear(u32),
    Doubt(u16),
    Wait(u64),
    Adopt(Vec<u32>),
    /// The walk over the connections goes on by so many of them.
    Walk(u16),
    /// A connection ends.
    End(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0u16..40, 0u32..60).prop_map(|(c, n)| Step::Packet(c, n)),
        4 => (0u32..60).prop_map(Step::Hear),
        1 => (0u16..40).prop_map(Step::Doubt),
        2 => prop_oneof![0u64..300, 0..GUEST_IDLE_MS].prop_map(Step::Wait),
        1 => proptest::collection::btree_set(0u32..60, 0..11)
            .prop_map(|named| Step::Adopt(named.into_iter().collect())),
        2 => (1u16..40).prop_map(Step::Walk),
        1 => (0u16..40).prop_map(Step::End),
    ];
    proptest::collection::vec(step, 0..400)
}

proptest! {
    /// Against a model of what connections hold: no index ever leads to another
    /// next hop than the one it was given for, residents are always there, and
    /// no slot is lost.
    #[test]
    fn an_index_never_leads_elsewhere(steps in steps()) {
        let mut table: Neighbors<u32> = Neighbors::new(32);
        let (mut now, mut named) = (Millis(0), Vec::new());
        // By connection: where it goes, and the index it keeps.
        let mut connections: HashMap<u16, (NextHop, NeighborIx)> = HashMap::new();
        let mut walked: Option<u16> = None;
        for step in steps {
            match step {
                Step::Packet(connection, n) => {
                    let kept = connections.get(&connection).copied();
                    let to = kept.map_or(hop(n), |(to, _)| to);
                    let mut ix = kept.map(|(_, ix)| ix);
                    if let Some(old) = ix
                        && table.resolve(old, now) == Resolution::Stale
                    {
                        ix = None;
                    }
                    let ix = ix.or_else(|| table.index_of(to, Room::Any, now));
                    if let Some(ix) = ix {
                        prop_assert_eq!(table.hop(ix).map(|known| known.hop), Some(to));
                        match table.resolve(ix, now) {
                            Resolution::Send(l2, _) => prop_assert_eq!(
                                u32::from_be_bytes([l2[2], l2[3], l2[4], l2[5]]),
                                u32::from(to.addr)
                            ),
                            Resolution::Wait => {
                                let _ = table.wait(ix, Room::Any, u32::from(to.addr));
                            }
                            Resolution::Stale => prop_assert!(false, "fresh and stale"),
                        }
                        if table.keep(ix) && kept.is_none() {
                            connections.insert(connection, (to, ix));
                        }
                    }
                }
                Step::Hear(n) => {
                    let [a, b, c, d] = hop(n).addr.octets();
                    table.learn(hop(n), MacAddr([2, 0, a, b, c, d]), OWN, now);
                }
                Step::Doubt(connection) => {
                    if let Some((_, ix)) = connections.get(&connection) {
                        table.doubt(*ix, now);
                    }
                }
                Step::Wait(ms) => {
                    now = now.plus(ms);
                    table.age(now, 16);
                    while table.due(now).is_some() {}
                }
                Step::Adopt(wanted) => {
                    let wanted: Vec<_> = wanted.into_iter().map(hop).collect();
                    table.adopt(&named, &wanted, now);
                    named = wanted;
                }
                Step::Walk(some) => {
                    if walked.is_none() && table.start_walk(now) {
                        walked = Some(0);
                    }
                    if let Some(from) = walked {
                        for connection in from..from + some {
                            connections.retain(|which, (_, ix)| {
                                *which != connection || table.is_good(*ix)
                            });
                        }
                        walked = Some(from + some).filter(|to| *to < 40);
                        if walked.is_none() && table.end_walk(now) {
                            table.adopt(&named, &named, now);
                        }
                    }
                }
                Step::End(connection) => {
                    connections.remove(&connection);
                }
            }
            while let Some((over, to)) = table.take_waiting() {
                if let Over::Known(ix) = over {
                    let there = table.hop(ix).map(|known| u32::from(known.hop.addr));
                    prop_assert_eq!(there, Some(to));
                }
            }
            for (to, ix) in connections.values() {
                let known = table.hop(*ix).map(|known| known.hop);
                prop_assert!(known.is_none() || known == Some(*to), "{known:?} for {to:?}");
                prop_assert_eq!(known.is_some(), table.is_good(*ix));
            }
            if !table.unplaced {
                for hop in &named {
                    prop_assert!(table.known(*hop).is_some_and(Neighbor::is_resident));
                }
                prop_assert_eq!(table.residents, named.len());
            }
            let listed = table.residents
                + table.strangers.len()
                + table.guests.len()
                + table.condemned.len()
                + table.walked.len();
            prop_assert_eq!(listed + table.unused(), 32);
            prop_assert!(table.strangers.len() <= table.strangers_max());
            prop_assert!(table.guests.len() <= table.guests_max());
        }
    }
}
