//! Questions that all workers have to answer, one at a time. Owns what waits
//! and what the workers said so far; the management loop sends the commands
//! and tells of the replies. Never blocks.

use std::collections::VecDeque;
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use crate::api::rpc::{Error, Outcome};
use crate::ids::WorkerIx;

/// A question that waits for its turn, and who wants to know.
pub(super) struct Ask<Q> {
    pub(super) question: Q,
    /// `None` where nobody waits for the outcome.
    pub(super) reply: Option<SyncSender<Outcome>>,
    /// When whoever waits is told that it took too long.
    pub(super) deadline: Instant,
}

/// The question the workers have now.
struct Round<T, A> {
    tag: T,
    reply: Option<SyncSender<Outcome>>,
    deadline: Instant,
    answers: Vec<Option<A>>,
}

/// What a complete round leaves.
pub(super) struct Complete<T, A> {
    pub(super) tag: T,
    pub(super) reply: Option<SyncSender<Outcome>>,
    /// By worker.
    pub(super) answers: Vec<A>,
}

/// Questions `Q`; what is kept of one while it is out is `T`, and a worker's
/// answer is `A`.
pub(super) struct Gather<Q, T, A> {
    /// What it is about, for messages: "the change", "the scan".
    subject: &'static str,
    workers: usize,
    waiting: VecDeque<Ask<Q>>,
    round: Option<Round<T, A>>,
}

impl<Q, T, A> Gather<Q, T, A> {
    pub(super) fn new(subject: &'static str, workers: usize) -> Self {
        Self {
            subject,
            workers,
            waiting: VecDeque::new(),
            round: None,
        }
    }

    pub(super) fn ask(&mut self, ask: Ask<Q>) {
        self.waiting.push_back(ask);
    }

    /// Whether no question is with the workers and none waits.
    pub(super) fn is_idle(&self) -> bool {
        self.round.is_none() && self.waiting.is_empty()
    }

    /// Whether the workers have no question.
    pub(super) fn is_free(&self) -> bool {
        self.round.is_none()
    }

    /// The next question, if the workers have none.
    pub(super) fn next(&mut self) -> Option<Ask<Q>> {
        if self.round.is_some() {
            None
        } else {
            self.waiting.pop_front()
        }
    }

    /// The question was sent to every worker.
    pub(super) fn begin(&mut self, tag: T, reply: Option<SyncSender<Outcome>>, deadline: Instant) {
        let answers = (0..self.workers).map(|_| None).collect();
        self.round = Some(Round {
            tag,
            reply,
            deadline,
            answers,
        });
    }

    /// A worker's answer; the round, when it was the last.
    pub(super) fn answer(&mut self, worker: WorkerIx, answer: A) -> Option<Complete<T, A>> {
        let round = self.round.as_mut()?;
        *round.answers.get_mut(worker.ix())? = Some(answer);
        if round.answers.iter().any(Option::is_none) {
            return None;
        }
        let Round {
            tag,
            reply,
            answers,
            ..
        } = self.round.take()?;
        Some(Complete {
            tag,
            reply,
            answers: answers.into_iter().flatten().collect(),
        })
    }

    /// Tells those who have waited long enough. The workers keep their
    /// question, and no other one is sent before they have answered it.
    pub(super) fn expire(&mut self, now: Instant) {
        let Some(round) = &mut self.round else { return };
        let silent = round.answers.iter().position(Option::is_none).unwrap_or(0);
        if now >= round.deadline
            && let Some(reply) = round.reply.take()
        {
            let message = format!("worker {silent} has not taken {} yet", self.subject);
            let _ = reply.send(Err(Error::failed(message)));
        }
        let subject = self.subject;
        self.waiting.retain_mut(|ask| {
            if now < ask.deadline {
                return true;
            }
            if let Some(reply) = ask.reply.take() {
                let message =
                    format!("not done: worker {silent} has not taken {subject} before it yet");
                let _ = reply.send(Err(Error::failed(message)));
            }
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_question_at_a_time() {
        let now = Instant::now();
        let mut gather: Gather<u8, u8, char> = Gather::new("the question", 2);
        for question in [1, 2] {
            gather.ask(Ask {
                question,
                reply: None,
                deadline: now,
            });
        }
        let first = gather.next().expect("the first");
        gather.begin(first.question, None, now);
        assert!(gather.next().is_none());
        assert!(gather.answer(WorkerIx(1), 'b').is_none());
        let complete = gather.answer(WorkerIx(0), 'a').expect("complete");
        assert_eq!((complete.tag, complete.answers), (1, vec!['a', 'b']));
        assert!(!gather.is_idle());
        assert_eq!(gather.next().map(|ask| ask.question), Some(2));
        assert!(gather.is_idle());
        assert!(gather.answer(WorkerIx(0), 'x').is_none(), "nobody asked");
    }

    #[test]
    fn a_silent_worker_is_named() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut gather: Gather<(), (), ()> = Gather::new("the change", 2);
        let (reply, outcome) = mpsc::sync_channel(1);
        let (second, second_outcome) = mpsc::sync_channel(1);
        gather.begin((), Some(reply), later);
        gather.ask(Ask {
            question: (),
            reply: Some(second),
            deadline: later,
        });
        gather.answer(WorkerIx(0), ());
        gather.expire(now);
        assert!(outcome.try_recv().is_err());
        gather.expire(later);
        let told = outcome.try_recv().expect("told").expect_err("late");
        assert_eq!(told.message, "worker 1 has not taken the change yet");
        let told = second_outcome.try_recv().expect("told").expect_err("late");
        assert!(told.message.contains("worker 1"), "{told}");
        assert!(gather.next().is_none(), "the worker still has it");
        let complete = gather.answer(WorkerIx(1), ()).expect("complete");
        assert!(complete.reply.is_none());
        assert!(gather.is_idle());
    }
}
