//! Who may depend on whom: `wire ← core ← io ← edge`, and `plugins/abi ← plugins/sdk ← every plugin`.
//!
//! Decides: the room of a crate by the directory it lies in, and whether an arrow between rooms is drawn. Third-party
//! crates are free in `io`, `edge` and the plugins; in `wire`, `core`, `plugins/abi` and `plugins/sdk` each needs an entry here with a reason.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// A room of the workspace, by directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// `proto/`.
    Proto,
    /// `io-engine/wire/`.
    Wire,
    /// `io-engine/core/`.
    Core,
    /// `io-engine/io/`.
    Io,
    /// `io-engine/edge/`.
    Edge,
    /// `plugins/abi`, the tables that cross between engine and plugin.
    Abi,
    /// `plugins/sdk`, which holds the contract between plugins and the engine.
    Sdk,
    /// `plugins/conformance`, the kit every plugin is tested with.
    Conformance,
    /// Any other directory in `plugins/`.
    Plugin,
    /// `dylib/` beside a plugin: the plugin as a file to be loaded.
    Loadable,
    /// `format` and `core` of a plugin in `plugins/<plugin>/`: what it decides, without effects.
    PluginCore,
    /// `tests/` and `xtask/`, which may use everything.
    Tools,
}

impl Room {
    /// Room of a crate whose manifest lies in `directory`, relative to the workspace; `None` for an unknown place.
    pub fn of(directory: &str) -> Option<Self> {
        let mut parts = directory.split('/');
        if let ["plugins", _, "format" | "core"] = *directory.split('/').collect::<Vec<_>>() {
            return Some(Self::PluginCore);
        }
        match (parts.next()?, parts.next()) {
            ("plugins", Some(_)) if parts.next() == Some("dylib") => Some(Self::Loadable),
            ("plugins", Some("abi")) => Some(Self::Abi),
            ("proto", None) => Some(Self::Proto),
            ("xtask", None) | ("tests", Some(_)) => Some(Self::Tools),
            ("plugins", Some("sdk")) => Some(Self::Sdk),
            ("plugins", Some("conformance")) => Some(Self::Conformance),
            ("plugins", Some(_)) => Some(Self::Plugin),
            ("io-engine", Some("wire")) => Some(Self::Wire),
            ("io-engine", Some("core")) => Some(Self::Core),
            ("io-engine", Some("io")) => Some(Self::Io),
            ("io-engine", Some("edge")) => Some(Self::Edge),
            _ => None,
        }
    }

    /// Whether code of this room may use code of `other`.
    pub fn may_use(self, other: Self) -> bool {
        use Room::{
            Abi, Conformance, Core, Edge, Io, Loadable, Plugin, PluginCore, Proto, Sdk, Tools, Wire,
        };
        match self {
            Proto | Abi => false,
            Wire => other == Wire,
            Core => matches!(other, Wire | Core),
            Sdk => matches!(other, Wire | Abi),
            Conformance => matches!(other, Wire | Core | Sdk),
            Plugin => matches!(other, Wire | Core | Sdk | PluginCore),
            PluginCore => matches!(other, Wire | PluginCore),
            Loadable => matches!(other, Sdk | Plugin),
            Io => matches!(other, Wire | Core | Abi | Sdk | Io),
            // The program runs the kit on plugins of others; what is loaded is nobody's dependency.
            Edge => !matches!(other, Tools | Loadable),
            Tools => true,
        }
    }

    /// Whether tests of this room may use code of `other`: what its code may use, and three things more.
    pub fn tests_may_use(self, other: Self) -> bool {
        match other {
            // Every kind of plugin proves itself with the kit, wherever it is tested from.
            Self::Conformance => matches!(self, Self::Plugin | Self::Io | Self::Edge),
            // The block layer and the reactor are tested with the devices that will stand behind them, a device that
            // stands on others with those others.
            Self::Plugin if matches!(self, Self::Io | Self::Plugin) => true,
            _ => self.may_use(other),
        }
    }

    /// Whether third-party crates in this room need an entry in [`THIRD_PARTY`].
    pub fn is_guarded(self) -> bool {
        matches!(
            self,
            Self::Wire | Self::Core | Self::Abi | Self::Sdk | Self::PluginCore
        )
    }
}

/// Third-party crates in guarded rooms: crate that uses it, what it uses, why. Test-only ones are not listed.
pub const THIRD_PARTY: &[(&str, &str, &str)] = &[
    (
        "nvme-tcp-pdu",
        "crc32c",
        "the digest of NVMe/TCP with the processor's instruction; no system call, no state",
    ),
    (
        "pool-format",
        "crc32c",
        "the check over every structure on disk, with the processor's instruction; no system call, no state",
    ),
    (
        "abi",
        "abi_stable",
        "feature `layout`, off by default: describes the same tables for a check at load",
    ),
    (
        "sdk",
        "abi_stable",
        "feature `layout`, off by default: the root module with that description",
    ),
    (
        "sdk",
        "percent-encoding",
        "decodes device URIs; no dependencies",
    ),
    (
        "sdk",
        "rustix",
        "maps the areas devices lend their memory from",
    ),
    (
        "sdk",
        "smallvec",
        "lent segments of a read without an allocation",
    ),
];

/// One dependency of a crate of the workspace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrow {
    /// The crate that depends.
    pub from: String,
    /// Its directory, relative to the workspace.
    pub directory: String,
    /// The crate depended on.
    pub to: String,
    /// Directory of that crate, relative to the workspace; `None` for a crate of the registry.
    pub to_directory: Option<String>,
    /// Whether only its tests depend.
    pub is_test_only: bool,
}

/// Dependencies of every crate in the workspace, as Cargo reads them.
///
/// # Errors
/// A sentence, when `cargo metadata` fails or prints something else.
pub fn read(workspace: &Path) -> Result<Vec<Arrow>, String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
        ])
        .current_dir(workspace)
        .output()
        .map_err(|e| format!("start cargo metadata: {e}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let metadata =
        serde_json::from_slice(&output.stdout).map_err(|e| format!("cargo metadata: {e}"))?;
    Ok(arrows(&metadata))
}

fn arrows(metadata: &Value) -> Vec<Arrow> {
    let root = metadata["workspace_root"].as_str().unwrap_or_default();
    let relative = |path: &str| {
        Path::new(path)
            .strip_prefix(root)
            .map(|path| path.display().to_string())
            .unwrap_or_else(|_| path.to_owned())
    };
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let manifest = relative(package["manifest_path"].as_str().unwrap_or_default());
        let directory = manifest.trim_end_matches("/Cargo.toml").to_owned();
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            found.push(Arrow {
                from: package["name"].as_str().unwrap_or_default().to_owned(),
                directory: directory.clone(),
                to: dependency["name"].as_str().unwrap_or_default().to_owned(),
                to_directory: dependency["path"].as_str().map(relative),
                is_test_only: dependency["kind"] == "dev",
            });
        }
    }
    found
}

/// What is wrong with a set of arrows, one sentence each.
pub fn findings(arrows: &[Arrow]) -> Vec<String> {
    let mut findings: Vec<String> = arrows.iter().filter_map(finding).collect();
    let used: BTreeSet<_> = arrows
        .iter()
        .filter(|arrow| !arrow.is_test_only)
        .map(|arrow| (arrow.from.as_str(), arrow.to.as_str()))
        .collect();
    for (from, to, _) in THIRD_PARTY {
        if !used.contains(&(*from, *to)) {
            findings.push(format!(
                "{from} does not use {to}: take it off the list in tests/tidy"
            ));
        }
    }
    findings
}

fn finding(arrow: &Arrow) -> Option<String> {
    let Some(room) = Room::of(&arrow.directory) else {
        return Some(format!(
            "{} lies in {}, which is no room",
            arrow.from, arrow.directory
        ));
    };
    let Some(directory) = &arrow.to_directory else {
        let excused = THIRD_PARTY
            .iter()
            .any(|(from, to, _)| arrow.from == *from && arrow.to == *to);
        return (room.is_guarded() && !arrow.is_test_only && !excused).then(|| {
            format!(
                "{} uses {} from the registry: {room:?} needs a reason on the list in tests/tidy",
                arrow.from, arrow.to
            )
        });
    };
    let Some(other) = Room::of(directory) else {
        return Some(format!(
            "{} lies in {directory}, which is no room",
            arrow.to
        ));
    };
    let is_drawn = if arrow.is_test_only {
        room.tests_may_use(other)
    } else {
        room.may_use(other)
    };
    (!is_drawn).then(|| {
        format!(
            "{} ({room:?}) uses {} ({other:?}): docs/architecture.md §2 draws no such arrow",
            arrow.from, arrow.to
        )
    })
}
