//! `[announce]`.

use std::time::Duration;

use super::Announce;
use super::fields::{number, parsed, unless};
use super::problem::{Place, Problem};
use super::raw::RawAnnounce;
use super::units::{format_duration, parse_duration};

/// A route needs two to three seconds at most to be gone from a router nearby,
/// and mostly milliseconds; init systems kill after 30 s.
const GRACE_MAX: Duration = Duration::from_secs(20);

impl Default for Announce {
    fn default() -> Self {
        Self {
            // Unassigned in the kernel's and iproute2's lists.
            route_protocol: 102,
            grace: Duration::from_secs(1),
        }
    }
}

impl Announce {
    pub(super) fn from_raw(at: &Place<'_>, raw: &RawAnnounce) -> Result<Self, Problem> {
        let default = Self::default();
        // Below are the kernel's own and those of static routes.
        let route_protocol = number(
            &at.key("route-protocol"),
            raw.route_protocol,
            default.route_protocol,
            5..=255,
        )?;
        let grace = match &raw.grace {
            None => default.grace,
            Some(text) => {
                let at = at.key("grace");
                let grace = parsed(&at, text, parse_duration)?;
                if grace > GRACE_MAX {
                    return Err(at.problem(format!("is {text}; give at most \"20s\"")));
                }
                grace
            }
        };
        Ok(Self {
            route_protocol,
            grace,
        })
    }

    pub(super) fn to_raw(self) -> Option<RawAnnounce> {
        let default = Self::default();
        let raw = RawAnnounce {
            route_protocol: unless(self.route_protocol, default.route_protocol, i64::from),
            grace: unless(self.grace, default.grace, format_duration),
        };
        unless(raw, RawAnnounce::default(), |raw| raw)
    }
}
