//! Health checks of `keepalived.conf`: those of the real servers of a virtual
//! server become the one of a service.

use super::Draft;
use super::syntax::Statement;
use crate::config::raw::RawHealth;
use crate::config::try_health;

/// A real server's check.
pub(super) struct Check {
    pub(super) line: usize,
    pub(super) raw: RawHealth,
    /// Where it is asked, if not at the server's own address or port.
    pub(super) ip: Option<String>,
    pub(super) port: Option<String>,
}

/// The kind of check that a block stands for; `None` for other blocks.
fn kind(key: &str) -> Option<&'static str> {
    Some(match key {
        "TCP_CHECK" => "tcp",
        "HTTP_GET" => "http",
        "SSL_GET" => "https",
        "UDP_CHECK" => "udp",
        "PING_CHECK" => "icmp",
        _ => return None,
    })
}

/// Whether a key is that of a check.
pub(super) fn is_check(key: &str) -> bool {
    kind(key).is_some()
}

/// Keys of virtual and real servers that tell of checks.
pub(super) const SETTINGS: [&str; 5] = [
    "delay_loop",
    "retry",
    "connect_timeout",
    "virtualhost",
    "inhibit_on_failure",
];

/// A check under construction: what fullgate would refuse is left out.
struct Reader<'a> {
    draft: &'a mut Draft,
    raw: RawHealth,
}

impl Reader<'_> {
    /// Sets a key, or notes why not.
    fn set(&mut self, from: &Statement, set: impl FnOnce(&mut RawHealth)) {
        let mut with = self.raw.clone();
        set(&mut with);
        match try_health(&with) {
            Ok(()) => self.raw = with,
            Err(problem) => {
                let text = format!("{} left out: {}", from.words.join(" "), problem.text());
                self.draft.note(from.line, text);
            }
        }
    }

    /// A time, given in seconds with or without a fraction.
    fn span(&mut self, from: &Statement, set: impl FnOnce(&mut RawHealth, String)) {
        let seconds: f64 = from.word(1).parse().unwrap_or(-1.0);
        let span = match seconds {
            0.0..=1e6 => format!("{}ms", (seconds * 1_000.0).round() as u64),
            _ => from.word(1).to_owned(),
        };
        self.set(from, |raw| set(raw, span));
    }
}

/// The check of a real server of a virtual server.
pub(super) fn read(draft: &mut Draft, server: &Statement, service: &Statement) -> Option<Check> {
    let mut blocks = server.children().iter().filter(|s| is_check(s.key()));
    let block = blocks.next()?;
    for other in blocks {
        let text = format!("{} left out: a server has one check", other.key());
        draft.note(other.line, text);
    }
    let mut reader = Reader {
        draft,
        raw: RawHealth {
            check: kind(block.key()).map(str::to_owned),
            // The first success brings a server back.
            rise: Some(1),
            ..RawHealth::default()
        },
    };
    // The innermost setting counts.
    let setting = |key: &str| {
        let levels = [block, server, service].into_iter();
        let mut found = levels.filter_map(|level| level.children().iter().find(|s| s.key() == key));
        found.next()
    };
    if let Some(given) = setting("delay_loop") {
        reader.span(given, |raw, span| raw.interval = Some(span));
    }
    if let Some(given) = setting("connect_timeout") {
        reader.span(given, |raw, span| raw.timeout = Some(span));
    }
    let retry = setting("retry").or_else(|| setting("nb_get_retry"));
    if let Some(given) = retry {
        let retries: i64 = given.word(1).parse().unwrap_or(-1);
        reader.set(given, |raw| raw.fall = Some(retries.saturating_add(1)));
    }
    if let Some(given) = setting("inhibit_on_failure") {
        reader.set(given, |raw| raw.on_down = Some("keep".into()));
    }
    let is_http = matches!(block.key(), "HTTP_GET" | "SSL_GET");
    if let Some(given) = setting("virtualhost").filter(|_| is_http) {
        reader.set(given, |raw| raw.host = Some(given.word(1).into()));
    }
    let (mut ip, mut port, mut url) = (None, None, None);
    for inner in block.children() {
        match inner.key() {
            "connect_ip" => ip = Some(inner.word(1).to_owned()),
            "connect_port" => port = Some(inner.word(1).to_owned()),
            "connect_timeout" | "retry" | "nb_get_retry" | "delay_loop" => {}
            "virtualhost" if is_http => {}
            "url" if is_http && url.is_none() => url = Some(inner),
            "payload" if block.key() == "UDP_CHECK" => {
                reader.set(inner, |raw| raw.send = Some(hex(inner)));
            }
            "require_reply" if block.key() == "UDP_CHECK" && !inner.word(1).is_empty() => {
                reader.set(inner, |raw| raw.expect = Some(hex(inner)));
            }
            _ => {
                let text = format!("{} left out", inner.words.join(" "));
                reader.draft.note(inner.line, text);
            }
        }
    }
    if is_http {
        asked(&mut reader, url);
    }
    Some(Check {
        line: block.line,
        raw: reader.raw,
        ip,
        port,
    })
}

/// What is asked for over HTTP. Without a status, keepalived takes 200 to 299.
fn asked(reader: &mut Reader<'_>, url: Option<&Statement>) {
    reader.raw.status = Some("200-299".into());
    for inner in url.map_or(&[][..], Statement::children) {
        match inner.key() {
            "path" => reader.set(inner, |raw| raw.path = Some(inner.word(1).into())),
            "virtualhost" => reader.set(inner, |raw| raw.host = Some(inner.word(1).into())),
            "status_code" => {
                let codes = inner.words.get(1..).unwrap_or_default().join(",");
                reader.set(inner, |raw| raw.status = Some(codes));
            }
            key @ ("digest" | "regex") => {
                let text =
                    format!("{key} left out; body = \"TEXT\" looks for a text in the answer");
                reader.draft.note(inner.line, text);
            }
            key => {
                let text = format!("{key} left out");
                reader.draft.note(inner.line, text);
            }
        }
    }
}

/// Bytes in hexadecimal, in one word or several.
fn hex(statement: &Statement) -> String {
    let words = statement.words.get(1..).unwrap_or_default();
    format!("hex:{}", words.concat())
}
