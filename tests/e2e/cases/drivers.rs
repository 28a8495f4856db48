//! Drivers other than TAP, on veth pairs: frames come and go, in the driver's
//! own buffers, and are intact.

use super::{add, bulk, forward};
use crate::Case;
use crate::harness::plan::{Driver, Kind, Plan};

pub fn list(cases: &mut Vec<Case>) {
    let plans = [Driver::AfPacket, Driver::AfXdp].map(|driver| Plan {
        driver,
        ..Plan::new(Kind::Fullgate)
    });
    add(cases, "drivers::http", &plans, forward::http_requests);
    add(cases, "drivers::udp", &plans, forward::udp_requests);
    add(cases, "drivers::bytes_each_way", &plans, bytes_each_way);
}

/// Several times what any ring or pool of buffers on the way holds.
fn bytes_each_way(plan: &Plan) {
    bulk::each_way(plan, 64 << 20);
}
