//! What the service manager is told (sd_notify(3)): ready, reloading, stopping,
//! and that the management loop still turns. Without a service manager,
//! nothing. Called by the management loop; a message that can't be sent is
//! given up, never waited for.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// Packets flow, or a reload is over.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A reload begins; [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The end begins.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, state) {
        log::debug!("the service manager was not told: {error}");
    }
}

/// The service manager's watchdog.
#[derive(Debug)]
pub struct Watchdog {
    /// Between two signs of life: a third of what the manager waits for.
    every: Option<Duration>,
    last: Instant,
}

impl Watchdog {
    /// As the environment asks for it, see sd_watchdog_enabled(3).
    pub fn from_env(now: Instant) -> Self {
        let mut micros = 0;
        let enabled = sd_notify::watchdog_enabled(false, &mut micros);
        Self {
            every: enabled.then(|| Duration::from_micros(micros / 3)),
            last: now,
        }
    }

    /// Gives a sign of life if it is time to.
    pub fn tick(&mut self, now: Instant) {
        if self.is_due(now) {
            self.last = now;
            tell(&[NotifyState::Watchdog]);
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.last);
        self.every.is_some_and(|every| since >= every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_life_are_spaced() {
        let start = Instant::now();
        let mut watchdog = Watchdog {
            every: Some(Duration::from_secs(3)),
            last: start,
        };
        assert!(!watchdog.is_due(start + Duration::from_millis(2_999)));
        watchdog.tick(start + Duration::from_secs(3));
        assert!(!watchdog.is_due(start + Duration::from_secs(5)));
        assert!(watchdog.is_due(start + Duration::from_secs(6)));
        watchdog.every = None;
        assert!(!watchdog.is_due(start + Duration::from_secs(600)));
    }
}
