//! Signals as flags that the management loop reads.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// What signals have asked for.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    reload: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Signals {
    /// From now on SIGHUP asks to reload, SIGTERM and SIGINT to stop.
    ///
    /// # Errors
    /// The handlers can't be installed.
    pub fn install() -> io::Result<Self> {
        let signals = Self::default();
        signal_hook::flag::register(SIGHUP, Arc::clone(&signals.reload))?;
        for signal in [SIGTERM, SIGINT] {
            signal_hook::flag::register(signal, Arc::clone(&signals.stop))?;
        }
        Ok(signals)
    }

    /// Whether a stop was asked for.
    pub fn stop_asked(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether a reload was asked for since the last time.
    pub(super) fn take_reload(&self) -> bool {
        self.reload.swap(false, Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn ask_reload(&self) {
        self.reload.store(true, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn ask_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
