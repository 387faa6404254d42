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
/// Largest size that may be asked for: 8 TiB, which ext4 and xfs take as a sparse file.
const SIZE_MIB_MAX: u64 = 8 << 20;

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
    let size_mib = take_value(&mut arguments, "--size-mib")?
        .map(|text| parse_size_mib(&text))
        .transpose()?;
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
        client(grpc, &["bdev", "create", &file_uri(&name)])?;
    }
    let uri = match known.and_then(|device| device["share_uri"].as_str()) {
        Some(uri) if uri.starts_with("nvmf") => uri.to_owned(),
        _ => client(grpc, &["bdev", "share", &name])?,
    };
    let (address, port, nqn) =
        parse_share_uri(&uri).ok_or_else(|| format!("share printed no NVMe-oF URI: {uri}"))?;
    say(&format!(
        "\nio-engine serves {name}. Use it from a shell with root rights, on this machine (nvme is in the package nvme-cli):\n\n    \
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

/// Creates the disk unless it is there; one that is there keeps its size.
fn create_sparse(path: &Path, size_mib: Option<u64>) -> Result<(), String> {
    let shown = path.display();
    let wanted = size_mib.unwrap_or(DISK_MIB) << 20;
    match fs::File::create_new(path) {
        Ok(file) => file.set_len(wanted).map_err(|e| {
            // Half a disk would be taken for the disk at the next start.
            let _ = fs::remove_file(path);
            format!("give {shown} {} MiB: {e}", wanted >> 20)
        }),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            let facts = fs::metadata(path).map_err(|e| format!("look at {shown}: {e}"))?;
            if size_mib.is_some() && facts.len() != wanted {
                return Err(format!(
                    "{shown} is there with {} MiB; leave out --size-mib, or remove the file and its data",
                    facts.len() >> 20
                ));
            }
            Ok(())
        }
        Err(e) => Err(format!("create {shown}: {e}")),
    }
}

fn parse_size_mib(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(size @ 1..=SIZE_MIB_MAX) => Ok(size),
        _ => Err(format!(
            "--size-mib {text}: give a number from 1 to {SIZE_MIB_MAX}"
        )),
    }
}

/// The URI of a file: `%` and `?` mean something in one.
fn file_uri(path: &str) -> String {
    format!("aio://{}", path.replace('%', "%25").replace('?', "%3F"))
}

fn release(program: &str) -> PathBuf {
    target_dir().join("release").join(program)
}

#[cfg(test)]
mod tests {
    use super::{
        create_sparse, file_uri, find_device, grpc_of_ready_line, parse_share_uri, parse_size_mib,
    };

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

    #[test]
    fn a_disk_that_is_there_keeps_its_size_and_a_bad_size_is_refused() {
        let path = std::env::temp_dir().join(format!("xtask-disk-{}", std::process::id()));
        create_sparse(&path, Some(3)).unwrap();
        create_sparse(&path, Some(3)).unwrap();
        create_sparse(&path, None).unwrap();
        let refused = create_sparse(&path, Some(4)).unwrap_err();
        let size = std::fs::metadata(&path).unwrap().len();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(size, 3 << 20);
        assert!(
            refused.contains("is there with 3 MiB; leave out --size-mib"),
            "{refused}"
        );
        for bad in ["0", "-1", "17592186044416", "1G", ""] {
            assert!(parse_size_mib(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_path_survives_its_uri() {
        assert_eq!(file_uri("/a b/50%?.img"), "aio:///a b/50%25%3F.img");
    }
}
