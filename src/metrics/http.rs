//! The HTTP side of the metrics endpoint: answers `GET /metrics`, one request a
//! connection, and nothing else. Owns the listening socket and one thread per
//! client. Clients are bounded in number, in bytes and in time; a slow one loses
//! its place to the next, and what is not plainly a request (RFC 9112) is refused.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::text::CONTENT_TYPE;
use crate::serve::{Place, Places, is_retry, left, next_client, peer};

/// What one client may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Clients at a time. The next one gets the place of the one that has been
    /// waited for longest at the address that has most; there is no grace,
    /// since a scraper sends its request at once.
    pub(super) clients: usize,
    /// Longest request line and header fields together, bytes.
    pub(super) head: usize,
    /// From the connection to the end of the request's header.
    pub(super) request: Duration,
    /// A response must be taken within so long.
    pub(super) response: Duration,
}

impl Limits {
    /// What `fullgate` allows. A scraper is usually alone, and has its answer
    /// long before 64 others have come after it; the time for the response is
    /// Prometheus' default for a whole scrape.
    pub(super) const DEFAULT: Self = Self {
        clients: 64,
        head: 8 << 10,
        request: Duration::from_secs(5),
        response: Duration::from_secs(10),
    };
}

/// How long, and how much, a client may go on sending before its connection is
/// reset, so that what it was told arrives first.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_READS: usize = 64;

/// What makes the exposition; nothing once the gateway stops.
type Source = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// Makes one exposition at a time, for all who asked before it was begun: many
/// requests at once cost two, and not one each.
struct Exposition {
    source: Source,
    waiting: AtomicUsize,
    last: Mutex<Option<(Instant, Arc<str>)>>,
}

impl Exposition {
    fn new(source: Source) -> Self {
        Self {
            source,
            waiting: AtomicUsize::new(0),
            last: Mutex::default(),
        }
    }

    /// An exposition begun after now.
    fn get(&self) -> Option<Arc<str>> {
        let asked = Instant::now();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let made = match &*last {
            Some((begun, made)) if *begun >= asked => Some(Arc::clone(made)),
            _ => {
                let begun = Instant::now();
                let made = (self.source)().map(Arc::<str>::from);
                *last = made.clone().map(|made| (begun, made));
                made
            }
        };
        if self.waiting.fetch_sub(1, Ordering::Relaxed) == 1 {
            // Nobody who waits can use it.
            *last = None;
        }
        made
    }
}

/// The endpoint. Dropping it stops listening; responses under way are finished.
#[derive(Debug)]
pub(super) struct Server {
    listener: TcpStream,
    addr: SocketAddr,
    stopping: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves on a listening socket.
    ///
    /// # Errors
    /// No descriptor or thread is to be had.
    pub(super) fn start(listener: TcpListener, limits: Limits, source: Source) -> io::Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        let handle = TcpStream::from(OwnedFd::from(listener.try_clone()?));
        let addr = listener.local_addr()?;
        let accepting = std::thread::Builder::new().name("metrics".into()).spawn({
            let stopping = Arc::clone(&stopping);
            move || accept(&listener, limits, &source, &stopping)
        })?;
        Ok(Self {
            listener: handle,
            addr,
            stopping,
            accepting: Some(accepting),
        })
    }

    /// Where it listens.
    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        // Linux wakes a blocked accept when its socket is shut down.
        let _ = self.listener.shutdown(Shutdown::Both);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn accept(listener: &TcpListener, limits: Limits, source: &Source, stopping: &AtomicBool) {
    let places = Places::new(limits.clients, Duration::ZERO);
    let exposition = Arc::new(Exposition::new(Arc::clone(source)));
    while let Some((stream, from)) = next_client("metrics", stopping, || listener.accept()) {
        let now = Instant::now();
        let Some(place) = Places::take(&places, &stream, Some(peer(from.ip())), now) else {
            turn_away(&stream);
            continue;
        };
        let exposition = Arc::clone(&exposition);
        let serve = move || {
            // A client that is gone needs no answer.
            let _ = serve(stream, limits, &place, &exposition);
        };
        let spawned = std::thread::Builder::new()
            .name("metrics-client".into())
            .spawn(serve);
        if let Err(error) = spawned {
            log::warn!("metrics: no thread for a client: {error}");
        }
    }
}

fn turn_away(mut stream: &TcpStream) {
    // Nobody waits for such a client; an empty socket buffer takes this much
    // without blocking.
    let _ = stream.set_nonblocking(true);
    let _ = stream.write_all(Status::Busy.response().as_bytes());
    let _ = stream.shutdown(Shutdown::Write);
}

fn serve(
    mut stream: TcpStream,
    limits: Limits,
    place: &Place<TcpStream>,
    exposition: &Exposition,
) -> io::Result<()> {
    let asked = request(&mut stream, limits);
    if place.is_lost() {
        turn_away(&stream);
        return Ok(());
    }
    place.serve_client();
    let body = match asked? {
        Ok(()) => exposition.get().ok_or(Status::Busy),
        Err(status) => Err(status),
    };
    match body {
        Ok(body) => {
            let header = header("200 OK", CONTENT_TYPE, body.len(), "");
            answer(&mut stream, limits, place, &[&header, &body])
        }
        Err(status) => answer(&mut stream, limits, place, &[&status.response()]),
    }
}

fn answer(
    stream: &mut TcpStream,
    limits: Limits,
    place: &Place<TcpStream>,
    parts: &[&str],
) -> io::Result<()> {
    let deadline = Instant::now() + limits.response;
    // Since when it is waited for counts from here: one that takes a byte now
    // and then is as slow as one that takes none.
    place.wait_for_reader();
    for part in parts {
        let mut rest = part.as_bytes();
        while !rest.is_empty() {
            // Who loses the place from here on is woken.
            if place.is_lost() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            stream.set_write_timeout(Some(left(deadline)?))?;
            match stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => rest = &rest[count..],
                Err(error) if is_retry(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
    stream.shutdown(Shutdown::Write)?;
    // Closing with bytes unread sends a RST, which may overtake the response.
    let deadline = Instant::now() + LINGER;
    let mut chunk = [0; 1024];
    for _ in 0..LINGER_READS {
        if read(stream, &mut chunk, deadline)? == 0 {
            break;
        }
    }
    Ok(())
}

/// Reads a request to the end of its header.
fn request(stream: &mut TcpStream, limits: Limits) -> io::Result<Result<(), Status>> {
    let deadline = Instant::now() + limits.request;
    let mut head = Vec::new();
    loop {
        let mut chunk = [0; 1024];
        match read(stream, &mut chunk, deadline) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                // The terminator may lie across two reads.
                let searched = head.len().saturating_sub(3);
                head.extend_from_slice(&chunk[..count]);
                let end = head[searched..].windows(4).position(|at| at == b"\r\n\r\n");
                if let Some(end) = end {
                    head.truncate(searched + end + 2);
                    return Ok(check(&head));
                }
                if head.len() > limits.head {
                    return Ok(Err(Status::TooLarge));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut && !head.is_empty() => {
                return Ok(Err(Status::Timeout));
            }
            Err(error) => return Err(error),
        }
    }
}

fn read(stream: &mut TcpStream, chunk: &mut [u8], deadline: Instant) -> io::Result<usize> {
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(chunk) {
            Err(error) if is_retry(&error) => {}
            other => return other,
        }
    }
}

/// Why a request is not answered with the metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Status {
    BadRequest,
    NotFound,
    NotAllowed,
    Timeout,
    TooLarge,
    Version,
    Busy,
}

impl Status {
    const fn line(self) -> &'static str {
        match self {
            Self::BadRequest => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::NotAllowed => "405 Method Not Allowed",
            Self::Timeout => "408 Request Timeout",
            Self::TooLarge => "431 Request Header Fields Too Large",
            Self::Version => "505 HTTP Version Not Supported",
            Self::Busy => "503 Service Unavailable",
        }
    }

    fn response(self) -> String {
        let line = self.line();
        let more = match self {
            // RFC 9110, section 15.5.6.
            Self::NotAllowed => "Allow: GET\r\n",
            _ => "",
        };
        let body = format!("{line}; this is fullgate, try GET /metrics\n");
        let header = header(line, "text/plain; charset=utf-8", body.len(), more);
        format!("{header}{body}")
    }
}

fn header(line: &str, kind: &str, length: usize, more: &str) -> String {
    format!(
        "HTTP/1.1 {line}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         {more}Connection: close\r\n\r\n"
    )
}

/// `tchar` of RFC 9110, section 5.6.2.
fn is_token(text: &[u8]) -> bool {
    let tchar = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(tchar)
}

/// Whether a request, up to and with the last field's CRLF, asks for the
/// metrics. A CR or LF by itself, a folded line, a second `Host` or a body is
/// a fault: nothing that scrapes sends one.
fn check(head: &[u8]) -> Result<(), Status> {
    let faulty = Status::BadRequest;
    let text = std::str::from_utf8(head).map_err(|_| faulty)?;
    let mut lines = text.strip_suffix("\r\n").ok_or(faulty)?.split("\r\n");
    let line = lines.next().ok_or(faulty)?;
    let parts: Vec<&str> = line.split(' ').collect();
    let &[method, target, version] = parts.as_slice() else {
        return Err(faulty);
    };
    let visible = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_token(method.as_bytes()) || !visible(target) || !version.starts_with("HTTP/") {
        return Err(faulty);
    }
    if version != "HTTP/1.1" && version != "HTTP/1.0" {
        return Err(Status::Version);
    }
    let mut hosts = 0;
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(faulty)?;
        let value = value.trim_matches([' ', '\t']);
        let printable = |c: char| c == '\t' || !c.is_control();
        if !is_token(name.as_bytes()) || !value.chars().all(printable) {
            return Err(faulty);
        }
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        if is("transfer-encoding") || (is("content-length") && value != "0") {
            return Err(faulty);
        }
        hosts += u32::from(is("host"));
    }
    // RFC 9112, section 3.2.
    if hosts > 1 || (hosts == 0 && version == "HTTP/1.1") {
        return Err(faulty);
    }
    match path(target).ok_or(faulty)? {
        "/metrics" if method == "GET" => Ok(()),
        "/metrics" => Err(Status::NotAllowed),
        _ => Err(Status::NotFound),
    }
}

/// The path of a target in origin or absolute form (RFC 9112, section 3.2),
/// without its query.
fn path(target: &str) -> Option<&str> {
    let path = match target.strip_prefix("http://") {
        Some(rest) => rest.get(rest.find('/')?..)?,
        None => target,
    };
    let path = path.split('?').next()?;
    (path.starts_with('/') || path == "*").then_some(path)
}

#[cfg(test)]
mod tests;
