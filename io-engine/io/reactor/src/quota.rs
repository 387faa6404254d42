//! Whether this process runs under a CPU quota, where every spun microsecond is taken from its own later work.

use std::fs;
use std::path::{Path, PathBuf};

/// Where cgroup file systems are mounted by every current distribution and container runtime.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Whether a CPU quota binds this process, in its own control group or one above.
pub(crate) fn is_limited() -> bool {
    let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    limit_files(&membership)
        .iter()
        .any(|file| fs::read_to_string(file).is_ok_and(|text| is_quota(&text)))
}

/// Files that may hold a quota for the groups listed in `membership` (`/proc/self/cgroup`). Inside a container the path
/// may not exist under the mount, which then shows the container's own group at its root: the root is always looked at.
fn limit_files(membership: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let (mount, name) = if controllers.is_empty() {
            (CGROUP_ROOT.to_owned(), "cpu.max")
        } else if controllers.split(',').any(|c| c == "cpu") {
            (format!("{CGROUP_ROOT}/{controllers}"), "cpu.cfs_quota_us")
        } else {
            continue;
        };
        let groups = Path::new(path.trim_start_matches('/')).ancestors();
        files.extend(groups.map(|group| Path::new(&mount).join(group).join(name)));
    }
    files
}

/// Whether the text of `cpu.max` (`max 100000`, `50000 100000`) or `cpu.cfs_quota_us` (`-1`, `50000`) is a limit.
fn is_quota(text: &str) -> bool {
    let first = text.split_whitespace().next();
    first.is_some_and(|quota| quota.parse::<u64>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_of_both_versions_are_told_from_none() {
        assert!(is_quota("50000 100000\n"));
        assert!(is_quota("200000\n"));
        assert!(!is_quota("max 100000\n"));
        assert!(!is_quota("-1\n"));
        assert!(!is_quota(""));
    }

    #[test]
    fn every_group_up_to_the_root_is_looked_at() {
        let files = limit_files("5:cpu,cpuacct:/a/b\n3:memory:/x\n0::/kube/pod1\n");
        let expected = [
            "/sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us",
            "/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us",
            "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us",
            "/sys/fs/cgroup/kube/pod1/cpu.max",
            "/sys/fs/cgroup/kube/cpu.max",
            "/sys/fs/cgroup/cpu.max",
        ];
        assert_eq!(files, expected.map(PathBuf::from));
    }
}
