//! What a guest boots from: Debian's kernel, the modules it needs, and an initramfs of host tools.
//!
//! Decides: which packages, tools and modules a guest gets, and when a cached copy is still the right one.
//! Does not: start anything, or install anything on this machine. The kernel package is only unpacked.
//!
//! Invariants:
//! - Everything lands under one cache directory. An artifact's name holds the versions it was made from, and it is
//!   moved into place whole, so an interrupted build leaves no half artifact behind.
//! - A user without root can build it, given network access to a Debian mirror the first time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The kernel package the scenarios run on: the one Debian's current kernel metapackage depends on.
pub const KERNEL_META_PACKAGE: &str = "linux-image-amd64";

/// Host programs copied into the guest, with the Debian package each comes from.
pub const TOOLS: &[(&str, &str)] = &[
    // The guest's shell: busybox's own would run its applets in place of the programs below.
    ("dash", "dash"),
    ("busybox", "busybox-static"),
    ("nvme", "nvme-cli"),
    ("fio", "fio"),
    ("mkfs.ext4", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("xfs_repair", "xfsprogs"),
    ("blkdiscard", "util-linux"),
    ("blockdev", "util-linux"),
    ("lsblk", "util-linux"),
];

/// Host programs that build and start the guest, with the Debian package each comes from.
pub const BUILDERS: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("cpio", "cpio"),
    ("dpkg-deb", "dpkg"),
    ("apt-get", "apt"),
    ("ldd", "libc-bin"),
];

/// Modules a guest loads at boot, in no particular order; what they depend on is added.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_console",
    "virtio_net",
    "9pnet_virtio",
    "9p",
    "nvme-core",
    "nvme-fabrics",
    "nvme-tcp",
    "crc32c_generic",
    "loop",
    "ext4",
    "xfs",
];

/// A bootable guest: kernel image and initramfs.
#[derive(Clone, Debug)]
pub struct Artifacts {
    /// Compressed kernel image.
    pub kernel: PathBuf,
    /// Initramfs with tools, modules and the agent.
    pub initramfs: PathBuf,
    /// Kernel release, as `uname -r` prints it.
    pub release: String,
}

/// Packages whose programs are missing on this machine; empty means the guest can be built and started.
pub fn missing_packages() -> BTreeSet<&'static str> {
    TOOLS
        .iter()
        .chain(BUILDERS)
        .filter(|(program, _)| find_program(program).is_none())
        .map(|(_, package)| *package)
        .collect()
}

/// Finds or builds the guest's kernel and initramfs under `cache`.
///
/// # Errors
/// A sentence naming the step that failed: a missing program, no network on first use, no space.
pub fn prepare(cache: &Path) -> Result<Artifacts, String> {
    let missing = missing_packages();
    if !missing.is_empty() {
        let list: Vec<_> = missing.into_iter().collect();
        return Err(format!(
            "programs are missing; install them with: apt-get install {}",
            list.join(" ")
        ));
    }
    fs::create_dir_all(cache).map_err(|e| format!("create {}: {e}", cache.display()))?;
    let tree = kernel_tree(cache)?;
    let release = only_entry(&tree.join("lib/modules"))?;
    let kernel = tree.join(format!("boot/vmlinuz-{release}"));
    let initramfs = cache.join(format!("initramfs-{release}-{:016x}.cpio", tools_digest()?));
    if !initramfs.exists() {
        for outdated in cached_files(cache, "initramfs-")? {
            fs::remove_file(&outdated)
                .map_err(|e| format!("remove {}: {e}", outdated.display()))?;
        }
        build_initramfs(cache, &tree, &release, &initramfs)?;
    }
    Ok(Artifacts {
        kernel,
        initramfs,
        release,
    })
}

/// Unpacks the kernel package the machine's package lists offer; without network, the newest one unpacked before.
fn kernel_tree(cache: &Path) -> Result<PathBuf, String> {
    let package = kernel_package()?;
    let cached = cached_files(cache, "linux-image-")?;
    if let Some(tree) = cached
        .iter()
        .find(|path| file_name(path).is_ok_and(|name| name.starts_with(&format!("{package}_"))))
    {
        return Ok(tree.clone());
    }
    match download_kernel(cache, &package) {
        Ok(tree) => Ok(tree),
        Err(reason) => cached
            .last()
            .cloned()
            .ok_or_else(|| format!("no kernel to boot: {reason}")),
    }
}

fn kernel_package() -> Result<String, String> {
    output(Command::new("apt-cache").args(["depends", KERNEL_META_PACKAGE]))?
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: ").map(str::to_owned))
        .ok_or_else(|| {
            format!("apt knows no package {KERNEL_META_PACKAGE}; run apt-get update once")
        })
}

fn download_kernel(cache: &Path, package: &str) -> Result<PathBuf, String> {
    let scratch = fresh_dir(&cache.join("tmp-kernel"))?;
    output(
        Command::new("apt-get")
            .args(["download", package])
            .current_dir(&scratch),
    )?;
    let deb = only_entry(&scratch)?;
    let unpacked = scratch.join("tree");
    output(
        Command::new("dpkg-deb")
            .arg("-x")
            .arg(scratch.join(&deb))
            .arg(&unpacked),
    )?;
    let tree = cache.join(deb.trim_end_matches(".deb"));
    fs::rename(&unpacked, &tree).map_err(|e| format!("rename to {}: {e}", tree.display()))?;
    fs::remove_dir_all(&scratch).map_err(|e| format!("remove {}: {e}", scratch.display()))?;
    Ok(tree)
}

/// Entries of the cache whose name starts with `prefix`, in order of their names.
fn cached_files(cache: &Path, prefix: &str) -> Result<Vec<PathBuf>, String> {
    let mut found: Vec<_> = fs::read_dir(cache)
        .map_err(|e| format!("read {}: {e}", cache.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| file_name(path).is_ok_and(|name| name.starts_with(prefix)))
        .collect();
    found.sort();
    Ok(found)
}

/// Names the tool set: path, size and modification time of each program, and the text of the guest's init.
fn tools_digest() -> Result<u64, String> {
    let mut text = String::from(INIT);
    text.push_str(&MODULES.join(" "));
    for (program, _) in TOOLS {
        let path = find_program(program).ok_or_else(|| format!("{program} not found"))?;
        let meta = fs::metadata(&path).map_err(|e| format!("stat {}: {e}", path.display()))?;
        text.push_str(&format!(
            "{} {} {:?}\n",
            path.display(),
            meta.len(),
            meta.modified().ok()
        ));
    }
    // FNV-1a: names a cache entry, protects nothing.
    Ok(text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    }))
}

fn build_initramfs(cache: &Path, tree: &Path, release: &str, target: &Path) -> Result<(), String> {
    let root = fresh_dir(&cache.join("tmp-root"))?;
    for dir in [
        "bin", "dev", "etc/nvme", "lib64", "mnt", "proc", "run", "sys", "tmp", "usr/bin",
        "usr/sbin", "var",
    ] {
        fs::create_dir_all(root.join(dir)).map_err(|e| format!("create {dir}: {e}"))?;
    }
    for (program, _) in TOOLS {
        let path = find_program(program).ok_or_else(|| format!("{program} not found"))?;
        copy_with_libraries(&path, &root)?;
    }
    let shell = find_program("dash").ok_or("dash not found")?;
    symlink(&shell, root.join("bin/sh")).map_err(|e| format!("link sh: {e}"))?;
    let order = copy_modules(tree, release, &root)?;
    write(&root.join("etc/modules"), &order.join("\n"), 0o644)?;
    write(
        &root.join("etc/passwd"),
        "root:x:0:0:root:/:/bin/sh\n",
        0o644,
    )?;
    write(&root.join("etc/group"), "root:x:0:\n", 0o644)?;
    write(
        &root.join("etc/hosts"),
        "127.0.0.1 localhost\n::1 localhost\n",
        0o644,
    )?;
    write(
        &root.join("etc/nvme/hostnqn"),
        &format!("{HOST_NQN}\n"),
        0o644,
    )?;
    write(
        &root.join("etc/nvme/hostid"),
        &format!("{HOST_ID}\n"),
        0o644,
    )?;
    write(&root.join("init"), INIT, 0o755)?;
    let partial = cache.join("tmp-initramfs");
    pack(&root, &partial)?;
    fs::rename(&partial, target).map_err(|e| format!("rename to {}: {e}", target.display()))?;
    fs::remove_dir_all(&root).map_err(|e| format!("remove {}: {e}", root.display()))
}

/// Copies `program` and the shared libraries the loader would open for it to the same paths below `root`.
///
/// # Errors
/// A sentence naming the file that could not be copied.
pub(crate) fn copy_with_libraries(program: &Path, root: &Path) -> Result<(), String> {
    copy_to_same_path(program, root)?;
    // A static program makes ldd fail; it has nothing else to copy.
    let Ok(listing) = output(Command::new("ldd").arg(program)) else {
        return Ok(());
    };
    for line in listing.lines() {
        let path = line
            .split_whitespace()
            .find(|word| word.starts_with('/'))
            .map(Path::new);
        if let Some(library) = path {
            copy_to_same_path(library, root)?;
        }
    }
    Ok(())
}

fn copy_to_same_path(file: &Path, root: &Path) -> Result<(), String> {
    let relative = file.strip_prefix("/").unwrap_or(file);
    let target = root.join(relative);
    if target.exists() {
        return Ok(());
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(|e| format!("create {}: {e}", parent.display()))?;
    }
    fs::copy(file, &target)
        .map(drop)
        .map_err(|e| format!("copy {}: {e}", file.display()))
}

/// Copies `MODULES` and what they need; returns file names in an order in which `insmod` accepts them.
fn copy_modules(tree: &Path, release: &str, root: &Path) -> Result<Vec<String>, String> {
    let base = tree.join("lib/modules").join(release);
    // The package carries no modules.dep; the dependencies stand in each module's own `depends=` entry.
    let files = module_files(&base.join("kernel"))?;
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    for module in MODULES {
        visit_module(&module.replace('-', "_"), &files, &mut seen, &mut order)?;
    }
    fs::create_dir_all(root.join("lib/modules")).map_err(|e| format!("create lib/modules: {e}"))?;
    let mut names = Vec::new();
    for path in order {
        let name = file_name(&path)?;
        fs::copy(&path, root.join("lib/modules").join(&name))
            .map_err(|e| format!("copy {}: {e}", path.display()))?;
        names.push(name);
    }
    Ok(names)
}

fn visit_module(
    module: &str,
    files: &BTreeMap<String, PathBuf>,
    seen: &mut BTreeSet<String>,
    order: &mut Vec<PathBuf>,
) -> Result<(), String> {
    if !seen.insert(module.to_owned()) {
        return Ok(());
    }
    // Debian builds some of these into the kernel; then there is no file and nothing to load.
    let Some(path) = files.get(module) else {
        return Ok(());
    };
    for needed in module_needs(path)? {
        visit_module(&needed, files, seen, order)?;
    }
    order.push(path.clone());
    Ok(())
}

/// Reads `depends=` and `softdep=pre:` from a module's information section.
fn module_needs(path: &Path) -> Result<Vec<String>, String> {
    let bytes = fs::read(path).map_err(|e| format!("read {}: {e}", path.display()))?;
    let mut needs = Vec::new();
    for entry in bytes.split(|byte| *byte == 0) {
        if let Some(list) = entry.strip_prefix(b"depends=") {
            needs.extend(words(list, ','));
        } else if let Some(list) = entry.strip_prefix(b"softdep=pre: ") {
            needs.extend(words(list, ' '));
        }
    }
    Ok(needs)
}

fn words(list: &[u8], separator: char) -> Vec<String> {
    String::from_utf8_lossy(list)
        .split(separator)
        .filter(|word| !word.is_empty())
        .map(|word| word.replace('-', "_"))
        .collect()
}

fn module_files(dir: &Path) -> Result<BTreeMap<String, PathBuf>, String> {
    let mut files = BTreeMap::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).map_err(|e| format!("read {}: {e}", dir.display()))? {
            let path = entry
                .map_err(|e| format!("read {}: {e}", dir.display()))?
                .path();
            if path.is_dir() {
                pending.push(path);
            } else if let Some(stem) = file_name(&path)?.strip_suffix(".ko") {
                files.insert(stem.replace('-', "_"), path);
            }
        }
    }
    Ok(files)
}

fn pack(root: &Path, archive: &Path) -> Result<(), String> {
    let list = output(Command::new("find").arg(".").current_dir(root))?;
    let file =
        fs::File::create(archive).map_err(|e| format!("create {}: {e}", archive.display()))?;
    let mut cpio = Command::new("cpio")
        .args(["--create", "--format=newc", "--owner=0:0", "--quiet"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(file)
        .spawn()
        .map_err(|e| format!("start cpio: {e}"))?;
    let mut stdin = cpio.stdin.take().ok_or("cpio has no stdin")?;
    stdin
        .write_all(list.as_bytes())
        .map_err(|e| format!("feed cpio: {e}"))?;
    drop(stdin);
    let status = cpio.wait().map_err(|e| format!("wait for cpio: {e}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("cpio ended with {status}"))
    }
}

/// Path of `program` in `PATH` or the system directories an unprivileged user's `PATH` may leave out.
fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
}

fn output(command: &mut Command) -> Result<String, String> {
    let shown = format!("{command:?}");
    let result = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("start {shown}: {e}"))?;
    if result.status.success() {
        Ok(String::from_utf8_lossy(&result.stdout).into_owned())
    } else {
        Err(format!(
            "{shown} ended with {}: {}",
            result.status,
            String::from_utf8_lossy(&result.stderr).trim()
        ))
    }
}

fn fresh_dir(dir: &Path) -> Result<PathBuf, String> {
    if dir.exists() {
        fs::remove_dir_all(dir).map_err(|e| format!("remove {}: {e}", dir.display()))?;
    }
    fs::create_dir_all(dir).map_err(|e| format!("create {}: {e}", dir.display()))?;
    Ok(dir.to_owned())
}

fn only_entry(dir: &Path) -> Result<String, String> {
    let mut entries = fs::read_dir(dir).map_err(|e| format!("read {}: {e}", dir.display()))?;
    match (entries.next(), entries.next()) {
        (Some(Ok(entry)), None) => file_name(&entry.path()),
        _ => Err(format!("expected exactly one entry in {}", dir.display())),
    }
}

fn file_name(path: &Path) -> Result<String, String> {
    path.file_name()
        .and_then(|name| name.to_str())
        .map(str::to_owned)
        .ok_or_else(|| format!("{} has no readable name", path.display()))
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("write {}: {e}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|e| format!("chmod {}: {e}", path.display()))
}

/// NQN the guest uses unless a scenario names another.
pub const HOST_NQN: &str = "nqn.2014-08.org.nvmexpress:uuid:11111111-1111-4111-8111-111111111111";

/// Host identifier that goes with [`HOST_NQN`].
pub const HOST_ID: &str = "11111111-1111-4111-8111-111111111111";

/// The guest's first process: mounts, modules, network, then the agent loop on the virtio-serial port.
///
/// The agent reads a line `id length`, then `length` bytes of shell text; it answers a line `id status length`, then
/// the combined output. A line `bye 0` powers the machine off.
const INIT: &str = include_str!("init.sh");
