//! One check under way: a socket that never blocks, and what has come of it so
//! far. Owned by the checker's thread, which says when the socket may be ready
//! and when the time is over.

mod arp;
mod http;
mod icmp;
mod response;
mod tcp;
pub(super) mod tls;
mod udp;

use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::spec::Ask;
use super::trend::Outcome;
use super::{HostRoutes, Target, Via};

macro_rules! causes {
    ($($(#[$doc:meta])* $id:ident = $name:literal,)*) => {
        /// Why a check failed.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Cause {
            $($(#[$doc])* $id,)*
        }

        /// All of them, in order.
        pub const CAUSES: [Cause; [$($name),*].len()] = [$(Cause::$id),*];

        impl Cause {
            /// The name in metrics.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$id => $name,)*
                }
            }
        }
    };
}

causes! {
    /// Nothing came back.
    NoAnswer = "no-answer",
    /// A RST, or ICMP port unreachable.
    Refused = "refused",
    /// ICMP host or network unreachable, or no ARP answer.
    Unreachable = "unreachable",
    /// A connection, and no complete response on it in time.
    Timeout = "timeout",
    /// A connection that ended before the response did.
    Closed = "closed",
    /// The TLS handshake failed.
    Tls = "tls",
    /// No HTTP, or not the datagram expected.
    Response = "response",
    /// Another HTTP status than those wanted.
    Status = "status",
    /// A body without what it has to contain.
    Body = "body",
}

impl Cause {
    /// Whether nobody is there who could answer.
    pub const fn is_silent(self) -> bool {
        matches!(self, Self::NoAnswer | Self::Refused | Self::Unreachable)
    }
}

/// What was wrong, in words for listings and the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Failure {
    pub(super) cause: Cause,
    pub(super) text: String,
}

impl Failure {
    fn new(cause: Cause, text: impl Into<String>) -> Self {
        Self {
            cause,
            text: text.into(),
        }
    }
}

/// How a check ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    Success,
    Failure(Failure),
    /// It could not be made, for a reason on this host: it says nothing about
    /// the server.
    Unmade(String),
}

impl Ending {
    fn failure(cause: Cause, text: impl Into<String>) -> Self {
        Self::Failure(Failure::new(cause, text))
    }

    /// What it says about the server, if anything.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Success => Some(Outcome::Success),
            Self::Failure(failure) => Some(Outcome::Failure {
                silent: failure.cause.is_silent(),
            }),
            Self::Unmade(_) => None,
        }
    }
}

/// A check under way.
pub(super) trait Probe: Send {
    /// The socket whose readiness it waits for.
    fn socket(&self) -> &Socket;

    /// Goes as far as it can without waiting.
    fn step(&mut self) -> Option<Ending>;

    /// What it comes to if nothing more comes; `after` is how long that took.
    fn expire(&self, after: Duration) -> Ending;
}

/// Begins a check. `nonce` tells an echo request from others.
///
/// # Errors
/// It is over already.
pub(super) fn start(
    target: &Arc<Target>,
    nonce: u64,
    routes: &mut dyn HostRoutes,
) -> Result<Box<dyn Probe>, Ending> {
    check_route(target, routes)?;
    let spec = &target.check.spec;
    Ok(match &spec.ask {
        Ask::Tcp => Box::new(tcp::Connect::start(target)?),
        Ask::Http(http) => Box::new(http::Exchange::start(target, http)?),
        Ask::Udp(udp) => Box::new(udp::Datagram::start(target, udp)?),
        Ask::Icmp => Box::new(icmp::Echo::start(target, nonce)?),
    })
}

/// What goes through a router has to be known to go there.
fn check_route(target: &Target, routes: &mut dyn HostRoutes) -> Result<(), Ending> {
    let Via::Interface {
        name,
        router: Some(router),
        ..
    } = &target.via
    else {
        return Ok(());
    };
    let to = *target.address.ip();
    let known = routes.has_router(name, to);
    match known.map_err(unmade("the host's routes"))? {
        true => Ok(()),
        false => Err(Ending::Unmade(format!(
            "the host has no route to {to}; give it one, such as by \
             \"ip route add {to} via {router} dev {name}\""
        ))),
    }
}

fn unmade(doing: &str) -> impl Fn(io::Error) -> Ending {
    move |error| Ending::Unmade(format!("{doing}: {error}"))
}

/// A socket that leaves the host the target's way.
fn open(kind: Type, protocol: Protocol, via: &Via) -> Result<Socket, Ending> {
    let socket =
        Socket::new(Domain::IPV4, kind.nonblocking(), Some(protocol)).map_err(unmade("socket"))?;
    if let Via::Interface { name, source, .. } = via {
        socket
            .bind_device(Some(name.as_bytes()))
            .map_err(unmade(&format!("interface {name}")))?;
        socket
            .bind(&SocketAddrV4::new(*source, 0).into())
            .map_err(unmade(&format!("source address {source}")))?;
    }
    Ok(socket)
}

/// Begins to connect. What the kernel refuses at once it refuses by itself,
/// but for a RST that came back over the loopback interface.
fn connect(socket: &Socket, to: SocketAddrV4) -> Result<(), Ending> {
    match socket.connect(&to.into()) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err(Ending::Failure(failure_of(&error)))
        }
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
            Err(unmade("connect")(error))
        }
        _ => Ok(()),
    }
}

/// A TCP socket on its way to the target. It is closed by RST, so that no
/// check leaves a socket in TIME-WAIT behind.
fn connecting(target: &Target) -> Result<Socket, Ending> {
    let socket = open(Type::STREAM, Protocol::TCP, &target.via)?;
    socket
        .set_linger(Some(Duration::ZERO))
        .map_err(unmade("SO_LINGER"))?;
    socket
        .set_tcp_nodelay(true)
        .map_err(unmade("TCP_NODELAY"))?;
    connect(&socket, target.address)?;
    Ok(socket)
}

/// Whether the socket has come to a connection.
fn connected(socket: &Socket) -> Result<bool, Failure> {
    let failed = |error: io::Error| failure_of(&error);
    if let Some(error) = socket.take_error().map_err(failed)? {
        return Err(failure_of(&error));
    }
    match socket.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(failure_of(&error)),
    }
}

/// What an error on a socket says about the other end.
fn failure_of(error: &io::Error) -> Failure {
    use io::ErrorKind as Kind;
    let (cause, text) = match error.kind() {
        Kind::ConnectionRefused => (Cause::Refused, "connection refused"),
        Kind::HostUnreachable => (Cause::Unreachable, "host unreachable"),
        Kind::NetworkUnreachable => (Cause::Unreachable, "network unreachable"),
        Kind::TimedOut => (Cause::NoAnswer, "no answer"),
        Kind::ConnectionReset | Kind::BrokenPipe => (Cause::Closed, "connection reset"),
        _ => return Failure::new(Cause::Closed, error.to_string()),
    };
    Failure::new(cause, text)
}

/// Whether a call on a socket is to be tried when it is ready.
fn would_block(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::NotConnected
    )
}

fn no_answer(after: Duration) -> Ending {
    Ending::failure(Cause::NoAnswer, format!("no answer within {after:?}"))
}

#[cfg(test)]
mod tests;
