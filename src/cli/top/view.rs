//! The screen as lines of text. Pure: the same lines go to a terminal, to a
//! pipe and to tests. Everything that colour says is also said in words.

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;

use super::rates::{Drop, Port, Rates, Server, Service, Worker};
use super::screen::Screen;
use super::short::{cut, duration, percent, si, si_unit};

/// Workers with a line of their own.
const WORKERS: usize = 4;
/// Ports with a line of their own.
const PORTS: usize = 4;
/// Drop reasons with a line of their own.
const DROPS: usize = 3;

/// Narrowest and widest bar of a row.
const BAR: std::ops::RangeInclusive<usize> = 6..=40;
/// Widest name and address of a row.
const NAME: usize = 20;
const ADDRESS: usize = 21;

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const CURSOR: Style = Style::new().add_modifier(Modifier::REVERSED);
const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);

const HELP: &str = "q quit  s sort  / filter  p pause  arrows choose  Enter its servers  ? help";
const HELP_ZOOM: &str = "q quit  s sort  / filter  p pause  Esc all services  ? help";
const LONG_HELP: [&str; 13] = [
    "in, out     packets and bits a second at a port; lost: in NIC or driver",
    "busy        share of a worker's cycles in rounds with packets; at 100 % it",
    "            receives as fast as it can, and a NIC begins to lose packets",
    "cyc/pkt     busy cycles for each packet received",
    "table       share of a worker's connection table in use",
    "UP          servers that take new connections, of all",
    "NEW/s       new connections a second; !: some are refused",
    "ACTIVE      established connections",
    "PKT/s BIT/s both ways together, IP bytes",
    "PORTS       share of local ports that are free, towards the worst server;",
    "            at 0 new connections take ports of connections that are over",
    "the bar     a row's share of the largest row, of what is sorted by",
    "figures     are differences between two answers of the admin socket",
];

/// The screen, as it fits.
pub(super) fn lines(screen: &Screen, width: usize, height: usize) -> Vec<Line<'static>> {
    let mut head = head(screen, width, WORKERS);
    let mut tail = tail(screen);
    // A low screen has its rows first.
    if head.len() + tail.len() + 4 > height {
        tail.drain(..tail.len() - 1);
        head.truncate(if height > 8 { 3 } else { 1 });
    }
    let room = height.saturating_sub(head.len() + tail.len());
    let mut lines = head;
    lines.extend(body(screen, width, room));
    let filled = height.saturating_sub(tail.len());
    lines.truncate(filled);
    lines.resize(filled, Line::default());
    lines.extend(tail);
    lines.truncate(height);
    lines.into_iter().map(|line| narrow(line, width)).collect()
}

/// A line as far as it fits. Each has one style.
fn narrow(line: Line<'static>, width: usize) -> Line<'static> {
    match line.width() > width {
        true => Line::styled(cut(line.to_string(), width), line.style),
        false => line,
    }
}

/// All of it as text, whatever its height.
pub(super) fn text(screen: &Screen, width: usize) -> String {
    let mut lines = head(screen, width, usize::MAX);
    lines.extend(body(screen, width, usize::MAX));
    lines.extend(tail(screen));
    // Nobody presses keys here.
    lines.pop();
    let mut text = String::new();
    for line in lines {
        let line: String = line.spans.iter().map(|span| &*span.content).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn head(screen: &Screen, width: usize, most_workers: usize) -> Vec<Line<'static>> {
    let mut lines = vec![title(screen, width)];
    let Some(rates) = &screen.rates else {
        return lines;
    };
    lines.extend(
        rates
            .ports
            .iter()
            .take(PORTS)
            .map(|port| port_line(port, rates)),
    );
    if rates.ports.len() > PORTS {
        lines.push(Line::styled(
            format!("… and {} more ports", rates.ports.len() - PORTS),
            DIM,
        ));
    }
    let mut workers: Vec<&Worker> = rates.workers.iter().collect();
    if workers.len() > most_workers {
        workers.sort_by(|a, b| b.busy.total_cmp(&a.busy));
        workers.truncate(most_workers);
    }
    lines.extend(workers.iter().map(|worker| worker_line(worker, width)));
    let rest = rates.workers.len() - workers.len();
    if rest > 0 {
        lines.push(Line::styled(format!("… and {rest} less busy workers"), DIM));
    }
    lines.push(Line::default());
    lines
}

fn title(screen: &Screen, width: usize) -> Line<'static> {
    if let Some(error) = &screen.error {
        let old = if screen.rates.is_some() {
            "; below is what was"
        } else {
            ""
        };
        return Line::styled(cut(format!("{error}; trying again{old}"), width), BAD);
    }
    let Some(rates) = &screen.rates else {
        return Line::styled("fullgate: the first figures come in a moment", BOLD);
    };
    let paused = if screen.is_paused {
        "   PAUSED, p goes on"
    } else {
        ""
    };
    Line::styled(
        cut(
            format!(
                "fullgate   up {}   generation {}   {} services by {}{paused}",
                duration(rates.uptime_ms),
                rates.generation,
                rates.services.len(),
                screen.sort.name(),
            ),
            width,
        ),
        BOLD,
    )
}

fn port_line(port: &Port, rates: &Rates) -> Line<'static> {
    let name = rates
        .ports
        .iter()
        .map(|port| port.name.chars().count())
        .max()
        .unwrap_or(0)
        .min(15);
    let link = if port.link_up { "" } else { "   LINK DOWN" };
    let lost = if port.lost > 0.0 {
        format!("   LOST {}/s", si(port.lost))
    } else {
        String::new()
    };
    let style = if port.link_up && port.lost == 0.0 {
        Style::new()
    } else {
        BAD
    };
    Line::styled(
        format!(
            "{:<name$}  in {:>5} pkt/s {:>5}bit/s   out {:>5} pkt/s {:>5}bit/s{lost}{link}",
            cut(port.name.clone(), name),
            si(port.rx_packets),
            si_unit(port.rx_bits),
            si(port.tx_packets),
            si_unit(port.tx_bits),
        ),
        style,
    )
}

fn worker_line(worker: &Worker, width: usize) -> Line<'static> {
    let cycles = worker.cycles_per_packet.map_or_else(|| "-".into(), si);
    let wide = if width >= 100 { 30 } else { 16 };
    let style = if worker.busy > 0.9 || worker.table > 0.9 {
        BAD
    } else {
        Style::new()
    };
    Line::styled(
        format!(
            "worker {:<2} {} {:>4} busy  {:>5} pkt/s  {:>5} cyc/pkt  table {:>4}",
            worker.worker,
            bar(worker.busy, wide),
            percent(worker.busy),
            si(worker.packets),
            cycles,
            percent(worker.table),
        ),
        style,
    )
}

fn tail(screen: &Screen) -> Vec<Line<'static>> {
    let mut lines = vec![Line::default()];
    if let Some(rates) = &screen.rates {
        lines.extend(drops(&rates.drops));
    }
    lines.push(
        match (screen.is_typing, screen.filter.is_empty(), &screen.zoom) {
            (true, ..) => Line::styled(
                format!("filter: {}_   Enter keeps it, Esc drops it", screen.filter),
                BOLD,
            ),
            (false, false, _) => Line::styled(
                format!(
                    "only with {:?}, Esc shows all   q quit  / filter  ? help",
                    screen.filter
                ),
                BOLD,
            ),
            (false, true, None) => Line::styled(HELP, DIM),
            (false, true, Some(_)) => Line::styled(HELP_ZOOM, DIM),
        },
    );
    lines
}

fn drops(drops: &[Drop]) -> Vec<Line<'static>> {
    if drops.is_empty() {
        return vec![Line::raw("no packet was dropped since the start")];
    }
    let now = drops.iter().take_while(|drop| drop.rate > 0.0);
    let mut lines: Vec<Line<'static>> = now
        .take(DROPS)
        .map(|drop| {
            let text = format!(
                "dropping {:>5}/s  {:<24} {:>5} since the start",
                si(drop.rate),
                drop.reason,
                si(drop.total as f64)
            );
            Line::styled(text, BAD)
        })
        .collect();
    if lines.is_empty() {
        let most = drops.iter().take(DROPS);
        let most: Vec<String> = most
            .map(|drop| format!("{} {}", drop.reason, si(drop.total as f64)))
            .collect();
        lines.push(Line::raw(format!(
            "no packet is dropped now; since the start {}",
            most.join(", ")
        )));
    }
    lines
}

fn body(screen: &Screen, width: usize, room: usize) -> Vec<Line<'static>> {
    if screen.shows_help {
        return LONG_HELP.into_iter().map(Line::raw).collect();
    }
    let Some(rates) = &screen.rates else {
        return Vec::new();
    };
    if screen.zoom.is_some() {
        return servers(screen, width, room);
    }
    let rows = screen.services();
    if rows.is_empty() {
        return vec![Line::raw(match rates.services.is_empty() {
            true => {
                "no services: \"fullgatectl service add\", or a [[service]] and a reload".into()
            }
            false => nothing(screen),
        })];
    }
    let most = rows
        .iter()
        .map(|row| screen.sort.measure(row.traffic, row.active))
        .fold(0.0, f64::max);
    let cells = |service: &&Service| Row {
        cells: vec![
            service.name.clone(),
            service.vip.to_string(),
            service.protocol.clone(),
            up(&service.servers),
            si(service.traffic.new) + if service.refused > 0.0 { "!" } else { "" },
            si(service.active as f64),
            si(service.traffic.packets),
            si(service.traffic.bits),
            service.free_ports.map_or_else(|| "-".into(), percent),
        ],
        share: screen.sort.measure(service.traffic, service.active) / most.max(f64::MIN_POSITIVE),
        is_bad: service.refused > 0.0 || !service.servers.iter().any(|s| s.state == "up"),
    };
    table(
        &[
            ("SERVICE", -(NAME as isize)),
            ("ADDRESS", -(ADDRESS as isize)),
            ("", -4),
            ("UP", 5),
            ("NEW/s", 6),
            ("ACTIVE", 6),
            (OPTIONAL, 5),
            ("BIT/s", 5),
            ("PORTS", 5),
        ],
        window(&rows, screen.selected, room, cells),
        width,
    )
}

fn servers(screen: &Screen, width: usize, room: usize) -> Vec<Line<'static>> {
    let Some(service) = screen.zoomed() else {
        return vec![Line::raw(
            "the service is not in the configuration any more; Esc shows the others",
        )];
    };
    let heading = format!(
        "service {}  {}/{}  new {}/s  active {}  {}bit/s{}",
        service.name,
        service.vip,
        service.protocol,
        si(service.traffic.new),
        si(service.active as f64),
        si_unit(service.traffic.bits),
        match service.refused > 0.0 {
            true => format!("  REFUSED {}/s", si(service.refused)),
            false => String::new(),
        }
    );
    let mut lines = vec![Line::styled(heading, BOLD)];
    let rows = screen.servers();
    if rows.is_empty() {
        lines.push(Line::raw(match service.servers.is_empty() {
            true => format!(
                "it has no servers: \"fullgatectl server add {} …\"",
                service.name
            ),
            false => nothing(screen),
        }));
        return lines;
    }
    let most = rows
        .iter()
        .map(|row| screen.sort.measure(row.traffic, row.active))
        .fold(0.0, f64::max);
    let cells = |server: &&Server| Row {
        cells: vec![
            server.name.clone(),
            server.address.to_string(),
            server.state.clone(),
            server.weight.to_string(),
            si(server.traffic.new) + if server.failures > 0.0 { "!" } else { "" },
            si(server.active as f64),
            si(server.traffic.packets),
            si(server.traffic.bits),
            server.free_ports.map_or_else(|| "-".into(), percent),
        ],
        share: screen.sort.measure(server.traffic, server.active) / most.max(f64::MIN_POSITIVE),
        is_bad: server.failures > 0.0 || server.state == "down",
    };
    let rows = window(&rows, screen.selected, room.saturating_sub(1), cells);
    lines.extend(table(
        &[
            ("SERVER", -(NAME as isize)),
            ("ADDRESS", -(ADDRESS as isize)),
            ("STATE", -8),
            ("WEIGHT", 6),
            ("NEW/s", 6),
            ("ACTIVE", 6),
            (OPTIONAL, 5),
            ("BIT/s", 5),
            ("PORTS", 5),
        ],
        rows,
        width,
    ));
    lines
}

fn nothing(screen: &Screen) -> String {
    format!(
        "nothing has {:?} in its name or address; Esc shows all",
        screen.filter
    )
}

/// Servers that take new connections, of all.
fn up(servers: &[Server]) -> String {
    let up = servers
        .iter()
        .filter(|server| server.state == "up" && server.weight > 0);
    format!("{}/{}", up.count(), servers.len())
}

/// The column that makes room for bars where the screen is narrow.
const OPTIONAL: &str = "PKT/s";

struct Row {
    cells: Vec<String>,
    /// Length of its bar, 0 to 1.
    share: f64,
    is_bad: bool,
}

/// The rows around the cursor, below a header, and which one it is on.
fn window<T>(
    rows: &[T],
    selected: usize,
    room: usize,
    cells: impl Fn(&T) -> Row,
) -> (Vec<Row>, Option<usize>) {
    let room = room.saturating_sub(1).max(1);
    let first = (selected + 1).saturating_sub(room);
    let shown = rows.iter().skip(first).take(room).map(cells).collect();
    // Text that nobody moves in has no cursor.
    let cursor = (room < usize::MAX - 1).then_some(selected - first.min(selected));
    (shown, cursor)
}

/// Columns as wide as their widest cell, at most (left-aligned) or at least
/// (right-aligned) as wide as given, negative for left; then the bars.
fn table(
    columns: &[(&'static str, isize)],
    (rows, cursor): (Vec<Row>, Option<usize>),
    width: usize,
) -> Vec<Line<'static>> {
    let mut widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(column, (title, limit))| {
            let cells = rows.iter().filter_map(|row| row.cells.get(column));
            let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
            let widest = widest.max(title.chars().count());
            match *limit < 0 {
                true => widest.min(limit.unsigned_abs()),
                false => widest.max(limit.unsigned_abs()),
            }
        })
        .collect();
    let used = |widths: &[usize]| {
        widths
            .iter()
            .filter(|w| **w > 0)
            .map(|w| w + 1)
            .sum::<usize>()
    };
    // Brackets around a bar.
    let bar_room = |widths: &[usize]| width.saturating_sub(used(widths) + 2);
    if bar_room(&widths) < *BAR.start()
        && let Some(column) = columns.iter().position(|(title, _)| *title == OPTIONAL)
    {
        widths[column] = 0;
    }
    let bar_width = bar_room(&widths).min(*BAR.end());
    let has_bar = bar_width >= *BAR.start();
    let padded = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for ((cell, &width), (_, limit)) in cells.zip(&widths).zip(columns) {
            if width == 0 {
                continue;
            }
            let cell = cut(cell.to_owned(), width);
            text += &match *limit < 0 {
                true => format!("{cell:<width$} "),
                false => format!("{cell:>width$} "),
            };
        }
        text
    };
    let header = padded(&mut columns.iter().map(|(title, _)| *title));
    let mut lines = vec![Line::styled(cut(header, width), BOLD)];
    for (index, row) in rows.iter().enumerate() {
        let mut text = padded(&mut row.cells.iter().map(String::as_str));
        if has_bar {
            text += &bar(row.share, bar_width);
        }
        let style = match (cursor == Some(index), row.is_bad) {
            (true, _) => CURSOR,
            (false, true) => BAD,
            (false, false) => Style::new(),
        };
        lines.push(Line::styled(cut(text, width), style));
    }
    lines
}

fn bar(share: f64, width: usize) -> String {
    let filled = (share.clamp(0.0, 1.0) * width as f64).round() as usize;
    format!("[{}{}]", "#".repeat(filled), " ".repeat(width - filled))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::widgets::Paragraph;

    use super::super::rates::tests::sample;
    use super::super::screen::tests::{press, screen};
    use super::*;

    /// What a terminal of this size shows, without what is blank on the right.
    fn shown(screen: &Screen, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal
            .draw(|frame| {
                let lines = lines(screen, width.into(), height.into());
                assert!(lines.len() <= usize::from(height));
                assert!(
                    lines.iter().all(|line| line.width() <= usize::from(width)),
                    "{lines:?}"
                );
                frame.render_widget(Paragraph::new(lines), frame.area());
            })
            .expect("drawn");
        let buffer = terminal.backend().buffer();
        let rows = buffer.content().chunks(usize::from(width));
        let rows = rows.map(|row| {
            let text: String = row.iter().map(|cell| cell.symbol()).collect();
            text.trim_end().to_owned() + "\n"
        });
        rows.collect()
    }

    #[test]
    fn eighty_columns_and_sixteen_lines() {
        let expected = "\
fullgate   up 00:00:12   generation 7   2 services by traffic
wan  in 1.00k pkt/s 1.00 Mbit/s   out 1.00k pkt/s 2.00 Mbit/s   LOST 1/s
worker 0  [####            ] 25 % busy  1.00k pkt/s    500 cyc/pkt  table 30 %

SERVICE ADDRESS                UP  NEW/s ACTIVE PKT/s BIT/s PORTS
web     198.51.100.1:80 tcp   1/2    20!     24   400  160k  50 % [############]
quiet   198.51.100.1:81 tcp   0/0      0      0     0     0     - [            ]







dropping     3/s  bad-checksum                36 since the start
q quit  s sort  / filter  p pause  arrows choose  Enter its servers  ? help
";
        assert_eq!(shown(&screen(), 80, 16), expected);
    }

    #[test]
    fn the_servers_of_a_service() {
        let mut screen = screen();
        press(&mut screen, "\n");
        let shown = shown(&screen, 80, 14);
        let rows: Vec<&str> = shown.lines().skip(4).take(4).collect();
        let expected = [
            "service web  198.51.100.1:80/tcp  new 20/s  active 24  160 kbit/s  REFUSED 2/s",
            "SERVER ADDRESS       STATE    WEIGHT  NEW/s ACTIVE PKT/s BIT/s PORTS",
            "a      10.2.0.101:80 up            1     15     18   300  120k  80 % [#########]",
            "b      10.2.0.102:80 draining      1      5      6   100 40.0k  50 % [###      ]",
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn what_is_empty_is_explained() {
        let mut empty = Screen::default();
        assert!(shown(&empty, 80, 24).starts_with("fullgate: the first figures come"));
        empty.fail("fullgate is not running".into());
        assert!(shown(&empty, 80, 24).starts_with("fullgate is not running; trying again\n"));
        let mut before = sample(5);
        before.services.services.clear();
        before.drops.drops.clear();
        empty.show(Rates::between(&before, &before));
        let text = shown(&empty, 80, 24);
        assert!(
            text.contains("no services: \"fullgatectl service add\""),
            "{text}"
        );
        assert!(
            text.contains("no packet was dropped since the start"),
            "{text}"
        );

        let mut screen = screen();
        screen.filter = "x".into();
        assert!(shown(&screen, 80, 24).contains("nothing has \"x\""));
        screen.filter.clear();
        press(&mut screen, "j");
        press(&mut screen, "\n");
        let text = shown(&screen, 80, 24);
        assert!(
            text.contains("it has no servers: \"fullgatectl server add quiet"),
            "{text}"
        );
        press(&mut screen, "?");
        assert!(shown(&screen, 80, 24).contains("share of local ports that are free"));
        screen.show(Rates::between(&sample(6), &sample(6)));
        press(&mut screen, "?");
        let text = shown(&screen, 80, 24);
        assert!(text.contains("no packet is dropped now; since the start bad-checksum 36"));
    }

    #[test]
    fn once_prints_all_rows_without_keys() {
        let text = text(&screen(), 80);
        assert!(text.contains("\nweb "), "{text}");
        assert!(!text.contains("q quit"), "{text}");
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
    }

    #[test]
    fn numbers_are_short() {
        for (value, expected) in [
            (0.0, "0"),
            (0.04, "0.0"),
            (1.5, "1.5"),
            (9.96, "10"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (12_345.0, "12.3k"),
            (999_400.0, "999k"),
            (98_765_432.0, "98.8M"),
            (-1.0, "0"),
        ] {
            assert_eq!(si(value), expected, "{value}");
        }
        assert_eq!(
            (percent(0.999), percent(0.001), percent(1.0)),
            ("99 %".into(), "1 %".into(), "100 %".into())
        );
        assert_eq!(duration(90_061_000), "1d 01:01:01");
    }

    proptest! {
        /// Any size, any state: no line is longer than the screen.
        #[test]
        fn every_size_fits(width in 1..200_u16, height in 1..60_u16, keys in "[s/\n?jpkx]{0,8}") {
            let mut screen = screen();
            press(&mut screen, &keys);
            shown(&screen, width, height);
        }
    }
}
