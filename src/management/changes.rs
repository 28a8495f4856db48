//! Changes of the configuration in force: what waits for its turn, and how one
//! is made, wherever it comes from. A new configuration is read and checked by
//! a thread of its own; the loop puts it in force.

use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError};
use std::time::Instant;

use super::drains::Drain;
use super::gather::Ask;
use super::{Management, PATIENCE};
use crate::api::rpc::{Error, Outcome};
use crate::config::{Checked, Config};
use crate::worker::message::Update;

/// Makes a configuration from the one in force.
type Edit = Box<dyn FnOnce(&Config) -> Result<Checked, Error> + Send>;

/// A change of the configuration that waits for its turn.
pub(super) struct Change {
    pub(super) edit: Edit,
    pub(super) is_reload: bool,
    /// What begins with it.
    pub(super) drain: Option<Drain>,
}

/// A change whose configuration is being made.
pub(super) struct Preparing {
    made: Receiver<Result<Checked, Error>>,
    is_reload: bool,
    drain: Option<Drain>,
    reply: Option<SyncSender<Outcome>>,
}

impl Change {
    pub(super) fn edit(
        make: impl FnOnce(&Config) -> Result<Checked, Error> + Send + 'static,
    ) -> Self {
        Self {
            edit: Box::new(make),
            is_reload: false,
            drain: None,
        }
    }
}

/// A change that the workers are taking.
pub(super) struct Taking {
    pub(super) generation: u64,
    pub(super) warnings: Vec<String>,
    /// When the first of the health checks ended whose verdicts it brings.
    pub(super) decided: Option<Instant>,
}

impl Management {
    pub(super) fn queue_change(
        &mut self,
        question: Change,
        reply: Option<SyncSender<Outcome>>,
        now: Instant,
    ) {
        self.changes.ask(Ask {
            question,
            reply,
            deadline: now + PATIENCE,
        });
    }

    /// What reads the file again.
    pub(super) fn reload(&self) -> Change {
        let path = self.config_path.clone();
        let supervisor = self.supervisor.clone();
        let edit = move |_: &Config| {
            supervisor.reloading();
            Config::load_file(&path).map_err(|problem| Error::failed(problem.to_string()))
        };
        Change {
            is_reload: true,
            ..Change::edit(edit)
        }
    }

    /// Has the configuration of the next change made, if no other is under way.
    pub(super) fn prepare_change(&mut self) {
        if self.preparing.is_some() {
            return;
        }
        let Some(Ask {
            question, reply, ..
        }) = self.changes.next()
        else {
            return;
        };
        let Change {
            edit,
            is_reload,
            drain,
        } = question;
        let (tell, made) = mpsc::sync_channel(1);
        let config = self.state.shared_config();
        self.changing.run(move || {
            let _ = tell.send(edit(&config));
        });
        self.preparing = Some(Preparing {
            made,
            is_reload,
            drain,
            reply,
        });
    }

    /// Puts the configuration that was made in force, once it is there and the
    /// workers have taken the last one.
    pub(super) fn finish_change(&mut self, now: Instant) {
        if !self.changes.is_free() {
            return;
        }
        let Some(preparing) = &self.preparing else {
            return;
        };
        let made = match preparing.made.try_recv() {
            Ok(made) => made,
            Err(TryRecvError::Empty) => return,
            Err(TryRecvError::Disconnected) => Err(Error::failed("the change ended unexpectedly")),
        };
        let Some(Preparing {
            is_reload,
            drain,
            reply,
            ..
        }) = self.preparing.take()
        else {
            return;
        };
        let made = made.and_then(|checked| self.try_change(checked, now));
        if let (Ok(_), Some(drain)) = (&made, drain) {
            self.drains.begin(drain);
        }
        if is_reload {
            self.metrics.reloaded(made.is_ok());
            if let Err(error) = &made {
                log::error!("reload rejected, the old configuration stays in force: {error}");
            }
        }
        match made {
            Ok((taking, updates)) => {
                self.changes.begin(taking, reply, now + PATIENCE);
                self.send_updates(updates);
            }
            Err(error) => {
                self.supervisor.ready();
                super::answer(reply, Err(error));
            }
        }
    }

    fn try_change(
        &mut self,
        checked: Checked,
        now: Instant,
    ) -> Result<(Taking, Vec<Update>), Error> {
        let Checked { config, warnings } = checked;
        let listener = self.metrics.listen_anew(&config).map_err(Error::failed)?;
        let applied = self.state.apply(config);
        let updates = applied.map_err(|error| Error::failed(error.to_string()))?;
        let (config, snapshot) = (self.state.shared_config(), self.state.snapshot());
        self.metrics
            .configured(&self.changing, config, snapshot, listener);
        self.configure_health(now);
        let warnings = warnings.iter().map(ToString::to_string).collect();
        Ok((self.taking(warnings), updates))
    }

    /// The newest snapshot, on its way to the workers.
    pub(super) fn taking(&mut self, warnings: Vec<String>) -> Taking {
        Taking {
            generation: self.state.snapshot().generation,
            warnings,
            decided: self.health.decided(),
        }
    }
}
