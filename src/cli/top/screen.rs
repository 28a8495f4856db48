//! What the user has chosen to see, and what a key does to that.

use std::net::SocketAddrV4;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::rates::{Rates, Server, Service, Traffic};

/// By what rows are sorted, most first (names: alphabetically).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum Sort {
    #[default]
    Bits,
    New,
    Active,
    Name,
}

impl Sort {
    const ALL: [Self; 4] = [Self::Bits, Self::New, Self::Active, Self::Name];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bits => "traffic",
            Self::New => "new connections",
            Self::Active => "active connections",
            Self::Name => "name",
        }
    }

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self).unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }

    /// What the bar of a row is as long as.
    pub(super) fn measure(self, traffic: Traffic, active: u64) -> f64 {
        match self {
            Self::New => traffic.new,
            Self::Active => active as f64,
            Self::Bits | Self::Name => traffic.bits,
        }
    }

    /// Sorts rows, each known by its name, traffic and active connections.
    fn sort<T>(self, rows: &mut [&T], of: fn(&T) -> (&str, Traffic, u64)) {
        rows.sort_by(|a, b| {
            let ((a, a_traffic, a_active), (b, b_traffic, b_active)) = (of(a), of(b));
            match self {
                Self::Name => a.cmp(b),
                _ => self
                    .measure(b_traffic, b_active)
                    .total_cmp(&self.measure(a_traffic, a_active)),
            }
        });
    }
}

/// What is on the screen.
#[derive(Debug, Default)]
pub(super) struct Screen {
    /// `None` until there are two samples.
    pub(super) rates: Option<Rates>,
    /// Why there are none now.
    pub(super) error: Option<String>,
    pub(super) sort: Sort,
    /// Part of a name or address that rows must have.
    pub(super) filter: String,
    /// The filter is being typed.
    pub(super) is_typing: bool,
    /// The service whose servers are shown.
    pub(super) zoom: Option<(SocketAddrV4, String)>,
    /// The row that the cursor is on.
    pub(super) selected: usize,
    pub(super) is_paused: bool,
    pub(super) shows_help: bool,
}

impl Screen {
    /// New figures.
    pub(super) fn show(&mut self, rates: Rates) {
        self.error = None;
        if !self.is_paused {
            self.rates = Some(rates);
            self.keep_selection();
        }
    }

    /// No figures, and why.
    pub(super) fn fail(&mut self, error: String) {
        self.error = Some(error);
    }

    /// The services that are shown, in order.
    pub(super) fn services(&self) -> Vec<&Service> {
        let all = self.rates.iter().flat_map(|rates| &rates.services);
        let mut rows: Vec<&Service> = all
            .filter(|service| self.has(&service.name, service.vip))
            .collect();
        self.sort.sort(&mut rows, |service| {
            (&service.name, service.traffic, service.active)
        });
        rows
    }

    /// The service that was chosen, if it is still there.
    pub(super) fn zoomed(&self) -> Option<&Service> {
        let (vip, protocol) = self.zoom.as_ref()?;
        let mut services = self.rates.as_ref()?.services.iter();
        services.find(|service| service.vip == *vip && service.protocol == *protocol)
    }

    /// Its servers that are shown, in order.
    pub(super) fn servers(&self) -> Vec<&Server> {
        let all = self.zoomed().map_or(&[][..], |service| &service.servers);
        let mut rows: Vec<&Server> = all
            .iter()
            .filter(|server| self.has(&server.name, server.address))
            .collect();
        self.sort.sort(&mut rows, |server| {
            (&server.name, server.traffic, server.active)
        });
        rows
    }

    fn has(&self, name: &str, address: SocketAddrV4) -> bool {
        self.filter.is_empty()
            || name.contains(&self.filter)
            || address.to_string().contains(&self.filter)
    }

    fn rows(&self) -> usize {
        match self.zoom {
            Some(_) => self.servers().len(),
            None => self.services().len(),
        }
    }

    fn keep_selection(&mut self) {
        self.selected = self.selected.min(self.rows().saturating_sub(1));
    }

    /// Whether the user has had enough.
    pub(super) fn key(&mut self, key: KeyEvent) -> bool {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return true;
        }
        if self.is_typing {
            self.type_filter(key.code);
        } else {
            match key.code {
                KeyCode::Char('q') => return true,
                KeyCode::Char('s') => self.sort = self.sort.next(),
                KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
                KeyCode::Char('/') => self.is_typing = true,
                KeyCode::Char('?' | 'h') => self.shows_help = !self.shows_help,
                KeyCode::Down | KeyCode::Char('j') => self.selected += 1,
                KeyCode::Up | KeyCode::Char('k') => {
                    self.selected = self.selected.saturating_sub(1);
                }
                KeyCode::PageDown => self.selected += 10,
                KeyCode::PageUp => self.selected = self.selected.saturating_sub(10),
                KeyCode::Home => self.selected = 0,
                KeyCode::Enter | KeyCode::Right => self.zoom_in(),
                KeyCode::Esc | KeyCode::Left | KeyCode::Backspace => self.back(),
                _ => {}
            }
        }
        self.keep_selection();
        false
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Char(letter) => self.filter.push(letter),
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.filter.clear();
                self.is_typing = false;
            }
            _ => {}
        }
    }

    fn zoom_in(&mut self) {
        if self.zoom.is_none() {
            let chosen = self.services().get(self.selected).copied();
            self.zoom = chosen.map(|service| (service.vip, service.protocol.clone()));
            if self.zoom.is_some() {
                self.selected = 0;
                self.filter.clear();
            }
        }
    }

    /// One step back: help, filter, then the zoom.
    fn back(&mut self) {
        if self.shows_help {
            self.shows_help = false;
        } else if !self.filter.is_empty() {
            self.filter.clear();
        } else {
            self.zoom = None;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::rates::tests::sample;
    use super::*;

    pub(in super::super) fn screen() -> Screen {
        let mut screen = Screen::default();
        screen.show(Rates::between(&sample(5), &sample(6)));
        screen
    }

    pub(in super::super) fn press(screen: &mut Screen, keys: &str) -> bool {
        keys.chars().any(|letter| {
            let code = match letter {
                '\n' => KeyCode::Enter,
                '\u{1b}' => KeyCode::Esc,
                '\u{8}' => KeyCode::Backspace,
                letter => KeyCode::Char(letter),
            };
            screen.key(KeyEvent::from(code))
        })
    }

    fn names(screen: &Screen) -> Vec<&str> {
        screen
            .services()
            .iter()
            .map(|service| service.name.as_str())
            .collect()
    }

    #[test]
    fn keys_choose_what_is_shown() {
        let mut screen = screen();
        assert_eq!(names(&screen), ["web", "quiet"]);
        press(&mut screen, "sss");
        assert_eq!(
            (screen.sort, names(&screen)),
            (Sort::Name, vec!["quiet", "web"])
        );
        press(&mut screen, "s/we\u{8}\u{8}qui\n");
        assert_eq!(names(&screen), ["quiet"]);
        press(&mut screen, "\u{1b}/.1:80\n");
        assert_eq!(names(&screen), ["web"]);
        press(&mut screen, "\n");
        let servers: Vec<&str> = screen.servers().iter().map(|s| s.name.as_str()).collect();
        assert_eq!(servers, ["a", "b"]);
        press(&mut screen, "jjj");
        assert_eq!(screen.selected, 1);
        press(&mut screen, "\u{1b}");
        assert!(screen.zoom.is_none());
        assert!(press(&mut screen, "xyq"));
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        press(&mut screen, "/");
        assert!(screen.key(interrupt));
    }

    #[test]
    fn a_pause_holds_the_figures_and_an_error_is_over_with_the_next() {
        let mut screen = screen();
        press(&mut screen, "p");
        screen.fail("gone".into());
        screen.show(Rates::between(&sample(6), &sample(8)));
        assert_eq!(screen.error, None);
        assert_eq!(
            screen.rates.as_ref().map(|rates| rates.uptime_ms),
            Some(12_000)
        );
        press(&mut screen, " ");
        screen.show(Rates::between(&sample(6), &sample(8)));
        assert_eq!(
            screen.rates.as_ref().map(|rates| rates.uptime_ms),
            Some(16_000)
        );
    }

    #[test]
    fn a_service_that_is_gone_has_no_servers() {
        let mut screen = screen();
        press(&mut screen, "\nj");
        let mut after = sample(7);
        after.services.services.clear();
        screen.show(Rates::between(&sample(6), &after));
        assert!(screen.zoomed().is_none() && screen.servers().is_empty());
        assert_eq!(screen.selected, 0);
    }
}
