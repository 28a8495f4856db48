//! End-to-end tests: a gateway between real kernels in network namespaces.
//!
//! Every case makes its own namespaces and leaves nothing behind. A case that
//! needs what the machine lacks is listed as ignored, with the reason on
//! standard error. Where a case also makes sense against the kernel's own NAT
//! it runs there too: a case that fails against that is a faulty case.
//!
//! `cargo test --release --test e2e -- [FILTER]`; names are
//! `<group>::<case>/<gateway>[-<variant>]`.

mod cases;
mod harness;

use std::collections::HashMap;

use libtest_mimic::{Arguments, Trial};

use harness::machine::Need;
use harness::netns;

/// One test: its name, what it needs, and its body, which panics on failure.
pub struct Case {
    pub name: String,
    pub needs: Vec<Need>,
    pub body: Box<dyn Fn() + Send>,
}

fn main() {
    let mut arguments = Arguments::from_args();
    // Two cores: cases that run side by side would measure each other.
    arguments.test_threads = arguments.test_threads.or(Some(1));
    netns::sweep();
    let mut missing = HashMap::new();
    let trials = cases::all()
        .into_iter()
        .map(|case| {
            let mut reasons = Vec::new();
            for need in case.needs {
                let reason: &mut Option<String> =
                    missing.entry(need).or_insert_with(|| need.missing());
                reasons.extend(reason.clone());
            }
            if !reasons.is_empty() {
                eprintln!("ignored: {}: {}", case.name, reasons.join(", "));
            }
            let body = case.body;
            Trial::test(case.name, move || {
                body();
                Ok(())
            })
            .with_ignored_flag(!reasons.is_empty())
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}
