//! Changes of the configuration in force: what waits for its turn, and how one
//! is made, wherever it comes from.

use std::sync::mpsc::SyncSender;
use std::time::Instant;

use super::drains::Drain;
use super::gather::Ask;
use super::{Management, PATIENCE};
use crate::control::config::{Checked, Config};
use crate::control::rpc::{Error, Outcome};
use crate::control::supervisor;
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
        let edit = move |_: &Config| {
            supervisor::reloading();
            Config::load(&path).map_err(|problem| Error::failed(problem.to_string()))
        };
        Change {
            is_reload: true,
            ..Change::edit(edit)
        }
    }

    pub(super) fn make_change(&mut self, change: Change) -> Result<(Taking, Vec<Update>), Error> {
        let Change {
            edit,
            is_reload,
            drain,
        } = change;
        let made = self.try_change(edit);
        if let (Ok(_), Some(drain)) = (&made, drain) {
            self.drains.begin(drain);
        }
        if is_reload {
            self.metrics.reloaded(made.is_ok());
            if let Err(error) = &made {
                log::error!("reload rejected, the old configuration stays in force: {error}");
            }
        }
        made
    }

    fn try_change(&mut self, edit: Edit) -> Result<(Taking, Vec<Update>), Error> {
        let Checked { config, warnings } = edit(self.state.config())?;
        let listener = self.metrics.listen_anew(&config).map_err(Error::failed)?;
        let applied = self.state.apply(config);
        let updates = applied.map_err(|error| Error::failed(error.to_string()))?;
        let (config, snapshot) = (self.state.config(), self.state.snapshot());
        self.metrics.configured(config, snapshot, listener);
        let generation = self.state.snapshot().generation;
        let warnings = warnings.iter().map(ToString::to_string).collect();
        Ok((
            Taking {
                generation,
                warnings,
            },
            updates,
        ))
    }
}
