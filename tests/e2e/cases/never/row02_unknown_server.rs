//! Row 2: a real server's segment that matches no connection is answered with a
//! RST at once, so that the server keeps no dead socket.

use std::io::{Read as _, Write as _};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use super::{
    CLIENT_PORT, Oracle, connect, conntrack_timeouts, plan, read_error, require_counts,
    require_nothing_sent_again, require_quick, row, service, start, wait_for,
};
use crate::Case;
use crate::harness::echo::TcpServer;
use crate::harness::plan::Plan;
use crate::harness::tcp::LIMIT;

pub fn list(cases: &mut Vec<Case>) {
    row(
        cases,
        "row02_unknown_server",
        &plan(1),
        Oracle::Faulty,
        answer_on_an_expired_connection,
    );
}

/// The server takes longer to answer than the gateway keeps the connection.
fn answer_on_an_expired_connection(plan: &Plan) {
    let service = service(
        plan,
        "on-expire = \"silent\"\n\
         timeouts = { established = \"1s\", closed = \"100ms\", time-wait = \"100ms\" }\n",
    );
    let mut lab = start(plan, &service);
    conntrack_timeouts(&lab, 1, &["established"]);
    let (go, gone) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    let gone = Mutex::new(gone);
    let _server = TcpServer::start(
        lab.server(0),
        service.servers[0].address,
        move |mut stream, _| {
            stream.read_exact(&mut [0]).expect("a request");
            let _ = gone.lock().expect("one connection").recv_timeout(LIMIT);
            stream
                .set_read_timeout(Some(super::PATIENCE))
                .expect("set a timeout");
            let start = Instant::now();
            stream.write_all(b"late").expect("answer");
            tell.send(read_error(stream, start))
                .expect("the test listens");
        },
    );
    let mut stream = connect(&lab, plan, CLIENT_PORT);
    stream.write_all(b"?").expect("ask");
    wait_for(&mut lab, "idled-out", 1, Duration::from_millis(2500));
    // The entry answers for itself a while, and its local port rests.
    std::thread::sleep(Duration::from_millis(600));
    go.send(()).expect("the server waits");
    let (error, elapsed) = told.recv_timeout(LIMIT).expect("the server's end");
    assert_eq!(
        error.kind(),
        std::io::ErrorKind::ConnectionReset,
        "the server saw {error} after {elapsed:?}"
    );
    require_quick("the server's reset", elapsed);
    require_nothing_sent_again(&lab);
    require_counts(
        &mut lab,
        &[("unknown-flow-server", 1), ("reset-unknown-server", 1)],
    );
}
