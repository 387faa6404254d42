//! Each rule finds what it is for: a rule that cannot fail protects nothing.

use tidy::arrows::{self, Arrow};
use tidy::source::{SourceFile, functions};
use tidy::{files, sections};

fn file(path: &str, text: &str) -> Vec<SourceFile> {
    vec![SourceFile {
        path: path.to_owned(),
        text: text.to_owned(),
    }]
}

fn arrow(directory: &str, to: &str, is_test_only: bool) -> Arrow {
    Arrow {
        from: "a".to_owned(),
        directory: directory.to_owned(),
        to: "b".to_owned(),
        to_directory: (!to.is_empty()).then(|| to.to_owned()),
        is_test_only,
    }
}

/// Findings about one arrow, without those about unused list entries.
fn verdict(directory: &str, to: &str, is_test_only: bool) -> usize {
    arrows::findings(&[arrow(directory, to, is_test_only)])
        .iter()
        .filter(|finding| !finding.contains("take it off"))
        .count()
}

#[test]
fn an_arrow_not_drawn_is_found() {
    for (from, to) in [
        ("io-engine/wire/units", "io-engine/core/target"),
        ("io-engine/core/target", "io-engine/io/reactor"),
        ("io-engine/core/target", "plugins/sdk"),
        ("io-engine/io/reactor", "io-engine/edge/engine"),
        ("io-engine/io/block", "plugins/device-mem"),
        ("plugins/device-mem", "io-engine/io/reactor"),
        ("plugins/device-mem", "plugins/device-uring"),
        ("plugins/device-fault", "plugins/device-mem"),
        ("plugins/sdk", "io-engine/core/target"),
        ("plugins/abi", "io-engine/wire/units"),
        ("plugins/device-mem", "plugins/abi"),
        ("plugins/device-mem/dylib", "io-engine/io/reactor"),
        ("io-engine/edge/engine", "plugins/device-mem/dylib"),
        ("io-engine/wire/units", "plugins/abi"),
        ("plugins/pool-native/core", "plugins/sdk"),
        ("plugins/pool-native/core", "io-engine/core/target"),
        ("io-engine/io/block", "plugins/pool-native/core"),
        ("proto", "io-engine/wire/units"),
        ("io-engine/edge/engine", "xtask"),
        ("io-engine/io/reactor", "plugins/conformance"),
        ("io-engine/somewhere/else", "io-engine/wire/units"),
    ] {
        assert_eq!(verdict(from, to, false), 1, "{from} -> {to}");
    }
}

#[test]
fn an_arrow_that_is_drawn_is_not() {
    for (from, to) in [
        ("io-engine/core/target", "io-engine/wire/units"),
        ("io-engine/io/reactor", "plugins/sdk"),
        ("io-engine/io/plugin-host", "plugins/abi"),
        ("plugins/sdk", "plugins/abi"),
        ("plugins/device-mem/dylib", "plugins/device-mem"),
        ("io-engine/edge/engine", "plugins/device-mem"),
        ("plugins/transport-nvmf-tcp", "io-engine/core/nvme-tcp"),
        ("plugins/pool-native/core", "plugins/pool-native/format"),
        ("plugins/pool-native/core", "io-engine/wire/units"),
        ("plugins/pool-native/plugin", "plugins/pool-native/core"),
        ("tests/vm", "io-engine/edge/engine"),
    ] {
        assert_eq!(verdict(from, to, false), 0, "{from} -> {to}");
    }
    assert_eq!(
        verdict("plugins/device-mem", "plugins/conformance", true),
        0
    );
    assert_eq!(
        verdict("plugins/transport-nbd", "plugins/device-mem", true),
        0
    );
    assert_eq!(
        verdict("plugins/device-mem", "io-engine/io/reactor", true),
        1
    );
    assert_eq!(verdict("io-engine/io/block", "plugins/device-mem", true), 0);
    assert_eq!(
        verdict("plugins/device-fault", "plugins/device-mem", true),
        0
    );
}

#[test]
fn a_registry_crate_in_a_guarded_room_needs_a_reason() {
    assert_eq!(verdict("io-engine/core/target", "", false), 1);
    assert_eq!(verdict("io-engine/core/target", "", true), 0);
    assert_eq!(verdict("io-engine/io/reactor", "", false), 0);
}

#[test]
fn a_list_entry_that_excuses_nothing_is_found() {
    assert_eq!(arrows::findings(&[]).len(), arrows::THIRD_PARTY.len());
    let excused = [("a/src/lib.rs", "short", "")];
    assert_eq!(
        files::long_functions(&file("a/src/lib.rs", "fn short() {\n}\n"), &excused).len(),
        1
    );
    assert_eq!(files::unsafe_code(&[], &[("a/src/", "")]).len(), 1);
}

#[test]
fn a_long_file_is_found_and_its_tests_do_not_count() {
    let line = "const A: u8 = 0;\n";
    assert_eq!(
        files::long_files(&file("a/src/b.rs", &line.repeat(701))).len(),
        1
    );
    let with_tests = format!(
        "{}#[cfg(test)]\nmod tests {{\n{}}}\n",
        line.repeat(600),
        line.repeat(300)
    );
    assert!(files::long_files(&file("a/src/b.rs", &with_tests)).is_empty());
    assert!(files::long_files(&file("a/src/b/tests.rs", &line.repeat(701))).is_empty());
}

#[test]
fn a_long_function_is_found_with_its_line() {
    let text = format!(
        "impl A {{\n    pub(crate) async fn long(\n        a: u8,\n    ) {{\n{}    }}\n}}\n",
        "        a();\n".repeat(80)
    );
    let found = functions(&text);
    assert_eq!(
        (found[0].name.as_str(), found[0].line, found[0].length),
        ("long", 2, 84)
    );
    assert_eq!(
        files::long_functions(&file("a/src/b.rs", &text), &[]).len(),
        1
    );
    assert!(
        files::long_functions(&file("a/src/b.rs", &text), &[("a/src/b.rs", "long", "")]).is_empty()
    );
}

#[test]
fn a_declaration_without_a_body_has_no_length() {
    let text = "trait A {\n    fn declared(&self) -> u8;\n\n    fn defined(&self) -> u8 {\n        1\n    }\n}\n";
    let lengths: Vec<_> = functions(text).iter().map(|f| f.length).collect();
    assert_eq!(lengths, [1, 3]);
}

#[test]
fn words_that_have_no_place_are_found() {
    let note = format!("// {}{}: later\n", "TO", "DO");
    assert_eq!(files::unfinished(&file("a/src/b.rs", &note)).len(), 1);
    let path = format!("let a = \"{}{}main\";\n", "/wo", "rk/");
    assert_eq!(files::machine_paths(&file("a/src/b.rs", &path)).len(), 1);
}

#[test]
fn an_effect_in_a_core_is_found_outside_of_its_tests() {
    let code = "let now = Instant::now();\n";
    let count = |path: &str, text: &str| files::effects_in_pure_rooms(&file(path, text)).len();
    assert_eq!(count("io-engine/core/a/src/lib.rs", code), 1);
    assert_eq!(count("io-engine/core/a/tests/b.rs", code), 0);
    assert_eq!(count("io-engine/io/a/src/lib.rs", code), 0);
    let in_tests = format!("#[cfg(test)]\nmod tests {{\n{code}}}\n");
    assert_eq!(count("io-engine/core/a/src/lib.rs", &in_tests), 0);
}

#[test]
fn markdown_wants_one_title_outside_of_code() {
    assert!(files::markdown_titles(&file("a.md", "# A\n\n```\n# comment\n```\n")).is_empty());
    assert_eq!(
        files::markdown_titles(&file("a.md", "# A\n\n# B\n")).len(),
        1
    );
    assert_eq!(
        files::markdown_titles(&file("a.md", "text\n\n# A\n")).len(),
        1
    );
}

#[test]
fn a_decision_missing_from_the_index_is_found() {
    let mut sources = file("docs/adr/README.md", "# Decisions\n\n[1](0001-a.md)\n");
    sources.extend(file("docs/adr/0001-a.md", "# 0001: A\n"));
    assert!(files::unlisted_decisions(&sources).is_empty());
    sources.extend(file("docs/adr/0002-b.md", "# 0002: B\n"));
    assert_eq!(files::unlisted_decisions(&sources).len(), 1);
}

#[test]
fn a_crate_without_a_head_and_unsafe_code_elsewhere_are_found() {
    assert_eq!(
        files::headless_crates(&file("a/src/lib.rs", "pub mod b;\n")).len(),
        1
    );
    let code = &format!("fn a() {{\n    un{}{{ b() }}\n}}\n", "safe ");
    assert_eq!(
        files::unsafe_code(&file("a/src/lib.rs", code), &[]).len(),
        1
    );
    assert!(files::unsafe_code(&file("a/src/lib.rs", code), &[("a/", "")]).is_empty());
    assert!(
        files::unsafe_code(
            &file("a/src/lib.rs", &format!("// un{}{{ b() }}\n", "safe ")),
            &[]
        )
        .is_empty()
    );
}

#[test]
fn a_section_cited_only_in_code_is_listed() {
    let mut sources = file(
        "a/src/lib.rs",
        "// NVMe Base 2.0c §5.17: x\n// NVMe/TCP 1.0c TCP §3.1.\n",
    );
    sources.extend(file("a/src/tests.rs", "// NVMe/TCP 1.0c TCP §3.1\n"));
    assert_eq!(sections::untested(&sources), ["Base §5.17"]);
}
