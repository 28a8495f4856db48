//! The drawing: packets/s and cycles/packet against the number of flows.

use std::fmt::Write as _;

use serde_json::Value;

use super::Failure;
use super::args::Plot;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 44.0;

/// One measured point.
struct Point {
    flows: f64,
    mpps: f64,
    cycles: f64,
}

pub fn run(args: &Plot) -> Result<(), Failure> {
    let (mut gateway, mut baseline) = (Vec::new(), Vec::new());
    let mut title = String::new();
    for path in &args.input {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let report: Value = serde_json::from_str(line)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            gateway.extend(point(&report, "gateway"));
            baseline.extend(point(&report, "baseline"));
            let text = |key: &str| report[key].as_str().unwrap_or_default().to_owned();
            title = format!(
                "{} bytes, {}, {} order, {}; {}",
                report["packet_size"],
                text("proto"),
                text("order"),
                text("direction"),
                report["machine"]["cpu"].as_str().unwrap_or_default(),
            );
        }
    }
    if gateway.is_empty() {
        return Err("no report of established connections in the input".into());
    }
    for points in [&mut gateway, &mut baseline] {
        points.sort_by(|a, b| a.flows.total_cmp(&b.flows));
    }
    std::fs::write(&args.output, draw(&title, &gateway, &baseline))
        .map_err(|error| format!("{}: {error}", args.output.display()))?;
    Ok(())
}

fn point(report: &Value, which: &str) -> Option<Point> {
    let run = &report[which];
    Some(Point {
        flows: report["flows"].as_f64()?,
        mpps: run["packets_per_second"].as_f64()? / 1e6,
        cycles: run["cycles_per_packet"].as_f64()?,
    })
}

fn draw(title: &str, gateway: &[Point], baseline: &[Point]) -> String {
    let height = HEIGHT * 2.0;
    let mut svg = format!(
        concat!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" "#,
            r#"font-family="sans-serif" font-size="12">"#,
            "\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        ),
        WIDTH, height
    );
    panel(
        &mut svg,
        0.0,
        &format!("Mpps on one core: {title}"),
        gateway,
        baseline,
        |p| p.mpps,
    );
    panel(
        &mut svg,
        HEIGHT,
        "TSC cycles/packet",
        gateway,
        baseline,
        |p| p.cycles,
    );
    svg.push_str("</svg>\n");
    svg
}

fn panel(
    svg: &mut String,
    top: f64,
    title: &str,
    gateway: &[Point],
    baseline: &[Point],
    value: impl Fn(&Point) -> f64,
) {
    let all = || gateway.iter().chain(baseline);
    let low = all()
        .map(|p| p.flows.log10())
        .fold(f64::MAX, f64::min)
        .floor();
    let high = all()
        .map(|p| p.flows.log10())
        .fold(f64::MIN, f64::max)
        .ceil();
    let span = (high - low).max(1.0);
    let most = nice(all().map(&value).fold(0.0, f64::max));
    let x = |flows: f64| LEFT + (flows.log10() - low) / span * (WIDTH - LEFT - RIGHT);
    let y = |v: f64| top + HEIGHT - BOTTOM - v / most * (HEIGHT - TOP - BOTTOM);
    let _ = writeln!(
        svg,
        r#"<text x="{LEFT}" y="{}">{}</text>"#,
        top + 18.0,
        escape(title)
    );
    for step in 0..=4 {
        let v = most * f64::from(step) / 4.0;
        let _ = writeln!(
            svg,
            r##"<path d="M{LEFT} {y:.1}H{}" stroke="#ddd"/><text x="{}" y="{:.1}" text-anchor="end">{v}</text>"##,
            WIDTH - RIGHT,
            LEFT - 6.0,
            y(v) + 4.0,
            y = y(v),
        );
    }
    for decade in low as i32..=(low + span) as i32 {
        let _ = writeln!(
            svg,
            r#"<text x="{:.1}" y="{}" text-anchor="middle">{}</text>"#,
            x(10f64.powi(decade)),
            top + HEIGHT - BOTTOM + 18.0,
            decade_name(decade),
        );
    }
    for (points, colour, name, at) in [
        (gateway, "#0b6", "gateway", 0.0),
        (baseline, "#888", "MAC swap", 90.0),
    ] {
        if points.is_empty() {
            continue;
        }
        let path: Vec<String> = points
            .iter()
            .map(|p| format!("{:.1},{:.1}", x(p.flows), y(value(p))))
            .collect();
        let _ = writeln!(
            svg,
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#,
            path.join(" ")
        );
        for p in points {
            let _ = writeln!(
                svg,
                r#"<circle cx="{:.1}" cy="{y:.1}" r="3" fill="{colour}"/><text x="{:.1}" y="{:.1}" text-anchor="middle" fill="{colour}">{:.1}</text>"#,
                x(p.flows),
                x(p.flows),
                y(value(p)) - 7.0,
                value(p),
                y = y(value(p)),
            );
        }
        let _ = writeln!(
            svg,
            r#"<text x="{}" y="{}" fill="{colour}">{name}</text>"#,
            LEFT + at,
            top + HEIGHT - 8.0,
        );
    }
    let _ = writeln!(
        svg,
        r#"<text x="{}" y="{}" text-anchor="end">flows</text>"#,
        WIDTH - RIGHT,
        top + HEIGHT - 8.0,
    );
}

/// The next of 1, 2, 4, 8 times a power of ten, so that quarters are round.
fn nice(most: f64) -> f64 {
    let power = 10f64.powf(most.max(1e-9).log10().floor());
    [1.0, 2.0, 4.0, 8.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|&nice| nice >= most * 1.08)
        .unwrap_or(20.0 * power)
}

fn decade_name(decade: i32) -> String {
    match decade {
        6.. => format!("{} M", 10u64.pow((decade - 6) as u32)),
        3.. => format!("{} k", 10u64.pow((decade - 3) as u32)),
        _ => format!("{}", 10f64.powi(decade)),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
