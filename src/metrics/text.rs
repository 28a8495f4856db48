//! The Prometheus text format, version 0.0.4: from samples to bytes.

use std::fmt::{Display, Write};

use super::families::Family;
use crate::health::{BUCKETS, Histogram};

/// What the endpoint says it answers with.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// An exposition under construction.
#[derive(Debug, Default)]
pub(super) struct Exposition(String);

impl Exposition {
    /// The lines that precede a metric's samples, which have to follow at once.
    pub(super) fn family(&mut self, family: &'static Family) -> Samples<'_> {
        let Family { name, help, .. } = family;
        let text = &mut self.0;
        text.push_str("# HELP ");
        text.push_str(name);
        text.push(' ');
        escape(text, help, false);
        let kind = family.kind.name();
        // A String takes everything.
        let _ = writeln!(text, "\n# TYPE {name} {kind}");
        Samples { text, family }
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

/// Takes the samples of one metric.
pub(super) struct Samples<'a> {
    text: &'a mut String,
    family: &'static Family,
}

impl Samples<'_> {
    /// A value; `labels` in the order of the metric's.
    pub(super) fn add(&mut self, labels: &[&dyn Display], value: impl Display) {
        self.sample("", labels, None, value);
    }

    /// A histogram's values.
    pub(super) fn histogram(&mut self, labels: &[&dyn Display], histogram: &Histogram) {
        self.buckets(labels, &BUCKETS, &histogram.counts, histogram.sum);
    }

    /// Counts by upper bound, each without those before it; the last has none.
    pub(super) fn buckets(
        &mut self,
        labels: &[&dyn Display],
        bounds: &[f64],
        counts: &[u64],
        sum: f64,
    ) {
        let mut count = 0;
        for (index, more) in counts.iter().enumerate() {
            count += more;
            let bound: &dyn Display = bounds.get(index).map_or(&"+Inf", |bound| bound);
            self.sample("_bucket", labels, Some(bound), count);
        }
        self.sample("_sum", labels, None, sum);
        self.sample("_count", labels, None, count);
    }

    fn sample(
        &mut self,
        suffix: &str,
        labels: &[&dyn Display],
        bound: Option<&dyn Display>,
        value: impl Display,
    ) {
        debug_assert_eq!(labels.len(), self.family.labels.len());
        self.text.push_str(self.family.name);
        self.text.push_str(suffix);
        let labels = self
            .family
            .labels
            .iter()
            .copied()
            .zip(labels.iter().copied());
        let mut open = '{';
        for (name, label) in labels.chain(bound.map(|bound| ("le", bound))) {
            self.text.push(open);
            open = ',';
            self.text.push_str(name);
            self.text.push_str("=\"");
            escape(self.text, label, true);
            self.text.push('"');
        }
        if open == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

/// Appends `value` so that it stays within its line, and within its quotes
/// where it has any.
fn escape(text: &mut String, value: impl Display, quoted: bool) {
    struct Escaped<'a>(&'a mut String, bool);
    impl Write for Escaped<'_> {
        fn write_str(&mut self, part: &str) -> std::fmt::Result {
            for letter in part.chars() {
                match letter {
                    '\\' => self.0.push_str("\\\\"),
                    '\n' => self.0.push_str("\\n"),
                    '"' if self.1 => self.0.push_str("\\\""),
                    other => self.0.push(other),
                }
            }
            Ok(())
        }
    }
    let _ = write!(Escaped(text, quoted), "{value}");
}

#[cfg(test)]
mod tests {
    use super::super::families::Kind;
    use super::*;

    const PLAIN: Family = Family {
        name: "a_total",
        kind: Kind::Counter,
        labels: &[],
        help: "A \"backslash\" \\ here.",
    };
    const LABELLED: Family = Family {
        name: "b",
        kind: Kind::Gauge,
        labels: &["x", "y"],
        help: "B.",
    };

    #[test]
    fn golden_text() {
        let mut text = Exposition::default();
        text.family(&PLAIN).add(&[], 7);
        let mut samples = text.family(&LABELLED);
        samples.add(&[&"pl\\ain", &1], 0.5);
        samples.add(&[&"two\nlines \"quoted\"", &2], u64::MAX);
        let expected = r#"# HELP a_total A "backslash" \\ here.
# TYPE a_total counter
a_total 7
# HELP b B.
# TYPE b gauge
b{x="pl\\ain",y="1"} 0.5
b{x="two\nlines \"quoted\"",y="2"} 18446744073709551615
"#;
        assert_eq!(text.finish(), expected);
    }
}
