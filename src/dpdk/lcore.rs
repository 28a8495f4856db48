//! Worker threads: ordinary ones, put on a core and made known to DPDK, so that
//! each has its own cache in every packet pool.

use std::io;
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use super::Eal;
use super::error::{Errno, Error};

/// The cores that the calling thread may run on.
pub(super) fn allowed_cores() -> Vec<u32> {
    // SAFETY: all-zero is a valid, empty set of cores.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: writes at most the given size into a set of that size.
    let code = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) };
    if code != 0 {
        return vec![0];
    }
    (0..libc::CPU_SETSIZE as u32)
        // SAFETY: the index is below CPU_SETSIZE.
        .filter(|core| unsafe { libc::CPU_ISSET(*core as usize, &set) })
        .collect()
}

/// The NUMA node of a core; `None` where the kernel does not say.
pub fn socket_of(core: u32) -> Option<u32> {
    let entries = std::fs::read_dir(format!("/sys/devices/system/cpu/cpu{core}")).ok()?;
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find_map(|name| name.strip_prefix("node")?.parse().ok())
}

fn run_on(core: u32) -> io::Result<()> {
    if core >= libc::CPU_SETSIZE as u32 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: all-zero is a valid, empty set of cores.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the index is below CPU_SETSIZE, as checked; the kernel only reads
    // a set of the given size.
    let code = unsafe {
        libc::CPU_SET(core as usize, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set)
    };
    if code != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The calling thread's number in EAL; given back on drop.
struct Registration;

impl Registration {
    fn new(_eal: &Eal) -> Result<Self, Errno> {
        // SAFETY: EAL is initialised, and this thread is not registered yet.
        if unsafe { dpdk_sys::rte_thread_register() } < 0 {
            return Err(Errno::last());
        }
        Ok(Self)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: registered by `new` on this same thread, as the value never
        // leaves the function that made it.
        unsafe { dpdk_sys::rte_thread_unregister() };
    }
}

/// Starts a thread that DPDK knows, on `core` or wherever the caller may run,
/// and returns when it is set up, just before it runs `body`.
///
/// # Errors
/// [`Error::Thread`] where there is no such core, or no thread;
/// [`Error::Lcore`] where EAL has no number left.
pub fn spawn(
    eal: &Eal,
    name: &str,
    core: Option<u32>,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, Error> {
    let (report, outcome) = mpsc::sync_channel(1);
    let eal = eal.clone();
    let thread = name.to_owned();
    let run = move || {
        // The other side waits for the report, so sending it can't fail.
        let _registration = match set_up(&eal, thread, core) {
            Ok(registration) => registration,
            Err(error) => {
                let _ = report.send(Err(error));
                return;
            }
        };
        let _ = report.send(Ok(()));
        body();
    };
    let handle = Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|source| Error::Thread {
            thread: name.to_owned(),
            what: "can't be started".to_owned(),
            source,
        })?;
    match outcome.recv() {
        Ok(Ok(())) => Ok(handle),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::Thread {
            thread: name.to_owned(),
            what: "ended".to_owned(),
            source: io::Error::from(io::ErrorKind::UnexpectedEof),
        }),
    }
}

fn set_up(eal: &Eal, thread: String, core: Option<u32>) -> Result<Registration, Error> {
    if let Some(core) = core {
        run_on(core).map_err(|source| Error::Thread {
            thread: thread.clone(),
            what: format!("core {core} can't be used"),
            source,
        })?;
    }
    Registration::new(eal).map_err(|errno| Error::Lcore { thread, errno })
}
