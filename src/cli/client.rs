//! The program's side of the admin socket.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::rpc;

/// Longest wait for an answer: a change waits for all workers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Between two tries for a place among the clients, and how many of them.
const BUSY_WAIT: Duration = Duration::from_millis(100);
const BUSY_TRIES: u32 = 50;

/// Why a call has no result; one line.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("fullgate is not running (there is no socket {0})")]
    NoSocket(PathBuf),
    #[error("fullgate is not running (nobody answers on {0})")]
    NotRunning(PathBuf),
    #[error("no permission to use {0}: be root or a member of its group")]
    Forbidden(PathBuf),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("fullgate closed the connection")]
    Closed,
    #[error("{0}")]
    Failed(String),
    #[error("not understood: {0}")]
    Nonsense(String),
    #[error(transparent)]
    Refused(#[from] rpc::Error),
}

/// A connection to a running fullgate.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
    next_id: u64,
}

impl Client {
    /// Connects to the admin socket.
    pub fn connect(path: &Path) -> Result<Self, CallError> {
        let mut client = Self {
            path: path.into(),
            stream: BufReader::new(Self::open(path)?),
            next_id: 1,
        };
        client.limit_reads()?;
        Ok(client)
    }

    fn open(path: &Path) -> Result<UnixStream, CallError> {
        UnixStream::connect(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => CallError::NoSocket(path.into()),
            io::ErrorKind::ConnectionRefused => CallError::NotRunning(path.into()),
            io::ErrorKind::PermissionDenied => CallError::Forbidden(path.into()),
            _ => CallError::Io {
                path: path.into(),
                source,
            },
        })
    }

    fn limit_reads(&mut self) -> Result<(), CallError> {
        let stream = self.stream.get_mut();
        let limited = stream.set_read_timeout(Some(ANSWER_TIMEOUT));
        limited.map_err(|source| self.io(source))
    }

    fn io(&self, source: io::Error) -> CallError {
        match source.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => CallError::Closed,
            _ => CallError::Io {
                path: self.path.clone(),
                source,
            },
        }
    }

    /// Calls a method and returns its result. Where all places are taken, tries
    /// again for a few seconds: nothing was done then.
    pub fn call(&mut self, method: &str, params: &Value) -> Result<Value, CallError> {
        let mut tries = 0;
        loop {
            match self.call_once(method, params) {
                Err(CallError::Refused(error)) if error.code == rpc::BUSY && tries < BUSY_TRIES => {
                    tries += 1;
                    std::thread::sleep(BUSY_WAIT);
                    self.stream = BufReader::new(Self::open(&self.path)?);
                    self.limit_reads()?;
                }
                outcome => return outcome,
            }
        }
    }

    fn call_once(&mut self, method: &str, params: &Value) -> Result<Value, CallError> {
        let request = rpc::request(self.next_id, method, params);
        self.next_id += 1;
        // One that is turned away may find the socket closed before it wrote;
        // the reason is then there to be read.
        let written = self.stream.get_mut().write_all(request.as_bytes());
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => match written {
                Ok(()) => return Err(CallError::Closed),
                Err(source) => return Err(self.io(source)),
            },
            Ok(_) => {}
            Err(source) => return Err(self.io(source)),
        }
        Ok(rpc::parse_response(&line).map_err(CallError::Nonsense)??)
    }

    /// Calls a method and reads its result.
    pub fn get<T: DeserializeOwned>(
        &mut self,
        method: &str,
        params: &Value,
    ) -> Result<T, CallError> {
        let result = self.call(method, params)?;
        serde_json::from_value(result).map_err(|error| CallError::Nonsense(error.to_string()))
    }
}
