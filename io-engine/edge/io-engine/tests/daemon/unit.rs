//! The systemd unit: what systemd itself says about it, and what it must hold.

use std::io::Write;
use std::process::Command;

const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/io-engine.service");

/// Keys of systemd 254 and later, which older ones ignore with a line in the log.
const NEWER_KEYS: [&str; 2] = ["RestartSteps", "RestartMaxDelaySec"];

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let dir = crate::support::directory();
    let unit = std::fs::read_to_string(UNIT).unwrap();
    // The program is looked for where the package would put it.
    let program = env!("CARGO_BIN_EXE_io-engine");
    let installed = dir.path().join("io-engine.service");
    std::fs::write(&installed, unit.replace("/usr/bin/io-engine", program)).unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .arg(&installed);
    let output = match verify.output() {
        Ok(output) => output,
        Err(error) => {
            let line = format!(
                "\nskipped: systemd_finds_nothing_wrong_with_the_unit: systemd-analyze: {error}"
            );
            return writeln!(std::io::stdout(), "{line}").unwrap();
        }
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let faults: Vec<&str> = said
        .lines()
        .filter(|line| {
            !NEWER_KEYS
                .iter()
                .any(|key| line.contains(&format!("'{key}'")))
        })
        .collect();
    // Its exit status is no help: keys it ignores fail it too.
    assert!(faults.is_empty(), "{said}");
    // It does look: a misspelt key is found.
    std::fs::write(&installed, format!("{unit}\n[Service]\nRestrat=always\n")).unwrap();
    let output = verify.output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("Restrat"));
}

#[test]
fn the_unit_restarts_for_ever_and_ever_more_slowly() {
    let unit = std::fs::read_to_string(UNIT).unwrap();
    let value = |section: &str, key: &str| {
        let (_, rest) = unit.split_once(&format!("[{section}]\n")).unwrap();
        let body = rest.split("\n[").next().unwrap();
        let line = body
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{key}=")));
        line.unwrap_or_else(|| panic!("no {key} in [{section}]"))
            .to_owned()
    };
    assert_eq!(value("Unit", "StartLimitIntervalSec"), "0", "no limit");
    assert_eq!(value("Service", "Restart"), "always");
    for key in ["RestartSec", "RestartSteps", "RestartMaxDelaySec"] {
        assert!(!value("Service", key).starts_with('0'), "{key}");
    }
}
