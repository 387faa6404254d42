//! A guest: QEMU, its console log, and the agent that runs shell lines in it.
//!
//! Does: boots Debian's kernel, runs commands, collects output and status, reads the kernel log, powers off.
//! Does not: know what NVMe is beyond [`Vm::connect`]; scenarios say what they want in shell.
//!
//! Invariants:
//! - One command at a time. A command that outlives its limit marks the guest broken, and nothing more is sent.
//! - The guest dies with its [`Vm`]: drop kills the QEMU process.
//!
//! Methods named `sh…` fail the scenario by panicking: the caller is test code and the panic text is its report.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::artifacts::Artifacts;

/// How long a plain command may take; a guest without KVM runs about twenty times slower than its host.
const COMMAND_LIMIT: Duration = Duration::from_secs(300);

/// How long something that takes a moment may take on a machine that is busy with other work.
///
/// Limits end a run that hangs; none of them is an expectation of speed.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How long a boot may take without KVM.
const BOOT_LIMIT: Duration = Duration::from_secs(600);

/// How long a boot may take with KVM before the guest is started again without it.
const BOOT_LIMIT_KVM: Duration = Duration::from_secs(15);

/// Host address as the guest sees it (QEMU's user network), IPv4.
pub const HOST_V4: &str = "10.0.2.2";

/// Host address as the guest sees it, IPv6.
pub const HOST_V6: &str = "fec0::2";

/// How the guest's processors are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// The processor's own virtualization.
    Kvm,
    /// QEMU's translator: works everywhere, slowly.
    Tcg,
}

impl Accel {
    /// KVM where the processor shows the feature and the device opens, else TCG, with the reason.
    ///
    /// A `/dev/kvm` without `vmx` or `svm` exists in some nested sandboxes and hangs guests. The environment variable
    /// `VM_ACCEL` (`kvm` or `tcg`) decides where it is set.
    pub fn detect() -> (Self, String) {
        match std::env::var("VM_ACCEL").as_deref() {
            Ok("kvm") => return (Self::Kvm, "VM_ACCEL=kvm".into()),
            Ok("tcg") => return (Self::Tcg, "VM_ACCEL=tcg".into()),
            _ => {}
        }
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = cpu.lines().find(|line| line.starts_with("flags"));
        if !flags.is_some_and(|line| line.split(' ').any(|flag| flag == "vmx" || flag == "svm")) {
            return (Self::Tcg, "the processor offers neither vmx nor svm".into());
        }
        let device = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/kvm");
        match device {
            Ok(_) => (Self::Kvm, "/dev/kvm".into()),
            Err(error) => (Self::Tcg, format!("/dev/kvm: {error}")),
        }
    }

    fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

/// What a guest command printed and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Exit status as the shell reports it; 128 plus the signal number for a killed program.
    pub status: i32,
    /// Standard output and error, in the order written.
    pub text: String,
}

impl Output {
    /// Whether the command ended with status 0.
    pub fn success(&self) -> bool {
        self.status == 0
    }
}

/// A command running in the guest while others run beside it.
#[derive(Debug)]
#[must_use = "a background job is waited for"]
pub struct Job {
    id: u32,
    command: String,
}

/// One connected controller and the disk of its first namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Controller name, `nvme0`.
    pub controller: String,
    /// Block device of the first namespace, `/dev/nvme0n1`.
    pub disk: String,
    /// Subsystem connected to.
    pub nqn: String,
}

/// A running guest.
#[derive(Debug)]
pub struct Vm {
    qemu: Child,
    agent: UnixStream,
    dir: PathBuf,
    next_id: u32,
    broken: bool,
}

impl Vm {
    /// Boots a guest whose files live in `dir`; `share` becomes a read-only 9p mount with the tag `share`.
    ///
    /// # Errors
    /// A sentence with the tail of the console, when QEMU does not start or the agent does not answer in time.
    pub fn boot(
        artifacts: &Artifacts,
        accel: Accel,
        dir: &Path,
        share: &Path,
    ) -> Result<Self, String> {
        match Self::boot_once(artifacts, accel, dir, share) {
            Err(reason) if accel == Accel::Kvm => {
                report(&format!(
                    "guest did not come up with KVM, using TCG: {reason}"
                ));
                Self::boot_once(artifacts, Accel::Tcg, dir, share)
            }
            result => result,
        }
    }

    fn boot_once(
        artifacts: &Artifacts,
        accel: Accel,
        dir: &Path,
        share: &Path,
    ) -> Result<Self, String> {
        fs::create_dir_all(dir).map_err(|e| format!("create {}: {e}", dir.display()))?;
        let socket = dir.join("agent.sock");
        if socket.exists() {
            fs::remove_file(&socket).map_err(|e| format!("remove {}: {e}", socket.display()))?;
        }
        let limit = match accel {
            Accel::Kvm => BOOT_LIMIT_KVM,
            Accel::Tcg => BOOT_LIMIT,
        };
        let deadline = Instant::now() + limit;
        let mut qemu = qemu_command(artifacts, accel, dir, share)
            .spawn()
            .map_err(|e| format!("start qemu-system-x86_64: {e}"))?;
        let agent = match connect_agent(&socket, &mut qemu, deadline) {
            Ok(agent) => agent,
            Err(reason) => {
                // Already failing: a second error from ending the process adds nothing.
                let _ = qemu.kill();
                let _ = qemu.wait();
                return Err(format!(
                    "{reason}; console: {}",
                    tail(&dir.join("console.log"), 5)
                ));
            }
        };
        let mut vm = Self {
            qemu,
            agent,
            dir: dir.to_owned(),
            next_id: 1,
            broken: false,
        };
        let ready = vm.read_reply("ready", deadline);
        match ready {
            Ok(_) => Ok(vm),
            Err(reason) => Err(format!(
                "{reason}; console: {}",
                tail(&dir.join("console.log"), 5)
            )),
        }
    }

    /// Whether a command got no answer, so that the guest cannot be used any more.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Last lines of the guest's console.
    pub fn console_tail(&self) -> String {
        tail(&self.dir.join("console.log"), 30)
    }

    /// Runs a shell line that must succeed; gives its output without trailing newlines.
    pub fn sh(&mut self, line: &str) -> String {
        self.sh_within(COMMAND_LIMIT, line)
    }

    /// [`Vm::sh`] with its own limit.
    pub fn sh_within(&mut self, limit: Duration, line: &str) -> String {
        let output = self.try_sh_within(limit, line);
        assert!(
            output.success(),
            "`{line}` ended with status {}:\n{}",
            output.status,
            output.text
        );
        output.text.trim_end().to_owned()
    }

    /// Runs a shell line that may fail.
    pub fn try_sh(&mut self, line: &str) -> Output {
        self.try_sh_within(COMMAND_LIMIT, line)
    }

    /// [`Vm::try_sh`] with its own limit.
    pub fn try_sh_within(&mut self, limit: Duration, line: &str) -> Output {
        match self.run(line, limit) {
            Ok(output) => output,
            Err(reason) => panic!("guest: `{line}`: {reason}"),
        }
    }

    /// Runs a line that prints JSON.
    pub fn json(&mut self, line: &str) -> serde_json::Value {
        let text = self.sh(line);
        serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("`{line}` printed no JSON ({e}):\n{text}"))
    }

    /// Starts a shell line and leaves it running.
    pub fn background(&mut self, line: &str) -> Job {
        let id = self.next_id;
        let dir = format!("/run/jobs/{id}");
        self.sh(&format!(
            "mkdir -p {dir}; cat >{dir}/command <<'END_OF_COMMAND'\n{line}\nEND_OF_COMMAND\n\
             (sh {dir}/command >{dir}/output 2>&1; echo $? >{dir}/status) </dev/null >/dev/null 2>&1 &"
        ));
        Job {
            id,
            command: line.to_owned(),
        }
    }

    /// Waits for a background line, which must end with status 0 within `limit`; gives its output.
    pub fn finish(&mut self, job: Job, limit: Duration) -> String {
        let deadline = Instant::now() + limit;
        let dir = format!("/run/jobs/{}", job.id);
        while !self.try_sh(&format!("test -s {dir}/status")).success() {
            if Instant::now() > deadline {
                let shown = self.sh(&format!("tail -n 20 {dir}/output"));
                panic!("`{}` did not end within {limit:?}:\n{shown}", job.command);
            }
            std::thread::sleep(Duration::from_millis(250));
        }
        let status = self.sh(&format!("cat {dir}/status"));
        let text = self.sh(&format!("cat {dir}/output"));
        assert!(
            status == "0",
            "`{}` ended with status {status}:\n{text}",
            job.command
        );
        text
    }

    /// Whether a background line is still running.
    pub fn is_running(&mut self, job: &Job) -> bool {
        !self
            .try_sh(&format!("test -s /run/jobs/{}/status", job.id))
            .success()
    }

    /// Repeats a shell line until it succeeds; fails the scenario after `limit`, naming `what`.
    pub fn wait_until(&mut self, what: &str, limit: Duration, line: &str) -> String {
        let deadline = Instant::now() + limit;
        loop {
            let output = self.try_sh(line);
            if output.success() {
                return output.text.trim_end().to_owned();
            }
            assert!(
                Instant::now() < deadline,
                "not within {limit:?}: {what} (`{line}`: status {}: {})",
                output.status,
                output.text
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Connects to `nqn` at the host's `port` with extra `nvme connect` options, waiting for its first namespace.
    pub fn connect(&mut self, port: u16, nqn: &str, options: &str) -> Connection {
        self.connect_to(&format!("-a {HOST_V4} -s {port}"), nqn, options)
    }

    /// [`Vm::connect`] over IPv6.
    pub fn connect_v6(&mut self, port: u16, nqn: &str, options: &str) -> Connection {
        self.connect_to(&format!("-a {HOST_V6} -s {port}"), nqn, options)
    }

    /// [`Vm::connect`] to an address given in `nvme connect` options.
    pub fn connect_to(&mut self, address: &str, nqn: &str, options: &str) -> Connection {
        let before = self.controllers();
        self.sh(&format!("nvme connect -t tcp {address} -n {nqn} {options}"));
        let mut added = self.controllers();
        added.retain(|controller| !before.contains(controller));
        assert!(
            added.len() == 1,
            "one controller after connect, found {added:?}"
        );
        let controller = added.remove(0);
        // A path of a multipath namespace is called nvme0c1n1, and its disk nvme0n1.
        let disk = self.wait_until(
            "first namespace",
            PATIENCE,
            &format!(
                "path=$(ls /sys/class/nvme/{controller} | grep -E '^nvme[0-9]+(c[0-9]+)?n[0-9]+$' | sort | head -n 1); \
                 disk=/dev/$(echo \"$path\" | sed 's/c[0-9]*n/n/'); \
                 [ -n \"$path\" ] && [ -b \"$disk\" ] && echo \"$disk\""
            ),
        );
        Connection {
            controller,
            disk,
            nqn: nqn.to_owned(),
        }
    }

    /// Disconnects one controller and waits until the kernel has dropped it.
    pub fn disconnect(&mut self, connection: &Connection) {
        let controller = &connection.controller;
        self.sh(&format!("nvme disconnect -d {controller}"));
        self.wait_until(
            "controller gone",
            PATIENCE,
            &format!("[ ! -e /sys/class/nvme/{controller} ]"),
        );
    }

    /// Names of all connected controllers.
    pub fn controllers(&mut self) -> Vec<String> {
        self.sh("ls /sys/class/nvme 2>/dev/null || true")
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    }

    /// Loads the NVMe modules again with options of `nvme-core`; nothing may be connected.
    ///
    /// `multipath=N` gives each controller of a subsystem its own disk, which is how one guest plays several hosts.
    pub fn reload_nvme(&mut self, options: &str) {
        self.sh("rmmod nvme-tcp; rmmod nvme-fabrics; rmmod nvme-core");
        self.sh(&format!(
            "cd /lib/modules && insmod nvme-core.ko {options} && insmod nvme-fabrics.ko && insmod nvme-tcp.ko"
        ));
    }

    /// Writes a line into the guest's kernel log; [`Vm::kernel_warnings`] reads from the last such line on.
    pub fn mark_kernel_log(&mut self, text: &str) {
        self.sh(&format!("echo 'scenario: {text}' >/dev/kmsg"));
    }

    /// Kernel messages since the last mark that a healthy NVMe host does not print.
    ///
    /// These are messages of level warning or worse from the block, NVMe or file system code, and any report of a bug, whatever
    /// its level. Lines that contain one of `provoked` are left out.
    pub fn kernel_warnings(&mut self, provoked: &[&str]) -> Vec<String> {
        let log = self.sh("dmesg -r");
        let recent = log
            .rfind("scenario: ")
            .map_or(log.as_str(), |at| &log[at..]);
        recent
            .lines()
            .filter(|line| is_warning(line))
            .filter(|line| !provoked.iter().any(|text| line.contains(text)))
            .map(str::to_owned)
            .collect()
    }

    fn run(&mut self, line: &str, limit: Duration) -> Result<Output, String> {
        if self.broken {
            return Err("the guest stopped answering earlier".into());
        }
        let id = self.next_id;
        self.next_id += 1;
        let deadline = Instant::now() + limit;
        let request = format!("{id} {}\n{line}\n", line.len() + 1);
        self.agent
            .write_all(request.as_bytes())
            .map_err(|e| self.fail(&format!("send: {e}")))?;
        self.read_reply(&id.to_string(), deadline)
    }

    fn read_reply(&mut self, id: &str, deadline: Instant) -> Result<Output, String> {
        let mut header = Vec::new();
        let mut byte = [0];
        while header.last() != Some(&b'\n') {
            self.read_exact(&mut byte, deadline)?;
            header.push(byte[0]);
        }
        let header = String::from_utf8_lossy(&header).trim().to_owned();
        let fields: Vec<_> = header.split(' ').collect();
        let parsed = match fields[..] {
            [found, status, length] if found == id => {
                status.parse().ok().zip(length.parse::<usize>().ok())
            }
            _ => None,
        };
        let Some((status, length)) = parsed else {
            return Err(self.fail(&format!("agent said {header:?}, expected a reply to {id}")));
        };
        let mut text = vec![0; length];
        self.read_exact(&mut text, deadline)?;
        Ok(Output {
            status,
            text: String::from_utf8_lossy(&text).into_owned(),
        })
    }

    fn read_exact(&mut self, mut buffer: &mut [u8], deadline: Instant) -> Result<(), String> {
        while !buffer.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.fail("no answer in time"));
            }
            self.agent
                .set_read_timeout(Some(left))
                .map_err(|e| self.fail(&format!("set timeout: {e}")))?;
            match self.agent.read(buffer) {
                Ok(0) => return Err(self.fail("the guest is gone")),
                Ok(count) => buffer = &mut buffer[count..],
                // A run that was stopped and continued gets the latter.
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(e) => return Err(self.fail(&format!("receive: {e}"))),
            }
        }
        Ok(())
    }

    fn fail(&mut self, reason: &str) -> String {
        self.broken = true;
        reason.to_owned()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // The guest holds nothing worth a shutdown; errors here mean it is gone already.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

fn qemu_command(artifacts: &Artifacts, accel: Accel, dir: &Path, share: &Path) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(accel.arguments())
        .args(["-machine", "q35", "-smp", "2", "-m", "1024", "-no-reboot"])
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .arg("-kernel")
        .arg(&artifacts.kernel)
        .arg("-initrd")
        .arg(&artifacts.initramfs)
        .args([
            "-append",
            "console=ttyS0 panic=-1 quiet mitigations=off random.trust_cpu=on",
        ])
        .arg("-serial")
        .arg(format!("file:{}", dir.join("console.log").display()))
        .args([
            "-netdev",
            "user,id=net,ipv4=on,ipv6=on",
            "-device",
            "virtio-net-pci,netdev=net,romfile=",
        ])
        .args(["-device", "virtio-serial-pci"])
        .arg("-chardev")
        .arg(format!(
            "socket,id=agent,path={},server=on,wait=off",
            dir.join("agent.sock").display()
        ))
        .args(["-device", "virtserialport,chardev=agent,name=agent"])
        .arg("-virtfs")
        .arg(format!(
            "local,path={},mount_tag=share,security_model=none,readonly=on",
            share.display()
        ))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(dir.join("qemu.log")).map_or_else(|_| Stdio::null(), Stdio::from));
    command
}

fn connect_agent(socket: &Path, qemu: &mut Child, deadline: Instant) -> Result<UnixStream, String> {
    loop {
        if let Ok(stream) = UnixStream::connect(socket) {
            return Ok(stream);
        }
        if let Ok(Some(status)) = qemu.try_wait() {
            return Err(format!(
                "qemu ended with {status}, see qemu.log beside {}",
                socket.display()
            ));
        }
        if Instant::now() > deadline {
            return Err("qemu opened no agent socket".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a raw kernel message (`<level>[time] text`) is one this harness fails on.
fn is_warning(line: &str) -> bool {
    const SOURCES: [&str; 8] = [
        "nvme",
        "blk_",
        "block",
        "I/O error",
        "EXT4-fs",
        "XFS",
        "JBD2",
        "Buffer I/O",
    ];
    const BUGS: [&str; 7] = [
        "BUG:",
        "WARNING:",
        "Call Trace",
        "Oops",
        "blocked for more than",
        "soft lockup",
        "KASAN",
    ];
    let level = line
        .strip_prefix('<')
        .and_then(|rest| rest.split('>').next())
        .and_then(|digits| digits.parse::<u32>().ok())
        // The low three bits are the level, the rest is the facility.
        .map_or(7, |priority| priority & 7);
    BUGS.iter().any(|text| line.contains(text))
        || (level <= 4 && SOURCES.iter().any(|text| line.contains(text)))
}

/// Prints a line of progress.
pub fn report(line: &str) {
    // A closed standard output must not fail the run.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Last `lines` lines of a text file, or why it cannot be read.
pub fn tail(path: &Path, lines: usize) -> String {
    match fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<_> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("{}: {error}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::is_warning;

    #[test]
    fn a_warning_of_the_nvme_driver_counts_and_its_news_do_not() {
        assert!(is_warning(
            "<4>[   12.0] nvme nvme0: queue 1: timeout request 0x1 type 4"
        ));
        assert!(is_warning(
            "<28>[   12.0] nvme nvme0: user-space facility, level 4"
        ));
        assert!(!is_warning(
            "<6>[   12.0] nvme nvme0: creating 2 I/O queues."
        ));
        assert!(!is_warning("<4>[   12.0] random: something else"));
    }

    #[test]
    fn a_bug_report_counts_at_any_level() {
        assert!(is_warning(
            "<6>[   12.0] WARNING: CPU: 0 PID: 1 at fs/x.c:1"
        ));
    }
}
