//! - A fragment follows the ports of the last first fragment before it, unless
//!   that datagram is through, has had its bytes, or is forgotten.
//! - Whatever comes, what goes in comes out once, and what is counted for a
//!   source is what is there.
//! - Where room is short, it is the source with most that loses.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

const KEY: HashKey = HashKey::from_bytes([3; 32]);
const NOW: Millis = Millis(1_000_000);

fn source(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, number)
}

fn piece(host: u8, ident: u16, from: u16, to: u16, last: bool) -> Fragment {
    Fragment {
        datagram: Datagram {
            src: source(host),
            dst: Ipv4Addr::new(198, 51, 100, 1),
            ident,
            protocol: 17,
        },
        from,
        to,
        last,
    }
}

fn ports(followed: Option<Followed>) -> Option<(u16, u16)> {
    followed.map(|known| (known.src_port, known.dst_port))
}

#[test]
fn a_fragment_is_read_where_it_is_part_of_something() {
    // 16 bytes at 8 of a UDP datagram with identification 7.
    let mut packet = [0; 36];
    packet[..20].copy_from_slice(&[
        0x45, 0, 0, 36, 0, 7, 0x20, 1, 64, 17, 0, 0, 192, 0, 2, 1, 198, 51, 100, 1,
    ]);
    assert_eq!(Fragment::read(&packet), Some(piece(1, 7, 8, 24, false)));
    packet[6] = 0;
    assert_eq!(Fragment::read(&packet), Some(piece(1, 7, 8, 24, true)));
    // The last one may be of any length, but not of none.
    packet[3] = 35;
    assert_eq!(Fragment::read(&packet), Some(piece(1, 7, 8, 23, true)));
    packet[6] = 0x20;
    assert_eq!(Fragment::read(&packet), None);
    packet[3] = 20;
    assert_eq!(Fragment::read(&packet), None);
    // 65,535 with the header.
    packet[2..4].copy_from_slice(&36u16.to_be_bytes());
    packet[6..8].copy_from_slice(&(65_504u16 / 8).to_be_bytes());
    assert_eq!(Fragment::read(&packet), None);
    packet[6..8].copy_from_slice(&(65_496u16 / 8).to_be_bytes());
    assert!(Fragment::read(&packet).is_some());
}

#[test]
fn a_datagram_is_forgotten_when_it_is_through() {
    let mut store = Fragments::<()>::new(64, 8, KEY);
    store.first(&piece(1, 7, 0, 80, false), 5_000, 53, NOW);
    store.set_ident(&piece(1, 7, 0, 80, false).datagram, 900);
    let followed = store.later(&piece(1, 7, 160, 200, true), NOW);
    assert_eq!(
        followed,
        Some(Followed {
            src_port: 5_000,
            dst_port: 53,
            ident: Some(900)
        })
    );
    assert_eq!(store.later(&piece(1, 7, 80, 160, false), NOW), followed);
    assert!(store.is_empty());
    assert_eq!(store.later(&piece(1, 7, 80, 160, false), NOW), None);
}

#[test]
fn a_first_fragment_again_keeps_the_identification() {
    let mut store = Fragments::<()>::new(64, 8, KEY);
    let first = piece(1, 7, 0, 80, false);
    store.first(&first, 5_000, 53, NOW);
    store.set_ident(&first.datagram, 900);
    store.first(&first, 5_000, 53, NOW.plus(5));
    assert_eq!(store.ident(&first.datagram), Some(900));
    // Of another port, or much later, it is another datagram's.
    store.first(&first, 5_001, 53, NOW.plus(5));
    assert_eq!(store.ident(&first.datagram), None);
    store.set_ident(&first.datagram, 901);
    store.first(&first, 5_001, 53, NOW.plus(5_000));
    assert_eq!(store.ident(&first.datagram), None);
}

#[test]
fn what_waits_comes_in_its_order_when_the_first_has_come() {
    let mut store = Fragments::new(64, 8, KEY);
    for at in [3, 2, 1] {
        let fragment = piece(1, 7, at * 80, at * 80 + 80, at == 3);
        assert_eq!(store.later(&fragment, NOW), None);
        assert_eq!(store.wait(&fragment, at, NOW), None);
    }
    // Others' stay.
    assert_eq!(store.wait(&piece(2, 7, 80, 160, true), 9, NOW), None);
    store.first(&piece(1, 7, 0, 80, false), 5_000, 53, NOW);
    let released: Vec<u16> = std::iter::from_fn(|| store.take_released()).collect();
    assert_eq!(released, [3, 2, 1]);
    assert_eq!(store.waiting(), 1);
    assert_eq!(store.take_overdue(NOW.plus(WAIT_MS - 1)), None);
    assert_eq!(store.take_overdue(NOW.plus(WAIT_MS)), Some(9));
    assert_eq!((store.waiting(), store.len()), (0, 1));
}

#[test]
fn a_datagram_of_which_fragments_are_missing_is_forgotten() {
    let mut store = Fragments::<()>::new(64, 8, KEY);
    store.first(&piece(1, 7, 0, 80, false), 5_000, 53, NOW);
    let later = NOW.plus(REMEMBERED_MS - 1);
    for _ in 0..64 {
        store.sweep(later);
    }
    assert!(!store.is_empty());
    for _ in 0..64 {
        store.sweep(later.plus(1));
    }
    assert!(store.is_empty());
    store.first(&piece(1, 7, 0, 80, false), 5_000, 53, NOW);
    assert_eq!(
        store.later(&piece(1, 7, 80, 160, false), later.plus(1)),
        None
    );
}

#[test]
fn the_source_with_most_makes_room() {
    let mut store = Fragments::new(64, 16, KEY);
    for ident in 0..3 {
        assert_eq!(store.wait(&piece(1, ident, 80, 160, true), 1, NOW), None);
    }
    for ident in 0..200 {
        store.first(&piece(2, ident, 0, 80, false), 5_000, 53, NOW);
        let gone = store.wait(&piece(3, ident, 80, 160, true), 3, NOW);
        assert!(gone.is_none_or(|gone| gone == 3));
        while let Some(gone) = store.take_pushed_out() {
            assert_eq!(gone, 3);
        }
    }
    for ident in 0..3 {
        store.first(&piece(1, ident, 0, 80, false), 5_000, 53, NOW);
        assert_eq!(store.take_released(), Some(1));
    }
}

#[test]
fn without_a_place_nothing_waits() {
    let mut store = Fragments::new(0, 0, KEY);
    assert_eq!(store.wait(&piece(1, 7, 80, 160, true), 1, NOW), Some(1));
    assert!(store.is_empty());
    store.first(&piece(1, 7, 0, 80, false), 5_000, 53, NOW);
    assert!(store.later(&piece(1, 7, 80, 160, true), NOW).is_some());
}

#[derive(Clone, Debug)]
enum Step {
    First(Fragment, u16),
    Later(Fragment),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let fragment = (0u8..6, 0u16..6, 1u16..4, any::<bool>());
    prop_oneof![
        (0u8..6, 0u16..6, 0u16..3)
            .prop_map(|(host, ident, port)| Step::First(piece(host, ident, 0, 8, false), port)),
        fragment.prop_map(|(host, ident, at, last)| {
            Step::Later(piece(host, ident, at * 8, at * 8 + 8, last))
        }),
        (0u64..4_000).prop_map(Step::Pass),
    ]
}

proptest! {
    #[test]
    fn what_goes_in_comes_out_once(steps in proptest::collection::vec(step(), 0..200)) {
        let mut store = Fragments::new(16, 6, KEY);
        let mut inside = HashSet::new();
        let mut now = NOW;
        for (number, step) in steps.into_iter().enumerate() {
            let mut out = Vec::new();
            match step {
                Step::First(fragment, port) => {
                    store.first(&fragment, port, 53, now);
                    out.extend(std::iter::from_fn(|| store.take_released()));
                    prop_assert_eq!(store.ports(&fragment.datagram), Some((port, 53)));
                }
                Step::Later(fragment) => {
                    let known = store.ports(&fragment.datagram);
                    match ports(store.later(&fragment, now)) {
                        Some(followed) => prop_assert_eq!(Some(followed), known),
                        None => {
                            inside.insert(number);
                            out.extend(store.wait(&fragment, number, now));
                        }
                    }
                }
                Step::Pass(ms) => now = now.plus(ms),
            }
            out.extend(std::iter::from_fn(|| store.take_pushed_out()));
            out.extend(std::iter::from_fn(|| store.take_overdue(now)));
            store.sweep(now);
            for gone in out {
                prop_assert!(inside.remove(&gone), "{} comes out", gone);
            }
            prop_assert_eq!(inside.len(), store.waiting());
            prop_assert!(store.waiting() <= 6 && store.len() <= 16);
            let records = store.records.iter().filter(|record| record.kind != Kind::Free);
            prop_assert_eq!(records.count(), store.len());
            let shares: u32 = store.shares.iter().sum();
            prop_assert_eq!(shares as usize, store.len() + store.waiting());
        }
    }
}
