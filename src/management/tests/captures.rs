//! Captures and the last drops, with workers that the tests are.

use super::*;
use crate::capture::{Facts, Fate, Moment, Tap};
use crate::conntrack::entry::Direction;
use crate::filter::Legs;

impl FakeWorker {
    /// Begins the capture that is asked for.
    fn begin(&self) -> Tap {
        let Some(Command::Capture(tap)) = self.next() else {
            panic!("no capture")
        };
        self.tell(Reply::Capturing(tap.id));
        *tap
    }

    /// Ends it.
    fn end(&self, tap: Tap) {
        let Some(Command::EndCapture(id)) = self.next() else {
            panic!("no end")
        };
        assert_eq!(id, tap.id);
        self.tell(Reply::Captured(Box::new(tap)));
    }
}

fn facts(tsc: u64, moment: Moment) -> Facts {
    let entry = entry(1);
    Facts {
        tsc,
        number: tsc,
        port: Some(PortIx(0)),
        moment,
        direction: Some(Direction::Forward),
        legs: Legs::from(&entry),
        state: entry.state,
        seq_delta: 0,
        ts_delta: 0,
        total_len: 100,
    }
}

fn start(fixture: &mut Fixture, params: Value) -> (Value, Vec<Tap>) {
    let outcome = fixture.ask("capture.start", params);
    assert!(outcome.try_recv().is_err(), "no worker has begun");
    let taps = fixture.workers.iter().map(FakeWorker::begin).collect();
    fixture.step();
    let begun = outcome.try_recv().expect("answered").expect("begun");
    (json!({"capture": begun["capture"]}), taps)
}

fn read(fixture: &mut Fixture, id: &Value) -> api::Captured {
    let packets = fixture
        .result("capture.read", id.clone())
        .expect("a capture");
    serde_json::from_value(packets).expect("packets")
}

#[test]
fn packets_of_all_workers_come_in_order_of_time() {
    let mut fixture = Fixture::new();
    let (id, mut taps) = start(&mut fixture, json!({"filter": "client 203.0.113.0/24"}));
    for (worker, times) in [[3, 5].as_slice(), &[4, 6]].into_iter().enumerate() {
        for &tsc in times {
            taps[worker].put(&[1, 2, 3], facts(tsc, Moment::Sent(None)));
        }
    }
    assert!(read(&mut fixture, &id).packets.is_empty(), "too young");
    assert_eq!(
        fixture.result("capture.end", id.clone()),
        Ok(json!({})),
        "once"
    );
    assert_eq!(
        fixture.result("capture.end", id.clone()),
        Ok(json!({})),
        "and again"
    );
    for (worker, tap) in fixture.workers.iter().zip(taps) {
        worker.end(tap);
        assert!(worker.next().is_none());
    }
    fixture.step();
    let last = read(&mut fixture, &id);
    let numbers: Vec<u64> = last.packets.iter().map(|packet| packet.number).collect();
    assert_eq!(numbers, [3, 4, 5, 6]);
    let workers: Vec<u8> = last.packets.iter().map(|packet| packet.worker).collect();
    assert_eq!(workers, [0, 1, 0, 1]);
    assert!(last.ended);
    let gone = fixture.result("capture.read", id).expect_err("gone");
    assert!(gone.message.contains("there is no capture"), "{gone}");
}

#[test]
fn a_comment_tells_translation_state_and_verdict() {
    let mut fixture = Fixture::new();
    let (id, mut taps) = start(&mut fixture, json!({}));
    let dropped = Moment::Received(Fate::Dropped(DropReason::NoRoute));
    taps[0].put(&[0; 60], facts(0, dropped));
    let moved = Facts {
        seq_delta: 7,
        ..facts(0, Moment::Sent(Some(1)))
    };
    taps[0].put(&[0; 60], moved);
    let packets = read(&mut fixture, &id).packets;
    assert_eq!(
        packets[0].comment,
        "worker 0 #0, client to server: 203.0.113.1:40000 > 198.51.100.1:80 becomes \
         192.0.2.10:1025 > 192.0.2.101:8080; service web; ESTABLISHED; \
         dropped: no-route: No route leads to the packet's destination."
    );
    assert_eq!(packets[0].port.as_deref(), Some("wan"));
    assert_eq!(
        packets[1].comment,
        "worker 0 #0, client to server: 192.0.2.10:1025 > 192.0.2.101:8080 was \
         203.0.113.1:40000 > 198.51.100.1:80; service web; ESTABLISHED; \
         sequence numbers moved by 7; sent because of #1"
    );
}

#[test]
fn losses_are_told_by_port() {
    let mut fixture = Fixture::new();
    let (id, mut taps) = start(&mut fixture, json!({"records": 1, "snaplen": 64}));
    for tap in &mut taps {
        for _ in 0..3 {
            tap.put(&[0; 60], facts(0, Moment::Sent(None)));
        }
    }
    let batch = read(&mut fixture, &id);
    assert_eq!((batch.packets.len(), batch.lost), (2, vec![4]));
}

#[test]
fn a_capture_that_nobody_reads_ends() {
    let mut fixture = Fixture::new();
    let (id, taps) = start(&mut fixture, json!({}));
    fixture.now += Duration::from_secs(4);
    read(&mut fixture, &id);
    fixture.now += Duration::from_secs(4);
    fixture.step();
    assert!(fixture.workers[0].next().is_none(), "it is read");
    fixture.now += Duration::from_secs(2);
    fixture.step();
    for (worker, tap) in fixture.workers.iter().zip(taps) {
        worker.end(tap);
    }
    fixture.step();
    assert!(fixture.result("capture.read", id).is_err());
}

#[test]
fn captures_are_limited_and_faults_named() {
    let mut fixture = Fixture::new();
    for (params, expected) in [
        (
            json!({"filter": "colour red"}),
            "\"colour\" is no condition",
        ),
        (
            json!({"filter": "service wbe"}),
            "there is no service \"wbe\"",
        ),
        (json!({"filter": "worker 2"}), "worker: is 2; there are 2"),
        (json!({"sample": 0}), "sample: is 0"),
        (json!({"snaplen": 9217}), "snaplen: is 9217"),
        (json!({"records": 0}), "records: is 0"),
        (
            json!({"records": 65_536, "snaplen": 9216}),
            "take more than 64 MiB",
        ),
        (json!({"snaplan": 1}), "unknown field `snaplan`"),
    ] {
        let error = fixture
            .result("capture.start", params)
            .expect_err("refused");
        assert!(error.message.contains(expected), "{error}");
    }
    let one = json!({"filter": "worker 1 drops"});
    let outcome = fixture.ask("capture.start", one);
    assert!(fixture.workers[0].next().is_none(), "not asked");
    let tap = fixture.workers[1].begin();
    assert!(tap.filter.drops);
    fixture.step();
    let begun = outcome.try_recv().expect("answered").expect("begun");
    assert_eq!(begun["workers"], json!([1]));
    for _ in 1..crate::capture::CAPTURES {
        start(&mut fixture, json!({}));
    }
    let error = fixture
        .result("capture.start", json!({}))
        .expect_err("one too many");
    assert!(error.message.contains("captures already"), "{error}");
}

#[test]
fn the_last_drops_of_all_workers_are_listed() {
    let mut fixture = Fixture::new();
    let error = fixture
        .result("drops.last", json!({"reason": "none"}))
        .expect_err("no such reason");
    assert!(error.message.contains("no drop reason \"none\""), "{error}");
    let outcome = fixture.ask("drops.last", json!({"reason": "no-route"}));
    for worker in &fixture.workers {
        let Some(Command::LastDrops(scan)) = worker.next() else {
            panic!("no scan")
        };
        assert_eq!(scan.reason, Some(DropReason::NoRoute));
        worker.tell(Reply::LastDrops(scan));
    }
    fixture.step();
    let result = outcome.try_recv().expect("answered").expect("a list");
    assert_eq!(result, json!({"drops": []}));
}
