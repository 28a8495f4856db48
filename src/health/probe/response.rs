//! An HTTP/1 response as it comes in (RFC 9112), up to the point where it is
//! clear whether it is what is wanted. Pure: bytes in, an ending out.

use super::udp::contains;
use super::{Cause, Ending};
use crate::health::spec::Http;

/// Longest status line with header fields, bytes.
const HEAD_MAX: usize = 16 * 1024;
/// Header fields at most.
const FIELDS_MAX: usize = 100;
/// How far into the body is looked, bytes.
pub(super) const BODY_MAX: usize = 64 * 1024;

/// How the body's end is found (RFC 9112 §6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Framing {
    /// So many more bytes.
    Length(u64),
    /// Chunks; so many more bytes of the present one.
    Chunk(u64),
    /// The line end after a chunk.
    ChunkEnd,
    /// A line with the size of the next chunk.
    ChunkSize,
    /// The connection's end.
    Close,
    /// There is no more.
    Over,
}

/// A response so far.
#[derive(Debug, Default)]
pub(super) struct Response {
    /// What has come and is not understood yet.
    pending: Vec<u8>,
    /// Once the head is complete.
    framing: Option<Framing>,
    body: Vec<u8>,
}

impl Response {
    /// Takes what came; how the check ends, as soon as that is clear.
    pub(super) fn push(&mut self, http: &Http, bytes: &[u8]) -> Option<Ending> {
        self.pending.extend_from_slice(bytes);
        while self.framing.is_none() {
            match self.head(http) {
                Ok(true) => {}
                Ok(false) => return None,
                Err(ending) => return Some(ending),
            }
        }
        let wanted = http.body.as_deref()?;
        self.body(wanted)
    }

    /// The connection's end has come.
    pub(super) fn end(&mut self, http: &Http) -> Ending {
        match (self.framing, &http.body) {
            (Some(Framing::Close), Some(wanted)) => lacks(wanted),
            _ => Ending::failure(Cause::Closed, "closed before the response was complete"),
        }
    }

    /// Reads one head, if it is complete: interim responses are passed over.
    fn head(&mut self, http: &Http) -> Result<bool, Ending> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut parsed = httparse::Response::new(&mut fields);
        let length = match parsed.parse(&self.pending) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if self.pending.len() < HEAD_MAX => return Ok(false),
            Ok(httparse::Status::Partial) => {
                let text = format!("header fields of more than {} KiB", HEAD_MAX / 1024);
                return Err(Ending::failure(Cause::Response, text));
            }
            Err(error) => {
                let text = format!("no HTTP response: {error}");
                return Err(Ending::failure(Cause::Response, text));
            }
        };
        let status = parsed.code.unwrap_or(0);
        if (100..200).contains(&status) && status != 101 {
            self.pending.drain(..length);
            return Ok(true);
        }
        if !http.status.contains(status) {
            let text = format!("HTTP status {status}, not {}", http.status);
            return Err(Ending::failure(Cause::Status, text));
        }
        if http.body.is_none() {
            return Err(Ending::Success);
        }
        let framing = framing(status, parsed.headers)?;
        self.framing = Some(framing);
        self.pending.drain(..length);
        Ok(true)
    }

    /// Reads on in the body, looking for `wanted`.
    fn body(&mut self, wanted: &str) -> Option<Ending> {
        loop {
            let framing = self.framing.unwrap_or(Framing::Over);
            let next = match framing {
                Framing::Length(0) | Framing::Over => return Some(lacks(wanted)),
                Framing::Length(left) => Framing::Length(left - self.take(left)),
                Framing::Chunk(0) => Framing::ChunkEnd,
                Framing::Chunk(left) => Framing::Chunk(left - self.take(left)),
                Framing::Close => {
                    self.take(u64::MAX);
                    Framing::Close
                }
                Framing::ChunkEnd => match self.pending.get(..2) {
                    None => return None,
                    Some(b"\r\n") => {
                        self.pending.drain(..2);
                        Framing::ChunkSize
                    }
                    Some(_) => return Some(bad_chunk()),
                },
                Framing::ChunkSize => match httparse::parse_chunk_size(&self.pending) {
                    Ok(httparse::Status::Complete((length, size))) => {
                        self.pending.drain(..length);
                        match size {
                            0 => Framing::Over,
                            size => Framing::Chunk(size),
                        }
                    }
                    Ok(httparse::Status::Partial) if self.pending.len() < HEAD_MAX => return None,
                    _ => return Some(bad_chunk()),
                },
            };
            self.framing = Some(next);
            if contains(&self.body, wanted.as_bytes()) {
                return Some(Ending::Success);
            }
            if self.body.len() >= BODY_MAX {
                let text = format!(
                    "the first {} KiB of the body lack {wanted:?}",
                    BODY_MAX / 1024
                );
                return Some(Ending::failure(Cause::Body, text));
            }
            if self.pending.is_empty() && !matches!(next, Framing::Length(0) | Framing::Over) {
                return None;
            }
        }
    }

    /// Moves at most `limit` bytes into the body, and says how many.
    fn take(&mut self, limit: u64) -> u64 {
        let room = BODY_MAX - self.body.len();
        let count = self
            .pending
            .len()
            .min(room)
            .min(usize::try_from(limit).unwrap_or(usize::MAX));
        self.body.extend(self.pending.drain(..count));
        count as u64
    }
}

fn lacks(wanted: &str) -> Ending {
    Ending::failure(Cause::Body, format!("the body lacks {wanted:?}"))
}

fn bad_chunk() -> Ending {
    Ending::failure(Cause::Response, "no HTTP response: invalid chunk")
}

/// The first that applies of RFC 9112 §6.3.
fn framing(status: u16, fields: &[httparse::Header<'_>]) -> Result<Framing, Ending> {
    if matches!(status, 101 | 204 | 304) {
        return Ok(Framing::Over);
    }
    let value = |name: &str| {
        let mut named = fields
            .iter()
            .filter(|field| field.name.eq_ignore_ascii_case(name));
        named.next_back().map(|field| field.value)
    };
    if let Some(coding) = value("transfer-encoding") {
        let last = coding.rsplit(|&byte| byte == b',').next().unwrap_or(coding);
        return Ok(match last.trim_ascii().eq_ignore_ascii_case(b"chunked") {
            true => Framing::ChunkSize,
            false => Framing::Close,
        });
    }
    let Some(length) = value("content-length") else {
        return Ok(Framing::Close);
    };
    std::str::from_utf8(length)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .map(Framing::Length)
        .ok_or_else(|| Ending::failure(Cause::Response, "no HTTP response: invalid Content-Length"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::health::spec::StatusRanges;

    fn http(body: Option<&str>) -> Http {
        Http {
            method: "GET".into(),
            path: "/".into(),
            host: None,
            status: StatusRanges(vec![(200, 299), (304, 304)]),
            body: body.map(str::to_owned),
            tls: None,
        }
    }

    /// What comes of a response that arrives in pieces of `size` bytes and then
    /// ends: "-" where all of it leaves the matter open.
    fn said(text: &str, body: Option<&str>, size: usize) -> String {
        let http = http(body);
        let mut response = Response::default();
        let mut pieces = text.as_bytes().chunks(size);
        let ending = pieces
            .find_map(|piece| response.push(&http, piece))
            .unwrap_or_else(|| response.end(&http));
        match ending {
            Ending::Success => "ok".into(),
            Ending::Failure(failure) => format!("{}: {}", failure.cause.name(), failure.text),
            Ending::Unmade(why) => panic!("{why}"),
        }
    }

    #[test]
    fn rows() {
        let big = format!("HTTP/1.1 200 OK\r\n\r\n{}pong", "x".repeat(BODY_MAX));
        let endless = format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(HEAD_MAX));
        let rows: &[(&str, Option<&str>, &str)] = &[
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", None, "ok"),
            ("HTTP/1.0 204 No Content\r\n\r\n", None, "ok"),
            ("HTTP/1.1 304 Not Modified\r\n\r\n", None, "ok"),
            (
                "HTTP/1.1 503 Service Unavailable\r\n\r\n",
                None,
                "status: HTTP status 503, not 200-299,304",
            ),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
                None,
                "ok",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npingpong",
                Some("pong"),
                "ok",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npingpong",
                Some("pong"),
                "body: the body lacks \"pong\"",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                Some("pong"),
                "body: the body lacks \"pong\"",
            ),
            ("HTTP/1.1 200 OK\r\n\r\npingpong", Some("pong"), "ok"),
            (
                "HTTP/1.1 200 OK\r\n\r\nping",
                Some("pong"),
                "body: the body lacks \"pong\"",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n6;a=b\r\npingpo\r\n2\r\nng\r\n0\r\n\r\n",
                Some("pong"),
                "ok",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nping\r\n0\r\n\r\n",
                Some("pong"),
                "body: the body lacks \"pong\"",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npingpong",
                Some("pong"),
                "response: no HTTP response: invalid chunk",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                Some("pong"),
                "response: no HTTP response: invalid chunk",
            ),
            (
                "HTTP/1.1 204 No Content\r\n\r\npong",
                Some("pong"),
                "body: the body lacks \"pong\"",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\npong",
                Some("pong"),
                "response: no HTTP response: invalid Content-Length",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nping",
                Some("pong"),
                "closed: closed before the response was complete",
            ),
            (
                "HTTP/1.1 200 OK\r\nConte",
                None,
                "closed: closed before the response was complete",
            ),
            ("", None, "closed: closed before the response was complete"),
            (
                "SSH-2.0-OpenSSH_9.2\r\n",
                None,
                "response: no HTTP response: invalid HTTP version",
            ),
            (
                &big,
                Some("pong"),
                "body: the first 64 KiB of the body lack \"pong\"",
            ),
            (
                &endless,
                None,
                "response: header fields of more than 16 KiB",
            ),
        ];
        for (text, body, expected) in rows {
            let sizes: &[usize] = match text.len() {
                ..1_000 => &[1, 3, 10_000],
                _ => &[1_024, 100_000],
            };
            for &size in sizes {
                let head: String = text.chars().take(80).collect();
                assert_eq!(said(text, *body, size), *expected, "{head:?} by {size}");
            }
        }
    }

    proptest! {
        /// Any bytes in any pieces are read, and the pieces make no difference.
        #[test]
        fn any_bytes_end_somehow(
            head in prop::sample::select(&[
                "",
                "HTTP/1.1 200 OK\r\n\r\n",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n",
            ][..]),
            rest in "[0-9a-z\r\n;:/ .]{0,80}",
            body in prop::option::of("[a-z]{1,2}"),
            size in 1_usize..40,
        ) {
            let text = format!("{head}{rest}");
            let body = body.as_deref();
            prop_assert_eq!(said(&text, body, size), said(&text, body, 1));
        }

        #[test]
        fn bytes_that_are_no_text_are_survived(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            prefix in prop::sample::select(&["", "HTTP/1.1 200 OK\r\n"][..]),
        ) {
            let http = http(Some("x"));
            let mut response = Response::default();
            let mut all = prefix.as_bytes().to_vec();
            all.extend(bytes);
            let _ = response.push(&http, &all);
            let _ = response.end(&http);
        }
    }
}
