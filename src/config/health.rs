//! `[service.health]`.

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Server;
use super::fields::{choice, number, parsed, unless, word};
use super::problem::{Place, Problem};
use super::raw::RawHealth;
use super::units::{format_duration, parse_duration};
use crate::health::spec::{Ask, Authorities, Http, Spec, StatusRanges, Tls, Udp};
use crate::service::schedule::Scheduler;

const INTERVAL: Duration = Duration::from_secs(2);
const INTERVALS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3_600));
/// Below TCP's first retransmission (RFC 6298 §2.1): a lost SYN fails the check,
/// so that `fall` counts what was lost.
const TIMEOUT: Duration = Duration::from_secs(1);
const TIMEOUT_MIN: Duration = Duration::from_millis(10);
const RISE: u16 = 2;
const FALL: u16 = 3;
const SLOW_START_MAX: Duration = Duration::from_secs(3_600);
const STATUS: (u16, u16) = (200, 399);
/// Longest text or payload of a check, bytes.
const TEXT_MAX: usize = 1_024;

/// What is asked, as the file says it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Http,
    Https,
    Udp,
    Icmp,
    /// As without the table: for edits at run time.
    None,
}

const CHECK: [(&str, Kind); 6] = [
    ("tcp", Kind::Tcp),
    ("http", Kind::Http),
    ("https", Kind::Https),
    ("udp", Kind::Udp),
    ("icmp", Kind::Icmp),
    ("none", Kind::None),
];
const VIA: [(&str, Way); 2] = [("port", Way::Port), ("host", Way::Host)];
const START: [(&str, bool); 2] = [("up", true), ("down", false)];
const ON_DOWN: [(&str, OnDown); 3] = [
    ("auto", OnDown::Auto),
    ("reset", OnDown::Reset),
    ("keep", OnDown::Keep),
];
const ALL_DOWN: [(&str, AllDown); 2] = [("refuse", AllDown::Refuse), ("use-all", AllDown::UseAll)];

/// What becomes of the connections of a server whose checks fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnDown {
    /// They are reset where nobody answers any more, and go on where somebody
    /// answers wrongly.
    Auto,
    /// They are reset.
    Reset,
    /// They go on.
    Keep,
}

/// How checks leave the gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// As traffic does: by the port that leads to the server, through the
    /// kernel's interface behind it.
    Port,
    /// Over the host's own network.
    Host,
}

/// What becomes of a service all of whose servers fail their checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AllDown {
    /// New connections are refused at once.
    Refuse,
    /// All of them are used, as if there were no checks.
    UseAll,
}

/// `[service.health]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Health {
    pub spec: Spec,
    pub way: Way,
    /// Asked instead of each server's own port.
    pub port: Option<u16>,
    /// Whether servers that are new are up until their checks say otherwise.
    pub starts_up: bool,
    /// How long the share of a server that came back grows; zero: it has all of
    /// it at once.
    pub slow_start: Duration,
    pub on_down: OnDown,
    pub all_down: AllDown,
}

impl Health {
    /// `None` where there are to be no checks.
    pub(super) fn from_raw(
        at: &Place<'_>,
        raw: &RawHealth,
        scheduler: Scheduler,
        warnings: &mut Vec<Problem>,
    ) -> Result<Option<Self>, Problem> {
        let check_at = at.key("check");
        if raw.check.is_none() {
            return Err(check_at
                .problem("is missing; give \"tcp\", \"http\", \"https\", \"udp\" or \"icmp\""));
        }
        let kind = choice(&check_at, raw.check.as_deref(), &CHECK)?;
        if kind == Kind::None {
            return Ok(None);
        }
        fits(at, raw, kind)?;
        let interval = duration(&at.key("interval"), &raw.interval, INTERVAL, INTERVALS)?;
        let timeout_at = at.key("timeout");
        let timeout = duration(
            &timeout_at,
            &raw.timeout,
            TIMEOUT.min(interval),
            (TIMEOUT_MIN, INTERVALS.1),
        )?;
        if timeout > interval {
            return Err(timeout_at.problem(format!(
                "is {}, and the interval {}; give at most that",
                format_duration(timeout),
                format_duration(interval)
            )));
        }
        let way = choice(&at.key("via"), raw.via.as_deref(), &VIA)?;
        let slow_start_at = at.key("slow-start");
        let slow_start = duration(
            &slow_start_at,
            &raw.slow_start,
            Duration::ZERO,
            (Duration::ZERO, SLOW_START_MAX),
        )?;
        if !slow_start.is_zero() && scheduler == Scheduler::RoundRobin {
            warnings.push(slow_start_at.problem(
                "has no effect with scheduler \"rr\", which knows no weights; give \"wrr\"",
            ));
        }
        let ask = match kind {
            Kind::Http | Kind::Https => Ask::Http(Arc::new(http(at, raw, kind)?)),
            Kind::Udp => Ask::Udp(Udp {
                send: payload(&at.key("send"), raw.send.as_deref())?.unwrap_or_default(),
                expect: payload(&at.key("expect"), raw.expect.as_deref())?,
            }),
            Kind::Icmp => Ask::Icmp,
            Kind::Tcp | Kind::None => Ask::Tcp,
        };
        Ok(Some(Self {
            spec: Spec {
                ask,
                interval,
                timeout,
                rise: number(&at.key("rise"), raw.rise, RISE, 1..=100)?,
                fall: number(&at.key("fall"), raw.fall, FALL, 1..=100)?,
            },
            way,
            port: match raw.port {
                Some(_) => Some(number(&at.key("port"), raw.port, 1, 1..=u16::MAX)?),
                None => None,
            },
            starts_up: choice(&at.key("start"), raw.start.as_deref(), &START)?,
            slow_start,
            on_down: choice(&at.key("on-down"), raw.on_down.as_deref(), &ON_DOWN)?,
            all_down: choice(&at.key("all-down"), raw.all_down.as_deref(), &ALL_DOWN)?,
        }))
    }

    /// Packets that one check brings in, with room for one more.
    pub(super) fn packets(&self) -> u32 {
        match &self.spec.ask {
            Ask::Tcp | Ask::Udp(_) | Ask::Icmp => 2,
            Ask::Http(http) if http.tls.is_none() => 5,
            Ask::Http(_) => 9,
        }
    }

    /// Where a server's health is asked for.
    pub fn asked(&self, server: &Server) -> SocketAddrV4 {
        server.health_address.unwrap_or_else(|| {
            let port = self.port.unwrap_or(server.address.port());
            SocketAddrV4::new(*server.address.ip(), port)
        })
    }

    pub(super) fn to_raw(&self) -> RawHealth {
        let span =
            |duration: Duration, default: Duration| unless(duration, default, format_duration);
        let spec = &self.spec;
        let raw = RawHealth {
            check: Some(spec.ask.name().to_owned()),
            interval: span(spec.interval, INTERVAL),
            timeout: span(spec.timeout, TIMEOUT.min(spec.interval)),
            rise: unless(spec.rise, RISE, i64::from),
            fall: unless(spec.fall, FALL, i64::from),
            port: self.port.map(i64::from),
            via: word(self.way, &VIA),
            start: word(self.starts_up, &START),
            slow_start: span(self.slow_start, Duration::ZERO),
            on_down: word(self.on_down, &ON_DOWN),
            all_down: word(self.all_down, &ALL_DOWN),
            ..RawHealth::default()
        };
        match &spec.ask {
            Ask::Tcp | Ask::Icmp => raw,
            Ask::Http(http) => {
                let tls = http.tls.as_ref();
                let authorities = tls.and_then(|tls| tls.authorities.as_ref());
                RawHealth {
                    method: unless(http.method.as_str(), METHOD, str::to_owned),
                    path: unless(http.path.as_str(), PATH, str::to_owned),
                    host: http.host.clone(),
                    status: unless(&http.status, &StatusRanges(vec![STATUS]), |status| {
                        status.to_string()
                    }),
                    body: http.body.clone(),
                    // Where it is not the host's, which is the default.
                    sni: tls
                        .filter(|tls| tls.name != named_host(&http.host))
                        .map(|tls| tls.name.clone().unwrap_or_default()),
                    ca: authorities.map(|authorities| authorities.path.display().to_string()),
                    ..raw
                }
            }
            Ask::Udp(udp) => RawHealth {
                send: unless(udp.send.as_slice(), &[][..], format_payload),
                expect: udp.expect.as_deref().map(format_payload),
                ..raw
            },
        }
    }
}

/// Whether a file could have this.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn try_health(raw: &RawHealth) -> Result<(), Problem> {
    Health::from_raw(
        &Place::Root,
        raw,
        Scheduler::WeightedRoundRobin,
        &mut Vec::new(),
    )
    .map(drop)
}

const METHOD: &str = "GET";
const PATH: &str = "/";

/// Keys of other kinds of checks are mistakes.
fn fits(at: &Place<'_>, raw: &RawHealth, kind: Kind) -> Result<(), Problem> {
    let http = matches!(kind, Kind::Http | Kind::Https);
    let (https, udp) = (kind == Kind::Https, kind == Kind::Udp);
    const HTTP: &str = "\"http\" or \"https\"";
    let rows = [
        ("method", &raw.method, http, HTTP),
        ("path", &raw.path, http, HTTP),
        ("host", &raw.host, http, HTTP),
        ("status", &raw.status, http, HTTP),
        ("body", &raw.body, http, HTTP),
        ("sni", &raw.sni, https, "\"https\""),
        ("ca", &raw.ca, https, "\"https\""),
        ("send", &raw.send, udp, "\"udp\""),
        ("expect", &raw.expect, udp, "\"udp\""),
    ];
    for (key, value, fits, kinds) in rows {
        if value.is_some() && !fits {
            let wrong = format!("belongs to check = {kinds}; leave it out");
            return Err(at.key(key).problem(wrong));
        }
    }
    if kind == Kind::Icmp && raw.port.is_some() {
        return Err(at
            .key("port")
            .problem("check = \"icmp\" has none; leave it out"));
    }
    Ok(())
}

fn duration(
    at: &Place<'_>,
    given: &Option<String>,
    default: Duration,
    (least, most): (Duration, Duration),
) -> Result<Duration, Problem> {
    let Some(text) = given else {
        return Ok(default);
    };
    let duration = parsed(at, text, parse_duration)?;
    if (least..=most).contains(&duration) {
        return Ok(duration);
    }
    Err(at.problem(format!(
        "is {text}; give \"{}\" to \"{}\"",
        format_duration(least),
        format_duration(most)
    )))
}

fn http(at: &Place<'_>, raw: &RawHealth, kind: Kind) -> Result<Http, Problem> {
    let method_at = at.key("method");
    let method = raw.method.as_deref().unwrap_or(METHOD);
    // RFC 9110 §5.6.2, as far as methods go; those that want a body are no
    // checks.
    if !(1..=16).contains(&method.len()) || !method.bytes().all(|b| b.is_ascii_uppercase()) {
        return Err(method_at.problem(format!(
            "{method:?} is no method; give one such as \"GET\" or \"HEAD\""
        )));
    }
    let path = raw.path.as_deref().unwrap_or(PATH);
    if !path.starts_with('/')
        || path.len() > TEXT_MAX
        || !path.bytes().all(|b| b.is_ascii_graphic())
    {
        return Err(at.key("path").problem(format!(
            "{path:?} is no path; give one such as \"/health\", with blanks and letters beyond \
             ASCII as %XX"
        )));
    }
    let host = raw.host.clone();
    if let Some(host) = &host
        && (host.is_empty() || host.len() > 255 || !host.bytes().all(|b| b.is_ascii_graphic()))
    {
        return Err(at.key("host").problem(format!(
            "{host:?} is no host; give one such as \"www.example.com\""
        )));
    }
    let body = text(&at.key("body"), raw.body.as_deref())?;
    if body.is_some() && method == "HEAD" {
        return Err(method_at.problem("\"HEAD\" gets no body to look into; give \"GET\""));
    }
    let tls = match kind {
        Kind::Https => Some(tls(at, raw, &host)?),
        _ => None,
    };
    Ok(Http {
        method: method.to_owned(),
        path: path.to_owned(),
        host,
        status: match raw.status.as_deref() {
            Some(text) => parsed(&at.key("status"), text, parse_status)?,
            None => StatusRanges(vec![STATUS]),
        },
        body,
        tls,
    })
}

/// The name in a host with or without a port, if it is one.
fn named_host(host: &Option<String>) -> Option<String> {
    let name = host.as_deref()?.split(':').next()?;
    Tls::is_name(name).then(|| name.to_owned())
}

fn tls(at: &Place<'_>, raw: &RawHealth, host: &Option<String>) -> Result<Tls, Problem> {
    let name = match raw.sni.as_deref() {
        None => named_host(host),
        Some("") => None,
        Some(name) if Tls::is_name(name) => Some(name.to_owned()),
        Some(other) => {
            return Err(at.key("sni").problem(format!(
                "{other:?} is no name of a host; give one such as \"www.example.com\", or \"\" for \
                 none"
            )));
        }
    };
    let authorities = match &raw.ca {
        Some(path) => Some(parsed(&at.key("ca"), path, |path| {
            let file = PathBuf::from(path);
            let loaded = match file.is_absolute() {
                true => Authorities::load(file),
                false => Err("is no absolute path".to_owned()),
            };
            loaded.map_err(|wrong| format!("{path:?} {wrong}; give a file of certificates in PEM"))
        })?),
        None => None,
    };
    Ok(Tls { name, authorities })
}

/// Status codes such as `200-299,304`.
fn parse_status(given: &str) -> Result<StatusRanges, String> {
    let wrong = || {
        format!(
            "{given:?} is no list of status codes; give codes from 100 to 599 and ranges, such as \"200-299,304\""
        )
    };
    let code = |text: &str| {
        let code: u16 = text.trim().parse().map_err(|_| wrong())?;
        (100..=599)
            .contains(&code)
            .then_some(code)
            .ok_or_else(wrong)
    };
    let mut ranges = Vec::new();
    for part in given.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (code(first)?, code(last)?);
        if first > last {
            return Err(wrong());
        }
        ranges.push((first, last));
    }
    Ok(StatusRanges(ranges))
}

fn text(at: &Place<'_>, given: Option<&str>) -> Result<Option<String>, Problem> {
    match given {
        Some(text) if !(1..=TEXT_MAX).contains(&text.len()) => {
            Err(at.problem(format!("has {} bytes; give 1 to {TEXT_MAX}", text.len())))
        }
        given => Ok(given.map(str::to_owned)),
    }
}

/// A payload: text, or bytes as `hex:0a0b`.
fn payload(at: &Place<'_>, given: Option<&str>) -> Result<Option<Vec<u8>>, Problem> {
    let Some(given) = text(at, given)? else {
        return Ok(None);
    };
    let Some(digits) = given.strip_prefix(HEX) else {
        return Ok(Some(given.into_bytes()));
    };
    let byte = |pair: &[u8]| {
        let digit = |letter: &u8| char::from(*letter).to_digit(16);
        match pair {
            [high, low] => Some((digit(high)? * 16 + digit(low)?) as u8),
            _ => None,
        }
    };
    let bytes: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(byte).collect();
    match bytes {
        Some(bytes) if !bytes.is_empty() => Ok(Some(bytes)),
        _ => Err(at.problem(format!(
            "{given:?} is no payload; give text, or bytes such as \"hex:0a0b\""
        ))),
    }
}

const HEX: &str = "hex:";

/// What [`payload`] reads back.
fn format_payload(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with(HEX) => text.to_owned(),
        _ => {
            let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
            digits.fold(HEX.to_owned(), |text, digits| text + &digits)
        }
    }
}
