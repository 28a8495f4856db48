//! What the service manager is told (sd_notify(3)): ready, reloading, stopping,
//! and that the management loop still turns. Without a service manager,
//! nothing. Called by the management loop; a message that can't be sent is
//! given up, never waited for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// What the service manager is told, in an order that it takes: nothing comes
/// after the end has begun, whatever is finished meanwhile. Clones are handles
/// to the same.
#[derive(Clone, Debug, Default)]
pub struct Supervisor {
    stopping: Arc<Mutex<bool>>,
}

impl Supervisor {
    /// Packets flow, or a reload is over.
    pub fn ready(&self) {
        self.say(&[NotifyState::Ready, NotifyState::Status("forwarding")]);
    }

    /// What the start is at, for `systemctl status`.
    pub fn status(&self, what: &str) {
        self.say(&[NotifyState::Status(what)]);
    }

    /// A reload begins; [`Supervisor::ready`] ends it.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.say(&[NotifyState::Reloading, now]),
            Err(_) => self.say(&[NotifyState::Reloading]),
        }
    }

    /// The end begins.
    pub fn stopping(&self) {
        self.say(&[NotifyState::Stopping]);
    }

    fn say(&self, state: &[NotifyState<'_>]) {
        // Held while it is told, so that what is told by a thread of its own
        // has its place in the order.
        let mut stopping = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        if takes(&mut stopping, state) {
            tell(state);
        }
    }
}

/// Whether this may be told now; notes the begin of the end.
fn takes(stopping: &mut bool, state: &[NotifyState<'_>]) -> bool {
    let last = state
        .iter()
        .any(|told| matches!(told, NotifyState::Stopping));
    !std::mem::replace(stopping, *stopping || last)
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
    fn nothing_follows_the_begin_of_the_end() {
        let mut stopping = false;
        let mut told = |state| takes(&mut stopping, &[state]);
        assert!(told(NotifyState::Ready));
        assert!(told(NotifyState::Reloading));
        assert!(told(NotifyState::Ready));
        assert!(told(NotifyState::Stopping));
        for late in [
            NotifyState::Stopping,
            NotifyState::Ready,
            NotifyState::Reloading,
        ] {
            assert!(!told(late));
        }
    }

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
