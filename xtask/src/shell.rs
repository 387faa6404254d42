//! Child processes and printed lines, the way every command here does them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Prints a line; a closed standard output must not fail the command.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// The workspace's root directory.
pub(crate) fn workspace() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// A cargo command in the workspace, with the cargo that runs this program.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(workspace());
    command
}

/// Runs a command to its end; gives whether it succeeded.
///
/// # Errors
/// A sentence, when the command could not be started.
pub(crate) fn succeeds(command: &mut Command) -> Result<bool, String> {
    let shown = format!("{:?}", command.get_program());
    command
        .status()
        .map(|status| status.success())
        .map_err(|e| format!("start {shown}: {e}"))
}

/// Runs a command, printing each line of its standard output as it comes and handing it to `inspect`; gives whether
/// the command succeeded.
///
/// # Errors
/// A sentence, when the command could not be started.
pub(crate) fn tee(command: &mut Command, mut inspect: impl FnMut(&str)) -> Result<bool, String> {
    let shown = format!("{:?}", command.get_program());
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("start {shown}: {e}"))?;
    let stdout = child.stdout.take().ok_or("no standard output")?;
    for line in BufReader::new(stdout).lines() {
        let line = line.map_err(|e| format!("read from {shown}: {e}"))?;
        say(&line);
        inspect(&line);
    }
    child
        .wait()
        .map(|status| status.success())
        .map_err(|e| format!("wait for {shown}: {e}"))
}

/// Takes `--name value` out of a command line.
///
/// # Errors
/// A sentence, when the value is missing.
pub(crate) fn take_value(
    arguments: &mut Vec<String>,
    name: &str,
) -> Result<Option<String>, String> {
    let Some(at) = arguments.iter().position(|word| word == name) else {
        return Ok(None);
    };
    if at + 1 == arguments.len() {
        return Err(format!("{name} needs a value"));
    }
    arguments.remove(at);
    Ok(Some(arguments.remove(at)))
}

/// Takes `--name` out of a command line; gives whether it was there.
pub(crate) fn take_flag(arguments: &mut Vec<String>, name: &str) -> bool {
    let before = arguments.len();
    arguments.retain(|word| word != name);
    arguments.len() != before
}

/// Refuses what is left of a command line once everything known was taken.
///
/// # Errors
/// A sentence naming the first word left.
pub(crate) fn refuse_rest(arguments: &[String]) -> Result<(), String> {
    arguments.first().map_or(Ok(()), |word| {
        Err(format!("unknown argument {word}; see cargo xtask help"))
    })
}
