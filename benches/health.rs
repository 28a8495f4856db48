//! What 10,000 health checks cost: TCP and HTTP, every 2 s, against servers on
//! the loopback interface that answer at once. Prints the processor time of the
//! checker's thread and how long checks took.
//!
//!     cargo bench --bench health

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use fullgate::health::spec::{Ask, Check, Http, Spec, StatusRanges};
use fullgate::health::{
    BUCKETS, CAUSES, CheckId, Checker, HostRoutes, Record, Target, Totals, Verdict, Via,
};

const SERVERS: u32 = 10_000;
const INTERVAL: Duration = Duration::from_secs(2);
const MEASURED: Duration = Duration::from_secs(20);

struct NoRoutes;

impl HostRoutes for NoRoutes {
    fn has_router(&mut self, _: &str, _: Ipv4Addr) -> std::io::Result<bool> {
        Ok(false)
    }
}

/// All of 127.0.0.0/8 at one port, an answer to whoever asks.
fn serve() -> u16 {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    listener.bind(&any.into()).expect("a port");
    // More than can be under way: what is measured is the checker.
    listener.listen(4_096).expect("listening");
    let listener = TcpListener::from(listener);
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
        while let Ok((mut stream, _)) = listener.accept() {
            if stream.read(&mut [0; 1024]).is_ok_and(|length| length > 0) {
                let _ = stream.write_all(answer);
            }
        }
    });
    port
}

/// Processor time of the thread of this name so far.
fn thread_time(name: &str) -> Duration {
    let tasks = fs::read_dir("/proc/self/task").expect("tasks").flatten();
    let mut named = tasks
        .map(|task| task.path())
        .filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name));
    let task = named.next().expect("the thread");
    let stat = fs::read_to_string(task.join("schedstat")).expect("its times");
    let nanos = stat.split(' ').next().and_then(|text| text.parse().ok());
    Duration::from_nanos(nanos.expect("a number"))
}

fn measure(name: &str, ask: Ask, port: u16) {
    let check = Arc::new(Check::new(Spec {
        ask,
        interval: INTERVAL,
        timeout: Duration::from_secs(1),
        rise: 2,
        fall: 3,
    }));
    let totals = Arc::new(Totals::default());
    let (checker, changes) = Checker::start(Box::new(NoRoutes)).expect("started");
    let now = Instant::now();
    let records: Vec<Arc<Record>> = (0..SERVERS)
        .map(|n| {
            let record = Arc::new(Record::new(Verdict::Up, now, Arc::clone(&totals)));
            let target = Target {
                address: SocketAddrV4::new(Ipv4Addr::from_bits(0x7f01_0001 + n), port),
                via: Via::Host,
                check: Arc::clone(&check),
            };
            let id = CheckId(n.into());
            checker.put(id, Arc::new(target), Arc::clone(&record), Verdict::Up);
            record
        })
        .collect();
    checker.wake();
    std::thread::sleep(INTERVAL);
    let count = |of: fn(&fullgate::health::Facts) -> u64| -> u64 {
        records.iter().map(|record| of(&record.facts())).sum()
    };
    let (made, spent, began) = (
        count(|f| f.successes),
        thread_time("health"),
        Instant::now(),
    );
    std::thread::sleep(MEASURED);
    let made = count(|f| f.successes) - made;
    let (spent, elapsed) = (thread_time("health") - spent, began.elapsed());
    let took = totals.took();
    let all: u64 = took.counts.iter().sum();
    let within = |share: f64| {
        let mut sum = 0;
        let mut bounds = BUCKETS.iter().zip(took.counts);
        let found = bounds.find(|(_, count)| {
            sum += count;
            sum as f64 >= share * all as f64
        });
        found.map_or("more".to_owned(), |(bound, _)| {
            format!("{} ms", bound * 1e3)
        })
    };
    let causes = CAUSES.iter().zip(totals.causes());
    let causes: Vec<String> = causes
        .filter(|(_, count)| *count > 0)
        .map(|(cause, count)| format!("{} {count}", cause.name()))
        .collect();
    println!(
        "{name}: {:.0} checks/s, {:.1} us of the thread each, {:.1} % of a core; 50 % within {}, \
         99 % within {}; {} failed ({}), {} unmade, {} changes",
        made as f64 / elapsed.as_secs_f64(),
        spent.as_secs_f64() * 1e6 / made.max(1) as f64,
        100.0 * spent.as_secs_f64() / elapsed.as_secs_f64(),
        within(0.5),
        within(0.99),
        count(|f| f.failures),
        causes.join(", "),
        count(|f| f.unmade),
        changes.try_iter().count(),
    );
}

fn main() {
    // "cargo test --benches" only wants to know that it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let port = serve();
    measure("tcp", Ask::Tcp, port);
    let http = Http {
        method: "GET".into(),
        path: "/".into(),
        host: None,
        status: StatusRanges(vec![(200, 399)]),
        body: Some("ok".into()),
        tls: None,
    };
    measure("http", Ask::Http(Arc::new(http)), port);
}
