//! A gateway on which nothing happens for weeks: what it kept from before is in
//! the past, however long ago. 2^31 ms are 24.9 days, 2^32 ms are 49.7.

use super::lab::{ESTABLISHED_MS, Lab, Tcp, flags, fragments_of_a_request};
use crate::conntrack::entry::{Entry, State};
use crate::stats::{DropReason, Event};
use crate::time::Millis;
use crate::worker::message::Order;

const DAY_MS: u64 = 86_400_000;

/// A worker that polls on, and one that does not run: a virtual machine that is
/// held for weeks. Then `check`, on what `before` has left.
fn weeks_after<T>(lab: fn() -> Lab, before: fn(&mut Lab) -> T, check: fn(&mut Lab, T)) {
    for days in [25, 30, 60] {
        for gap in [Lab::idle, Lab::jump] {
            let mut lab = lab();
            let left = before(&mut lab);
            gap(&mut lab, days * DAY_MS);
            // What the last leap has left.
            lab.pass(1_000);
            check(&mut lab, left);
        }
    }
}

#[test]
fn timers_of_entries_have_run_out() {
    let before = |lab: &mut Lab| {
        lab.connect(4000);
        lab.client_sends(Tcp::from_client(4001, flags::SYN).seq(100));
        lab.client_sends_udp(5353, b"ask");
        assert_eq!(lab.states().len(), 3);
    };
    weeks_after(Lab::new, before, |lab, ()| {
        // Local ports rest.
        lab.idle(180_000);
        assert_eq!(lab.states(), [], "at {:?}", lab.worker.now);
        assert!(lab.event(Event::IdledOut) > 0);
        assert_eq!(lab.ports_in_use(), 0);
        // And those of new ones run as ever.
        lab.connect(4000);
        lab.pass(u64::from(ESTABLISHED_MS) - 200);
        assert_eq!(lab.states(), [State::Established]);
        lab.pass(300);
        assert_eq!(lab.states(), [State::Closed]);
    });
}

#[test]
fn turns_of_resets_are_given_from_now_on() {
    fn mass(lab: &mut Lab) {
        for port in 10_000..11_500 {
            lab.connect(port);
        }
        // More at once than RSTs may be sent.
        lab.pass(u64::from(ESTABLISHED_MS) + 5_000);
        assert_eq!(lab.event(Event::IdledOut) % 1_500, 0);
    }
    weeks_after(Lab::new, mass, |lab, ()| {
        mass(lab);
        assert_eq!(lab.event(Event::IdledOut), 3_000);
    });
}

#[test]
fn rate_limits_have_filled_up() {
    let before = |lab: &mut Lab| {
        for _ in 0..1_010 {
            lab.client_sends(Tcp::from_client(4000, flags::ACK).ack(1));
        }
        assert!(lab.event(Event::ResetWithheld) > 0);
        lab.event(Event::ResetUnknownClient)
    };
    weeks_after(Lab::new, before, |lab, sent| {
        for _ in 0..100 {
            lab.client_sends(Tcp::from_client(4000, flags::ACK).ack(1));
        }
        assert_eq!(lab.event(Event::ResetUnknownClient), sent + 100);
    });
}

#[test]
fn a_failed_next_hop_is_asked_again() {
    let before = |lab: &mut Lab| {
        lab.client_sends_udp(5353, b"ask");
        lab.pass(1_100);
        assert_eq!(lab.drops(DropReason::NeighborUnreachable), 1);
    };
    weeks_after(Lab::unresolved, before, |lab, ()| {
        let first = lab.client_sends_udp(5354, b"ask");
        let asked = first.arp_request().or(lab.pass(1_000).arp_request());
        assert!(asked.is_some());
    });
}

#[test]
fn a_server_that_failed_is_no_suspect_any_more() {
    let before = |lab: &mut Lab| {
        let first = lab
            .client_sends(Tcp::from_client(4000, flags::SYN).seq(100))
            .to_server();
        lab.server_sends(first.reply(flags::RST | flags::ACK).ack(101));
        assert!(!lab.worker.health[0].usable(lab.worker.now, true));
    };
    weeks_after(Lab::new, before, |lab, ()| {
        assert!(lab.worker.health[0].usable(lab.worker.now, true));
        assert!(lab.worker.health[0].usable(lab.worker.now, false));
    });
}

#[test]
fn a_first_fragment_is_forgotten() {
    let before = |lab: &mut Lab| {
        let [first, second, _] = fragments_of_a_request(5353);
        assert_eq!(lab.client_sends_packet(&first).all_fragments_to_server(), 1);
        let second = lab.client_sends_packet(&second);
        assert_eq!(second.all_fragments_to_server(), 1);
    };
    weeks_after(Lab::new, before, |lab, ()| {
        let [first, second, _] = fragments_of_a_request(5353);
        let early = lab.client_sends_packet(&second);
        assert!(early.is_empty(), "it is of another datagram: {early:?}");
        assert_eq!(lab.client_sends_packet(&first).all_fragments_to_server(), 2);
    });
}

#[test]
fn a_fragment_that_waits_is_given_up() {
    let before = |lab: &mut Lab| {
        let [_, second, _] = fragments_of_a_request(5353);
        assert!(lab.client_sends_packet(&second).is_empty());
    };
    weeks_after(Lab::new, before, |lab, ()| {
        lab.pass(100);
        assert_eq!(lab.drops(DropReason::Ipv4Fragment), 1);
    });
}

#[test]
fn connections_are_shown_as_old_as_they_are() {
    for days in [25, 30, 60] {
        let created = Millis(u64::from(u32::MAX) - 5);
        let now = created.plus(days * DAY_MS);
        let entry = Entry {
            created,
            last_seen: Millis(now.0 - 2_000).stamp(),
            ..Entry::FREE
        };
        assert_eq!(Order::Age.key(&entry, now), days * DAY_MS);
        assert_eq!(Order::Idle.key(&entry, now), 2_000);
    }
}
