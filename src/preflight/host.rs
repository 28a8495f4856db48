//! Files of `/proc`, `/sys` and `/dev`. What can't be read is as good as not
//! there.

use std::fs;
use std::path::{Path, PathBuf};

pub(super) struct Host<'a> {
    root: &'a Path,
}

impl<'a> Host<'a> {
    pub(super) fn new(root: &'a Path) -> Self {
        Self { root }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Without white space at its ends.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.path(path)).ok()?;
        Some(text.trim().to_owned())
    }

    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    /// Names of a directory's entries, sorted.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort_unstable_by_key(|name| (name.len(), name.clone()));
        names
    }

    /// Last part of what a symbolic link leads to.
    pub(super) fn link(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    /// The NUMA node of a core.
    pub(super) fn node_of_core(&self, core: u16) -> Option<u32> {
        let names = self.names(&format!("/sys/devices/system/cpu/cpu{core}"));
        names
            .iter()
            .find_map(|name| name.strip_prefix("node")?.parse().ok())
    }

    /// The NUMA node of a PCI device; none where the machine has but one.
    pub(super) fn node_of_device(&self, address: &str) -> Option<u32> {
        self.text(&format!("/sys/bus/pci/devices/{address}/numa_node"))?
            .parse()
            .ok()
    }
}

/// The numbers of a list such as `0-3,8`.
pub(super) fn list(text: &str) -> Vec<u16> {
    let mut numbers = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse(), last.parse()) {
            numbers.extend::<std::ops::RangeInclusive<u16>>(first..=last);
        }
    }
    numbers
}

/// Numbers the way [`list`] reads them, without ranges.
pub(super) fn listed(numbers: &[u16]) -> String {
    let texts: Vec<String> = numbers.iter().map(u16::to_string).collect();
    texts.join(",")
}
