//! What this machine can do, and what tests change about it for a while.

use std::fs;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::geteuid;
use socket2::{Domain, Socket, Type};

const HUGEPAGES: &str = "/proc/sys/vm/nr_hugepages";

/// Something a test may need.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Need {
    Root,
    Tun,
    AfXdp,
    Hugepages,
    Multipath,
    Tool(&'static str),
}

impl Need {
    /// Why it is missing, if it is.
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Root => (!geteuid().is_root()).then(|| "not root".to_owned()),
            Self::Tun => {
                (!Path::new("/dev/net/tun").exists()).then(|| "no /dev/net/tun".to_owned())
            }
            Self::AfXdp => {
                let socket = Socket::new(Domain::from(libc::AF_XDP), Type::RAW, None);
                let error = socket.err()?;
                Some(format!("no AF_XDP sockets: {error}"))
            }
            Self::Multipath => {
                let path = "/proc/sys/net/ipv4/fib_multipath_hash_policy";
                (!Path::new(path).exists()).then(|| "no multipath routes".to_owned())
            }
            Self::Hugepages => {
                if !geteuid().is_root() {
                    return Some("not root".to_owned());
                }
                let pages = Hugepages::reserve(64);
                (pages.available < 64).then(|| "2 MiB hugepages cannot be reserved".to_owned())
            }
            Self::Tool(name) => {
                let path = std::env::var("PATH").unwrap_or_default();
                let found = path
                    .split(':')
                    .any(|part| Path::new(part).join(name).exists());
                (!found).then(|| format!("no {name}"))
            }
        }
    }
}

/// Hugepages reserved until drop.
pub struct Hugepages {
    before: u64,
    pub available: u64,
}

impl Hugepages {
    /// Asks for `count` pages of the default size on top of those there are.
    pub fn reserve(count: u64) -> Self {
        let before = read();
        // What the kernel could not give shows in the count read back.
        let _ = fs::write(HUGEPAGES, (before + count).to_string());
        Self {
            before,
            available: read().saturating_sub(before),
        }
    }
}

impl Drop for Hugepages {
    fn drop(&mut self) {
        let _ = fs::write(HUGEPAGES, self.before.to_string());
    }
}

/// Hugepages of the default size there are.
pub fn read() -> u64 {
    fs::read_to_string(HUGEPAGES)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

/// Lets this process and its children open as many files as it may.
pub fn raise_file_limit(wanted: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("read the file limit");
    let hard = hard.max(wanted);
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raise the file limit");
}
