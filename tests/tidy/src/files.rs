//! Rules about single files: their length, their functions, and words that have no place in them.
//!
//! Each rule is a function from files to findings, so that a test can show it fail.

use std::collections::BTreeSet;

use crate::source::{SourceFile, functions};

/// Lines of code at which a file stops; its tests stand elsewhere or at its end and do not count.
pub const FILE_LINES_MAX: usize = 700;

/// Lines at which a function stops.
pub const FUNCTION_LINES_MAX: usize = 70;

/// Functions longer than the limit: file, function, why it is one piece. The list only shrinks.
pub const LONG_FUNCTIONS: &[(&str, &str, &str)] = &[];

/// Directories and files that may contain `unsafe`, and why.
pub const UNSAFE_PLACES: &[(&str, &str)] = &[
    (
        "io-engine/io/buffers/src/",
        "maps the arena and hands out pieces of it",
    ),
    ("io-engine/io/reactor/src/", "system calls and the ring"),
    (
        "plugins/sdk/src/buf.rs",
        "buffers cross the line between engine and plugin",
    ),
    (
        "plugins/abi/src/",
        "declares functions that may only be called as the contract says; calls none",
    ),
    (
        "plugins/sdk/src/bridge/",
        "makes tables out of traits and traits out of tables",
    ),
    (
        "plugins/sdk/src/plugin.rs",
        "the macro that exports a plugin's entry",
    ),
    (
        "io-engine/io/plugin-host/src/load.rs",
        "loads files and calls their entry",
    ),
    (
        "io-engine/io/plugin-host/src/isolate/loan.rs",
        "lends a reactor's buffers to a plugin on another (docs/adr/0005)",
    ),
    (
        "plugins/sdk/src/buf/chunk.rs",
        "maps the areas devices lend from (docs/adr/0003)",
    ),
    (
        "plugins/sdk/src/memory.rs",
        "prefetches and copies past the cache",
    ),
];

/// Rust files whose code is longer than [`FILE_LINES_MAX`].
pub fn long_files(files: &[SourceFile]) -> Vec<String> {
    files
        .iter()
        .filter(|file| file.is_rust() && !file.is_test() && file.code_lines() > FILE_LINES_MAX)
        .map(|file| {
            format!(
                "{}: {} lines, the house stops at {FILE_LINES_MAX}",
                file.path,
                file.code_lines()
            )
        })
        .collect()
}

/// Functions outside of tests longer than [`FUNCTION_LINES_MAX`], and entries of `excused` that excuse nothing.
pub fn long_functions(files: &[SourceFile], excused: &[(&str, &str, &str)]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut unused: BTreeSet<_> = excused
        .iter()
        .map(|(path, name, _)| (*path, *name))
        .collect();
    for file in files
        .iter()
        .filter(|file| file.is_rust() && !file.is_test())
    {
        let code = file.code_lines();
        for function in functions(&file.text) {
            let is_long = function.line <= code && function.length > FUNCTION_LINES_MAX;
            let is_this = |entry: &&(&str, &str)| entry.0 == file.path && entry.1 == function.name;
            let excuse = unused.iter().find(is_this).copied();
            if is_long && !excuse.is_some_and(|entry| unused.remove(&entry)) {
                findings.push(format!(
                    "{}:{}: {} has {} lines, the house stops at {FUNCTION_LINES_MAX}",
                    file.path, function.line, function.name, function.length
                ));
            }
        }
    }
    findings.extend(unused.into_iter().map(|(path, name)| {
        format!("{path}: {name} is not long: take it off the list in tests/tidy")
    }));
    findings
}

/// Notes and macros for work that is not done.
pub fn unfinished(files: &[SourceFile]) -> Vec<String> {
    // Put together here so that this file does not contain them.
    let words: Vec<String> = [
        ("TO", "DO"),
        ("FIX", "ME"),
        ("XX", "X:"),
        ("todo", "!("),
        ("unimplemented", "!("),
    ]
    .iter()
    .map(|(a, b)| format!("{a}{b}"))
    .collect();
    let code = files.iter().filter(|file| !file.path.ends_with(".md"));
    lines_with(code, &words, "unfinished work")
}

/// Paths of one machine, and scratch directories of a person.
pub fn machine_paths(files: &[SourceFile]) -> Vec<String> {
    let words: Vec<String> = [("/wo", "rk/"), ("/ro", "ot/")]
        .iter()
        .map(|(a, b)| format!("{a}{b}"))
        .collect();
    lines_with(files.iter(), &words, "a path of one machine")
}

/// Clocks, threads, files, sockets and globals in the rooms that decide: `wire`, `core` and the pool's, outside of their tests.
pub fn effects_in_pure_rooms(files: &[SourceFile]) -> Vec<String> {
    const EFFECTS: [&str; 10] = [
        "Instant::now",
        "SystemTime",
        "std::thread",
        "thread::sleep",
        "std::fs",
        "std::net",
        "std::process",
        "std::env",
        "std::io::",
        "thread_local!",
    ];
    let is_pure = |file: &&SourceFile| {
        let room = file.path.starts_with("io-engine/wire/")
            || file.path.starts_with("io-engine/core/")
            || file.path.starts_with("plugins/pool-native/format/")
            || file.path.starts_with("plugins/pool-native/core/");
        room && file.is_rust() && !file.is_test()
    };
    let mut findings = Vec::new();
    for file in files.iter().filter(is_pure) {
        for (at, line) in file.text.lines().take(file.code_lines()).enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if let Some(effect) = EFFECTS.iter().find(|effect| code.contains(**effect)) {
                findings.push(format!(
                    "{}:{}: {effect} in a room without effects",
                    file.path,
                    at + 1
                ));
            }
        }
    }
    findings
}

fn lines_with<'a>(
    files: impl Iterator<Item = &'a SourceFile>,
    words: &[String],
    what: &str,
) -> Vec<String> {
    let mut findings = Vec::new();
    for file in files {
        for (at, line) in file.text.lines().enumerate() {
            if words.iter().any(|word| line.contains(word.as_str())) {
                findings.push(format!("{}:{}: {what}: {}", file.path, at + 1, line.trim()));
            }
        }
    }
    findings
}

/// Markdown files without exactly one title, on their first line.
pub fn markdown_titles(files: &[SourceFile]) -> Vec<String> {
    files
        .iter()
        .filter(|file| file.path.ends_with(".md"))
        .filter_map(|file| {
            let mut is_code = false;
            let mut titles = 0;
            for line in file.text.lines() {
                if line.trim_start().starts_with("```") {
                    is_code = !is_code;
                }
                titles += usize::from(!is_code && line.starts_with("# "));
            }
            let is_first = file.text.starts_with("# ");
            (titles != 1 || !is_first).then(|| {
                format!(
                    "{}: {titles} titles; one is wanted, on the first line",
                    file.path
                )
            })
        })
        .collect()
}

/// Decisions that `docs/adr/README.md` does not list.
pub fn unlisted_decisions(files: &[SourceFile]) -> Vec<String> {
    const PLACE: &str = "docs/adr/";
    const INDEX: &str = "docs/adr/README.md";
    let index = files
        .iter()
        .find(|file| file.path == INDEX)
        .map_or("", |file| file.text.as_str());
    files
        .iter()
        .filter(|file| file.path != INDEX)
        .filter_map(|file| file.path.strip_prefix(PLACE))
        .filter(|name| !index.contains(&format!("({name})")))
        .map(|name| format!("{PLACE}{name} is not listed in {INDEX}"))
        .collect()
}

/// Crate roots that do not begin with a module head.
pub fn headless_crates(files: &[SourceFile]) -> Vec<String> {
    files
        .iter()
        .filter(|file| file.path.ends_with("/src/lib.rs") || file.path.ends_with("/src/main.rs"))
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| format!("{}: no module head (`//!`) on the first line", file.path))
        .collect()
}

/// The keyword, put together so that this file does not contain it.
const UNSAFE: &str = concat!("un", "safe");

fn is_code_after(rest: &str) -> bool {
    [" {", " fn ", " impl ", " extern ", " trait "]
        .iter()
        .any(|text| rest.starts_with(text))
}

/// Unsafe code outside of `places`, and places that contain none.
pub fn unsafe_code(files: &[SourceFile], places: &[(&str, &str)]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut unused: BTreeSet<_> = places.iter().map(|(place, _)| *place).collect();
    for file in files.iter().filter(|file| file.is_rust()) {
        for (at, line) in file.text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let is_unsafe = code.match_indices(UNSAFE).any(|(at, _)| {
                !code[..at].ends_with('_') && is_code_after(&code[at + UNSAFE.len()..])
            });
            if !is_unsafe {
                continue;
            }
            match places
                .iter()
                .find(|(place, _)| file.path.starts_with(place))
            {
                Some((place, _)) => {
                    unused.remove(place);
                }
                None => findings.push(format!(
                    "{}:{}: unsafe code outside its rooms",
                    file.path,
                    at + 1
                )),
            }
        }
    }
    findings.extend(
        unused.into_iter().map(|place| {
            format!("{place}: no unsafe code there: take it off the list in tests/tidy")
        }),
    );
    findings
}
