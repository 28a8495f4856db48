//! Times of a service: time-outs, and how long a SYN may go unanswered.

use std::time::Duration;

use super::fields::parsed;
use super::problem::{Place, Problem};
use super::raw::RawTimeouts;
use super::units::{format_duration, parse_duration};
use crate::conntrack::timeouts::Timeouts;

/// LVS's default, a quarter of TCP's first retransmission timer (RFC 6298 §2.1).
pub(super) const SYN_RETRY_MS: u16 = 250;

/// Below the second after which a client sends its SYN again (RFC 6298 §2.1).
pub(super) const SYN_RETRY_MAX_MS: u16 = 800;

const TIMEOUT_MIN: Duration = Duration::from_millis(100);

const TIMEOUT_MAX: Duration = Duration::from_secs(7 * 86_400);

/// RFC 4787 REQ-5: a UDP mapping must not expire in less than two minutes, but
/// for well-known ports, whose applications are known.
pub(super) const UDP_TIMEOUT_FLOOR_MS: u32 = 120_000;

/// Each timeout: its key, and where it stands in both forms.
type TimeoutKey = (
    &'static str,
    fn(&RawTimeouts) -> Option<&String>,
    fn(&mut RawTimeouts) -> &mut Option<String>,
    fn(&mut Timeouts) -> &mut u32,
);

pub(super) const TIMEOUTS: [TimeoutKey; 7] = [
    (
        "half-open",
        |r| r.half_open.as_ref(),
        |r| &mut r.half_open,
        |t| &mut t.half_open,
    ),
    (
        "established",
        |r| r.established.as_ref(),
        |r| &mut r.established,
        |t| &mut t.established,
    ),
    (
        "half-closed",
        |r| r.half_closed.as_ref(),
        |r| &mut r.half_closed,
        |t| &mut t.half_closed,
    ),
    (
        "time-wait",
        |r| r.time_wait.as_ref(),
        |r| &mut r.time_wait,
        |t| &mut t.time_wait,
    ),
    (
        "closed",
        |r| r.closed.as_ref(),
        |r| &mut r.closed,
        |t| &mut t.closed,
    ),
    ("udp", |r| r.udp.as_ref(), |r| &mut r.udp, |t| &mut t.udp),
    (
        "udp-one-way",
        |r| r.udp_one_way.as_ref(),
        |r| &mut r.udp_one_way,
        |t| &mut t.udp_one_way,
    ),
];

pub(super) fn syn_retry(at: &Place<'_>, given: Option<&str>) -> Result<u16, Problem> {
    let Some(text) = given else {
        return Ok(SYN_RETRY_MS);
    };
    match parsed(at, text, parse_duration)?.as_millis() {
        millis @ (0 | 10..=60_000) => Ok(millis as u16),
        _ => Err(at.problem(format!(
            "is {text}; give \"10ms\" to \"60s\", or \"0ms\" for never"
        ))),
    }
}

pub(super) fn syn_retry_max(
    at: &Place<'_>,
    given: Option<&str>,
    least_ms: u16,
) -> Result<u16, Problem> {
    let Some(text) = given else {
        return Ok(SYN_RETRY_MAX_MS);
    };
    match parsed(at, text, parse_duration)?.as_millis() {
        millis @ 10..=60_000 if millis >= least_ms.into() => Ok(millis as u16),
        10..=60_000 => Err(at.problem(format!(
            "is {text}, and syn-retry-after {}; give at least that",
            millis(least_ms.into())
        ))),
        _ => Err(at.problem(format!("is {text}; give \"10ms\" to \"60s\""))),
    }
}

pub(super) fn timeouts(at: &Place<'_>, raw: Option<&RawTimeouts>) -> Result<Timeouts, Problem> {
    let mut timeouts = Timeouts::default();
    for (key, given, _, stored) in TIMEOUTS {
        let Some(text) = raw.and_then(given) else {
            continue;
        };
        let at = at.key(key);
        let timeout = parsed(&at, text, parse_duration)?;
        if !(TIMEOUT_MIN..=TIMEOUT_MAX).contains(&timeout) {
            return Err(at.problem(format!("is {text}; give \"100ms\" to \"7d\"")));
        }
        *stored(&mut timeouts) = timeout.as_millis() as u32;
    }
    if raw.is_none_or(|raw| raw.udp_one_way.is_none()) {
        timeouts.udp_one_way = udp_one_way(timeouts.udp);
    }
    Ok(timeouts)
}

/// How long a flow may go unanswered unless the configuration says: no longer
/// than one that was answered.
pub(super) fn udp_one_way(udp: u32) -> u32 {
    Timeouts::default().udp_one_way.min(udp)
}

pub(super) fn millis(ms: u32) -> String {
    format_duration(Duration::from_millis(u64::from(ms)))
}
