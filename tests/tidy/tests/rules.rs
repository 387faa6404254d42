//! The project against each rule. A failure lists every place, one a line.

use tidy::source::{self, SourceFile};
use tidy::{arrows, files, sections, workspace};

fn sources() -> Vec<SourceFile> {
    source::read(&workspace()).expect("the project's files can be read")
}

fn assert_none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn dependencies_follow_the_arrows() {
    let arrows = arrows::read(&workspace()).expect("cargo metadata answers");
    assert!(
        arrows.len() > 20,
        "the workspace has dependencies to look at"
    );
    assert_none(&arrows::findings(&arrows));
}

#[test]
fn files_stop_at_700_lines() {
    assert_none(&files::long_files(&sources()));
}

#[test]
fn functions_stop_at_70_lines() {
    assert_none(&files::long_functions(&sources(), files::LONG_FUNCTIONS));
}

#[test]
fn no_work_is_left_undone_in_the_source() {
    assert_none(&files::unfinished(&sources()));
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    assert_none(&files::machine_paths(&sources()));
}

#[test]
fn rooms_that_decide_have_no_effects() {
    assert_none(&files::effects_in_pure_rooms(&sources()));
}

#[test]
fn each_markdown_file_has_one_title() {
    assert_none(&files::markdown_titles(&sources()));
}

#[test]
fn each_decision_is_listed() {
    assert_none(&files::unlisted_decisions(&sources()));
}

#[test]
fn each_crate_begins_with_a_module_head() {
    assert_none(&files::headless_crates(&sources()));
}

#[test]
fn unsafe_code_stays_in_its_rooms() {
    assert_none(&files::unsafe_code(&sources(), files::UNSAFE_PLACES));
}

#[test]
#[expect(clippy::print_stderr, reason = "a report, shown with --nocapture")]
fn sections_cited_by_no_test_are_listed() {
    // A report for `cargo test -p tidy -- --nocapture`; nothing fails on it.
    for section in sections::untested(&sources()) {
        eprintln!("cited in code, by no test: {section}");
    }
}
