//! The metrics of health checks.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::families as f;
use super::text::Exposition;
use super::{Shared, unix_seconds};
use crate::health::{CAUSES, FULL_SHARE, Facts, Record, Totals};

/// A server that is checked.
pub struct HealthRow {
    pub service: String,
    pub server: String,
    pub record: Arc<Record>,
}

/// Which figure of a server's checks.
type Reading = fn(&Facts) -> f64;

pub(super) fn write(text: &mut Exposition, shared: &Shared, rows: &[HealthRow]) {
    let facts: Vec<(&HealthRow, Facts)> =
        rows.iter().map(|row| (row, row.record.facts())).collect();
    let (now, clock) = (Instant::now(), SystemTime::now());
    let mut samples = text.family(&f::HEALTH_UP);
    for (row, facts) in &facts {
        let up = u8::from(facts.verdict.is_up());
        samples.add(&[&row.service, &row.server], up);
    }
    let mut samples = text.family(&f::HEALTH_SINCE);
    for (row, facts) in &facts {
        let since = clock.checked_sub(now.saturating_duration_since(facts.since));
        let since = since.map_or(0.0, unix_seconds);
        samples.add(&[&row.service, &row.server], since);
    }
    let mut samples = text.family(&f::HEALTH_SHARE);
    for row in rows {
        let share = f64::from(row.record.share()) / f64::from(FULL_SHARE);
        samples.add(&[&row.service, &row.server], share);
    }
    let counts: [(_, &[(&str, Reading)]); 2] = [
        (
            &f::HEALTH_CHECKS,
            &[
                ("success", |facts| facts.successes as f64),
                ("failure", |facts| facts.failures as f64),
                ("unmade", |facts| facts.unmade as f64),
            ],
        ),
        (
            &f::HEALTH_TRANSITIONS,
            &[
                ("up", |facts| facts.rises as f64),
                ("down", |facts| facts.falls as f64),
            ],
        ),
    ];
    for (family, parts) in counts {
        let mut samples = text.family(family);
        for (row, facts) in &facts {
            for (part, of) in parts {
                let labels: [&dyn Display; 3] = [&row.service, &row.server, part];
                samples.add(&labels, of(facts));
            }
        }
    }
    // Rows of a service follow each other.
    let mut services: Vec<(&str, &Totals)> = Vec::new();
    for row in rows {
        if services.last().is_none_or(|(name, _)| *name != row.service) {
            services.push((&row.service, row.record.totals()));
        }
    }
    let mut samples = text.family(&f::HEALTH_FAILURES);
    for (service, totals) in &services {
        for (cause, count) in CAUSES.iter().zip(totals.causes()) {
            samples.add(&[service, &cause.name()], count);
        }
    }
    let mut samples = text.family(&f::HEALTH_DURATION);
    for (service, totals) in &services {
        samples.histogram(&[service], &totals.took());
    }
    let delays = *shared.health_delays();
    text.family(&f::HEALTH_DELAY).histogram(&[], &delays);
}
