//! HTTP and HTTPS: one request, and the part of the response that decides.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConnection;
use socket2::Socket;

use super::response::Response;
use super::{Cause, Ending, Probe, connected, connecting, failure_of, no_answer, tls, would_block};
use crate::health::Target;
use crate::health::spec::Http;

/// Read at a time.
const READ: usize = 16 * 1024;

pub(super) struct Exchange {
    socket: Socket,
    http: Arc<Http>,
    is_connected: bool,
    /// With TLS, what is encrypted and decrypted by.
    session: Option<Box<ClientConnection>>,
    /// What is left to be sent, without TLS.
    request: Vec<u8>,
    response: Response,
}

impl Exchange {
    pub(super) fn start(target: &Arc<Target>, http: &Arc<Http>) -> Result<Self, Ending> {
        let mut request = request(target, http);
        let session = match (&http.tls, &target.check.tls) {
            (Some(tls), Some(client)) => {
                let name = tls::server_name(tls, *target.address.ip());
                let mut session = ClientConnection::new(Arc::clone(client), name)
                    .map_err(|error| Ending::Unmade(format!("TLS: {error}")))?;
                // Kept until the handshake is complete.
                let taken = session.writer().write(&request);
                taken.map_err(|error| Ending::Unmade(format!("TLS: {error}")))?;
                request.clear();
                Some(Box::new(session))
            }
            _ => None,
        };
        Ok(Self {
            socket: connecting(target)?,
            http: Arc::clone(http),
            is_connected: false,
            session,
            request,
            response: Response::default(),
        })
    }

    /// Sends and receives without TLS.
    fn plain(&mut self) -> Result<Option<Ending>, Ending> {
        while !self.request.is_empty() {
            match (&self.socket).write(&self.request) {
                Ok(sent) => drop(self.request.drain(..sent)),
                Err(error) if would_block(&error) => break,
                Err(error) => return Err(Ending::Failure(failure_of(&error))),
            }
        }
        let mut bytes = [0; READ];
        loop {
            match (&self.socket).read(&mut bytes) {
                Ok(0) => return Ok(Some(self.response.end(&self.http))),
                Ok(length) => {
                    if let Some(ending) = self.response.push(&self.http, &bytes[..length]) {
                        return Ok(Some(ending));
                    }
                }
                Err(error) if would_block(&error) => return Ok(None),
                Err(error) => return Err(Ending::Failure(failure_of(&error))),
            }
        }
    }

    /// Sends and receives with TLS.
    fn encrypted(&mut self, session: &mut ClientConnection) -> Result<Option<Ending>, Ending> {
        let broken = |error: io::Error| Ending::Failure(failure_of(&error));
        let mut bytes = [0; READ];
        loop {
            while session.wants_write() {
                match session.write_tls(&mut &self.socket) {
                    Ok(_) => {}
                    Err(error) if would_block(&error) => break,
                    Err(error) => return Err(broken(error)),
                }
            }
            let length = match session.read_tls(&mut &self.socket) {
                Ok(length) => length,
                Err(error) if would_block(&error) => return Ok(None),
                Err(error) => return Err(broken(error)),
            };
            session
                .process_new_packets()
                .map_err(|error| Ending::failure(Cause::Tls, format!("TLS: {error}")))?;
            loop {
                match session.reader().read(&mut bytes) {
                    Ok(0) => return Ok(Some(self.response.end(&self.http))),
                    Ok(length) => {
                        if let Some(ending) = self.response.push(&self.http, &bytes[..length]) {
                            return Ok(Some(ending));
                        }
                    }
                    Err(error) if would_block(&error) => break,
                    // The connection's end without that of the TLS session.
                    Err(_) => return Ok(Some(self.response.end(&self.http))),
                }
            }
            if length == 0 {
                return Ok(Some(self.response.end(&self.http)));
            }
        }
    }
}

fn request(target: &Target, http: &Http) -> Vec<u8> {
    let address = target.address.to_string();
    let host = http.host.as_deref().unwrap_or(&address);
    format!(
        "{} {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: fullgate/{}\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n",
        http.method,
        http.path,
        env!("CARGO_PKG_VERSION")
    )
    .into_bytes()
}

impl Probe for Exchange {
    fn socket(&self) -> &Socket {
        &self.socket
    }

    fn step(&mut self) -> Option<Ending> {
        if !self.is_connected {
            match connected(&self.socket) {
                Ok(true) => self.is_connected = true,
                Ok(false) => return None,
                Err(failure) => return Some(Ending::Failure(failure)),
            }
        }
        let ended = match self.session.take() {
            None => self.plain(),
            Some(mut session) => {
                let ended = self.encrypted(&mut session);
                self.session = Some(session);
                ended
            }
        };
        ended.unwrap_or_else(Some)
    }

    fn expire(&self, after: Duration) -> Ending {
        if !self.is_connected {
            return no_answer(after);
        }
        let handshaking = self
            .session
            .as_ref()
            .is_some_and(|tls| tls.is_handshaking());
        let text = match handshaking {
            true => format!("connected, but no TLS handshake within {after:?}"),
            false => format!("connected, but no complete response within {after:?}"),
        };
        Ending::failure(Cause::Timeout, text)
    }
}
