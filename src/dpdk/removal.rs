//! Requests to give a device back: somebody takes its driver away
//! (`echo ADDRESS > …/unbind`), or the host of a virtual machine wants the card.
//! DPDK tells of them in a thread of its own; the management core looks later.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// By what a request knows a device.
#[derive(PartialEq, Eq, Debug)]
enum Asked {
    /// The bus: by the device's name.
    Device(CString),
    /// The driver: by the port's number.
    Port(u16),
}

/// Most requests that are kept. A device is in it once, however often the kernel
/// asks.
const KEPT: usize = 64;

static ASKED: Mutex<Vec<Asked>> = Mutex::new(Vec::new());

fn asked() -> MutexGuard<'static, Vec<Asked>> {
    ASKED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note(new: Asked) {
    let mut asked = asked();
    if asked.len() < KEPT && !asked.contains(&new) {
        asked.push(new);
    }
}

/// Has requests noted from now on, for all devices that there are or will be.
pub(super) fn watch() {
    let nobody = std::ptr::null_mut();
    // SAFETY: EAL is initialised; both functions live as long as the process and
    // use no argument. All ports at once is what that number means.
    let codes = unsafe {
        [
            dpdk_sys::rte_dev_event_callback_register(std::ptr::null(), Some(of_bus), nobody),
            dpdk_sys::rte_eth_dev_callback_register(
                dpdk_sys::RTE_MAX_ETHPORTS as u16,
                dpdk_sys::RTE_ETH_EVENT_INTR_RMV,
                Some(of_driver),
                nobody,
            ),
        ]
    };
    if codes.iter().any(|code| *code < 0) {
        log::warn!("requests to give a device back will not be noticed: {codes:?}");
    }
}

/// Whether the device was asked for.
pub(super) fn is_asked(device: &CStr, port: u16) -> bool {
    asked().iter().any(|asked| match asked {
        Asked::Device(name) => name.as_c_str() == device,
        Asked::Port(number) => *number == port,
    })
}

unsafe extern "C" fn of_bus(
    device: *const c_char,
    event: dpdk_sys::rte_dev_event_type,
    _: *mut c_void,
) {
    if event == dpdk_sys::RTE_DEV_EVENT_REMOVE && !device.is_null() {
        // SAFETY: DPDK passes the device's name, a terminated string.
        note(Asked::Device(unsafe { CStr::from_ptr(device) }.to_owned()));
    }
}

unsafe extern "C" fn of_driver(
    port: u16,
    _: dpdk_sys::rte_eth_event_type,
    _: *mut c_void,
    _: *mut c_void,
) -> c_int {
    note(Asked::Port(port));
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_for_one_device() {
        let (mine, others) = (c"0000:03:00.0", c"0000:04:00.0");
        let nobody = std::ptr::null_mut();
        for (device, event) in [
            (mine, dpdk_sys::RTE_DEV_EVENT_REMOVE),
            (mine, dpdk_sys::RTE_DEV_EVENT_REMOVE),
            (others, dpdk_sys::RTE_DEV_EVENT_ADD),
        ] {
            // SAFETY: terminated names.
            unsafe { of_bus(device.as_ptr(), event, nobody) };
        }
        assert!(is_asked(mine, 7));
        assert!(!is_asked(others, 7));
        // SAFETY: uses no pointer.
        unsafe { of_driver(7, dpdk_sys::RTE_ETH_EVENT_INTR_RMV, nobody, nobody) };
        assert!(is_asked(others, 7));
        assert!(!is_asked(others, 6));
        assert_eq!(asked().len(), 2, "each is kept once");
    }
}
