//! Rise and fall: from outcomes of checks to a verdict. Pure.

/// What the checks of a server say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Up,
    Down {
        /// Nobody is there: no answer, a refusal, no way to it. Otherwise
        /// somebody answers, but wrongly.
        silent: bool,
    },
}

impl Verdict {
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Up)
    }
}

/// How a check ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Success,
    Failure { silent: bool },
}

/// A server's outcomes as far as they still matter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Trend {
    verdict: Verdict,
    successes: u16,
    failures: u16,
    /// Of `failures`, how many of the last ones were silent.
    silences: u16,
}

impl Trend {
    pub(super) const fn new(verdict: Verdict) -> Self {
        Self {
            verdict,
            successes: 0,
            failures: 0,
            silences: 0,
        }
    }

    pub(super) const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// One more outcome; the verdict, where it changes. A server that goes down
    /// with wrong answers may fall silent later; one that was silent counts as
    /// such until it is up.
    pub(super) fn note(&mut self, outcome: Outcome, rise: u16, fall: u16) -> Option<Verdict> {
        match outcome {
            Outcome::Success => {
                self.successes = self.successes.saturating_add(1);
                self.failures = 0;
                self.silences = 0;
            }
            Outcome::Failure { silent } => {
                self.successes = 0;
                self.failures = self.failures.saturating_add(1);
                self.silences = match silent {
                    true => self.silences.saturating_add(1),
                    false => 0,
                };
            }
        }
        let silent = self.silences >= fall;
        let verdict = match self.verdict {
            Verdict::Up if self.failures >= fall => Verdict::Down { silent },
            Verdict::Down { .. } if self.successes >= rise => Verdict::Up,
            Verdict::Down { silent: false } if silent => Verdict::Down { silent },
            unchanged => unchanged,
        };
        let changed = verdict != self.verdict;
        self.verdict = verdict;
        changed.then_some(verdict)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OK: Outcome = Outcome::Success;
    const WRONG: Outcome = Outcome::Failure { silent: false };
    const SILENT: Outcome = Outcome::Failure { silent: true };

    const SICK: Verdict = Verdict::Down { silent: false };
    const GONE: Verdict = Verdict::Down { silent: true };

    #[test]
    fn rows() {
        type Row<'a> = (Verdict, &'a [(Outcome, Option<Verdict>)]);
        let rows: [Row<'_>; 6] = [
            (
                Verdict::Up,
                &[(SILENT, None), (SILENT, None), (SILENT, Some(GONE))],
            ),
            (
                Verdict::Up,
                &[(SILENT, None), (SILENT, None), (OK, None), (SILENT, None)],
            ),
            (
                Verdict::Up,
                &[(WRONG, None), (SILENT, None), (SILENT, Some(SICK))],
            ),
            (
                SICK,
                &[
                    (SILENT, None),
                    (SILENT, None),
                    (SILENT, Some(GONE)),
                    (WRONG, None),
                    (WRONG, None),
                ],
            ),
            (GONE, &[(OK, None), (OK, Some(Verdict::Up)), (OK, None)]),
            (
                GONE,
                &[
                    (OK, None),
                    (WRONG, None),
                    (OK, None),
                    (OK, Some(Verdict::Up)),
                ],
            ),
        ];
        for (start, steps) in rows {
            let mut trend = Trend::new(start);
            for (step, &(outcome, expected)) in steps.iter().enumerate() {
                assert_eq!(
                    trend.note(outcome, 2, 3),
                    expected,
                    "{start:?}, step {step}"
                );
            }
        }
    }

    proptest! {
        /// Up turns into down exactly when the last `fall` outcomes were
        /// failures, down into up exactly when the last `rise` were successes;
        /// and what is told is every change.
        #[test]
        fn the_last_outcomes_decide(
            outcomes in prop::collection::vec(prop::sample::select(&[OK, WRONG, SILENT][..]), 0..60),
            rise in 1_u16..6,
            fall in 1_u16..6,
        ) {
            let mut trend = Trend::new(Verdict::Up);
            let mut up = true;
            for end in 1..=outcomes.len() {
                let last = |count: u16, is: &dyn Fn(Outcome) -> bool| {
                    let count = usize::from(count);
                    end >= count && outcomes[end - count..end].iter().all(|&outcome| is(outcome))
                };
                let before = trend.verdict();
                let told = trend.note(outcomes[end - 1], rise, fall);
                prop_assert_eq!(told, (trend.verdict() != before).then_some(trend.verdict()));
                up = match up {
                    true => !last(fall, &|outcome| outcome != OK),
                    false => last(rise, &|outcome| outcome == OK),
                };
                prop_assert_eq!(trend.verdict().is_up(), up);
                if !up && last(fall, &|outcome| outcome == SILENT) {
                    prop_assert_eq!(trend.verdict(), GONE);
                }
            }
        }
    }
}
