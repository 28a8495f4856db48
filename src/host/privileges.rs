//! Gives up what the process does not need any more. Capabilities belong to
//! threads, and a new thread has those of the one that makes it: so the first
//! step comes before there is a second thread, and the second one before the
//! threads that run for good. A capability that was given up can't be had back.

use std::io;

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};

use crate::config::{Config, Device};

/// What making ports and sockets takes, whatever the configuration.
const START: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_NICE)
    .union(CapabilitySet::SYS_RAWIO)
    .union(CapabilitySet::IPC_LOCK)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::BPF);

/// What running takes.
pub(crate) fn running(config: &Config) -> CapabilitySet {
    // A reload may bring health checks by ICMP, or through an interface.
    let mut kept = CapabilitySet::NET_RAW;
    for port in &config.ports {
        if port.kernel.is_some() {
            // The interface's addresses and routes change while running.
            kept |= CapabilitySet::NET_ADMIN;
        }
        kept |= match port.device {
            Device::Tap(_) => CapabilitySet::empty(),
            // Drivers give queues and memory back when the process ends.
            Device::Pci(_) => {
                CapabilitySet::NET_ADMIN | CapabilitySet::IPC_LOCK | CapabilitySet::SYS_RAWIO
            }
            // An XDP program is taken off its interface again.
            Device::Vdev(_) => {
                CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN | CapabilitySet::BPF
            }
        };
    }
    kept
}

/// Before the start: no program that this one might run gets more than it has,
/// and what DPDK never needs is gone.
///
/// # Errors
/// The kernel refuses to take something back.
pub fn before_start() -> io::Result<()> {
    set_no_new_privs(true)?;
    keep(START)
}

/// After the start: the calling thread, and those it makes from now on, keep
/// what running takes.
///
/// # Errors
/// The kernel refuses to take something back.
pub fn after_start(config: &Config) -> io::Result<()> {
    keep(running(config))
}

/// The calling thread, and those it makes from now on, keep these at most.
///
/// # Errors
/// The kernel refuses to take something back.
pub(crate) fn keep(kept: CapabilitySet) -> io::Result<()> {
    for capability in CapabilitySet::all().difference(kept).iter() {
        match remove_capability_from_bounding_set(capability) {
            // Whoever may not change it has nothing to fear from it either: no
            // new privileges.
            Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let kept = capabilities(None)?.permitted & kept;
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "[[port]]\nname = \"wan\"\ndevice = \"DEVICE\"\n\
        addresses = [\"10.0.0.1/24\"]\n[[pool]]\nname = \"p\"\naddresses = [\"10.0.0.10\"]\n";

    fn running_with(device: &str) -> CapabilitySet {
        let text = FILE.replace("DEVICE", device);
        running(&Config::parse("f", &text).expect("valid").config)
    }

    #[test]
    fn the_ports_decide_what_is_kept() {
        assert_eq!(running_with("tap:fg0"), CapabilitySet::NET_RAW);
        let nic = running_with("0000:03:00.0");
        assert!(nic.contains(CapabilitySet::NET_ADMIN | CapabilitySet::IPC_LOCK));
        assert!(!nic.contains(CapabilitySet::SYS_ADMIN));
        let virtual_device = running_with("vdev:net_af_xdp0,iface=eth0");
        assert!(virtual_device.contains(CapabilitySet::SYS_ADMIN));
        for kept in [nic, virtual_device] {
            assert!(START.contains(kept));
        }
    }

    #[test]
    fn a_thread_keeps_what_it_is_to_keep() {
        std::thread::spawn(|| {
            let before = capabilities(None).expect("capabilities").permitted;
            keep(CapabilitySet::NET_RAW).expect("kept");
            let after = capabilities(None).expect("capabilities");
            assert_eq!(after.permitted, before & CapabilitySet::NET_RAW);
            assert_eq!(after.effective, after.permitted);
            assert!(after.inheritable.is_empty());
            set_no_new_privs(true).expect("set");
        })
        .join()
        .expect("the thread");
    }
}
