//! ARP between workers, links, and the list of next hops, with workers that the
//! tests are.

use super::*;
use crate::neighbor::Condition;
use crate::service::route::NextHop;
use crate::worker::message::{ArpNews, Learned, NeighborFound};

fn learned(addr: u32) -> Learned {
    Learned {
        hop: NextHop {
            port: PortIx(0),
            addr: addr.into(),
        },
        mac: MacAddr([2, 0, 0, 0, 0, 9]),
    }
}

fn hear(fixture: &Fixture, worker: usize, news: ArpNews) {
    fixture.workers[worker].link.heard.push(news).expect("room");
}

fn told(fixture: &Fixture, worker: usize) -> Option<Learned> {
    fixture.workers[worker].link.told.pop()
}

#[test]
fn what_one_worker_learns_the_others_are_told() {
    let mut fixture = Fixture::new();
    let heard = learned(0xc000_02fe);
    hear(&fixture, 1, ArpNews::Learned(heard));
    fixture.step();
    assert_eq!(told(&fixture, 0), Some(heard));
    assert_eq!(told(&fixture, 1), None);
}

#[test]
fn an_answer_that_nobody_asked_for_is_not_passed_on() {
    let mut fixture = Fixture::new();
    for n in 0..100_000 {
        hear(&fixture, 1, ArpNews::Overheard(learned(n)));
        if n % 1_000 == 999 {
            fixture.step();
        }
    }
    assert_eq!(told(&fixture, 0), None);
    let wanted = learned(0xc000_02fe);
    hear(&fixture, 0, ArpNews::Asked(wanted.hop));
    hear(&fixture, 1, ArpNews::Overheard(wanted));
    fixture.step();
    assert_eq!(told(&fixture, 0), Some(wanted));
}

#[test]
fn a_link_that_comes_up_has_our_addresses_announced() {
    let mut fixture = Fixture::new();
    let look = |fixture: &mut Fixture, up| {
        fixture.link.store(up, Ordering::Relaxed);
        fixture.now += Duration::from_secs(1);
        fixture.step();
        assert!(fixture.workers[1].next().is_none(), "one worker does it");
        fixture.workers[0].next()
    };
    assert!(look(&mut fixture, false).is_none());
    assert!(matches!(
        look(&mut fixture, true),
        Some(Command::Announce(1))
    ));
    assert!(look(&mut fixture, true).is_none());
    let downs = |fixture: &mut Fixture| {
        let listed = fixture.result("ports.list", json!({})).expect("a list");
        listed["ports"][0]["link_downs"].clone()
    };
    assert_eq!(downs(&mut fixture), json!(0));
    assert!(look(&mut fixture, false).is_none());
    assert_eq!(downs(&mut fixture), json!(1));
    assert!(matches!(
        look(&mut fixture, true),
        Some(Command::Announce(1))
    ));
    assert_eq!(downs(&mut fixture), json!(1));
}

#[test]
fn an_operator_may_ask_for_it() {
    let mut fixture = Fixture::new();
    let answer = fixture.result("announce", json!({})).expect("announced");
    assert_eq!(answer, json!({"addresses": 4}));
    let command = fixture.workers[0].next();
    assert!(matches!(command, Some(Command::Announce(u32::MAX))));
}

#[test]
fn the_list_says_what_each_worker_knows() {
    let mut fixture = Fixture::new();
    for worker in &fixture.workers {
        assert!(worker.next().is_none());
    }
    let outcome = fixture.ask("neighbors.list", json!({}));
    let known = |last: u32, condition, mac| NeighborFound {
        hop: learned(0xc000_0200 + last).hop,
        condition,
        resident: last == 254,
        mac,
        heard_ms_ago: Some(1_000 + u64::from(last)),
    };
    let mac = Some(MacAddr([2, 0, 0, 0, 0, 9]));
    for (ix, worker) in fixture.workers.iter().enumerate() {
        let Some(Command::Neighbors(mut scan)) = worker.next() else {
            panic!("no question")
        };
        scan.found.push(known(254, Condition::Known, mac));
        scan.found.push(match ix {
            0 => known(5, Condition::Known, mac),
            _ => known(5, Condition::Failed, None),
        });
        worker.tell(Reply::Neighbors(scan));
    }
    fixture.step();
    let list = soon(&outcome).expect("a list");
    let row = |last: u32, mac: Value, state, configured, workers: &[u8]| {
        json!({
            "port": "wan", "address": format!("192.0.2.{last}"), "mac": mac, "state": state,
            "configured": configured, "workers": workers, "age_ms": 1_000 + last,
        })
    };
    let mac = json!("02:00:00:00:00:09");
    assert_eq!(
        list,
        json!({"neighbors": [
            row(5, mac.clone(), "known", false, &[0]),
            row(5, Value::Null, "no answer", false, &[1]),
            row(254, mac, "known", true, &[0, 1]),
        ]})
    );
}

#[test]
fn notices_name_port_and_address() {
    let fixture = Fixture::new();
    let snapshot = fixture.management.state.snapshot();
    let hop = learned(0xc000_02fe).hop;
    let line = |notice| notices::line(snapshot, WorkerIx(0), notice);
    let silent = line(Notice::NextHopSilent(hop));
    assert!(
        silent.starts_with("port wan: 192.0.2.254 does not answer ARP"),
        "{silent}"
    );
    let claimed = line(Notice::AddressClaimed(hop, learned(0).mac));
    assert!(
        claimed.contains("02:00:00:00:00:09 claims 192.0.2.254"),
        "{claimed}"
    );
}

#[test]
fn a_server_is_not_blamed_for_the_way_there() {
    let fixture = Fixture::new();
    let snapshot = fixture.management.state.snapshot();
    let server = ServerIx(0);
    let hop = snapshot
        .routes
        .lookup(snapshot.server(server).expect("it").addr);
    let hop = hop.expect("a route");
    let mut silent = super::super::neighbors::Silent::default();
    assert_eq!(silent.why(snapshot, server), "");
    silent.note(Notice::NextHopSilent(hop), snapshot);
    let expected = format!(": {} does not answer ARP on port wan", hop.addr);
    assert_eq!(silent.why(snapshot, server), expected);
    silent.note(Notice::NextHopAnswers(hop), snapshot);
    assert_eq!(silent.why(snapshot, server), "");
}
