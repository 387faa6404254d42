//! Sections of specifications that code cites and no test does: a report for the reader, not a failure.

use std::collections::BTreeSet;

use crate::source::SourceFile;

/// Sections cited, as `document §section`, by product code but by no test, in order.
pub fn untested(files: &[SourceFile]) -> Vec<String> {
    let mut in_code = BTreeSet::new();
    let mut in_tests = BTreeSet::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        let code_lines = file.code_lines();
        for (at, line) in file.text.lines().enumerate() {
            let set = if file.is_test() || at >= code_lines {
                &mut in_tests
            } else {
                &mut in_code
            };
            set.extend(citations(line));
        }
    }
    in_code.difference(&in_tests).cloned().collect()
}

/// Citations in a line: a document's last word or two before `§`, and the number after it.
pub fn citations(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices('§') {
        let after = &line[at + '§'.len_utf8()..];
        let number: String = after
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '.')
            .collect();
        let number = number.trim_end_matches('.');
        let before: Vec<_> = line[..at].split_whitespace().collect();
        let document = before.iter().rev().find(|word| {
            ["Base", "TCP", "Fabrics", "NVM", "RFC"]
                .iter()
                .any(|name| word.contains(name))
        });
        if let (Some(document), false) = (document, number.is_empty()) {
            let document = document.trim_matches(|c: char| !c.is_alphanumeric());
            found.push(format!("{document} §{number}"));
        }
    }
    found
}
