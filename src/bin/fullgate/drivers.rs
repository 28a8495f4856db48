//! What drivers, rings and pools say when metrics and `show ports` ask.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fullgate::dpdk::{Mbuf, Mempool, Port};
use fullgate::exception::Carried;
use fullgate::stats::readings::{KernelReading, Level, PortReading, PortStatus, PortSteering};
use fullgate::worker::Handover;

/// The pools, each once.
pub(super) fn mempools(pools: &[Mempool]) -> Vec<(String, Arc<dyn Level>)> {
    let named: BTreeMap<&str, &Mempool> = pools.iter().map(|pool| (pool.name(), pool)).collect();
    named
        .into_iter()
        .map(|(name, pool)| (name.to_owned(), Arc::new(Buffers(pool.clone())) as _))
        .collect()
}

/// The rings through which a worker gets packets from others.
pub(super) fn rings(handover: &Handover<Mbuf>) -> Vec<Arc<dyn Level>> {
    let rings = handover.from.iter();
    rings.map(|ring| Arc::clone(ring) as _).collect()
}

/// A port as the admin methods show it.
pub(super) struct Driver {
    pub(super) port: Arc<Port>,
    pub(super) steering: PortSteering,
    pub(super) carried: Option<Carried>,
}

impl PortStatus for Driver {
    fn read(&self) -> PortReading {
        let Self {
            port,
            steering,
            carried,
        } = self;
        let (link, stats) = (port.link(), port.stats().unwrap_or_default());
        let kernel = carried.as_ref().map(|carried| {
            let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            KernelReading {
                interface: carried.name.clone(),
                to_kernel: count(&carried.counters.to_kernel),
                from_kernel: count(&carried.counters.from_kernel),
                refused: count(&carried.counters.refused),
            }
        });
        PortReading {
            driver: port.driver().into(),
            link_up: link.as_ref().is_ok_and(|link| link.up),
            speed_mbps: link.ok().and_then(|link| link.speed_mbps),
            rx_missed: stats.rx_missed,
            rx_errors: stats.rx_errors,
            rx_no_buffer: stats.rx_no_buffer,
            tx_errors: stats.tx_errors,
            steering: steering.clone(),
            kernel,
        }
    }

    fn link_up(&self) -> bool {
        self.port.link().is_ok_and(|link| link.up)
    }

    fn removal_asked(&self) -> bool {
        self.port.removal_asked()
    }
}

/// A pool of packet buffers as the metrics show it.
struct Buffers(Mempool);

impl Level for Buffers {
    fn used(&self) -> u64 {
        self.capacity().saturating_sub(u64::from(self.0.free()))
    }

    fn capacity(&self) -> u64 {
        self.0.count().into()
    }
}
