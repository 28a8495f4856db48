//! `fullgatectl`: arguments, one or two calls of the admin socket, text.
//! Owns the connection; everything it prints is made by `show`.

mod args;
mod capture;
mod client;
mod daemon;
mod drain;
mod explain;
mod health;
mod save;
mod show;
mod table;
mod top;

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use serde_json::{Value, json};

use self::args::{Cli, Command, Import, Server, Show};
use self::client::{CallError, Client};
use crate::api;
use crate::config::Config;
use crate::import;
use crate::say;

pub use self::daemon::{DaemonArgs, DaemonCommand};

/// The command lines of both programs, for their manuals and completions.
pub fn commands() -> [clap::Command; 2] {
    [DaemonArgs::command(), Cli::command()]
}

/// Runs the program on the process's arguments.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    match output(&cli) {
        Ok(text) => match say::out(&text) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&format!("standard output: {error}")),
        },
        Err(message) => failed(&message),
    }
}

fn failed(message: &str) -> ExitCode {
    say::error(&format_args!("fullgatectl: {message}"));
    ExitCode::FAILURE
}

fn output(cli: &Cli) -> Result<String, String> {
    match &cli.command {
        Command::Check { file } => check(file, cli.json),
        Command::Import { from } => import(from),
        Command::Top { interval, once } => {
            let interval = Duration::from_millis(*interval);
            top::run(&cli.socket, interval, *once, cli.json)
        }
        Command::Capture(wanted) => {
            capture::run(&cli.socket, wanted).map_err(|error| error.to_string())
        }
        command => call(cli, command).map_err(|error| error.to_string()),
    }
}

fn import(from: &Import) -> Result<String, String> {
    let (Import::Ipvsadm { file } | Import::Keepalived { file }) = from;
    let shown = file.display();
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|mut file| file.read_to_end(&mut bytes))
    }
    .map_err(|error| format!("{shown}: can't be read: {error}"))?;
    let text = String::from_utf8_lossy(&bytes);
    let imported = match from {
        Import::Ipvsadm { .. } => import::ipvsadm(&text),
        Import::Keepalived { .. } => import::keepalived(&text),
    };
    for note in &imported.notes {
        say::error(&format_args!("{shown}:{note}"));
    }
    if imported.services == 0 {
        return Err(format!(
            "{shown}: there is no service that can be carried over"
        ));
    }
    Ok(imported.toml)
}

fn check(file: &Path, json: bool) -> Result<String, String> {
    let config = Config::load(file).map_err(|problem| problem.to_string())?;
    let checked = api::Checked::of(&config);
    Ok(if json {
        line(&serde_json::to_value(checked).unwrap_or_default())
    } else {
        show::checked(file, &checked)
    })
}

fn call(cli: &Cli, command: &Command) -> Result<String, CallError> {
    let mut client = Client::connect(&cli.socket)?;
    let Some((method, params)) = command.request() else {
        return Ok(String::new());
    };
    if let Command::Show {
        what: Show::Workers { interval },
    } = command
        && !cli.json
    {
        let before: api::Workers = client.get(method, &params)?;
        std::thread::sleep(Duration::from_millis(*interval));
        let after = client.get(method, &params)?;
        return Ok(show::workers(&before, &after));
    }
    let result = client.call(method, &params)?;
    if let Command::Save { file } = command {
        return save::save(result, file.as_deref(), cli.json);
    }
    if cli.json {
        return Ok(line(&result));
    }
    if let Command::Server {
        change:
            Server::Drain {
                service,
                server,
                no_wait: false,
                ..
            },
    } = command
    {
        return drain::wait(&mut client, service, server);
    }
    render(command, result).map_err(|error| CallError::Nonsense(error.to_string()))
}

fn line(result: &Value) -> String {
    format!("{result}\n")
}

/// The result as text for people.
fn render(command: &Command, result: Value) -> Result<String, serde_json::Error> {
    use serde_json::from_value;
    Ok(match command {
        Command::Show { what } => match what {
            Show::Services { stats: false } => show::services(&from_value(result)?),
            Show::Services { stats: true } => show::service_stats(&from_value(result)?),
            Show::Health => health::table(&from_value(result)?),
            Show::Connections(_) => show::connections(&from_value(result)?),
            Show::Workers { .. } => {
                let now = from_value(result)?;
                show::workers(&api::Workers::default(), &now)
            }
            Show::Ports => show::ports(&from_value(result)?),
            Show::Drops { last: true, .. } => show::last_drops(&from_value(result)?),
            Show::Drops { all, .. } => show::drops(&from_value(result)?, *all),
            Show::Pools => show::pools(&from_value(result)?),
            Show::Neighbors => show::neighbors(&from_value(result)?),
            Show::Config => from_value::<api::RunningConfig>(result)?.toml,
        },
        Command::Explain(_) => explain::text(&from_value(result)?),
        Command::Version => show::version(&from_value(result)?),
        Command::Service { .. } | Command::Server { .. } | Command::Reload => {
            show::warnings(&from_value::<api::Changed>(result)?.warnings)
        }
        Command::Announce => show::announced(&from_value(result)?),
        Command::Diff { .. } => show::diff(&from_value(result)?),
        Command::Save { .. }
        | Command::Check { .. }
        | Command::Import { .. }
        | Command::Top { .. }
        | Command::Capture(_) => line(&result),
    })
}

/// An object of those values that were given.
fn given<const N: usize>(values: [(&str, Option<Value>); N]) -> Value {
    let present = values
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Value::Object(present.collect())
}

/// The empty parameters.
fn none() -> Value {
    json!({})
}
