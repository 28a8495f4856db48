//! The start is said step by step, and bounded: a device that does not answer
//! keeps its driver waiting for ever. A thread of its own, which is gone when
//! the start is over.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Signals;
use crate::host::supervisor::Supervisor;
use crate::say;

/// A step that takes longer is worth a line.
const LONG: Duration = Duration::from_secs(10);
/// A step that takes longer will never end. Less than what systemd gives the
/// whole start, which ends the process without a word why.
const TOO_LONG: Duration = Duration::from_secs(120);
/// What a step that goes on when a stop is asked for is given.
const STOPPING: Duration = Duration::from_secs(5);
/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(100);

/// Watches the start. Dropped, it watches no more.
#[derive(Debug)]
pub struct Patience {
    watched: Arc<Watched>,
    supervisor: Supervisor,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Watched {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    step: Option<Step>,
    is_over: bool,
}

#[derive(Debug)]
struct Step {
    what: String,
    began: Instant,
    is_said: bool,
}

/// What a step's age asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Wait,
    Say,
    GiveUp,
    Stop,
}

fn verdict(age: Duration, since_stop: Option<Duration>) -> Verdict {
    match since_stop {
        Some(since) if since >= STOPPING => Verdict::Stop,
        _ if age >= TOO_LONG => Verdict::GiveUp,
        _ if age >= LONG => Verdict::Say,
        _ => Verdict::Wait,
    }
}

impl Patience {
    /// Watches from now on.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(signals: &Signals, supervisor: &Supervisor) -> std::io::Result<Self> {
        let watched = Arc::<Watched>::default();
        let thread = {
            let (watched, signals) = (Arc::clone(&watched), signals.clone());
            let supervisor = supervisor.clone();
            std::thread::Builder::new()
                .name("patience".to_owned())
                .spawn(move || watch(&watched, &signals, &supervisor))?
        };
        Ok(Self {
            watched,
            supervisor: supervisor.clone(),
            thread: Some(thread),
        })
    }

    /// The next step begins, and with it its time.
    pub fn step(&self, what: String) {
        log::info!("{what}");
        self.supervisor.status(&what);
        self.watched.state().step = Some(Step {
            what,
            began: Instant::now(),
            is_said: false,
        });
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        self.watched.state().is_over = true;
        self.watched.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported where it happened.
            let _ = thread.join();
        }
    }
}

impl Watched {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn watch(watched: &Watched, signals: &Signals, supervisor: &Supervisor) {
    let mut stop: Option<Instant> = None;
    let mut state = watched.state();
    while !state.is_over {
        if signals.stop_asked() {
            stop.get_or_insert_with(Instant::now);
        }
        if let Some(step) = &mut state.step {
            let seconds = step.began.elapsed().as_secs();
            match verdict(step.began.elapsed(), stop.map(|stop| stop.elapsed())) {
                Verdict::Wait => {}
                Verdict::Say => {
                    if !std::mem::replace(&mut step.is_said, true) {
                        log::warn!("{}: no answer for {seconds} s yet", step.what);
                    }
                }
                // The driver waits in the main thread, and nothing wakes it.
                Verdict::GiveUp => {
                    say::error(&format_args!(
                        "fullgate: {}: no answer for {seconds} s; does the device work, and is \
                         what it needs there (in a virtual machine with an IOMMU, \
                         iommu_platform=on)?",
                        step.what
                    ));
                    signal_hook::low_level::exit(1);
                }
                Verdict::Stop => {
                    supervisor.stopping();
                    log::warn!("{}: stopped while waiting", step.what);
                    signal_hook::low_level::exit(0);
                }
            }
        }
        let waited = watched.changed.wait_timeout(state, INTERVAL);
        (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_said_and_given_up_in_time() {
        let seconds = Duration::from_secs;
        assert_eq!(verdict(seconds(9), None), Verdict::Wait);
        assert_eq!(verdict(seconds(10), None), Verdict::Say);
        assert_eq!(verdict(seconds(119), None), Verdict::Say);
        assert_eq!(verdict(seconds(120), None), Verdict::GiveUp);
        assert_eq!(verdict(seconds(1), Some(seconds(4))), Verdict::Wait);
        assert_eq!(verdict(seconds(1), Some(seconds(5))), Verdict::Stop);
        assert_eq!(verdict(seconds(120), Some(seconds(5))), Verdict::Stop);
    }

    #[test]
    fn nobody_waits_for_its_end() {
        let began = Instant::now();
        let patience = Patience::start(&Signals::default(), &Supervisor::default());
        let patience = patience.expect("a thread");
        patience.step("a step".to_owned());
        drop(patience);
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}
