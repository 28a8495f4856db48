//! `top`: a live screen of rates, load and drops. One thread asks the admin
//! socket, the other draws and reads keys; rates are differences between two
//! answers.

mod rates;
mod sample;
mod screen;
mod short;
mod view;

use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::crossterm::terminal;
use ratatui::widgets::Paragraph;

use self::rates::Rates;
use self::sample::Sample;
use self::screen::Screen;
use super::client::{CallError, Client};
use super::line;

/// Columns where there is no terminal.
const WIDTH: u16 = 80;

/// Longest wait for a key before new figures are looked for.
const KEYS: Duration = Duration::from_millis(100);

/// Runs until the user has enough; what is left to print.
pub(super) fn run(
    socket: &Path,
    interval: Duration,
    once: bool,
    json: bool,
) -> Result<String, String> {
    if once {
        return frame(socket, interval, json).map_err(|error| error.to_string());
    }
    if json || !io::stdout().is_terminal() {
        return Err("top needs a terminal; --once prints one frame".into());
    }
    let (sender, samples) = mpsc::channel();
    let socket = socket.to_owned();
    // Ends with the process, or with the screen.
    std::thread::spawn(move || watch(&socket, interval, &sender));
    let mut terminal =
        ratatui::try_init().map_err(|error| format!("the terminal can't be used: {error}"))?;
    let outcome = live(&mut terminal, &samples);
    ratatui::restore();
    outcome.map_err(|error| format!("the terminal can't be used: {error}"))?;
    Ok(String::new())
}

/// One frame as text, of a difference over `interval`.
fn frame(socket: &Path, interval: Duration, json: bool) -> Result<String, CallError> {
    let mut client = Client::connect(socket)?;
    let before = Sample::take(&mut client, None)?;
    std::thread::sleep(interval);
    let after = Sample::take(&mut client, Some(&before))?;
    let rates = Rates::between(&before, &after);
    if json {
        return Ok(line(&serde_json::to_value(&rates).unwrap_or_default()));
    }
    let width = match io::stdout().is_terminal() {
        true => terminal::size().map_or(WIDTH, |(width, _)| width),
        false => WIDTH,
    };
    let mut screen = Screen::default();
    screen.show(rates);
    Ok(view::text(&screen, width.into()))
}

/// Asks again and again, and connects anew where that fails.
fn watch(socket: &Path, interval: Duration, samples: &Sender<Result<Sample, String>>) {
    let mut client = None;
    let mut last: Option<Sample> = None;
    loop {
        let taken = match &mut client {
            Some(client) => Sample::take(client, last.as_ref()),
            None => Client::connect(socket).and_then(|connected| {
                let connected = client.insert(connected);
                Sample::take(connected, last.as_ref())
            }),
        };
        let told = match taken {
            Ok(sample) => {
                last = Some(sample.clone());
                samples.send(Ok(sample))
            }
            Err(error) => {
                client = None;
                samples.send(Err(error.to_string()))
            }
        };
        if told.is_err() {
            return;
        }
        std::thread::sleep(interval);
    }
}

fn live(
    terminal: &mut ratatui::DefaultTerminal,
    samples: &Receiver<Result<Sample, String>>,
) -> io::Result<()> {
    let mut screen = Screen::default();
    let mut last: Option<Sample> = None;
    loop {
        terminal.draw(|frame| {
            let area = frame.area();
            let lines = view::lines(&screen, area.width.into(), area.height.into());
            frame.render_widget(Paragraph::new(lines), area);
        })?;
        if event::poll(KEYS)?
            && let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
            && screen.key(key)
        {
            return Ok(());
        }
        loop {
            match samples.try_recv() {
                Ok(Ok(sample)) => {
                    if let Some(before) = &last {
                        screen.show(Rates::between(before, &sample));
                    }
                    last = Some(sample);
                }
                Ok(Err(error)) => {
                    // Counters begin anew with the next process.
                    last = None;
                    screen.fail(error);
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
    }
}
