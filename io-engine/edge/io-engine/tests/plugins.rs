//! The commands about plugins, and an engine that starts with one from a file.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

/// The example in C, built with the system's compiler, which linking Rust needs as well.
fn example(directory: &Path) -> PathBuf {
    let to = directory.join("libexample_c_ram.so");
    let built = Command::new("cc")
        .args([
            "-std=c11",
            "-O1",
            "-fPIC",
            "-fvisibility=hidden",
            "-shared",
            "-o",
        ])
        .arg(&to)
        .arg("-I")
        .arg(root().join("plugins/abi/include"))
        .arg(root().join("plugins/examples/c-ram/ram.c"))
        .status()
        .expect("the C compiler starts");
    assert!(built.success());
    to
}

fn plugin(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_io-engine"))
        .arg("plugin")
        .args(arguments)
        .output()
        .expect("the program starts")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_file_says_who_it_is_without_being_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let file = example(directory.path());
    let output = plugin(&["info", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", err(&output));
    let text = out(&output);
    for line in [
        "name:     example-c-ram",
        "kinds:    device",
        "serves:   cram",
        "abi:      1.1, can do with 1.0",
        "loadable: yes",
    ] {
        assert!(text.contains(line), "{text}");
    }
    let output = plugin(&["info", "/bin/sh"]);
    assert!(!output.status.success());
    assert!(
        err(&output).starts_with("io-engine: plugin /bin/sh refused: it has no descriptor"),
        "{}",
        err(&output)
    );
}

#[test]
fn a_good_plugin_passes_the_kit_and_a_wrong_uri_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = example(directory.path());
    let file = file.to_str().unwrap();
    let output = plugin(&["check", file, "--uri", "cram:///m?size_mb=8"]);
    assert!(output.status.success(), "{}", err(&output));
    assert_eq!(out(&output), "loads\npassed\n");
    let output = plugin(&["check", file, "--uri", "cram:///m?size=8"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        err(&output),
        "io-engine: device URI 'cram:///m': parameter 'size' is unknown; remove it\n"
    );
    // 2 MiB are too few for the kit, which says so.
    let output = plugin(&["check", file, "--uri", "cram:///m?size_mb=2"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("the kit failed: the suite needs 4 MiB"),
        "{}",
        err(&output)
    );
}

#[test]
fn the_list_has_what_is_built_in_and_what_is_found_and_names_what_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    example(directory.path());
    std::fs::write(directory.path().join("bad.so"), "no plugin").unwrap();
    let config = directory.path().join("config.toml");
    let text = format!(
        "[plugins]\ndirectories = [{:?}]\n",
        directory.path().to_str().unwrap()
    );
    std::fs::write(&config, text).unwrap();
    let output = plugin(&["list", "--config", config.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "one was refused");
    let text = out(&output);
    for name in [
        "device-mem",
        "device-uring",
        "transport-nvmf-tcp",
        "example-c-ram",
    ] {
        assert!(text.contains(name), "{text}");
    }
    assert!(
        err(&output).contains("bad.so refused: it is not an ELF file"),
        "{}",
        err(&output)
    );
}
