//! The command line of `fullgate` itself.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

const CONFIG: &str = "/etc/fullgate/fullgate.toml";

/// A FULLNAT layer-4 load-balancing gateway.
///
/// Without a command it reads the configuration and forwards until SIGTERM or
/// SIGINT; SIGHUP makes it read the configuration again.
#[derive(Parser, Debug)]
#[command(name = "fullgate", version, disable_help_subcommand = true)]
pub struct DaemonArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    pub config: PathBuf,
    /// What to log, such as "info" or "warn,dpdk=debug"; else RUST_LOG says.
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    #[command(subcommand)]
    pub command: Option<DaemonCommand>,
}

/// What to do instead of forwarding.
#[derive(Subcommand, Debug)]
pub enum DaemonCommand {
    /// Check a configuration file.
    Check {
        #[arg(default_value = CONFIG)]
        file: PathBuf,
    },
    /// Look at this host: what keeps a configuration from running well on it,
    /// and the commands that mend it.
    Preflight {
        /// The configuration file.
        #[arg(long, value_name = "FILE", default_value = CONFIG)]
        config: PathBuf,
    },
}
