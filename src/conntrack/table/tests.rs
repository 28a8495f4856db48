//! The table against maps from tuples to connections.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::{ConnTable, Recovered, TableFull};
use crate::arena::{Arena, KEY_BYTES};
use crate::conntrack::entry::{ClientTuple, Direction, Entry, FlowTuple, ServerTuple, State};
use crate::conntrack::hash::HashKey;
use crate::ids::{SlotIx, WorkerIx};
use crate::time::{Millis, Stamp};
use crate::wire::proto;

const KEY: HashKey = HashKey::from_bytes([0x5c; KEY_BYTES]);
const T0: Millis = Millis(1000);

fn table(slots: usize) -> ConnTable {
    let arena = Arena::anonymous(slots).expect("memory");
    ConnTable::new(arena, KEY, T0).expect("a table").0
}

/// Connection number `n`: its own client port and local port.
fn connection(n: u16) -> Entry {
    Entry {
        client: Ipv4Addr::new(198, 51, 100, 7),
        vip: Ipv4Addr::new(192, 0, 2, 1),
        local: Ipv4Addr::new(10, 0, 0, 1),
        server_addr: Ipv4Addr::new(10, 0, 1, 1),
        client_port: n,
        vip_port: 443,
        local_port: n,
        server_port: 8443,
        state: State::Established,
        protocol: proto::TCP,
        c_next: u32::from(n),
        ..Entry::FREE
    }
}

fn find_client(table: &ConnTable, tuple: &ClientTuple) -> Option<SlotIx> {
    let hash = table.client_hash(tuple);
    table.prefetch_bucket(hash);
    let found = table.find_client(hash, tuple);
    let as_packet = find_packet(table, hash, &tuple.into());
    assert_eq!(as_packet, found.map(|slot| (slot, Direction::Forward)));
    found
}

fn find_server(table: &ConnTable, tuple: &ServerTuple) -> Option<SlotIx> {
    let hash = table.server_hash(tuple);
    let found = table.find_server(hash, tuple);
    let as_packet = find_packet(table, hash, &tuple.into());
    assert_eq!(as_packet, found.map(|slot| (slot, Direction::Reverse)));
    found
}

/// A packet's look-up, whose outcome no candidate, however stale, may change.
fn find_packet(table: &ConnTable, hash: u64, tuple: &FlowTuple) -> Option<(SlotIx, Direction)> {
    let found = table.find(hash, tuple);
    let named = table.prefetch_candidate(hash);
    assert_eq!(table.find_candidate(named, hash, tuple), found);
    for slot in (0..table.capacity().min(64) as u32).map(SlotIx) {
        for direction in [Direction::Forward, Direction::Reverse] {
            let stale = Some((slot, direction));
            assert_eq!(table.find_candidate(stale, hash, tuple), found);
        }
    }
    found
}

fn all_slots(table: &ConnTable) -> Vec<SlotIx> {
    table.slots(SlotIx(0), SlotIx(u32::MAX)).collect()
}

#[test]
fn both_tuples_find_the_slot_and_all_fields_count() {
    let mut table = table(8);
    let entry = connection(1);
    let slot = table.insert(entry).expect("room");
    let (client, server) = (entry.client_tuple(), entry.server_tuple());
    assert_eq!(find_client(&table, &client), Some(slot));
    assert_eq!(find_server(&table, &server), Some(slot));
    let other = Ipv4Addr::new(203, 0, 113, 9);
    for wrong in [
        ClientTuple {
            client: other,
            ..client
        },
        ClientTuple {
            vip: other,
            ..client
        },
        ClientTuple {
            client_port: 2,
            ..client
        },
        ClientTuple {
            vip_port: 2,
            ..client
        },
        ClientTuple {
            protocol: proto::UDP,
            ..client
        },
    ] {
        // With the right tuple's hash: the comparison alone has to tell.
        let hash = table.client_hash(&client);
        assert_eq!(table.find_client(hash, &wrong), None);
        assert_eq!(table.find(hash, &FlowTuple::from(&wrong)), None);
    }
    for wrong in [
        ServerTuple {
            server: other,
            ..server
        },
        ServerTuple {
            local: other,
            ..server
        },
        ServerTuple {
            server_port: 2,
            ..server
        },
        ServerTuple {
            local_port: 2,
            ..server
        },
        ServerTuple {
            protocol: proto::UDP,
            ..server
        },
    ] {
        let hash = table.server_hash(&server);
        assert_eq!(table.find_server(hash, &wrong), None);
        assert_eq!(table.find(hash, &FlowTuple::from(&wrong)), None);
    }
}

#[test]
fn a_full_table_says_so_and_takes_again_after_a_removal() {
    let mut table = table(3);
    let slots: Vec<SlotIx> = (0..3)
        .map(|n| table.insert(connection(n)).expect("room"))
        .collect();
    assert_eq!(table.insert(connection(3)), Err(TableFull));
    assert_eq!(find_client(&table, &connection(3).client_tuple()), None);
    assert_eq!(find_server(&table, &connection(3).server_tuple()), None);
    table.remove(slots[1]);
    table.remove(slots[1]);
    assert_eq!(table.len(), 2);
    assert_eq!(table.insert(connection(3)), Ok(slots[1]));
    assert_eq!(table.insert(connection(4)), Err(TableFull));
}

#[test]
fn a_free_entry_is_not_taken() {
    let mut table = table(3);
    assert_eq!(table.insert(Entry::FREE), Err(TableFull));
    assert_eq!(table.len(), 0);
}

#[test]
fn removing_takes_the_timer_along() {
    let mut table = table(4);
    let first = table.insert(connection(1)).expect("room");
    let second = table.insert(connection(2)).expect("room");
    table.arm(first, T0.stamp().plus(1000));
    table.arm(second, T0.stamp().plus(1000));
    table.remove(first);
    let third = table.insert(connection(3)).expect("room");
    assert_eq!(third, first);
    let mut budget = 1000;
    let due = T0.stamp().plus(1016);
    let mut pop =
        |table: &mut ConnTable| table.pop_due(due, &mut budget, |_| T0.stamp().plus(1000));
    assert_eq!(pop(&mut table), Some(second));
    assert_eq!(pop(&mut table), None);
}

#[test]
fn a_torn_attach_keeps_one_of_two_with_the_same_tuple() {
    let mut arena = Arena::<Entry>::anonymous(8).expect("memory");
    arena.as_mut_slice()[0] = connection(1);
    let mut table = ConnTable::new(arena, KEY, T0).expect("a table").0;
    assert_eq!(
        table.len(),
        0,
        "nothing was populated by an earlier process"
    );
    for n in 1..5 {
        table.insert(connection(n)).expect("room");
    }
    let twin = find_client(&table, &connection(2).client_tuple()).expect("there");
    // Same client, other server side; and same server side, other client.
    table.get_mut(twin).client_port = 1;
    let twin = find_client(&table, &connection(3).client_tuple()).expect("there");
    table.get_mut(twin).local_port = 4;
    assert_eq!(
        table.rebuild(T0),
        Recovered {
            kept: 2,
            dropped: 2
        }
    );
    assert_eq!(table.len(), 2);
    assert_eq!(all_slots(&table).len(), 2);
    for n in [10, 11, 12, 13, 14, 15] {
        table
            .insert(connection(n))
            .expect("the dropped slots are free");
    }
    assert_eq!(table.insert(connection(16)), Err(TableFull));
}

#[test]
fn a_later_process_goes_on_with_the_connections() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("w0");
    let open = |fresh| Arena::<Entry>::file(&path, 100, WorkerIx(0), fresh).expect("an arena");
    let arena = open([1; KEY_BYTES]);
    let key = HashKey::from_bytes(*arena.key().expect("a key"));
    let (mut table, recovered) = ConnTable::new(arena, key, T0).expect("a table");
    assert_eq!(recovered, Recovered::default());
    let slots: Vec<SlotIx> = (0..50)
        .map(|n| table.insert(connection(n)).expect("room"))
        .collect();
    for &slot in &slots {
        table.arm(slot, T0.stamp().plus(slot.0 * 100));
    }
    for &slot in slots.iter().step_by(2) {
        table.remove(slot);
    }
    table.unlink_client(slots[1]);
    drop(table);

    let arena = open([2; KEY_BYTES]);
    assert_eq!(arena.key(), Some(&[1; KEY_BYTES]));
    let (mut table, recovered) = ConnTable::new(arena, key, Millis(7)).expect("a table");
    assert_eq!(
        recovered,
        Recovered {
            kept: 25,
            dropped: 0
        }
    );
    for n in 0..50u16 {
        let entry = connection(n);
        let kept = (n % 2 == 1).then_some(slots[usize::from(n)]);
        assert_eq!(find_server(&table, &entry.server_tuple()), kept);
        assert_eq!(
            find_client(&table, &entry.client_tuple()),
            kept.filter(|_| n != 1)
        );
    }
    // No timer of the old process is left; arming works.
    assert_eq!(table.pop_due(Stamp(1 << 30), &mut 1000, |_| Stamp(0)), None);
    for slot in all_slots(&table) {
        table.arm(slot, Stamp((1 << 30) + 100));
    }
    for n in 100..175 {
        table.insert(connection(n)).expect("75 slots are free");
    }
    assert_eq!(table.insert(connection(99)), Err(TableFull));
    let mut fired = 0;
    while table
        .pop_due(Stamp((1 << 30) + 200), &mut 1000, |_| {
            Stamp((1 << 30) + 100)
        })
        .is_some()
    {
        fired += 1;
    }
    assert_eq!(fired, 25);
}

#[derive(Clone, Debug)]
enum Op {
    Insert(u16, u16),
    Remove(u16),
    Unlink(u16),
    Relink(u16),
    Arm(u16, u32),
    Rebuild,
}

const CLIENTS: u16 = 40;
const LOCALS: u16 = 80;

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        40 => (0..CLIENTS, 0..LOCALS).prop_map(|(c, l)| Op::Insert(c, l)),
        20 => (0..LOCALS).prop_map(Op::Remove),
        10 => (0..LOCALS).prop_map(Op::Unlink),
        10 => (0..LOCALS).prop_map(Op::Relink),
        20 => (0..LOCALS, 0u32..100_000).prop_map(|(l, t)| Op::Arm(l, t)),
        1 => Just(Op::Rebuild),
    ]
}

/// What the table should hold: by local port (every connection has one of its
/// own), the slot, the client port, and whether the client finds it.
type Model = BTreeMap<u16, (SlotIx, u16, bool)>;

fn agree(table: &ConnTable, model: &Model) -> Result<(), TestCaseError> {
    let clients: HashMap<u16, SlotIx> = model
        .values()
        .filter(|(_, _, linked)| *linked)
        .map(|&(slot, client, _)| (client, slot))
        .collect();
    for client in 0..CLIENTS {
        let found = find_client(table, &connection(client).client_tuple());
        prop_assert_eq!(found, clients.get(&client).copied());
    }
    for local in 0..LOCALS {
        let found = find_server(table, &connection(local).server_tuple());
        let wanted = model.get(&local);
        prop_assert_eq!(found, wanted.map(|w| w.0));
        if let Some(&(slot, client, linked)) = wanted {
            let entry = table.get(slot);
            prop_assert_eq!(entry.client_port, client);
            prop_assert_eq!(entry.local_port, local);
            prop_assert_eq!(entry.state == State::Resting, !linked);
            prop_assert_eq!(entry.c_next, u32::from(client) * 3);
        }
    }
    let mut slots: Vec<SlotIx> = model.values().map(|m| m.0).collect();
    slots.sort_unstable();
    prop_assert_eq!(all_slots(table), slots);
    prop_assert_eq!(table.len(), model.len());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is done, both look-ups, the sweep, the count and the fields are
    /// those of the model, before and after working all of it out again.
    #[test]
    fn agrees_with_the_model(ops in prop::collection::vec(op(), 1..300)) {
        let mut table = table(30);
        let mut model = Model::new();
        for op in ops {
            match op {
                Op::Insert(client, local) => {
                    let known = model.contains_key(&local)
                        || model.values().any(|&(_, c, linked)| linked && c == client);
                    if !known {
                        let entry = Entry {
                            local_port: local,
                            c_next: u32::from(client) * 3,
                            ..connection(client)
                        };
                        match table.insert(entry) {
                            Ok(slot) => {
                                model.insert(local, (slot, client, true));
                            }
                            Err(TableFull) => prop_assert_eq!(model.len(), 30),
                        }
                    }
                }
                Op::Remove(local) => if let Some((slot, ..)) = model.remove(&local) {
                    table.remove(slot);
                },
                Op::Unlink(local) => if let Some((slot, _, linked)) = model.get_mut(&local) {
                    table.unlink_client(*slot);
                    *linked = false;
                },
                Op::Relink(local) => {
                    let Some(&(slot, client, linked)) = model.get(&local) else {
                        continue;
                    };
                    let taken = model.values().any(|&(_, c, linked)| linked && c == client);
                    if linked || !taken {
                        let relinked = table.relink_client(slot, State::SynSent);
                        prop_assert_eq!(relinked.is_ok(), !linked);
                        model.insert(local, (slot, client, true));
                    }
                }
                Op::Arm(local, ahead) => if let Some(&(slot, ..)) = model.get(&local) {
                    table.arm(slot, T0.stamp().plus(ahead));
                },
                Op::Rebuild => {
                    let recovered = table.rebuild(T0);
                    prop_assert_eq!(recovered, Recovered { kept: model.len(), dropped: 0 });
                }
            }
        }
        agree(&table, &model)?;
        table.rebuild(T0);
        agree(&table, &model)?;
    }
}
