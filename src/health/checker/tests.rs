use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};

use proptest::prelude::*;

use super::*;
use crate::health::spec::{Ask, Check, Spec, Udp};
use crate::health::{Totals, Via};

pub(in crate::health) struct NoRoutes;

impl HostRoutes for NoRoutes {
    fn has_router(&mut self, _: &str, _: Ipv4Addr) -> io::Result<bool> {
        Ok(false)
    }
}

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn target(address: SocketAddrV4, ask: Ask) -> Arc<Target> {
    Arc::new(Target {
        address,
        via: Via::Host,
        check: Arc::new(Check::new(Spec {
            ask,
            interval: Duration::from_millis(20),
            timeout: Duration::from_millis(20),
            rise: 2,
            fall: 3,
        })),
    })
}

fn record() -> Arc<Record> {
    Arc::new(Record::new(
        Verdict::Up,
        Instant::now(),
        Arc::new(Totals::default()),
    ))
}

/// An address of the loopback interface, and who listens there.
fn listener() -> (TcpListener, SocketAddrV4) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    (listener, SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}

#[test]
fn a_server_that_goes_and_comes_is_told_of_and_recorded() {
    let (checker, changes) = Checker::start(Box::new(NoRoutes)).expect("started");
    let (server, address) = listener();
    let (id, facts) = (CheckId(7), record());
    checker.put(
        id,
        target(address, Ask::Tcp),
        Arc::clone(&facts),
        Verdict::Up,
    );
    checker.wake();
    while facts.facts().successes < 2 {
        std::thread::yield_now();
    }
    drop(server);
    let change = changes.recv_timeout(PATIENCE).expect("a change");
    assert_eq!(change.id, id);
    assert_eq!(change.verdict, Verdict::Down { silent: true });
    assert_eq!(change.reason.as_deref(), Some("connection refused"));
    let known = facts.facts();
    assert_eq!((known.falls, known.verdict.is_up()), (1, false));
    assert!(known.failures >= 3);

    let server = TcpListener::bind(address).expect("the port is free");
    let change = changes.recv_timeout(PATIENCE).expect("a change");
    assert_eq!((change.verdict, change.reason), (Verdict::Up, None));
    let known = facts.facts();
    assert_eq!((known.rises, known.verdict), (1, Verdict::Up));
    let causes = facts.totals().causes();
    assert_eq!(causes[probe_cause("refused")], known.failures);
    let took: u64 = facts.totals().took().counts.iter().sum();
    assert!(took >= known.failures + known.successes);

    // Not checked any more: nothing more is said, or counted.
    checker.drop_check(id);
    checker.wake();
    drop(server);
    drop(checker);
    assert!(changes.recv().is_err());
}

fn probe_cause(name: &str) -> usize {
    let found = crate::health::CAUSES
        .iter()
        .position(|cause| cause.name() == name);
    found.expect("a cause")
}

#[test]
fn a_check_that_is_made_otherwise_keeps_its_trend() {
    let (checker, changes) = Checker::start(Box::new(NoRoutes)).expect("started");
    let (_server, up) = listener();
    let (gone, down) = listener();
    drop(gone);
    let (id, facts) = (CheckId(1), record());
    checker.put(id, target(down, Ask::Tcp), Arc::clone(&facts), Verdict::Up);
    checker.wake();
    assert!(
        !changes
            .recv_timeout(PATIENCE)
            .expect("down")
            .verdict
            .is_up()
    );
    checker.put(id, target(up, Ask::Tcp), Arc::clone(&facts), Verdict::Up);
    checker.wake();
    let change = changes.recv_timeout(PATIENCE).expect("up");
    assert_eq!(change.verdict, Verdict::Up, "it was down until then");
}

#[test]
fn what_this_host_can_t_do_says_nothing_about_a_server() {
    let (checker, changes) = Checker::start(Box::new(NoRoutes)).expect("started");
    let (_server, address) = listener();
    let mut nowhere = (*target(address, Ask::Udp(Udp::default()))).clone();
    nowhere.via = Via::Interface {
        name: "fg-not-there".into(),
        source: Ipv4Addr::LOCALHOST,
        router: None,
    };
    let facts = record();
    checker.put(
        CheckId(1),
        Arc::new(nowhere),
        Arc::clone(&facts),
        Verdict::Up,
    );
    checker.wake();
    while facts.facts().unmade < 10 {
        std::thread::yield_now();
    }
    let known = facts.facts();
    assert_eq!((known.verdict, known.failures), (Verdict::Up, 0));
    let (_, reason) = known.last_failure.expect("a reason");
    assert!(reason.starts_with("interface fg-not-there: "), "{reason}");
    assert!(changes.try_recv().is_err());
}

#[test]
fn many_checks_share_the_thread() {
    let (checker, changes) = Checker::start(Box::new(NoRoutes)).expect("started");
    let (_server, up) = listener();
    let (gone, down) = listener();
    drop(gone);
    let records: Vec<Arc<Record>> = (0..400).map(|_| record()).collect();
    for (n, record) in (0..).zip(&records) {
        let address = if n % 2 == 0 { up } else { down };
        checker.put(
            CheckId(n),
            target(address, Ask::Tcp),
            Arc::clone(record),
            Verdict::Up,
        );
    }
    checker.wake();
    let mut told = vec![false; records.len()];
    for _ in 0..200 {
        let change = changes.recv_timeout(PATIENCE).expect("a change");
        let first = !std::mem::replace(&mut told[change.id.0 as usize], true);
        assert!(first && change.id.0 % 2 == 1 && !change.verdict.is_up());
    }
}

proptest! {
    /// Of any stretch of checks, each hundredth of the interval gets its share,
    /// and one or two more.
    #[test]
    fn first_checks_are_spread(from in 0_u64..1_000_000, count in 1_u64..2_000) {
        let interval = Duration::from_secs(1);
        let mut hundredths = [0_u64; 100];
        for n in from..from + count {
            let at = offset(n, interval);
            prop_assert!(at < interval);
            hundredths[at.as_millis() as usize / 10] += 1;
        }
        prop_assert!(hundredths.iter().all(|&there| there <= count.div_ceil(100) + 2));
    }
}
