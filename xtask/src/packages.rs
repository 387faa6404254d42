//! What the tests need beyond a compiler: Debian packages for the real-kernel scenarios, two components of the toolchain
//! for format and lints.
//!
//! Root gets packages installed; anybody else gets the one command to ask for. Nothing is installed into a toolchain.

use std::process::{Command, Stdio};

use crate::shell::{cargo, say, succeeds};

/// Makes sure format and lints can be checked: a minimal toolchain comes without.
///
/// # Errors
/// A sentence with the command to run.
pub(crate) fn require_components() -> Result<(), String> {
    let is_missing = |tool: &&str| {
        let mut version = cargo(&[tool, "--version"]);
        let version = version.stdout(Stdio::null()).stderr(Stdio::null());
        !version.status().is_ok_and(|status| status.success())
    };
    let tools = [("fmt", "rustfmt"), ("clippy", "clippy")];
    let missing: Vec<&str> = tools
        .iter()
        .filter(|(tool, _)| is_missing(tool))
        .map(|(_, component)| *component)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    Err(format!(
        "the toolchain lacks {list}; run: rustup component add {list}"
    ))
}

/// Makes sure every program the scenarios need is there.
///
/// # Errors
/// A sentence with the command to run, when packages are missing and this user cannot install them.
pub(crate) fn require() -> Result<(), String> {
    require_lists()?;
    let missing: Vec<&str> = vm_tests::missing_packages().into_iter().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !is_root() {
        return Err(format!(
            "the real-kernel scenarios need packages; run: sudo apt-get install --no-install-recommends {list}"
        ));
    }
    say(&format!("installing {list}"));
    let mut install = Command::new("apt-get");
    install
        .args(["install", "--yes", "--no-install-recommends"])
        .args(&missing)
        .env("DEBIAN_FRONTEND", "noninteractive");
    if succeeds(&mut install)? {
        return Ok(());
    }
    Err(format!("apt-get could not install {list}"))
}

/// Makes sure apt knows where to fetch packages from, which it does not in a fresh container.
fn require_lists() -> Result<(), String> {
    let known = Command::new("apt-cache")
        .args(["show", vm_tests::KERNEL_META_PACKAGE])
        .output()
        .map_err(|e| format!("the real-kernel scenarios need Debian's apt-cache: {e}"))?;
    if known.status.success() && !known.stdout.is_empty() {
        return Ok(());
    }
    if !is_root() {
        return Err("apt has no package lists; run: sudo apt-get update".into());
    }
    if succeeds(Command::new("apt-get").arg("update"))? {
        Ok(())
    } else {
        Err("apt-get update failed".into())
    }
}

/// Whether this process may install packages.
pub(crate) fn is_root() -> bool {
    // The owner of a process's directory in /proc is its effective user.
    std::os::unix::fs::MetadataExt::uid(&match std::fs::metadata("/proc/self") {
        Ok(meta) => meta,
        Err(_) => return false,
    }) == 0
}
