//! Checks against servers on the loopback interface, one way to fail each.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use super::*;
use crate::health::checker::tests::NoRoutes;
use crate::health::spec::{Ask, Authorities, Check, Http, Spec, StatusRanges, Tls, Udp};

/// Of checks that end by themselves, long enough for any machine.
const LONG: Duration = Duration::from_secs(30);
/// Of those that have to end by it.
const SHORT: Duration = Duration::from_millis(50);

fn target(port: u16, ask: Ask, timeout: Duration) -> Arc<Target> {
    Arc::new(Target {
        address: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
        via: Via::Host,
        check: Arc::new(Check::new(Spec {
            ask,
            interval: timeout,
            timeout,
            rise: 1,
            fall: 1,
        })),
    })
}

/// How one check ends.
fn check(port: u16, ask: Ask, timeout: Duration) -> Ending {
    let target = target(port, ask, timeout);
    let mut probe = match start(&target, 42, &mut NoRoutes) {
        Ok(probe) => probe,
        Err(ending) => return ending,
    };
    let mut poll = Poll::new().expect("a poll set");
    let fd = probe.socket().as_raw_fd();
    let interest = Interest::READABLE | Interest::WRITABLE;
    let registered = poll
        .registry()
        .register(&mut SourceFd(&fd), Token(0), interest);
    registered.expect("registered");
    let deadline = Instant::now() + timeout;
    let mut events = Events::with_capacity(8);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        poll.poll(&mut events, Some(left)).expect("polled");
        if let Some(ending) = probe.step() {
            return ending;
        }
        if left.is_zero() {
            return probe.expire(timeout);
        }
    }
}

fn said(ending: Ending) -> String {
    match ending {
        Ending::Success => "ok".into(),
        Ending::Failure(failure) => format!("{}: {}", failure.cause.name(), failure.text),
        Ending::Unmade(why) => format!("unmade: {why}"),
    }
}

/// A TCP server that does this with every connection.
fn serve(with: impl Fn(std::net::TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            with(stream);
        }
    });
    port
}

/// A port on which nobody listens.
fn closed_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

fn http(body: Option<&str>, tls: Option<Tls>) -> Ask {
    Ask::Http(Arc::new(Http {
        method: "GET".into(),
        path: "/health?x=1".into(),
        host: Some("www.example.com".into()),
        status: StatusRanges(vec![(200, 399)]),
        body: body.map(str::to_owned),
        tls,
    }))
}

/// Reads a request's head.
fn request(stream: &mut impl Read) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|length| length > 0) {
        text.extend(byte);
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn behind_a_router_that_the_host_does_not_know() {
    let mut target = (*target(80, Ask::Tcp, LONG)).clone();
    let router = Ipv4Addr::new(192, 0, 2, 254);
    target.via = Via::Interface {
        name: "fglan".into(),
        source: Ipv4Addr::new(192, 0, 2, 1),
        router: Some(router),
    };
    let Err(ending) = start(&Arc::new(target), 1, &mut NoRoutes) else {
        panic!("it began")
    };
    assert_eq!(
        said(ending),
        "unmade: the host has no route to 127.0.0.1; give it one, such as by \
         \"ip route add 127.0.0.1 via 192.0.2.254 dev fglan\""
    );
}

#[test]
fn tcp() {
    let port = serve(drop);
    assert_eq!(said(check(port, Ask::Tcp, LONG)), "ok");
    assert_eq!(
        said(check(closed_port(), Ask::Tcp, LONG)),
        "refused: connection refused"
    );
}

#[test]
fn http_says_what_it_was_asked_and_is_read() {
    let port = serve(|mut stream| {
        let request = request(&mut stream);
        let wanted = request.starts_with("GET /health?x=1 HTTP/1.1\r\nHost: www.example.com\r\n")
            && request.contains("\r\nConnection: close\r\n");
        let status = if wanted { "200 OK" } else { "400 Bad Request" };
        let _ = write!(stream, "HTTP/1.1 {status}\r\n\r\nall is ");
        let _ = stream.write_all(b"well");
    });
    assert_eq!(said(check(port, http(None, None), LONG)), "ok");
    assert_eq!(said(check(port, http(Some("is well"), None), LONG)), "ok");
    assert_eq!(
        said(check(port, http(Some("is lost"), None), LONG)),
        "body: the body lacks \"is lost\""
    );
}

#[test]
fn http_that_fails() {
    assert_eq!(
        said(check(closed_port(), http(None, None), LONG)),
        "refused: connection refused"
    );
    let port = serve(|mut stream| {
        request(&mut stream);
    });
    assert_eq!(
        said(check(port, http(None, None), LONG)),
        "closed: closed before the response was complete"
    );
    // It accepts and never answers, nor closes.
    let port = serve(std::mem::forget);
    assert_eq!(
        said(check(port, http(None, None), SHORT)),
        "timeout: connected, but no complete response within 50ms"
    );
    let tls = Tls {
        name: None,
        authorities: None,
    };
    assert_eq!(
        said(check(port, http(None, Some(tls.clone())), SHORT)),
        "timeout: connected, but no TLS handshake within 50ms"
    );
    let port = serve(|mut stream| {
        let _ = stream.write_all(b"220 mail.example.com ESMTP\r\n");
        request(&mut stream);
    });
    let ending = said(check(port, http(None, Some(tls)), LONG));
    assert!(ending.starts_with("tls: TLS: "), "{ending}");
}

/// A server with a certificate of its own for www.example.com, and that
/// certificate as a file.
fn tls_server() -> (u16, tempfile::NamedTempFile) {
    let names = vec!["www.example.com".to_owned()];
    let own = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(own.cert.pem().as_bytes()).expect("written");
    let key = own.signing_key.serialize_pem();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .expect("a configuration");
    let config = Arc::new(config);
    let port = serve(move |mut stream| {
        let mut session = rustls::ServerConnection::new(Arc::clone(&config)).expect("a session");
        let mut tls = rustls::Stream::new(&mut session, &mut stream);
        request(&mut tls);
        let name = tls.conn.server_name().unwrap_or("nobody").to_owned();
        let _ = write!(tls, "HTTP/1.1 200 OK\r\n\r\nasked for {name}.");
        tls.conn.send_close_notify();
        let _ = tls.flush();
    });
    (port, file)
}

#[test]
fn https() {
    let (port, file) = tls_server();
    let authorities = Authorities::load(file.path().into()).expect("certificates");
    let ask = |name: Option<&str>, verified: bool, body: &str| {
        let tls = Tls {
            name: name.map(str::to_owned),
            authorities: verified.then(|| authorities.clone()),
        };
        said(check(port, http(Some(body), Some(tls)), LONG))
    };
    let named = "asked for www.example.com.";
    assert_eq!(ask(Some("www.example.com"), false, named), "ok");
    assert_eq!(ask(None, false, "asked for nobody."), "ok");
    assert_eq!(ask(Some("www.example.com"), true, named), "ok");
    let ending = ask(Some("other.example.com"), true, "");
    assert!(
        ending.starts_with("tls: TLS: invalid peer certificate: "),
        "{ending}"
    );
    let (_, other) = tls_server();
    let tls = Tls {
        name: Some("www.example.com".into()),
        authorities: Some(Authorities::load(other.path().into()).expect("certificates")),
    };
    let ending = said(check(port, http(None, Some(tls)), LONG));
    assert!(
        ending.starts_with("tls: TLS: invalid peer certificate: "),
        "{ending}"
    );
}

#[test]
fn authorities_that_are_none() {
    let load = |path: &std::path::Path| Authorities::load(path.into()).expect_err("wrong");
    assert_eq!(
        load("/nonexistent.pem".as_ref()),
        "can't be read: No such file or directory (os error 2)"
    );
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    assert_eq!(load(file.path()), "has no certificate in PEM");
    file.write_all(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .expect("written");
    let wrong = load(file.path());
    assert!(
        wrong.starts_with("has a certificate that can't be used: "),
        "{wrong}"
    );
}

#[test]
fn udp() {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = server.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        let mut datagram = [0; 64];
        while let Ok((length, client)) = server.recv_from(&mut datagram) {
            if &datagram[..length] == b"ping" {
                let _ = server.send_to(b"\x00pong\x00", client);
            }
        }
    });
    let ask = |send: &[u8], expect: Option<&[u8]>| {
        Ask::Udp(Udp {
            send: send.to_vec(),
            expect: expect.map(<[u8]>::to_vec),
        })
    };
    assert_eq!(said(check(port, ask(b"ping", Some(b"pong")), LONG)), "ok");
    assert_eq!(said(check(port, ask(b"ping", None), LONG)), "ok");
    assert_eq!(
        said(check(port, ask(b"ping", Some(b"ping")), LONG)),
        "response: an answer of 6 bytes without what is expected"
    );
    assert_eq!(
        said(check(port, ask(b"", Some(b"pong")), SHORT)),
        "no-answer: no answer within 50ms"
    );
    assert_eq!(said(check(port, ask(b"", None), SHORT)), "ok");
    let refused = "refused: connection refused";
    assert_eq!(
        said(check(closed_port(), ask(b"ping", None), LONG)),
        refused
    );
}
