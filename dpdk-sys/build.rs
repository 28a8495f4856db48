//! pkg-config finds DPDK, bindgen writes the bindings of the functions listed
//! here, cc compiles `shim.c`. Headers and flags come from the installed
//! package, so an ABI change of DPDK is a rebuild, not an edit.

use std::path::PathBuf;
use std::process::Command;

const FUNCTIONS: &[&str] = &[
    "rte_eal_init",
    "rte_eal_cleanup",
    "rte_eal_hotplug_add",
    "rte_eal_hotplug_remove",
    "rte_strerror",
    "rte_dev_event_callback_register",
    "rte_eth_dev_callback_register",
    "rte_openlog_stream",
    "rte_log_cur_msg_loglevel",
    "rte_thread_register",
    "rte_thread_unregister",
    "rte_get_tsc_hz",
    "rte_memzone_walk",
    "rte_mempool_free",
    "rte_mempool_avail_count",
    "rte_eth_dev_get_port_by_name",
    "rte_eth_dev_info_get",
    "rte_eth_dev_configure",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_rx_queue_setup",
    "rte_eth_tx_queue_setup",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_dev_close",
    "rte_eth_dev_set_mtu",
    "rte_eth_macaddr_get",
    "rte_eth_promiscuous_enable",
    "rte_eth_promiscuous_disable",
    "rte_eth_allmulticast_enable",
    "rte_eth_stats_get",
    "rte_eth_dev_rss_hash_conf_get",
    "rte_eth_dev_rss_reta_update",
    "rte_eth_dev_rss_reta_query",
    "rte_ring_create",
    "rte_ring_free",
    "rte_eth_from_rings",
    "rte_hash_create",
    "rte_hash_free",
    "rte_hash_add_key_data",
    "rte_hash_add_key_with_hash_data",
    "rte_hash_del_key",
    "rte_hash_del_key_with_hash",
    "rte_hash_lookup_bulk_data",
    "rte_hash_lookup_with_hash_bulk_data",
    "rte_malloc_get_socket_stats",
    "fullgate_.*",
];

const CONSTANTS: &[&str] = &[
    "RTE_HASH_LOOKUP_BULK_MAX",
    "RTE_MAX_NUMA_NODES",
    "RTE_MAX_ETHPORTS",
    "RTE_MEMPOOL_CACHE_MAX_SIZE",
    "RTE_PKTMBUF_HEADROOM",
    "FULLGATE_.*",
];

/// The oldest DPDK that is built with; newer ones work as long as this builds.
const OLDEST: &str = "22.11";

/// What of DPDK's libraries the functions above live in. `rte_net_ring` is a
/// driver, so pkg-config leaves it out; the other drivers are plugins that EAL
/// loads by itself.
const LIBRARIES: &[&str] = &[
    "rte_eal",
    "rte_ethdev",
    "rte_mbuf",
    "rte_mempool",
    "rte_ring",
    "rte_net_ring",
    "rte_hash",
];

/// Its functions are in `rte_eal` where DPDK is too old to have it.
const LOG_LIBRARY: &str = "rte_log";

fn main() {
    println!("cargo::rerun-if-changed=shim.c");
    println!("cargo::rerun-if-changed=wrapper.h");
    let library = match pkg_config::Config::new()
        .cargo_metadata(false)
        .probe("libdpdk")
    {
        Ok(library) if version(&library.version) >= version(OLDEST) => library,
        Ok(old) => needed(&format!("{} is installed", old.version)),
        Err(pkg_config::Error::ProbeFailure { .. }) => needed("pkg-config finds no libdpdk"),
        Err(reason) => needed(first_line(&reason.to_string())),
    };
    // Bindings of one version with the libraries of another would pass wrong
    // structures: an upgrade of the package writes to these directories.
    for path in &library.include_paths {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    let flags = compiler_flags();

    for path in &library.link_paths {
        println!("cargo::rustc-link-search=native={}", path.display());
    }

    cc::Build::new()
        .file("shim.c")
        .flags(&flags)
        .warnings(true)
        .flag("-Werror=implicit-function-declaration")
        .compile("fullgate_shim");

    // After the shim, which needs them.
    for name in LIBRARIES {
        println!("cargo::rustc-link-lib=dylib={name}");
    }
    if library.libs.iter().any(|name| name == LOG_LIBRARY) {
        println!("cargo::rustc-link-lib=dylib={LOG_LIBRARY}");
    }

    let mut builder = bindgen::Builder::default()
        .header("wrapper.h")
        .clang_args(&flags)
        .use_core()
        .layout_tests(true)
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .generate_comments(false)
        .derive_default(true)
        // Only ever seen through a pointer; fields that Rust reads have their
        // offsets in wrapper.h.
        .opaque_type("rte_mbuf")
        .opaque_type("rte_mempool")
        .opaque_type("rte_ring")
        .opaque_type("rte_hash")
        // Packed structures that hold aligned ones, which Rust can't say.
        .opaque_type("rte_arp_.*");
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    for constant in CONSTANTS {
        builder = builder.allowlist_var(constant);
    }
    let bindings = builder
        .allowlist_var("rte_eth_fp_ops")
        .generate()
        .unwrap_or_else(|reason| {
            fail(&format!(
                "no bindings from DPDK's headers: {}",
                first_line(&reason.to_string())
            ))
        });
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    bindings
        .write_to_file(out.join("bindings.rs"))
        .expect("OUT_DIR is writable");
}

/// The package's compiler flags, verbatim: the pkg-config crate keeps neither
/// `-include rte_config.h` nor `-march`, without which headers and library
/// disagree.
fn compiler_flags() -> Vec<String> {
    let pkg_config = std::env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".into());
    let output = Command::new(pkg_config)
        .args(["--cflags", "libdpdk"])
        .output()
        .unwrap_or_else(|reason| fail(&format!("pkg-config does not run: {reason}")));
    let text = String::from_utf8_lossy(&output.stdout);
    let mut flags: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    flags.push("-DALLOW_EXPERIMENTAL_API".to_owned());
    flags
}

/// Year and month of a version of DPDK, in that order.
fn version(text: &str) -> (u32, u32) {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

fn needed(found: &str) -> ! {
    fail(&format!(
        "DPDK {OLDEST} or later is needed to build fullgate ({found}). On Debian or Ubuntu: \
         apt-get install libdpdk-dev libclang-dev clang. Without DPDK, everything but the \
         gateway program itself builds and tests with --no-default-features \
         (scripts/test says how)."
    ))
}

fn first_line(text: &str) -> &str {
    text.lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or(text)
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    std::process::exit(1);
}
