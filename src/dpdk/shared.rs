//! What the queues of a port keep alive.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::check;
use super::netns::{self, Netns};
use super::ring::Ring;
use super::setup::{self, Attached};
use super::{Eal, Mempool};

/// What queues keep alive.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) id: u16,
    pub(super) name: String,
    pub(super) attached: Attached,
    pub(super) netns: Option<Netns>,
    pub(super) started: AtomicBool,
    // DPDK's control calls on one port must not overlap.
    pub(super) control: Mutex<()>,
    // In this order: rings give their packets back before the pools go, and
    // both before EAL.
    pub(super) _rings: Vec<Arc<Ring>>,
    pub(super) pools: Vec<Mempool>,
    pub(super) _eal: Eal,
}

impl Shared {
    pub(super) fn id(&self) -> u16 {
        self.id
    }

    /// To be held during a control call.
    pub(super) fn control(&self) -> MutexGuard<'_, ()> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let result = netns::close_in(self.netns.as_ref(), || {
            // SAFETY: nobody holds a queue any more, as each holds a `Shared`.
            let (stopped, closed) = unsafe {
                (
                    dpdk_sys::rte_eth_dev_stop(self.id),
                    dpdk_sys::rte_eth_dev_close(self.id),
                )
            };
            // Whatever failed, the device must not stay behind.
            let detached = setup::detach(&self.name, &self.attached);
            check(&self.name, "rte_eth_dev_stop", stopped)?;
            check(&self.name, "rte_eth_dev_close", closed)?;
            detached
        });
        if let Err(error) = result {
            log::warn!("closing: {error}");
        }
    }
}
