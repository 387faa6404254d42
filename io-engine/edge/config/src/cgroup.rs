//! Limits of this process's control groups, of both versions.
//!
//! A limit binds everything below its group, so every group from ours up is looked at and the smallest wins. Inside a
//! container the path may not exist under the mount, which then shows the container's own group at its root: the root is
//! always looked at. Files: `cpu.max` and `memory.max` (cgroup-v2.rst), `cpu.cfs_quota_us` with `cpu.cfs_period_us`
//! (sched-bwc.rst) and `memory.limit_in_bytes` (cgroup-v1/memory.rst) of the kernel's documentation. What a group uses of its
//! memory is `memory.current` or `memory.usage_in_bytes`; of that, the page cache (`memory.stat`) can be had back.

use std::path::{Path, PathBuf};

/// Where cgroup file systems are mounted by every current distribution and container runtime.
const ROOT: &str = "/sys/fs/cgroup";

/// What the groups allow; `None` without a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Limits {
    /// CPU time for each second of time.
    pub(crate) cpus: Option<f64>,
    /// Bytes of memory.
    pub(crate) memory_bytes: Option<u64>,
}

impl Limits {
    /// Those of this process.
    pub(crate) fn read() -> Self {
        let file = |path: &Path| std::fs::read_to_string(path).ok();
        let membership = file(Path::new("/proc/self/cgroup")).unwrap_or_default();
        Self::of(&membership, file)
    }

    /// Bytes of memory this process can get before one of its groups has all it may; `None` without a limit.
    pub(crate) fn memory_left() -> Option<u64> {
        let file = |path: &Path| std::fs::read_to_string(path).ok();
        let membership = file(Path::new("/proc/self/cgroup")).unwrap_or_default();
        memory_left(&membership, file)
    }

    /// Those of the groups listed in `membership` (`/proc/self/cgroup`), whose files `read` reads.
    fn of(membership: &str, read: impl Fn(&Path) -> Option<String>) -> Self {
        let mut limits = Self::default();
        for line in membership.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
                continue;
            };
            let has = |name| controllers.split(',').any(|controller| controller == name);
            for group in groups(controllers, path) {
                let text = |name: &str| read(&group.join(name));
                let number = |name: &str| text(name)?.trim().parse::<u64>().ok();
                let (mut cpus, mut memory) = (None, None);
                if controllers.is_empty() {
                    cpus = text("cpu.max").and_then(|text| {
                        let (quota, period) = text.trim().split_once(' ')?;
                        ratio(quota.parse().ok()?, period.parse().ok()?)
                    });
                    memory = number("memory.max");
                }
                if has("cpu") {
                    // A quota of -1 is none.
                    cpus = number("cpu.cfs_quota_us")
                        .zip(number("cpu.cfs_period_us"))
                        .and_then(|(quota, period)| ratio(quota, period));
                }
                if has("memory") {
                    memory = number("memory.limit_in_bytes");
                }
                limits.cpus = smaller(limits.cpus, cpus);
                limits.memory_bytes = smaller(limits.memory_bytes, memory);
            }
        }
        limits
    }
}

/// The least any of the groups in `membership` has left.
fn memory_left(membership: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let mut least = None;
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let is_v1 = controllers.split(',').any(|name| name == "memory");
        let (limit, usage, cache) = match (controllers.is_empty(), is_v1) {
            (true, _) => (
                "memory.max",
                "memory.current",
                ["inactive_file", "active_file"],
            ),
            (false, true) => (
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                ["total_inactive_file", "total_active_file"],
            ),
            (false, false) => continue,
        };
        for group in groups(controllers, path) {
            let number = |name: &str| read(&group.join(name))?.trim().parse::<u64>().ok();
            let (Some(limit), Some(usage)) = (number(limit), number(usage)) else {
                continue;
            };
            let stat = read(&group.join("memory.stat")).unwrap_or_default();
            let reclaimable: u64 = cache.iter().map(|name| keyed(&stat, name)).sum();
            let left = limit.saturating_sub(usage.saturating_sub(reclaimable));
            least = smaller(least, Some(left));
        }
    }
    least
}

/// The number behind `key` in a file of `key number` lines; 0 if it is not there.
fn keyed(text: &str, key: &str) -> u64 {
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    value
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or(0)
}

/// Directories of the group `path` and those above it, in the hierarchy of `controllers`; version 2 has none listed.
fn groups(controllers: &str, path: &str) -> Vec<PathBuf> {
    let mount = Path::new(ROOT).join(controllers);
    let own = Path::new(path.trim_start_matches('/'));
    own.ancestors().map(|group| mount.join(group)).collect()
}

fn ratio(quota: u64, period: u64) -> Option<f64> {
    (period > 0).then(|| quota as f64 / period as f64)
}

fn smaller<T: PartialOrd>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if other < one { other } else { one }),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(files: &[(&str, &str)]) -> impl Fn(&Path) -> Option<String> {
        |path: &Path| {
            let name = path.strip_prefix(ROOT).unwrap().to_str().unwrap();
            let found = files.iter().find(|(file, _)| *file == name);
            found.map(|(_, text)| format!("{text}\n"))
        }
    }

    fn limits(membership: &str, files: &[(&str, &str)]) -> Limits {
        Limits::of(membership, reader(files))
    }

    #[test]
    fn what_is_left_is_the_least_of_the_groups_with_their_cache_given_back() {
        let v2 = [
            ("kube/pod/memory.max", "1000"),
            ("kube/pod/memory.current", "700"),
            (
                "kube/pod/memory.stat",
                "anon 300\ninactive_file 150\nactive_file 50\nfile 200",
            ),
            ("kube/memory.max", "2000"),
            ("kube/memory.current", "1900"),
        ];
        assert_eq!(memory_left("0::/kube/pod\n", reader(&v2)), Some(100));
        assert_eq!(memory_left("0::/kube/pod\n", reader(&v2[..3])), Some(500));
        assert_eq!(memory_left("0::/other\n", reader(&v2)), None);
        let v1 = [
            ("memory/x/memory.limit_in_bytes", "1000"),
            ("memory/x/memory.usage_in_bytes", "1200"),
            (
                "memory/x/memory.stat",
                "inactive_file 9\ntotal_inactive_file 300\ntotal_active_file 0",
            ),
        ];
        let membership = "5:cpu,cpuacct:/a\n4:memory:/x\n0::/\n";
        assert_eq!(memory_left(membership, reader(&v1)), Some(100));
    }

    #[test]
    fn version_1_is_read_in_the_hierarchy_of_its_controller() {
        let membership = "5:cpu,cpuacct:/a/b\n4:memory:/x\n1:name=systemd:/\n0::/\n";
        let files = [
            ("cpu,cpuacct/a/b/cpu.cfs_quota_us", "-1"),
            ("cpu,cpuacct/a/b/cpu.cfs_period_us", "100000"),
            ("cpu,cpuacct/a/cpu.cfs_quota_us", "150000"),
            ("cpu,cpuacct/a/cpu.cfs_period_us", "100000"),
            ("memory/x/memory.limit_in_bytes", "268435456"),
            ("memory/memory.limit_in_bytes", "9223372036854771712"),
        ];
        let expected = Limits {
            cpus: Some(1.5),
            memory_bytes: Some(256 << 20),
        };
        assert_eq!(limits(membership, &files), expected);
    }

    #[test]
    fn version_2_takes_the_smallest_on_the_way_up() {
        let files = [
            ("kube/pod/cpu.max", "200000 100000"),
            ("kube/cpu.max", "50000 100000"),
            ("kube/pod/memory.max", "max"),
            ("memory.max", "1048576"),
        ];
        let expected = Limits {
            cpus: Some(0.5),
            memory_bytes: Some(1 << 20),
        };
        assert_eq!(limits("0::/kube/pod\n", &files), expected);
        let none = [("cpu.max", "max 100000"), ("memory.max", "max")];
        assert_eq!(limits("0::/\n", &none), Limits::default());
    }
}
