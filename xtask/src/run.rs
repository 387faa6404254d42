//! `cargo xtask run`: the engine with one exported file disk, for somebody who has never seen it.
//!
//! Decides: where the state and the disk lie, and what is exported. Does not: do anything the engine's own command
//! line and `io-engine-client` could not; the state directory makes the export last over restarts.
//!
//! The engine replaces this process, so that signals reach it as they would without cargo. A small second process
//! reads the engine's standard output, creates the disk once the engine is ready, and prints the command to connect.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use crate::shell::{cargo, refuse_rest, say, succeeds, take_value, target_dir};

/// Hidden command of the second process.
pub(crate) const EXPORT_COMMAND: &str = "export-when-ready";

/// Size of the disk created on first use, in MiB.
const DISK_MIB: u64 = 1024;

/// Starts the engine.
///
/// # Errors
/// A sentence, when the arguments, the build or the state directory are not as needed.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode, String> {
    let mut arguments = arguments.to_vec();
    let state = match take_value(&mut arguments, "--state-dir")? {
        Some(dir) => PathBuf::from(dir),
        None => default_state_dir()?,
    };
    let grpc = take_value(&mut arguments, "--grpc")?.unwrap_or_else(|| "127.0.0.1:10124".into());
    let nvmf = take_value(&mut arguments, "--nvmf")?.unwrap_or_else(|| "127.0.0.1:8420".into());
    let size_mib = match take_value(&mut arguments, "--size-mib")? {
        Some(text) => text
            .parse()
            .map_err(|e| format!("--size-mib {text}: {e}"))?,
        None => DISK_MIB,
    };
    refuse_rest(&arguments)?;

    let build = [
        "build",
        "--release",
        "-p",
        "io-engine",
        "-p",
        "io-engine-client",
    ];
    if !succeeds(&mut cargo(&build))? {
        return Err("the engine did not build".into());
    }
    fs::create_dir_all(&state).map_err(|e| format!("create {}: {e}", state.display()))?;
    let state = fs::canonicalize(&state).map_err(|e| format!("find {}: {e}", state.display()))?;
    let disk = state.join("disk0.img");
    create_sparse(&disk, size_mib)?;

    let myself = std::env::current_exe().map_err(|e| format!("find xtask itself: {e}"))?;
    let mut exporter = Command::new(myself)
        .arg(EXPORT_COMMAND)
        .arg(&disk)
        .stdin(Stdio::piped())
        // Ctrl-C goes to the terminal's process group; the engine ends in order and closes the pipe itself.
        .process_group(0)
        .spawn()
        .map_err(|e| format!("start the exporter: {e}"))?;
    let pipe = exporter
        .stdin
        .take()
        .ok_or("the exporter has no standard input")?;
    let error = Command::new(release("io-engine"))
        .arg("--state-dir")
        .arg(&state)
        .args(["--grpc", &grpc, "--nvmf", &nvmf])
        .stdin(Stdio::null())
        .stdout(pipe)
        .exec();
    Err(format!("start the engine: {error}"))
}

/// Reads the engine's standard output, passing it on; exports the disk once the engine is ready.
///
/// # Errors
/// A sentence, when the client refuses a step. The engine goes on serving what it has.
pub(crate) fn export(arguments: &[String]) -> Result<ExitCode, String> {
    let [disk] = arguments else {
        return Err(format!("{EXPORT_COMMAND} is started by `cargo xtask run`"));
    };
    let mut failure = None;
    for line in BufReader::new(std::io::stdin()).lines() {
        let line = line.map_err(|e| format!("read from the engine: {e}"))?;
        say(&line);
        if let Some(grpc) = grpc_of_ready_line(&line) {
            // Reading goes on after a failure: the engine must not find its output closed.
            if let Err(reason) = export_disk(&grpc, Path::new(disk)) {
                say(&format!("xtask: {reason}"));
                failure = Some(reason);
            }
        }
    }
    failure.map_or(Ok(ExitCode::SUCCESS), Err)
}

fn export_disk(grpc: &str, disk: &Path) -> Result<(), String> {
    let name = disk.display().to_string();
    let listed = client(grpc, &["bdev", "list", "-o", "json"])?;
    let listed: serde_json::Value =
        serde_json::from_str(&listed).map_err(|e| format!("bdev list printed no JSON: {e}"))?;
    let known = find_device(&listed, &name);
    if known.is_none() {
        client(grpc, &["bdev", "create", &format!("aio://{name}")])?;
    }
    let uri = match known.and_then(|device| device["share_uri"].as_str()) {
        Some(uri) if uri.starts_with("nvmf") => uri.to_owned(),
        _ => client(grpc, &["bdev", "share", &name])?,
    };
    let (address, port, nqn) =
        parse_share_uri(&uri).ok_or_else(|| format!("share printed no NVMe-oF URI: {uri}"))?;
    say(&format!(
        "\nio-engine serves {name}. Use it from a shell with root rights, on this machine:\n\n    \
         modprobe nvme-tcp\n    \
         nvme connect -t tcp -a {address} -s {port} -n {nqn}\n    \
         nvme list\n\n\
         Ctrl-C stops the engine; disk and export are there again at the next start.\n"
    ));
    Ok(())
}

/// Finds a device by name in a `bdev list` reply, wherever the reply keeps its list.
fn find_device<'a>(reply: &'a serde_json::Value, name: &str) -> Option<&'a serde_json::Value> {
    let list = reply.as_array().or_else(|| reply["bdevs"].as_array())?;
    list.iter().find(|device| device["name"] == name)
}

fn client(grpc: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(release("io-engine-client"))
        .args(["-b", &format!("http://{grpc}")])
        .args(arguments)
        .output()
        .map_err(|e| format!("start io-engine-client: {e}"))?;
    if !output.status.success() {
        return Err(format!(
            "io-engine-client {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn grpc_of_ready_line(line: &str) -> Option<String> {
    line.strip_prefix("ready ")?
        .split_whitespace()
        .find_map(|word| word.strip_prefix("grpc="))
        .map(str::to_owned)
}

/// Takes `nvmf+tcp://address:port/nqn` apart; brackets of an IPv6 address are left out, as `nvme connect` wants it.
fn parse_share_uri(uri: &str) -> Option<(String, String, String)> {
    let (_, rest) = uri.split_once("://")?;
    let (endpoint, nqn) = rest.split_once('/')?;
    let (address, port) = endpoint.rsplit_once(':')?;
    let nqn = nqn.split('?').next().unwrap_or(nqn);
    let address = address.trim_start_matches('[').trim_end_matches(']');
    Some((address.to_owned(), port.to_owned(), nqn.to_owned()))
}

/// `/var/lib/io-engine` for root, else the user's state directory.
fn default_state_dir() -> Result<PathBuf, String> {
    if crate::packages::is_root() {
        return Ok(PathBuf::from("/var/lib/io-engine"));
    }
    std::env::var_os("XDG_STATE_HOME")
        .filter(|dir| Path::new(dir).is_absolute())
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state")))
        .map(|dir| dir.join("io-engine"))
        .ok_or_else(|| "neither XDG_STATE_HOME nor HOME is set; give --state-dir".into())
}

fn create_sparse(path: &Path, size_mib: u64) -> Result<(), String> {
    if path.exists() {
        return Ok(());
    }
    fs::File::create(path)
        .and_then(|file| file.set_len(size_mib << 20))
        .map_err(|e| format!("create {}: {e}", path.display()))
}

fn release(program: &str) -> PathBuf {
    target_dir().join("release").join(program)
}

#[cfg(test)]
mod tests {
    use super::{find_device, grpc_of_ready_line, parse_share_uri};

    #[test]
    fn a_share_uri_becomes_what_nvme_connect_takes() {
        let parts = |a: &str, p: &str, n: &str| Some((a.to_owned(), p.to_owned(), n.to_owned()));
        assert_eq!(
            parse_share_uri("nvmf+tcp://127.0.0.1:8420/nqn.2019-05.io.openebs:d0?uuid=1"),
            parts("127.0.0.1", "8420", "nqn.2019-05.io.openebs:d0")
        );
        assert_eq!(
            parse_share_uri("nvmf+tcp://[::1]:8420/nqn.2019-05.io.openebs:/tmp/d0.img"),
            parts("::1", "8420", "nqn.2019-05.io.openebs:/tmp/d0.img")
        );
        assert_eq!(parse_share_uri(""), None);
    }

    #[test]
    fn only_the_ready_line_gives_an_address() {
        assert_eq!(
            grpc_of_ready_line("ready grpc=127.0.0.1:1 nvmf=127.0.0.1:2").as_deref(),
            Some("127.0.0.1:1")
        );
        assert_eq!(grpc_of_ready_line("grpc=127.0.0.1:1"), None);
    }

    #[test]
    fn a_device_is_found_by_its_whole_name() {
        let reply =
            serde_json::json!({ "bdevs": [{ "name": "/a/disk0.img" }, { "name": "disk0.img" }] });
        assert!(find_device(&reply, "/a/disk0.img").is_some());
        assert!(find_device(&reply, "/a/disk").is_none());
    }
}
