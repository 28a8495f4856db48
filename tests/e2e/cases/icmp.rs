//! ICMP: ping, time exceeded, unreachable, and path MTU discovery in both
//! directions.

use std::io::{ErrorKind, IoSliceMut, Read as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4};
use std::os::fd::AsRawFd as _;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};
use socket2::SockRef;

use super::{add, both};
use crate::Case;
use crate::harness::echo::{TcpServer, UdpServer};
use crate::harness::netns::Netns;
use crate::harness::pattern;
use crate::harness::plan::{GATEWAY, Kind, Plan, Protocol, Service, VIP};
use crate::harness::process::output_of;
use crate::harness::tcp;
use crate::harness::topology::{Lab, NARROW_MTU};

/// Enough for slow start to end and every segment size to settle.
const TRANSFER: u64 = 8 << 20;

pub fn list(cases: &mut Vec<Case>) {
    add(cases, "icmp::ping", &both(), ping);
    add(cases, "icmp::ttl", &both(), ttl);
    add(cases, "icmp::port_unreachable", &both(), port_unreachable);
    let far = |server: bool| {
        let plan = move |kind| Plan {
            servers: 1,
            far_client: !server,
            far_server: server,
            ..Plan::new(kind)
        };
        [plan(Kind::Kernel), plan(Kind::Fullgate)]
    };
    add(
        cases,
        "icmp::path_mtu_to_the_server",
        &far(true),
        path_mtu_to_the_server,
    );
    add(
        cases,
        "icmp::path_mtu_to_the_client",
        &far(false),
        path_mtu_to_the_client,
    );
    let below = Plan {
        servers: 1,
        far_client: true,
        local_addresses: 1,
        ..Plan::new(Kind::Fullgate)
    };
    add(
        cases,
        "icmp::path_mtu_below_the_floor",
        &[below],
        path_mtu_below_the_floor,
    );
}

/// One client's way is as narrow as a poisoner's would be said to be: the server
/// keeps a path MTU for all clients of a local address, and must not go below
/// the floor for any; and the narrow one gets its download all the same.
fn path_mtu_below_the_floor(plan: &Plan) {
    const NARROW: u32 = 552;
    const FLOOR: u32 = 1_280;
    let service = Service::new(plan, "t", Protocol::Tcp, 7000, &[1]);
    let mut lab = Lab::start(plan, std::slice::from_ref(&service));
    lab.narrow_client_link(NARROW);
    let (tell, told) = mpsc::channel();
    let _server = TcpServer::start(lab.server(0), service.servers[0].address, move |s, _| {
        pattern::send(s, TRANSFER);
        tell.send(tcp::path_mtu(s)).expect("the test listens");
    });
    let vip = service.vip();
    let download = |netns: &Netns, client: Ipv4Addr| {
        let begin = Instant::now();
        netns.run(|| {
            let source = SocketAddrV4::new(client, 0);
            let stream = tcp::connect(source, vip).expect("connect").stream;
            assert_eq!(pattern::receive(&stream), TRANSFER);
        });
        let path_mtu = told.recv_timeout(tcp::LIMIT).expect("a path MTU");
        (path_mtu, begin.elapsed())
    };
    let narrow = download(lab.client(), plan.client());
    // Another client of the same local address, with nothing narrow before it.
    let other = download(lab.client_router(), Ipv4Addr::new(10, 1, 0, 254));
    let messages = |lab: &mut Lab| {
        count(lab, "events", "event", "path-mtu-clamped")
            + count(lab, "drops", "reason", "path-mtu-floor")
    };
    let before = messages(&mut lab);
    let again = download(lab.client(), plan.client());
    assert_eq!(messages(&mut lab), before, "known: nothing more was lost");
    eprintln!("narrow {narrow:?}, the other one {other:?}, narrow again {again:?}");
    for (who, (path_mtu, took)) in [("narrow", narrow), ("other", other), ("again", again)] {
        assert_eq!(path_mtu, FLOOR, "{who}");
        assert!(took < Duration::from_secs(4), "{who}: {took:?}");
    }
    let (local, _) = plan.locals();
    let route = output_of(lab.server(0), "ip", &["route", "get", &local.to_string()]);
    let route = String::from_utf8_lossy(&route.stdout);
    assert!(route.contains(&format!(" mtu {FLOOR} ")), "{route}");
    assert!(count(&mut lab, "events", "event", "path-mtu-clamped") >= 1);
    assert!(
        count(&mut lab, "events", "event", "fragments-made") >= 3 * 2 * TRANSFER / u64::from(FLOOR)
    );
}

/// How often an event or drop has been counted.
fn count(lab: &mut Lab, list: &str, key: &str, name: &str) -> u64 {
    let drops = lab.fullgate().show("drops");
    let rows = drops[list].as_array().expect("a list");
    let row = rows.iter().find(|row| row[key] == name);
    row.map_or(0, |row| row["count"].as_u64().expect("a number"))
}

/// The gateway answers for its own addresses on either side.
fn ping(plan: &Plan) {
    let web = Service::new(plan, "web", Protocol::Tcp, 80, &[1]);
    let lab = Lab::start(plan, &[web]);
    let check = |netns, target: Ipv4Addr| {
        let target = target.to_string();
        let output = output_of(
            netns,
            "ping",
            &["-n", "-c", "3", "-i", "0.01", "-W", "2", &target],
        );
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(" 3 received, 0% packet loss"), "{text}");
        assert!(!text.contains("DUP!"), "{text}");
    };
    check(lab.client(), VIP);
    check(lab.client(), GATEWAY);
    check(lab.server(0), Ipv4Addr::new(10, 2, 0, 1));
    let (first, last) = plan.locals();
    check(lab.server(0), first);
    check(lab.server(0), last);
}

/// A packet that dies in the gateway is reported from the gateway; one with a
/// hop more arrives.
fn ttl(plan: &Plan) {
    let dns = Service::new(plan, "dns", Protocol::Udp, 53, &[1]);
    let lab = Lab::start(plan, std::slice::from_ref(&dns));
    let _server = UdpServer::start(lab.server(0), dns.servers[0].address, "s0");
    lab.client().run(|| {
        let socket = tcp::udp(plan.client(), dns.vip());
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true).expect("set IP_RECVERR");
        SockRef::from(&socket).set_ttl_v4(1).expect("set the TTL");
        socket.send(b"short").expect("send");
        let error = socket.recv(&mut [0; 64]).expect_err("the packet's death");
        assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH), "{error}");
        // The kernel's NAT lets its own errors come from the VIP.
        let offender = offender(&socket);
        assert!([GATEWAY, VIP].contains(&offender), "{offender} reports it");

        SockRef::from(&socket).set_ttl_v4(2).expect("set the TTL");
        socket.send(b"long").expect("send");
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).expect("an answer");
        assert!(buffer[..length].ends_with(b" long"));
    });
}

/// Who sent the ICMP error at the head of the socket's error queue.
fn offender(socket: &std::net::UdpSocket) -> Ipv4Addr {
    let mut payload = [0; 64];
    let mut slices = [IoSliceMut::new(&mut payload)];
    let mut space = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in);
    let message = recvmsg::<SockaddrIn>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut space),
        MsgFlags::MSG_ERRQUEUE,
    )
    .expect("read the error queue");
    let control = message.cmsgs().expect("control messages").next();
    match control {
        Some(ControlMessageOwned::Ipv4RecvErr(_, Some(address))) => {
            Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr))
        }
        other => panic!("{other:?} instead of an ICMP error with its sender"),
    }
}

/// A server without a listener says so, and the client hears it.
fn port_unreachable(plan: &Plan) {
    let dns = Service::new(plan, "dns", Protocol::Udp, 53, &[1]);
    let lab = Lab::start(plan, std::slice::from_ref(&dns));
    lab.client().run(|| {
        let socket = tcp::udp(plan.client(), dns.vip());
        socket.send(b"anyone?").expect("send");
        let error = socket.recv(&mut [0; 64]).expect_err("a refusal");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    });
}

/// The narrow link is between gateway and server: what reports it is addressed
/// to a local address and must reach the client.
fn path_mtu_to_the_server(plan: &Plan) {
    let service = Service::new(plan, "t", Protocol::Tcp, 7000, &[1]);
    let lab = Lab::start(plan, std::slice::from_ref(&service));
    let (tell, told) = mpsc::channel();
    let _server = TcpServer::start(lab.server(0), service.servers[0].address, move |s, _| {
        tell.send(pattern::receive(s)).expect("the test listens");
    });
    lab.client().run(move || {
        let source = SocketAddrV4::new(plan.client(), 0);
        let mut stream = tcp::connect(source, service.vip()).expect("connect").stream;
        assert!(tcp::path_mtu(&stream) > NARROW_MTU, "nothing to discover");
        pattern::send(&stream, TRANSFER);
        stream.shutdown(Shutdown::Write).expect("close");
        assert_eq!(stream.read(&mut [0]).expect("the server's end"), 0);
        assert_eq!(told.recv_timeout(tcp::LIMIT).expect("a count"), TRANSFER);
        assert_eq!(tcp::path_mtu(&stream), NARROW_MTU);
    });
}

/// The narrow link is between gateway and client: what reports it is addressed
/// to the VIP and must reach the server.
fn path_mtu_to_the_client(plan: &Plan) {
    let service = Service::new(plan, "t", Protocol::Tcp, 7000, &[1]);
    let lab = Lab::start(plan, std::slice::from_ref(&service));
    let (tell, told) = mpsc::channel();
    let _server = TcpServer::start(lab.server(0), service.servers[0].address, move |s, _| {
        pattern::send(s, TRANSFER);
        tell.send(tcp::path_mtu(s)).expect("the test listens");
    });
    lab.client().run(move || {
        let source = SocketAddrV4::new(plan.client(), 0);
        let stream = tcp::connect(source, service.vip()).expect("connect").stream;
        assert_eq!(pattern::receive(&stream), TRANSFER);
        assert_eq!(
            told.recv_timeout(tcp::LIMIT).expect("a path MTU"),
            NARROW_MTU
        );
    });
}
