//! The project's own text files, and just enough of Rust's syntax to measure functions.

use std::fs;
use std::path::Path;

/// Directories that hold nothing of ours.
const FOREIGN: &[&str] = &["target", ".git", "corpus", "artifacts"];

/// A text file of the project.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Path relative to the workspace, with `/` between parts.
    pub path: String,
    /// Content.
    pub text: String,
}

impl SourceFile {
    /// Whether the file is test code: in a test, fuzz or scenario directory, or named for its tests.
    pub fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or(&self.path);
        ["tests/", "benches/", "/scenarios/"].iter().any(|dir| {
            self.path.starts_with(dir.trim_start_matches('/'))
                || self
                    .path
                    .contains(&format!("/{}", dir.trim_start_matches('/')))
        }) || name == "tests.rs"
            || name.ends_with("_tests.rs")
            || name == "testing.rs"
    }

    /// Whether the file is Rust.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Lines before a trailing `mod tests { .. }`: the code that counts towards a file's length.
    pub fn code_lines(&self) -> usize {
        let lines: Vec<_> = self.text.lines().collect();
        lines
            .windows(2)
            .position(|pair| pair[0] == "#[cfg(test)]" && pair[1].ends_with("mod tests {"))
            .unwrap_or(lines.len())
    }
}

/// Every Rust, Markdown, TOML, shell and proto file of the project, in order of path.
///
/// # Errors
/// A sentence naming the directory or file that could not be read.
pub fn read(workspace: &Path) -> Result<Vec<SourceFile>, String> {
    let mut files = Vec::new();
    let mut pending = vec![workspace.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).map_err(|e| format!("read {}: {e}", dir.display()))? {
            let path = entry
                .map_err(|e| format!("read {}: {e}", dir.display()))?
                .path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() {
                if !FOREIGN.contains(&name.as_str()) {
                    pending.push(path);
                }
            } else if is_ours(&name) {
                let text = fs::read_to_string(&path)
                    .map_err(|e| format!("read {}: {e}", path.display()))?;
                let relative = path.strip_prefix(workspace).unwrap_or(&path);
                files.push(SourceFile {
                    path: relative.display().to_string(),
                    text,
                });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn is_ours(name: &str) -> bool {
    [".rs", ".md", ".toml", ".sh", ".proto", ".service"]
        .iter()
        .any(|end| name.ends_with(end))
        || name == "run"
}

/// A function with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Name.
    pub name: String,
    /// Line of its `fn`, counted from 1.
    pub line: usize,
    /// Lines from `fn` to its closing brace.
    pub length: usize,
}

/// Functions of a file that rustfmt has formatted: a body ends at a `}` indented like the line that began it.
pub fn functions(text: &str) -> Vec<Function> {
    let lines: Vec<_> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else {
            continue;
        };
        let indent = &line[..line.len() - line.trim_start().len()];
        let end = lines[at..].iter().position(|line| {
            line.strip_prefix(indent).is_some_and(|rest| rest == "}")
                || (line.starts_with(indent)
                    && !line[indent.len()..].starts_with(' ')
                    && line.ends_with(';'))
                || line.ends_with(" {}")
        });
        if let Some(end) = end {
            found.push(Function {
                name: name.to_owned(),
                line: at + 1,
                length: end + 1,
            });
        }
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let words = line.trim_start();
    if words.starts_with("//") {
        return None;
    }
    let (before, after) = words.split_once("fn ")?;
    let is_qualifier = |word: &str| {
        ["pub", "const", "unsafe", "async", "extern", "\"C\""].contains(&word)
            || word.starts_with("pub(")
    };
    if !before.split_whitespace().all(is_qualifier) {
        return None;
    }
    let name = after.split(['(', '<']).next()?;
    (!name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_')).then_some(name)
}
