//! TCP and UDP sockets of a client that looks closely: chosen source ports,
//! connect times, what the kernel knows of the path.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::{getsockopt_impl, libc, setsockopt_impl, sockopt_impl};
use socket2::{Domain, Protocol, Socket, Type};

sockopt_impl!(
    TcpInfo,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    libc::tcp_info
);

sockopt_impl!(
    MtuDiscover,
    SetOnly,
    libc::IPPROTO_IP,
    libc::IP_MTU_DISCOVER,
    libc::c_int
);

/// Has a socket send packets that nobody may fragment, whatever the kernel knows
/// of the path.
pub fn never_fragment(socket: &impl AsFd) {
    setsockopt(socket, MtuDiscover, &libc::IP_PMTUDISC_PROBE).expect("IP_MTU_DISCOVER");
}

/// Has a socket send packets that anybody may fragment.
pub fn may_fragment(socket: &impl AsFd) {
    setsockopt(socket, MtuDiscover, &libc::IP_PMTUDISC_DONT).expect("IP_MTU_DISCOVER");
}

/// No exchange over these networks takes longer unless something is broken.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Below the kernel's shortest wait for a lost packet where it has no
/// measurement yet (1 s): whoever took longer has waited for a timer.
pub const NO_TIMER: Duration = Duration::from_millis(900);

/// A connected client socket and how long connecting took.
pub struct Connected {
    pub stream: TcpStream,
    pub elapsed: Duration,
}

/// Connects from `source` (port 0: any) to `target`, in the namespace of the
/// calling thread.
pub fn connect(source: SocketAddrV4, target: SocketAddrV4) -> io::Result<Connected> {
    connect_within(LIMIT, source, target)
}

/// The same, giving up after `limit`, which is also how long reads and writes
/// wait.
pub fn connect_within(
    limit: Duration,
    source: SocketAddrV4,
    target: SocketAddrV4,
) -> io::Result<Connected> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if source.port() == 0 {
        // Without it the port would have to be free for every target.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    }
    socket.bind(&source.into())?;
    let start = Instant::now();
    socket.connect_timeout(&target.into(), limit)?;
    let elapsed = start.elapsed();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    stream.set_nodelay(true)?;
    Ok(Connected { stream, elapsed })
}

/// The path MTU, in bytes, that the kernel has found for a connection.
pub fn path_mtu(stream: &impl AsFd) -> u32 {
    let info: libc::tcp_info = getsockopt(stream, TcpInfo).expect("TCP_INFO");
    info.tcpi_pmtu
}

/// Segments that this end of a connection has sent again.
pub fn retransmissions(stream: &impl AsFd) -> u32 {
    let info: libc::tcp_info = getsockopt(stream, TcpInfo).expect("TCP_INFO");
    info.tcpi_total_retrans
}

/// A UDP socket connected to `target`, with a read timeout, in the namespace of
/// the calling thread.
pub fn udp(source: Ipv4Addr, target: SocketAddrV4) -> UdpSocket {
    let socket = UdpSocket::bind(SocketAddrV4::new(source, 0)).expect("bind a UDP socket");
    socket
        .connect(SocketAddr::V4(target))
        .expect("connect a UDP socket");
    socket
        .set_read_timeout(Some(LIMIT))
        .expect("set a read timeout");
    socket
}
