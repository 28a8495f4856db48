//! Row 8: a half-closed connection goes on working, in its open direction and
//! in acknowledgements of it, on a timeout of its own.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::{
    CLIENT_PORT, Oracle, connect, conntrack_timeouts, plan, require_counts,
    require_nothing_sent_again, require_quick, row, service, start,
};
use crate::Case;
use crate::harness::echo::TcpServer;
use crate::harness::plan::Plan;
use crate::harness::tcp::{self, LIMIT};
use crate::harness::topology::Lab;

/// Longer than any timeout but that of half-closed connections.
const QUIET: Duration = Duration::from_millis(2500);

pub fn list(cases: &mut Vec<Case>) {
    row(
        cases,
        "row08_server_closed_half",
        &plan(1),
        Oracle::Faulty,
        server_closed,
    );
    row(
        cases,
        "row08_client_closed_half",
        &plan(1),
        Oracle::Faulty,
        client_closed,
    );
}

fn prepare(plan: &Plan) -> (Lab, std::net::SocketAddrV4) {
    let service = service(
        plan,
        "timeouts = { established = \"1s\", time-wait = \"1s\", half-closed = \"30s\" }\n",
    );
    let lab = start(plan, &service);
    // Of the kernel's own 60 and 120 s.
    conntrack_timeouts(&lab, 1, &["close_wait", "fin_wait"]);
    (lab, service.servers[0].address)
}

/// Sends ten bytes 100 ms apart, then two more after a long quiet each.
fn trickle(mut stream: &TcpStream) {
    for _ in 0..10 {
        stream.write_all(b".").expect("send");
        std::thread::sleep(Duration::from_millis(100));
    }
    for _ in 0..2 {
        std::thread::sleep(QUIET);
        stream.write_all(b".").expect("send");
    }
}

/// Receives what `trickle` sends; the longest that a byte was under way beyond
/// the pauses shows in the retransmissions.
fn receive_all(mut stream: &TcpStream) -> usize {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map_or(0, |_| bytes.len())
}

/// The server has said all it has; the client goes on sending.
fn server_closed(plan: &Plan) {
    let (mut lab, address) = prepare(plan);
    let (tell, told) = mpsc::channel();
    let _server = TcpServer::start(lab.server(0), address, move |stream, _| {
        stream.set_read_timeout(Some(LIMIT)).expect("set a timeout");
        stream.shutdown(Shutdown::Write).expect("close the half");
        tell.send(receive_all(stream)).expect("the test listens");
    });
    let mut stream = connect(&lab, plan, CLIENT_PORT);
    assert_eq!(stream.read(&mut [0]).expect("the server's end"), 0);
    trickle(&stream);
    let start = Instant::now();
    stream.shutdown(Shutdown::Write).expect("close");
    let received = told.recv_timeout(super::PATIENCE);
    assert_eq!(received, Ok(12), "after {:?}", start.elapsed());
    require_quick("the last byte", start.elapsed());
    assert_eq!(tcp::retransmissions(&stream), 0);
    require_nothing_sent_again(&lab);
    require_counts(&mut lab, &[("idled-out", 0), ("unknown-flow-client", 0)]);
}

/// The client has asked all it has; the server takes its time.
fn client_closed(plan: &Plan) {
    let (mut lab, address) = prepare(plan);
    let _server = TcpServer::start(lab.server(0), address, move |mut stream, _| {
        assert_eq!(stream.read(&mut [0]).expect("the client's end"), 0);
        trickle(stream);
    });
    let stream = connect(&lab, plan, CLIENT_PORT);
    stream.shutdown(Shutdown::Write).expect("close the half");
    assert_eq!(receive_all(&stream), 12, "bytes of the answer");
    require_nothing_sent_again(&lab);
    require_counts(&mut lab, &[("idled-out", 0), ("unknown-flow-server", 0)]);
}
