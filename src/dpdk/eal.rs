//! DPDK's environment (EAL): memory, PCI devices, threads and log.
//!
//! Whatever EAL would answer with a cryptic line of its own is looked at
//! before it is asked.

use std::ffi::{CString, c_char, c_int};
use std::fs::OpenOptions;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::Level;

use super::error::{Errno, Error};
use super::{lcore, removal, signals};

/// Where packet buffers live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Memory {
    /// Hugepages, taken as needed, `reserve_mb` megabytes of them at start.
    Hugepages {
        /// Megabytes that must be free, and are taken at start.
        reserve_mb: u32,
    },
    /// Ordinary pages: for tests and small installations. NICs that are not
    /// behind an IOMMU can't use them.
    Ordinary {
        /// All the memory there will be, in megabytes, but for pools whose
        /// buffers EAL does not hold
        /// ([`PoolConfig::processor_only`](super::PoolConfig::processor_only)).
        total_mb: u32,
    },
}

/// How EAL is to start.
#[derive(Clone, Debug)]
pub struct EalConfig {
    /// Where packet buffers live.
    pub memory: Memory,
    /// Addresses of the PCI devices to use. With none the bus is not scanned.
    pub pci: Vec<String>,
    /// Core of the calling thread; it stays where it may be now with `None`.
    pub main_core: Option<u32>,
    /// Tells this process's files from those of other DPDK processes.
    pub file_prefix: String,
    /// More arguments of EAL, for what is not named here.
    pub extra_args: Vec<String>,
}

impl Default for EalConfig {
    fn default() -> Self {
        Self {
            memory: Memory::Hugepages { reserve_mb: 0 },
            pci: Vec::new(),
            main_core: None,
            file_prefix: "fullgate".to_owned(),
            extra_args: Vec::new(),
        }
    }
}

/// The running EAL. It ends when the last clone is gone, and whatever was made
/// with it (pools, ports, queues) holds one.
#[derive(Clone, Debug)]
pub struct Eal {
    running: Arc<Running>,
}

#[derive(Debug)]
struct Running {
    hugepages: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        // SAFETY: EAL is initialised, as a `Running` exists; all that was made
        // with it held it alive, so nothing of it is in use any more.
        unsafe { dpdk_sys::rte_eal_cleanup() };
    }
}

static INITIALISED: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// Starts EAL. The calling thread becomes its main thread. It and those that
    /// it starts from now on block the signals of drivers; one that polls is to
    /// [`take_signals`](super::take_signals).
    ///
    /// # Errors
    /// [`Error::AlreadyInitialised`]; what the checks before the start find
    /// ([`Error::Hugepages`], [`Error::NoPciDevice`], [`Error::PciBinding`]);
    /// [`Error::EalInit`] for anything that EAL itself objects to.
    pub fn init(config: &EalConfig) -> Result<Self, Error> {
        if let Memory::Hugepages { reserve_mb } = config.memory {
            check_hugepages(Path::new("/sys/kernel/mm/hugepages"), reserve_mb)?;
        }
        for address in &config.pci {
            check_pci(Path::new("/sys/bus/pci/devices"), address)?;
            check_free(Path::new("/"), address, &open_group)?;
        }
        let arguments = arguments(config)
            .into_iter()
            .map(|value| {
                CString::new(value.clone()).map_err(|_| Error::ZeroByte {
                    what: "EAL argument",
                    value,
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        if INITIALISED.swap(true, Ordering::AcqRel) {
            return Err(Error::AlreadyInitialised);
        }

        // Before EAL starts its first thread.
        signals::block();
        let mut argv: Vec<*mut c_char> = arguments.iter().map(|a| a.as_ptr().cast_mut()).collect();
        argv.push(std::ptr::null_mut());
        let argc = arguments.len() as c_int;
        // SAFETY:
        // - the sink is a function that lives as long as the process;
        // - argv holds argc terminated strings and a final null pointer, alive
        //   until after the call; EAL permutes the pointers, copies what it
        //   keeps and writes into no string;
        // - the swap above makes this the only call in the process.
        let taken = unsafe {
            dpdk_sys::fullgate_log_open(Some(log_sink));
            dpdk_sys::rte_eal_init(argc, argv.as_mut_ptr())
        };
        if taken < 0 {
            return Err(Error::EalInit {
                errno: Errno::last(),
                said: first_error(),
            });
        }
        removal::watch();
        Ok(Self {
            running: Arc::new(Running {
                hugepages: matches!(config.memory, Memory::Hugepages { .. }),
            }),
        })
    }

    /// The start is over: from now on all that DPDK says goes to the log.
    pub fn started(&self) {
        STARTING.store(false, Ordering::Release);
    }

    /// What DPDK has reserved by name: pools, rings, its tables.
    pub fn zones(&self) -> Vec<Zone> {
        let mut zones: Vec<Zone> = Vec::new();
        // SAFETY: EAL is initialised; the callback gets the vector back as its
        // argument, and nobody else has it during the walk.
        unsafe { dpdk_sys::rte_memzone_walk(Some(note_zone), (&raw mut zones).cast()) };
        zones
    }

    /// Whether EAL's memory is on hugepages.
    pub(super) fn has_hugepages(&self) -> bool {
        self.running.hugepages
    }

    /// Keeps EAL running until the process ends.
    pub(super) fn never_end(&self) {
        std::mem::forget(self.clone());
    }
}

/// Memory that DPDK has reserved under a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Zone {
    /// DPDK's name of it.
    pub name: String,
    /// Where it begins.
    pub address: usize,
    /// Its length, bytes.
    pub len: usize,
}

/// Appends a zone to the `Vec<Zone>` that `zones` is.
unsafe extern "C" fn note_zone(zone: *const dpdk_sys::rte_memzone, zones: *mut std::ffi::c_void) {
    // SAFETY: DPDK passes a zone, which is initialised and packed, so that it is
    // copied before its fields are read.
    let zone = unsafe { zone.read_unaligned() };
    // SAFETY: the union is of an address and the same number, both initialised.
    let address = unsafe { zone.__bindgen_anon_1.addr_64 };
    let len = zone.len;
    let name = zone.name.map(|byte| byte as u8);
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    // SAFETY: the argument of the walk, as `Eal::zones` passes it.
    let zones = unsafe { &mut *zones.cast::<Vec<Zone>>() };
    zones.push(Zone {
        name: String::from_utf8_lossy(name).into_owned(),
        address: address as usize,
        len,
    });
}

/// What net_tap calls errors and then does without: a queueing discipline that
/// only `rte_flow` needs, and secondary processes, of which there are none.
const NOT_ERRORS: [&str; 4] = [
    "multiq qdisc",
    "Disabling rte flow support",
    "Specified qdisc kind is unknown",
    "Failed to send start req to secondary",
];

/// Until the ports are open, what drivers say is for who asks for all of it: a
/// start that fails says why by itself, and the reason must not drown in their lines.
static STARTING: AtomicBool = AtomicBool::new(true);

/// The first error that DPDK logged during the start: mostly the cause of those
/// behind it.
static FIRST_ERROR: Mutex<Option<String>> = Mutex::new(None);

/// For the end of an error's text.
pub(super) fn first_error() -> String {
    let first = FIRST_ERROR.lock().unwrap_or_else(PoisonError::into_inner);
    match first.as_ref() {
        Some(first) => format!("DPDK says {first:?} (more with --log dpdk=debug)"),
        None => "--log dpdk=debug shows what DPDK does".to_owned(),
    }
}

/// Takes a message of DPDK's log into ours.
unsafe extern "C" fn log_sink(level: u32, text: *const c_char, len: usize) {
    // Lower is graver.
    let level = if level <= dpdk_sys::FULLGATE_LOG_ERR {
        Level::Error
    } else if level <= dpdk_sys::FULLGATE_LOG_WARNING {
        Level::Warn
    } else if level <= dpdk_sys::FULLGATE_LOG_INFO {
        Level::Info
    } else {
        Level::Debug
    };
    // SAFETY: stdio passes a buffer of `len` bytes that stays as it is for the
    // time of this call.
    let text = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), len) };
    let text = String::from_utf8_lossy(text);
    let text = text.trim_end();
    let level = match NOT_ERRORS.iter().any(|known| text.contains(known)) {
        true => Level::Debug,
        false => level,
    };
    if text.is_empty() {
        return;
    }
    if STARTING.load(Ordering::Acquire) {
        if level == Level::Error {
            let mut first = FIRST_ERROR.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert_with(|| text.to_owned());
        }
        if !log::log_enabled!(target: "dpdk", Level::Debug) {
            return;
        }
    }
    log::log!(target: "dpdk", level, "{text}");
}

fn arguments(config: &EalConfig) -> Vec<String> {
    let cores = match config.main_core {
        Some(core) => core.to_string(),
        None => {
            let allowed = lcore::allowed_cores();
            let allowed: Vec<String> = allowed.iter().map(u32::to_string).collect();
            format!("({})", allowed.join(","))
        }
    };
    // What our log does not take, DPDK need not make; the first error is always
    // wanted.
    let takes = |level: Level| log::log_enabled!(target: "dpdk", level);
    let level = if takes(Level::Debug) {
        "debug"
    } else if takes(Level::Info) {
        "info"
    } else if takes(Level::Warn) {
        "warning"
    } else {
        "error"
    };
    let mut arguments = vec![
        "fullgate".to_owned(),
        // One EAL thread, the calling one: workers register themselves.
        format!("--lcores=0@{cores}"),
        "--no-telemetry".to_owned(),
        format!("--file-prefix={}", config.file_prefix),
        format!("--log-level=*:{level}"),
    ];
    match config.memory {
        Memory::Hugepages { reserve_mb } => {
            arguments.push("--in-memory".to_owned());
            if reserve_mb > 0 {
                arguments.push(format!("-m{reserve_mb}"));
            }
        }
        Memory::Ordinary { total_mb } => {
            arguments.push("--no-huge".to_owned());
            // Without hugepages EAL refuses --in-memory; this is what is left
            // of it to ask for.
            arguments.push("--no-shconf".to_owned());
            arguments.push(format!("-m{total_mb}"));
        }
    }
    if config.pci.is_empty() {
        arguments.push("--no-pci".to_owned());
    }
    for address in &config.pci {
        arguments.push(format!("--allow={address}"));
    }
    arguments.extend(config.extra_args.iter().cloned());
    arguments
}

/// Refuses where fewer hugepages are free than EAL will take at start.
fn check_hugepages(sizes: &Path, reserve_mb: u32) -> Result<(), Error> {
    let mut free_kb = 0;
    let mut smallest_kb = u64::MAX;
    for entry in std::fs::read_dir(sizes).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let size_kb = name
            .to_str()
            .and_then(|name| name.strip_prefix("hugepages-"))
            .and_then(|name| name.strip_suffix("kB"))
            .and_then(|size| size.parse::<u64>().ok());
        let free = std::fs::read_to_string(entry.path().join("free_hugepages"))
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok());
        if let (Some(size_kb), Some(free)) = (size_kb, free) {
            free_kb += size_kb * free;
            smallest_kb = smallest_kb.min(size_kb);
        }
    }
    // EAL itself needs a page or two, however little is reserved.
    let needed_mb = u64::from(reserve_mb).max(64);
    let free_mb = free_kb / 1024;
    if free_mb >= needed_mb {
        return Ok(());
    }
    let page_kb = if smallest_kb == u64::MAX {
        2048
    } else {
        smallest_kb
    };
    Err(Error::Hugepages {
        needed_mb,
        free_mb,
        pages: (needed_mb * 1024).div_ceil(page_kb),
    })
}

/// Kernel drivers from which, or beside which, DPDK can use a device.
const USABLE_FROM: [&str; 5] = [
    "vfio-pci",
    "igb_uio",
    "uio_pci_generic",
    // Bifurcated: DPDK and the kernel share the device.
    "mlx4_core",
    "mlx5_core",
];

fn check_pci(devices: &Path, address: &str) -> Result<(), Error> {
    let address = full_pci_address(address);
    let device = devices.join(&address);
    // A path separator would lead somewhere else than to a device.
    if address.contains('/') || !device.exists() {
        return Err(Error::NoPciDevice(address));
    }
    let driver = std::fs::read_link(device.join("driver")).ok();
    let driver = driver
        .as_deref()
        .and_then(Path::file_name)
        .map(|name| name.to_string_lossy().into_owned());
    match driver {
        Some(driver) if USABLE_FROM.contains(&driver.as_str()) => Ok(()),
        driver => Err(Error::PciBinding {
            address,
            bound: driver.map_or_else(
                || "no driver".to_owned(),
                |driver| format!("the kernel's {driver}"),
            ),
        }),
    }
}

/// How long a group that another process has is waited for: the kernel takes
/// it from one that was killed a moment ago.
const RELEASE_WAIT: Duration = Duration::from_secs(5);

/// Opens a vfio group as a driver does; at most one process has it.
fn open_group(path: &Path) -> std::io::Result<()> {
    let deadline = Instant::now() + RELEASE_WAIT;
    loop {
        let opened = OpenOptions::new().read(true).write(true).open(path);
        match opened {
            Err(error)
                if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(50));
            }
            other => return other.map(drop),
        }
    }
}

/// Refuses a device whose vfio group another process holds.
fn check_free(
    root: &Path,
    address: &str,
    open: &dyn Fn(&Path) -> std::io::Result<()>,
) -> Result<(), Error> {
    let address = full_pci_address(address);
    let device = root.join("sys/bus/pci/devices").join(&address);
    let group = std::fs::read_link(device.join("iommu_group")).ok();
    let Some(group) = group.as_deref().and_then(Path::file_name) else {
        return Ok(());
    };
    let name = group.to_string_lossy();
    for file in [
        format!("/dev/vfio/{name}"),
        format!("/dev/vfio/noiommu-{name}"),
    ] {
        let opened = open(Path::new(&file));
        if opened.is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY)) {
            return Err(Error::PciHeld {
                address,
                holder: holder(&root.join("proc"), Path::new(&file)),
            });
        }
    }
    Ok(())
}

/// The process that has a file open, as far as this one may know.
fn holder(processes: &Path, file: &Path) -> String {
    let has_it = |process: &Path| {
        let open = std::fs::read_dir(process.join("fd")).into_iter().flatten();
        open.flatten()
            .any(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target == file))
    };
    let all = std::fs::read_dir(processes).into_iter().flatten().flatten();
    let found = all
        .map(|entry| entry.path())
        .find(|process| has_it(process));
    let Some(process) = found else {
        return "another process".to_owned();
    };
    let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
    let id = process.file_name().unwrap_or_default().to_string_lossy();
    format!("process {id} ({})", name.trim())
}

/// `0000:03:00.0` also where the domain was left out.
pub(super) fn full_pci_address(address: &str) -> String {
    if address.matches(':').count() == 1 {
        format!("0000:{address}")
    } else {
        address.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_pci_port_means_no_bus_scan() {
        let with_none = arguments(&EalConfig::default());
        assert!(with_none.contains(&"--no-pci".to_owned()));
        let with_one = arguments(&EalConfig {
            pci: vec!["0000:03:00.0".to_owned()],
            ..EalConfig::default()
        });
        assert!(!with_one.contains(&"--no-pci".to_owned()));
        assert!(with_one.contains(&"--allow=0000:03:00.0".to_owned()));
    }

    #[test]
    fn the_main_thread_is_pinned_only_when_asked() {
        let pinned = arguments(&EalConfig {
            main_core: Some(3),
            ..EalConfig::default()
        });
        assert!(pinned.contains(&"--lcores=0@3".to_owned()));
        let free = arguments(&EalConfig::default());
        assert!(
            free.iter().any(|a| a.starts_with("--lcores=0@(")),
            "{free:?}"
        );
    }

    #[test]
    fn missing_hugepages_name_the_command() {
        let sizes = tempfile::tempdir().unwrap();
        let two_mb = sizes.path().join("hugepages-2048kB");
        std::fs::create_dir(&two_mb).unwrap();
        std::fs::write(two_mb.join("free_hugepages"), "8\n").unwrap();
        let error = check_hugepages(sizes.path(), 512).unwrap_err().to_string();
        assert!(error.contains("16 MB are free"), "{error}");
        assert!(error.contains("vm.nr_hugepages=256"), "{error}");
        std::fs::write(two_mb.join("free_hugepages"), "256\n").unwrap();
        check_hugepages(sizes.path(), 512).unwrap();
    }

    #[test]
    fn a_pci_device_must_exist_and_be_free_of_the_kernel() {
        let root = tempfile::tempdir().unwrap();
        let device = root.path().join("0000:03:00.0");
        std::fs::create_dir(&device).unwrap();
        let bind = |driver: &str| {
            let link = device.join("driver");
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(root.path().join(driver), link).unwrap();
        };
        let check = |address: &str| check_pci(root.path(), address);

        assert!(matches!(check("0000:04:00.0"), Err(Error::NoPciDevice(_))));
        assert!(matches!(check("../x"), Err(Error::NoPciDevice(_))));
        let unbound = check("03:00.0").unwrap_err().to_string();
        assert!(unbound.contains("bound to no driver"), "{unbound}");
        bind("ixgbe");
        let kernel = check("03:00.0").unwrap_err().to_string();
        assert!(kernel.contains("the kernel's ixgbe"), "{kernel}");
        assert!(kernel.contains("--bind=vfio-pci 0000:03:00.0"), "{kernel}");
        bind("vfio-pci");
        check("03:00.0").unwrap();
    }

    #[test]
    fn a_device_that_another_process_has_names_it() {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().unwrap();
        let device = root.path().join("sys/bus/pci/devices/0000:03:00.0");
        let process = root.path().join("proc/4711");
        std::fs::create_dir_all(&device).unwrap();
        std::fs::create_dir_all(process.join("fd")).unwrap();
        std::fs::write(process.join("comm"), "dpdk-testpmd\n").unwrap();
        let busy = |_: &Path| Err(std::io::Error::from_raw_os_error(libc::EBUSY));
        check_free(root.path(), "03:00.0", &busy).expect("in no group");
        symlink("../../kernel/iommu_groups/17", device.join("iommu_group")).unwrap();
        check_free(root.path(), "03:00.0", &|_| Ok(())).expect("free");
        let unknown = check_free(root.path(), "03:00.0", &busy).unwrap_err();
        assert!(unknown.to_string().contains("another process"), "{unknown}");
        symlink("/dev/vfio/17", process.join("fd/9")).unwrap();
        let held = check_free(root.path(), "03:00.0", &busy).unwrap_err();
        assert!(
            held.to_string().contains("process 4711 (dpdk-testpmd)"),
            "{held}"
        );
    }

    /// What fails is said once and well; a driver's dozens of lines are for who
    /// asks for them.
    #[test]
    fn the_first_error_of_a_start_is_kept() {
        let say = |level: u32, text: &std::ffi::CStr| {
            let len = text.to_bytes().len();
            // SAFETY: a text and its length.
            unsafe { log_sink(level, text.as_ptr(), len) }
        };
        assert!(first_error().contains("--log dpdk=debug"));
        say(dpdk_sys::FULLGATE_LOG_WARNING, c"a warning\n");
        say(dpdk_sys::FULLGATE_LOG_ERR, c"EAL: the cause\n");
        say(dpdk_sys::FULLGATE_LOG_ERR, c"EAL: what follows from it\n");
        let said = first_error();
        assert!(said.contains("EAL: the cause"), "{said}");
        assert!(!said.contains("follows"), "{said}");
    }
}
