//! The list of all cases, and what they share.

mod announce;
mod big;
mod bulk;
mod capture;
mod drivers;
mod exception;
mod floods;
mod forward;
mod fragments;
mod health;
mod hostile;
mod icmp;
mod metrics;
mod neighbors;
mod never;
mod operate;
mod pressure;
mod privileges;
mod reload;
mod soak;
mod sources;
mod startup;
mod top;

use std::collections::BTreeMap;

use crate::Case;
use crate::harness::machine::Need;
use crate::harness::nginx::Nginx;
use crate::harness::plan::{Arms, Driver, Kind, Layout, Plan, Service};
use crate::harness::topology::Lab;

/// Every case, in the order in which they run.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    forward::list(&mut cases);
    fragments::list(&mut cases);
    neighbors::list(&mut cases);
    icmp::list(&mut cases);
    bulk::list(&mut cases);
    operate::list(&mut cases);
    reload::list(&mut cases);
    hostile::list(&mut cases);
    pressure::list(&mut cases);
    big::list(&mut cases);
    privileges::list(&mut cases);
    top::list(&mut cases);
    metrics::list(&mut cases);
    health::list(&mut cases);
    capture::list(&mut cases);
    startup::list(&mut cases);
    exception::list(&mut cases);
    announce::list(&mut cases);
    never::list(&mut cases);
    sources::list(&mut cases);
    floods::list(&mut cases);
    soak::list(&mut cases);
    drivers::list(&mut cases);
    cases
}

/// Adds `body` once for each of the plans.
fn add(cases: &mut Vec<Case>, name: &str, plans: &[Plan], body: fn(&Plan)) {
    for plan in plans {
        let plan = plan.clone();
        let mut needs = vec![
            Need::Root,
            Need::Tool("ip"),
            Need::Tool("setpriv"),
            Need::Tool("nginx"),
            Need::Tool("tcpdump"),
            Need::Tool("ping"),
        ];
        match plan.kind {
            Kind::Fullgate => needs.extend(match plan.driver {
                Driver::Tap => vec![Need::Tun],
                Driver::AfPacket => vec![Need::Tool("ethtool")],
                Driver::AfXdp => vec![Need::Tool("ethtool"), Need::AfXdp],
            }),
            Kind::Kernel => needs.push(Need::Tool("nft")),
        }
        if plan.hugepages {
            needs.push(Need::Hugepages);
        }
        cases.push(Case {
            name: format!("{name}/{}", variant(&plan)),
            needs,
            body: Box::new(move || body(&plan)),
        });
    }
}

fn variant(plan: &Plan) -> String {
    let mut name = match plan.kind {
        Kind::Kernel => "kernel".to_owned(),
        Kind::Fullgate => "fullgate".to_owned(),
    };
    match plan.driver {
        Driver::Tap => {}
        Driver::AfPacket => name += "-afpacket",
        Driver::AfXdp => name += "-afxdp",
    }
    if plan.arms == Arms::One {
        name += "-onearm";
    } else if plan.layout == Layout::Apart {
        name += "-apart";
    }
    if plan.workers > 1 {
        name += &format!("-{}workers", plan.workers);
    }
    if plan.hugepages {
        name += "-huge";
    }
    name
}

/// The default plan for each gateway.
fn both() -> Vec<Plan> {
    vec![Plan::new(Kind::Kernel), Plan::new(Kind::Fullgate)]
}

/// fullgate's default plan with one and with two workers.
fn fullgate() -> [Plan; 2] {
    [1, 2].map(|workers| Plan {
        workers,
        ..Plan::new(Kind::Fullgate)
    })
}

/// The same, and the kernel's, which has no workers.
fn workers() -> Vec<Plan> {
    let mut plans = vec![Plan::new(Kind::Kernel)];
    plans.extend(fullgate());
    plans
}

/// Every shape of network, number of workers and kind of memory.
fn matrix() -> Vec<Plan> {
    let mut plans = workers();
    for kind in [Kind::Kernel, Kind::Fullgate] {
        plans.push(Plan {
            layout: Layout::Apart,
            ..Plan::new(kind)
        });
        plans.push(Plan {
            arms: Arms::One,
            ..Plan::new(kind)
        });
    }
    plans.push(Plan {
        arms: Arms::One,
        workers: 2,
        ..Plan::new(Kind::Fullgate)
    });
    plans.push(Plan {
        hugepages: true,
        ..Plan::new(Kind::Fullgate)
    });
    plans.push(Plan {
        hugepages: true,
        workers: 2,
        ..Plan::new(Kind::Fullgate)
    });
    plans
}

/// An nginx for every server of the service.
fn start_nginx(lab: &Lab, service: &Service) -> Vec<Nginx> {
    let start = |(index, server): (usize, &crate::harness::plan::Server)| {
        Nginx::start(
            lab.server(index),
            lab.directory(),
            &server.name,
            server.address,
        )
    };
    service.servers.iter().enumerate().map(start).collect()
}

/// How often each name occurs.
fn tally<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_insert(0) += 1;
    }
    counts
}
