//! What the surroundings contribute: environment variables and facts about the process. Read here and nowhere else.

use std::path::PathBuf;

use crate::cgroup::Limits;
use crate::listen::InterfaceAddress;

/// Facts a configuration is checked against; a plain value, so that tests can make one up.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// Effective user is root.
    pub is_root: bool,
    /// `XDG_STATE_HOME`.
    pub xdg_state_home: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// The directory this process works in, which relative paths begin at.
    pub working_dir: Option<PathBuf>,
    /// `HOSTNAME`, or the kernel's host name.
    pub hostname: Option<String>,
    /// `RUST_LOG`.
    pub rust_log: Option<String>,
    /// `NVMF_TGT_IFACE`: as `-T`.
    pub target_interface: Option<String>,
    /// `MY_POD_IP`: address to tell hosts when listening on all.
    pub pod_ip: Option<String>,
    /// `NOTIFY_SOCKET`: where systemd wants to be told.
    pub notify_socket: Option<String>,
    /// `IO_ENGINE_PLUGIN_PATH`: directories of plugins, separated by colons; relative ones are passed by.
    pub plugin_path: Vec<PathBuf>,
    /// `<prefix>/lib/io-engine/plugins`, where the program is `<prefix>/bin/…`.
    pub plugin_directory: Option<PathBuf>,
    /// CPUs this process may run on, ascending.
    pub cpus: Vec<u32>,
    /// CPUs' worth of time the control groups allow, a second each second; `None` without a quota.
    pub cpu_quota: Option<f64>,
    /// Bytes of memory this process may use: the machine's, or its cgroup's limit if that is lower.
    pub memory_bytes: Option<u64>,
    /// Addresses of the machine's interfaces.
    pub interfaces: Vec<InterfaceAddress>,
}

/// Memory at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryNow {
    /// Bytes this process can get without anybody being killed for it: of the machine, or of its control groups if that is
    /// less.
    pub available_bytes: u64,
    /// Bytes of this process that no file backs and that are in use.
    pub used_bytes: u64,
}

impl MemoryNow {
    /// Reads it; `None` where the system does not tell.
    pub fn read() -> Option<Self> {
        let machine = kib_of(
            &std::fs::read_to_string("/proc/meminfo").ok()?,
            "MemAvailable:",
        )?;
        let used = kib_of(
            &std::fs::read_to_string("/proc/self/status").ok()?,
            "RssAnon:",
        )?;
        let groups = Limits::memory_left().unwrap_or(u64::MAX);
        Some(Self {
            available_bytes: (machine * 1024).min(groups),
            used_bytes: used * 1024,
        })
    }
}

impl Environment {
    /// Reads the surroundings of this process.
    pub fn read() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let path = |name: &str| {
            text(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let groups = Limits::read();
        let kernel_name = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        Self {
            is_root: rustix::process::geteuid().is_root(),
            xdg_state_home: path("XDG_STATE_HOME"),
            home: path("HOME"),
            working_dir: std::env::current_dir().ok(),
            hostname: text("HOSTNAME")
                .or_else(kernel_name)
                .map(|name| name.trim().to_owned()),
            rust_log: text("RUST_LOG"),
            target_interface: text("NVMF_TGT_IFACE"),
            pod_ip: text("MY_POD_IP"),
            notify_socket: text("NOTIFY_SOCKET"),
            plugin_path: text("IO_ENGINE_PLUGIN_PATH")
                .map(|list| {
                    let directories = list.split(':').map(PathBuf::from);
                    directories.filter(|path| path.is_absolute()).collect()
                })
                .unwrap_or_default(),
            plugin_directory: plugin_directory(),
            cpus: allowed_cpus(),
            cpu_quota: groups.cpus,
            memory_bytes: memory_bytes(groups.memory_bytes),
            interfaces: interfaces(),
        }
    }
}

/// Where plugins are installed beside a program in `<prefix>/bin`.
fn plugin_directory() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let binaries = program.parent()?;
    let is_installed = binaries.file_name().is_some_and(|name| name == "bin");
    is_installed.then(|| {
        binaries
            .parent()
            .map(|prefix| prefix.join("lib/io-engine/plugins"))
    })?
}

fn allowed_cpus() -> Vec<u32> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else {
        return vec![0];
    };
    let most = rustix::thread::CpuSet::MAX_CPU;
    (0..most)
        .filter(|cpu| set.is_set(*cpu))
        .map(|cpu| cpu as u32)
        .collect()
}

/// The smaller of the machine's memory and `limit`.
fn memory_bytes(limit: Option<u64>) -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let total = kib_of(&meminfo, "MemTotal:")? * 1024;
    Some(limit.map_or(total, |limit| limit.min(total)))
}

/// The number of kB behind `key` (proc(5)).
fn kib_of(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.trim().trim_end_matches("kB").trim().parse().ok()
}

fn interfaces() -> Vec<InterfaceAddress> {
    let all = if_addrs::get_if_addrs().unwrap_or_default();
    all.into_iter()
        .map(|interface| {
            let mac = std::fs::read_to_string(format!("/sys/class/net/{}/address", interface.name));
            InterfaceAddress {
                mac: mac
                    .map(|mac| mac.trim().to_ascii_lowercase())
                    .unwrap_or_default(),
                ip: interface.ip(),
                name: interface.name,
            }
        })
        .collect()
}
