//! The admin socket: a Unix stream socket that takes one JSON-RPC request a
//! line. Owns the socket file and one thread per client; hands each request to
//! the management loop over a channel and writes its outcome back. Never
//! touches state, and never lets one client keep another waiting: clients are
//! bounded in number, in bytes per request and in time, and one that only keeps
//! its place gives it up when somebody else needs it.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::admin::access::{Access, Role};
use crate::api::rpc::{self, Error, Id, Outcome};
use crate::serve::{Place, Places, is_retry, left, next_client};

/// One request on its way to the management loop.
#[derive(Debug)]
pub struct Call {
    /// What is asked for.
    pub request: rpc::Request,
    /// Where the outcome goes; dropping it answers "stopping".
    pub reply: SyncSender<Outcome>,
}

/// Bytes that are read or written at a time.
const CHUNK: usize = 16 * 1024;

/// What one client may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Clients at a time. The next one gets the place of the one that has been
    /// waited for longest, or is told that there is none and closed.
    pub clients: usize,
    /// A client that has been waited for so long can lose its place.
    pub grace: Duration,
    /// Longest request line, bytes.
    pub line: usize,
    /// A client that sends nothing for so long is closed.
    pub idle: Duration,
    /// A request line must be complete so long after its first byte.
    pub request: Duration,
    /// A response must be taken within so long.
    pub response: Duration,
}

impl Limits {
    /// What `fullgate` allows.
    pub const DEFAULT: Self = Self {
        clients: 64,
        grace: Duration::from_secs(2),
        line: 1 << 20,
        idle: Duration::from_secs(60),
        request: Duration::from_secs(10),
        response: Duration::from_secs(30),
    };
}

/// Why the socket can't be served.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("{0} is in use by a running process")]
    InUse(PathBuf),
    #[error("{0} exists and is not a socket")]
    NotASocket(PathBuf),
    #[error("cannot listen on {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// The listening socket. Dropping it stops listening and removes the file;
/// clients being served end with their next request.
#[derive(Debug)]
pub struct AdminSocket {
    path: PathBuf,
    listener: UnixStream,
    stopping: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

/// The socket before anybody is served: its file is there, and clients wait.
#[derive(Debug)]
pub struct Listening {
    path: PathBuf,
    listener: UnixListener,
    access: Access,
}

impl Listening {
    /// Listens on `path`, open to whom `access` says. The socket file of a
    /// process that is gone is replaced.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(path: &Path, access: Access) -> Result<Self, BindError> {
        let io_error = |source| BindError::Io {
            path: path.into(),
            source,
        };
        check_free(path)?;
        // Under another name first, so that nobody ever sees the socket with
        // the mode the umask gives it, and a stale file is replaced at once.
        let unfinished = path.with_extension(format!("{}.new", std::process::id()));
        let _ = std::fs::remove_file(&unfinished);
        let listener = UnixListener::bind(&unfinished).map_err(io_error)?;
        let publish = || {
            access.give(&unfinished)?;
            std::fs::rename(&unfinished, path)
        };
        if let Err(source) = publish() {
            let _ = std::fs::remove_file(&unfinished);
            return Err(io_error(source));
        }
        Ok(Self {
            path: path.into(),
            listener,
            access,
        })
    }

    /// Serves clients; their requests go to `calls`.
    ///
    /// # Errors
    /// [`BindError::Io`]: there can be no more threads.
    pub fn serve(self, limits: Limits, calls: Sender<Call>) -> Result<AdminSocket, BindError> {
        let Self {
            path,
            listener,
            access,
        } = self;
        let io_error = |source| BindError::Io {
            path: path.clone(),
            source,
        };
        let stopping = Arc::new(AtomicBool::new(false));
        let handle = UnixStream::from(OwnedFd::from(listener.try_clone().map_err(io_error)?));
        let accepting = std::thread::Builder::new().name("admin".into()).spawn({
            let stopping = Arc::clone(&stopping);
            let access = Arc::new(access);
            move || accept(&listener, limits, &access, &calls, &stopping)
        });
        let accepting = Some(accepting.map_err(io_error)?);
        Ok(AdminSocket {
            path,
            listener: handle,
            stopping,
            accepting,
        })
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        // Linux wakes a blocked accept when its socket is shut down.
        let _ = self.listener.shutdown(Shutdown::Both);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn check_free(path: &Path) -> Result<(), BindError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(BindError::Io {
                path: path.into(),
                source,
            });
        }
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BindError::NotASocket(path.into()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(BindError::InUse(path.into())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(source) => Err(BindError::Io {
            path: path.into(),
            source,
        }),
    }
}

fn accept(
    listener: &UnixListener,
    limits: Limits,
    access: &Arc<Access>,
    calls: &Sender<Call>,
    stopping: &AtomicBool,
) {
    let places = Places::new(limits.clients, limits.grace);
    while let Some((stream, _)) = next_client("admin socket", stopping, || listener.accept()) {
        let Some(place) = Places::take(&places, &stream, None, Instant::now()) else {
            turn_away(stream, limits);
            continue;
        };
        let client = Client {
            stream,
            limits,
            place,
            access: Arc::clone(access),
        };
        let calls = calls.clone();
        let serve = move || client.serve(&calls);
        let spawned = std::thread::Builder::new()
            .name("admin-client".into())
            .spawn(serve);
        if let Err(error) = spawned {
            log::warn!("admin socket: no thread for a client: {error}");
        }
    }
}

fn turn_away(mut stream: UnixStream, limits: Limits) {
    let error = Error::new(
        rpc::BUSY,
        format!(
            "too many clients: the admin socket serves {} at a time; try again in a moment",
            limits.clients
        ),
    );
    // The accepting thread waits for nobody; an empty socket buffer takes this
    // much without blocking.
    let _ = stream.set_nonblocking(true);
    let _ = stream.write_all(rpc::response(&Id::Null, &Err(error)).as_bytes());
    let _ = stream.shutdown(Shutdown::Write);
}

/// Why a client's next line can't be had.
enum Ended {
    /// Closed, silent for too long, or broken: nobody to tell.
    Gone,
    /// To be told, then closed.
    Faulty(Error),
}

struct Client {
    stream: UnixStream,
    limits: Limits,
    place: Place<UnixStream>,
    access: Arc<Access>,
}

impl Client {
    fn serve(mut self, calls: &Sender<Call>) {
        let role = match self.access.role(&self.stream) {
            Ok(role) => role,
            Err(error) => {
                let _ = self.write(&rpc::response(&Id::Null, &Err(error)));
                return;
            }
        };
        let mut buffer = Vec::new();
        loop {
            self.place.wait_for_request();
            let line = match self.next_line(&mut buffer) {
                Ok(line) => line,
                Err(Ended::Gone) => return,
                Err(Ended::Faulty(error)) => {
                    let _ = self.write(&rpc::response(&Id::Null, &Err(error)));
                    return;
                }
            };
            self.place.serve_client();
            let answer = match rpc::parse(&line) {
                Err(refusal) => rpc::response(&refusal.id, &Err(refusal.error)),
                Ok(request) => {
                    let id = request.id.clone();
                    rpc::response(&id, &self.ask(calls, role, request))
                }
            };
            if self.write(&answer).is_err() {
                return;
            }
        }
    }

    fn ask(&self, calls: &Sender<Call>, role: Role, request: rpc::Request) -> Outcome {
        self.access.allows(role, &request.method)?;
        ask(calls, request)
    }

    /// The next line that is not blank. Blank ones get no answer, and no time
    /// beyond what is left for the next request.
    fn next_line(&mut self, buffer: &mut Vec<u8>) -> Result<Vec<u8>, Ended> {
        let deadline = Instant::now() + self.limits.idle;
        loop {
            let line = self.line(buffer)?;
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Ok(line);
            }
            if Instant::now() >= deadline {
                return Err(Ended::Gone);
            }
        }
    }

    /// The next line without its newline; what follows it stays in `buffer`.
    fn line(&mut self, buffer: &mut Vec<u8>) -> Result<Vec<u8>, Ended> {
        let begun = Instant::now();
        let mut deadline = begun
            + if buffer.is_empty() {
                self.limits.idle
            } else {
                self.limits.request
            };
        let mut searched = 0;
        loop {
            if let Some(at) = buffer[searched..].iter().position(|&byte| byte == b'\n') {
                let rest = buffer.split_off(searched + at + 1);
                let mut line = std::mem::replace(buffer, rest);
                line.pop();
                return Ok(line);
            }
            searched = buffer.len();
            if searched > self.limits.line {
                let message = format!("the request is longer than {} bytes", self.limits.line);
                return Err(Ended::Faulty(Error::new(rpc::INVALID_REQUEST, message)));
            }
            let mut chunk = [0; CHUNK];
            match self.read(&mut chunk, deadline) {
                Ok(0) if self.place.is_lost() => {
                    let message = "another client needed the place of this silent one";
                    return Err(Ended::Faulty(Error::new(rpc::BUSY, message)));
                }
                Ok(0) => return Err(Ended::Gone),
                Ok(count) => {
                    if buffer.is_empty() {
                        deadline = Instant::now() + self.limits.request;
                    }
                    buffer.extend_from_slice(&chunk[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut && !buffer.is_empty() => {
                    let message =
                        format!("no complete request in {} s", self.limits.request.as_secs());
                    return Err(Ended::Faulty(Error::new(rpc::INVALID_REQUEST, message)));
                }
                Err(_) => return Err(Ended::Gone),
            }
        }
    }

    fn read(&mut self, chunk: &mut [u8], deadline: Instant) -> io::Result<usize> {
        loop {
            self.stream.set_read_timeout(Some(left(deadline)?))?;
            match self.stream.read(chunk) {
                Err(error) if is_retry(&error) => {}
                other => return other,
            }
        }
    }

    fn write(&mut self, answer: &str) -> io::Result<()> {
        let deadline = Instant::now() + self.limits.response;
        let mut rest = answer.as_bytes();
        self.place.wait_for_reader();
        while !rest.is_empty() {
            // Who loses the place while it is waited for is woken; one that had
            // lost it before is not waited for.
            let patience = match self.place.is_lost() {
                true => Duration::from_millis(1),
                false => left(deadline)?,
            };
            self.stream.set_write_timeout(Some(patience))?;
            // A call with more would last until a slow client has taken it all.
            match self.stream.write(&rest[..rest.len().min(CHUNK)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    rest = &rest[count..];
                    self.place.wait_for_reader();
                }
                Err(error) if is_retry(&error) => {}
                Err(error) => return Err(error),
            }
            if self.place.is_lost() {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }
}

fn ask(calls: &Sender<Call>, request: rpc::Request) -> Outcome {
    let (reply, outcome) = mpsc::sync_channel(1);
    let stopping = || Error::failed("fullgate is stopping");
    calls
        .send(Call { request, reply })
        .map_err(|_| stopping())?;
    outcome.recv().map_err(|_| stopping())?
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::fs::PermissionsExt;

    use serde_json::{Value, json};

    use super::*;

    const LIMITS: Limits = Limits {
        clients: 64,
        grace: Duration::from_secs(60),
        line: 4096,
        idle: Duration::from_secs(60),
        request: Duration::from_millis(300),
        response: Duration::from_millis(300),
    };

    fn bind(path: &Path, limits: Limits, calls: Sender<Call>) -> Result<AdminSocket, BindError> {
        Listening::bind(path, Access::open())?.serve(limits, calls)
    }

    struct Fixture {
        _dir: tempfile::TempDir,
        path: PathBuf,
        socket: Option<AdminSocket>,
        loops: JoinHandle<usize>,
    }

    impl Fixture {
        /// A socket before a management loop that echoes the parameters, or as
        /// many bytes as the parameter `bytes` says.
        fn new(limits: Limits) -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("admin.sock");
            let (sender, calls) = mpsc::channel::<Call>();
            let socket = bind(&path, limits, sender).expect("bound");
            let loops = std::thread::spawn(move || {
                let mut served = 0;
                for call in calls {
                    let bytes = call.request.params.get("bytes").and_then(Value::as_u64);
                    let result = match bytes {
                        Some(bytes) => json!("x".repeat(bytes as usize)),
                        None => Value::Object(call.request.params),
                    };
                    let _ = call.reply.send(Ok(result));
                    served += 1;
                }
                served
            });
            Self {
                _dir: dir,
                path,
                socket: Some(socket),
                loops,
            }
        }

        fn connect(&self) -> BufReader<UnixStream> {
            BufReader::new(UnixStream::connect(&self.path).expect("connected"))
        }

        fn finish(mut self) -> usize {
            self.socket.take();
            assert!(!self.path.exists(), "the socket file is removed");
            self.loops.join().expect("the loop")
        }
    }

    fn send(client: &mut BufReader<UnixStream>, bytes: &[u8]) {
        client.get_mut().write_all(bytes).expect("written");
    }

    fn answer(client: &mut BufReader<UnixStream>) -> Outcome {
        let mut line = String::new();
        client.read_line(&mut line).expect("a line");
        rpc::parse_response(&line).expect("a response")
    }

    fn is_closed(client: &mut BufReader<UnixStream>) -> bool {
        let mut rest = Vec::new();
        matches!(client.read_to_end(&mut rest), Ok(0) | Err(_))
    }

    #[test]
    fn requests_in_pieces_and_together() {
        let fixture = Fixture::new(LIMITS);
        let mut client = fixture.connect();
        let line = rpc::request(1, "echo", &json!({"a": 1}));
        for byte in line.as_bytes() {
            send(&mut client, &[*byte]);
        }
        assert_eq!(answer(&mut client), Ok(json!({"a": 1})));
        send(
            &mut client,
            format!("\n{line}{}", rpc::request(2, "echo", &json!({}))).as_bytes(),
        );
        assert_eq!(answer(&mut client), Ok(json!({"a": 1})));
        assert_eq!(answer(&mut client), Ok(json!({})));
        send(&mut client, b"nonsense\n");
        assert_eq!(
            answer(&mut client).expect_err("refused").code,
            rpc::PARSE_ERROR
        );
        drop(client);
        assert_eq!(fixture.finish(), 3);
    }

    #[test]
    fn the_mode_is_0660() {
        let fixture = Fixture::new(LIMITS);
        let mode = std::fs::metadata(&fixture.path)
            .expect("metadata")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o660);
        fixture.finish();
    }

    #[test]
    fn an_endless_line_is_cut_off() {
        let fixture = Fixture::new(LIMITS);
        let mut client = fixture.connect();
        let mut sent = 0usize;
        let chunk = [b'a'; 64 * 1024];
        while sent < 1 << 30 {
            match client.get_mut().write(&chunk) {
                Ok(count) => sent += count,
                Err(_) => break,
            }
        }
        // Whatever the socket buffer took, far less than was meant.
        assert!(sent < 16 << 20, "{sent} bytes went in");
        assert!(fixture.connect().get_mut().write_all(b"\n").is_ok());
        assert_eq!(fixture.finish(), 0);
    }

    #[test]
    fn a_line_just_too_long_is_answered() {
        let fixture = Fixture::new(LIMITS);
        let mut client = fixture.connect();
        send(&mut client, &vec![b' '; LIMITS.line + 1]);
        let error = answer(&mut client).expect_err("refused");
        assert_eq!(error.code, rpc::INVALID_REQUEST);
        assert!(error.message.contains("longer than 4096"), "{error}");
        assert!(is_closed(&mut client));
        fixture.finish();
    }

    #[test]
    fn a_stalled_client_is_told_and_closed() {
        let fixture = Fixture::new(LIMITS);
        let mut client = fixture.connect();
        send(&mut client, b"{\"jsonrpc\"");
        let error = answer(&mut client).expect_err("refused");
        assert!(error.message.contains("no complete request"), "{error}");
        assert!(is_closed(&mut client));
        fixture.finish();
    }

    #[test]
    fn a_client_that_takes_no_answer_is_closed_and_delays_nobody() {
        let fixture = Fixture::new(LIMITS);
        let mut deaf = fixture.connect();
        send(
            &mut deaf,
            rpc::request(1, "echo", &json!({"bytes": 8 << 20})).as_bytes(),
        );
        let mut other = fixture.connect();
        send(
            &mut other,
            rpc::request(1, "echo", &json!({"b": 2})).as_bytes(),
        );
        assert_eq!(answer(&mut other), Ok(json!({"b": 2})));
        // The time it has for the answer runs since before the first byte.
        deaf.read_exact(&mut [0]).expect("the begin of an answer");
        // Ten times over: the thread that has to notice may have to wait for a core.
        std::thread::sleep(LIMITS.response * 10);
        let mut taken = Vec::new();
        let _ = deaf.read_to_end(&mut taken);
        assert!(taken.len() < 8 << 20, "{} bytes came", taken.len());
        drop(other);
        fixture.finish();
    }

    #[test]
    fn one_client_too_many_is_turned_away() {
        let fixture = Fixture::new(Limits {
            request: Duration::from_secs(60),
            ..LIMITS
        });
        let mut seated: Vec<_> = (0..64).map(|_| fixture.connect()).collect();
        for (i, client) in seated.iter_mut().enumerate() {
            send(
                client,
                rpc::request(i as u64, "echo", &json!({"i": i})).as_bytes(),
            );
            assert_eq!(answer(client), Ok(json!({"i": i})));
        }
        for _ in 64..100 {
            let mut late = fixture.connect();
            let error = answer(&mut late).expect_err("turned away");
            assert!(error.message.starts_with("too many clients"), "{error}");
            assert!(is_closed(&mut late));
        }
        drop(seated);
        // The seats are free again once the threads have seen the end.
        let mut served = false;
        for _ in 0..1000 {
            let mut client = fixture.connect();
            let _ = client
                .get_mut()
                .write_all(rpc::request(1, "echo", &json!({})).as_bytes());
            served = answer(&mut client).is_ok();
            if served {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(served);
        assert_eq!(fixture.finish(), 65);
    }

    #[test]
    fn whoever_is_waited_for_longest_makes_room() {
        let fixture = Fixture::new(Limits {
            clients: 3,
            grace: Duration::from_millis(50),
            request: Duration::from_secs(60),
            response: Duration::from_secs(60),
            ..LIMITS
        });
        let ping = rpc::request(1, "echo", &json!({}));
        let mut silent = fixture.connect();
        std::thread::sleep(Duration::from_millis(5));
        let mut half = fixture.connect();
        send(&mut half, b"{\"jsonrpc\"");
        std::thread::sleep(Duration::from_millis(5));
        let mut deaf = fixture.connect();
        let huge = rpc::request(1, "echo", &json!({"bytes": 8 << 20}));
        send(&mut deaf, huge.as_bytes());
        deaf.read_exact(&mut [0]).expect("the begin of an answer");
        let mut served = Vec::new();
        for stalled in [&mut silent, &mut half, &mut deaf] {
            let client = (0..1000).find_map(|_| {
                let mut client = fixture.connect();
                let _ = client.get_mut().write_all(ping.as_bytes());
                match answer(&mut client) {
                    Ok(_) => Some(client),
                    Err(error) => {
                        assert_eq!(error.code, rpc::BUSY, "{error}");
                        std::thread::sleep(Duration::from_millis(5));
                        None
                    }
                }
            });
            served.push(client.expect("a place"));
            let mut rest = Vec::new();
            let _ = stalled.read_to_end(&mut rest);
            assert!(rest.len() < 8 << 20);
            let rest = String::from_utf8_lossy(&rest);
            let told = rest.contains("needed the place");
            assert_eq!(told, rest.len() < 1000, "{rest:.100}");
        }
        drop(served);
        fixture.finish();
    }

    #[test]
    fn a_live_socket_is_refused_and_a_stale_one_replaced() {
        let fixture = Fixture::new(LIMITS);
        let (sender, _calls) = mpsc::channel();
        let second = bind(&fixture.path, LIMITS, sender.clone());
        assert!(matches!(second, Err(BindError::InUse(_))));
        let stale = fixture.path.with_extension("stale");
        drop(UnixListener::bind(&stale).expect("bound"));
        assert!(stale.exists());
        drop(bind(&stale, LIMITS, sender.clone()).expect("replaced"));
        std::fs::write(&stale, "precious").expect("written");
        let third = bind(&stale, LIMITS, sender);
        assert!(matches!(third, Err(BindError::NotASocket(_))));
        assert_eq!(std::fs::read_to_string(&stale).expect("read"), "precious");
        fixture.finish();
    }

    #[test]
    fn a_loop_that_has_ended_answers_stopping() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("admin.sock");
        let (sender, calls) = mpsc::channel();
        let _socket = bind(&path, LIMITS, sender).expect("bound");
        drop(calls);
        let mut client = BufReader::new(UnixStream::connect(&path).expect("connected"));
        send(&mut client, rpc::request(1, "ping", &json!({})).as_bytes());
        assert_eq!(
            answer(&mut client),
            Err(Error::failed("fullgate is stopping"))
        );
    }
}
