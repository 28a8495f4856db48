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
use std::panic::{AssertUnwindSafe, catch_unwind};

use libtest_mimic::{Arguments, Trial};

use harness::machine::Need;
use harness::netns;

/// One test: its name, what it needs, and its body, which panics on failure.
pub struct Case {
    pub name: String,
    pub needs: Vec<Need>,
    pub body: Box<dyn Fn() + Send>,
}

/// Cases that make thousands of connections to one server in a row. About once
/// in 70,000 the server's kernel (6.18) does not take the acknowledgement of its
/// SYN-ACK, though by its own counters it got every segment that the client
/// sent, and sends the SYN-ACK again after a second. Why is not known yet; what
/// the gateway does wrong every time fails both runs.
fn gets_a_second_run(name: &str) -> bool {
    name.contains("::row06_") || name.contains("::story2_")
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
            let (body, twice) = (case.body, gets_a_second_run(&case.name));
            Trial::test(case.name, move || {
                if !twice || catch_unwind(AssertUnwindSafe(&body)).is_err() {
                    body();
                }
                Ok(())
            })
            .with_ignored_flag(!reasons.is_empty())
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}
