//! What variables do to the client's command line.

use std::process::Command;

/// Standard error of `bdev list` with these variables and flags.
fn complaint(variables: &[(&str, &str)], flags: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_io-engine-client"))
        .env_remove("MY_POD_IP")
        .env_remove("API_VERSION")
        .envs(variables.iter().copied())
        .args(flags)
        .args(["bdev", "list"])
        .output()
        .expect("the client starts");
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn an_empty_variable_counts_as_one_that_is_not_set() {
    // Whether anybody answers at the default address does not matter.
    let refused = complaint(&[("MY_POD_IP", ""), ("API_VERSION", "")], &[]);
    assert!(!refused.contains("names no host"), "{refused}");
    assert!(!refused.contains("is not served"), "{refused}");
    let refused = complaint(&[("MY_POD_IP", "")], &["--bind", ""]);
    assert!(refused.contains("names no host"), "{refused}");
    let refused = complaint(&[("MY_POD_IP", ":1")], &[]);
    assert!(refused.contains("names no host"), "{refused}");
    let refused = complaint(&[("API_VERSION", "v0")], &["--bind", "127.0.0.1:1"]);
    assert!(refused.contains("'v0' is not served"), "{refused}");
}
