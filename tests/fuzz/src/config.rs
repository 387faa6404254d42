//! Configuration files.
//!
//! Oracle: no panic; a refusal is one line without control characters that names the file first, and a line of it if it
//! names one; two empty lines in front move that line by two and change nothing else; a file that is accepted is refused by
//! name with one key more that nobody knows.

use std::path::Path;

use engine_config::{Config, ConfigError, ConfigErrorKind, Environment, Overrides};

/// What the file is called; nothing reads it.
const FILE: &str = "FILE";

/// Runs one input.
///
/// # Panics
/// When the oracle is broken.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    // A byte order mark counts as one at the start only.
    if text.starts_with('\u{feff}') {
        return drop(load(text));
    }
    match load(text) {
        Ok(config) => {
            assert!(!config.nvmf.listen.is_empty());
            let error = load(&format!("no_such_key = 1\n{text}")).expect_err("an unknown key");
            assert_eq!(error.kind(), ConfigErrorKind::UnknownKey);
            let line = error.to_string();
            assert!(line.starts_with("FILE:1: no_such_key: "), "{line}");
        }
        Err(error) => {
            let (line, rest) = parts(&error);
            let lines = text.lines().count().max(1);
            assert!(
                line.is_none_or(|line| (1..=lines + 1).contains(&line)),
                "{error}"
            );
            let moved = load(&format!("\n\n{text}")).expect_err("the same mistake");
            let expected = (line.map(|line| line + 2), rest);
            assert_eq!(parts(&moved), expected, "{error}");
        }
    }
}

fn load(text: &str) -> Result<Config, ConfigError> {
    let environment = Environment {
        home: Some("/home/u".into()),
        cpus: vec![0, 1, 2, 3],
        memory_bytes: Some(2 << 30),
        ..Environment::default()
    };
    Config::parse(Path::new(FILE), text, &Overrides::default(), &environment)
}

/// The line a refusal names, and what follows.
fn parts(error: &ConfigError) -> (Option<usize>, String) {
    let text = error.to_string();
    assert!(!text.contains(char::is_control), "{text:?}");
    let rest = text
        .strip_prefix(FILE)
        .unwrap_or_else(|| panic!("no file in {text}"));
    match rest
        .strip_prefix(':')
        .and_then(|rest| rest.split_once(": "))
    {
        Some((line, problem))
            if line.bytes().all(|byte| byte.is_ascii_digit()) && !line.is_empty() =>
        {
            (line.parse().ok(), problem.to_owned())
        }
        _ => (None, rest.to_owned()),
    }
}
