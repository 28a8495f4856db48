//! Work that takes too long for the management loop, such as reading a file of
//! 100,000 servers: done by a thread, in the order in which it was given.
//! Jobs own or share what they work on; what they find out comes back through
//! channels.

use std::sync::mpsc::{self, Sender};

/// Something to be done.
type Job = Box<dyn FnOnce() + Send>;

/// A thread that does jobs. It ends after the last one when this is dropped.
#[derive(Debug)]
pub(crate) struct Jobs(Sender<Job>);

impl Jobs {
    pub(crate) fn new(name: &str) -> Self {
        let (sender, jobs) = mpsc::channel::<Job>();
        let work = move || jobs.into_iter().for_each(|job| job());
        let spawned = std::thread::Builder::new().name(name.into()).spawn(work);
        if let Err(error) = spawned {
            log::error!("no thread {name}: {error}");
        }
        Self(sender)
    }

    /// Has a job done, or does it at once where there is no thread for it.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        if let Err(mpsc::SendError(job)) = self.0.send(Box::new(job)) {
            job();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_done_in_order_with_and_without_a_thread() {
        let (tell, told) = mpsc::channel();
        let jobs = Jobs::new("test");
        for number in 0..3 {
            let tell = tell.clone();
            jobs.run(move || tell.send(number).expect("told"));
        }
        drop(jobs);
        let (orphan, _) = mpsc::channel();
        let tell_last = tell.clone();
        Jobs(orphan).run(move || tell_last.send(3).expect("told"));
        drop(tell);
        let mut all: Vec<i32> = told.into_iter().collect();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3]);
    }
}
