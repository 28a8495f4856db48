//! Row 10: a connection that cannot be made is refused at once: no usable
//! server, no local port, no room in the table.

use std::io::ErrorKind;
use std::net::{SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::{
    CLIENT_PORT, Oracle, PORT, count, plan, require_counts, require_nothing_sent_again,
    require_quick, require_refused_datagram, row, service, start, try_connect,
};
use crate::Case;
use crate::harness::machine::raise_file_limit;
use crate::harness::plan::{Plan, Protocol, Service, VIP};
use crate::harness::process::until;
use crate::harness::tcp::{self, LIMIT};
use crate::harness::topology::Lab;

pub fn list(cases: &mut Vec<Case>) {
    row(cases, "row10_no_server", &plan(1), Oracle::Sound, no_server);
    row(
        cases,
        "row10_no_server_udp",
        &plan(1),
        Oracle::Sound,
        no_server_udp,
    );
    let few_ports = Plan {
        local_addresses: 1,
        local_ports: 1024..=2047,
        ..plan(1)
    };
    row(
        cases,
        "row10_no_local_port",
        &few_ports,
        Oracle::Faulty,
        no_local_port,
    );
    let small_table = Plan {
        connections: 4096,
        ..plan(1)
    };
    // The kernel's limit is the machine's, not a namespace's.
    row(
        cases,
        "row10_table_full",
        &small_table,
        Oracle::Absent,
        table_full,
    );
}

fn require_refused(lab: &Lab, plan: &Plan) {
    let start = Instant::now();
    let error = match try_connect(lab, plan, CLIENT_PORT) {
        Err(error) => error,
        Ok(_) => panic!("connected"),
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    require_quick("the refusal", start.elapsed());
    require_nothing_sent_again(lab);
}

fn no_server(plan: &Plan) {
    let mut service = service(plan, "");
    service.servers[0].weight = 0;
    let mut lab = start(plan, &service);
    require_refused(&lab, plan);
    service.servers.clear();
    lab.gateway().apply(std::slice::from_ref(&service));
    require_refused(&lab, plan);
    require_counts(&mut lab, &[("no-server", 2), ("reset-refused", 2)]);
}

fn no_server_udp(plan: &Plan) {
    let mut service = Service::new(plan, "u", Protocol::Udp, PORT, &[0]);
    service.servers.clear();
    let mut lab = start(plan, &service);
    require_refused_datagram(&lab, plan);
    require_counts(&mut lab, &[("no-server", 1), ("icmp-sent", 1)]);
}

/// A listener whose connections nobody accepts: the kernel makes them anyway.
fn hoard(lab: &Lab, service: &Service) -> Socket {
    lab.server(0).sysctl("net/core/somaxconn", "65535");
    lab.server(0).run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket
            .bind(&service.servers[0].address.into())
            .expect("bind");
        socket.listen(65_535).expect("listen");
        socket
    })
}

/// Connects so often, and keeps the connections.
fn fill(lab: &Lab, plan: &Plan, connections: usize) -> Vec<TcpStream> {
    raise_file_limit(8192);
    lab.client().run(|| {
        let one = |number| {
            let source = SocketAddrV4::new(plan.client(), 0);
            let connected = tcp::connect(source, SocketAddrV4::new(VIP, PORT));
            let connected =
                connected.unwrap_or_else(|error| panic!("connection {number}: {error}"));
            require_quick("connect", connected.elapsed);
            connected.stream
        };
        (0..connections).map(one).collect()
    })
}

/// All ports towards the only server are in use.
fn no_local_port(plan: &Plan) {
    let service = service(plan, "");
    let mut lab = start(plan, &service);
    let _listener = hoard(&lab, &service);
    let ports = plan.local_ports.clone().count();
    let mut held = fill(&lab, plan, ports);
    require_refused(&lab, plan);
    require_counts(&mut lab, &[("no-local-port", 1), ("reset-refused", 1)]);
    // One that ends makes room for one.
    super::reset(held.pop().expect("there are many"));
    std::thread::sleep(Duration::from_millis(50));
    drop(super::connect(&lab, plan, CLIENT_PORT));
}

/// Established connections fill the table; none of them goes.
fn table_full(plan: &Plan) {
    let service = service(plan, "");
    let mut lab = start(plan, &service);
    let _listener = hoard(&lab, &service);
    let mut held = fill(&lab, plan, plan.connections);
    require_refused(&lab, plan);
    require_counts(
        &mut lab,
        &[
            ("table-full", 1),
            ("reset-refused", 1),
            ("no-local-port", 0),
        ],
    );
    assert_eq!(count(&mut lab, "reset-idle"), 0);
    super::reset(held.pop().expect("there are many"));
    // A SYN looks at part of the table only, and the next one at the next part.
    until(LIMIT, "room in the table", || {
        try_connect(&lab, plan, CLIENT_PORT).ok()
    });
    require_counts(&mut lab, &[("resting-evicted", 1)]);
}
