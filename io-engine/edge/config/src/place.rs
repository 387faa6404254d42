//! Where a mistake is to be looked for: the file with the line of its key, the command line or the environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use crate::error::{ConfigError, ConfigErrorKind};
use crate::listen::Origin;

/// What a configuration was read from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Source {
    /// The file, if there was one.
    file: Option<PathBuf>,
    /// Line of each key the file holds, by its path (`nvmf.listen`, `device[1].uri`).
    lines: BTreeMap<String, usize>,
}

impl Source {
    /// The file `path` with contents `text`, which deserialised: so its keys are known ones and few.
    pub(crate) fn file(path: &Path, text: &str) -> Self {
        let (document, _) = DeTable::parse_recoverable(text);
        let mut lines = BTreeMap::new();
        let mut counter = LineCounter::new(text);
        let mut keys = Vec::new();
        each_key(document.get_ref(), |key, start, _| {
            keys.push((start, key.to_owned()));
        });
        keys.sort_unstable();
        for (start, key) in keys {
            lines.insert(key, counter.line_of(start));
        }
        Self {
            file: Some(path.to_owned()),
            lines,
        }
    }

    /// Place of a key of the file: with its line, or that of the table or list around it if it is not there itself.
    pub(crate) fn at(&self, key: &str) -> String {
        let Some(file) = &self.file else {
            return "built-in configuration".to_owned();
        };
        let mut around = key;
        loop {
            if let Some(line) = self.lines.get(around) {
                return format!("{}:{line}", file.display());
            }
            match around.rfind(['.', '[']) {
                Some(end) => around = &around[..end],
                None => return file.display().to_string(),
            }
        }
    }

    /// Place of a setting.
    pub(crate) fn of(&self, origin: &Origin) -> String {
        match (origin, &self.file) {
            (Origin::Flag(_), _) => "command line".to_owned(),
            (Origin::Variable(_), _) => "environment".to_owned(),
            (Origin::File(key), _) => self.at(key),
            (Origin::Default(_), Some(file)) => file.display().to_string(),
            (Origin::Default(_), None) => "built-in configuration".to_owned(),
        }
    }

    /// The error of a setting whose value is not acceptable; `problem` ends with the fix.
    pub(crate) fn bad_value(&self, origin: &Origin, problem: impl Into<String>) -> ConfigError {
        let kind = ConfigErrorKind::BadValue;
        ConfigError::new(kind, self.of(origin), origin.to_string(), problem)
    }
}

/// Lines of ascending positions of a text, in one pass over it.
struct LineCounter<'a> {
    text: &'a [u8],
    position: usize,
    line: usize,
}

impl<'a> LineCounter<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text: text.as_bytes(),
            position: 0,
            line: 1,
        }
    }

    fn line_of(&mut self, position: usize) -> usize {
        let position = position.clamp(self.position, self.text.len());
        self.line += newlines(&self.text[self.position..position]);
        self.position = position;
        self.line
    }
}

fn newlines(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'\n').count()
}

/// Line, from 1, of what follows `before`.
pub(crate) fn line_after(before: &[u8]) -> usize {
    newlines(before) + 1
}

/// What [`key_near`] found.
pub(crate) struct KeyNear {
    /// Path of the last key that starts at or before the position.
    pub(crate) path: String,
    /// Where it starts.
    pub(crate) start: usize,
    /// It holds a table or an item of a list of tables.
    pub(crate) is_table: bool,
}

/// The last key of a text, which need not be TOML throughout, that starts at or before `position`.
pub(crate) fn key_near(text: &str, position: usize) -> Option<KeyNear> {
    let (document, _) = DeTable::parse_recoverable(text);
    let mut last = None;
    each_key(document.get_ref(), |_, start, _| {
        if start <= position && last.is_none_or(|last| last < start) {
            last = Some(start);
        }
    });
    // In a second pass, so that no more than one path is copied, however long a file makes them.
    let mut near = None;
    each_key(document.get_ref(), |key, start, is_table| {
        if last == Some(start) && near.is_none() {
            near = Some(KeyNear {
                path: key.to_owned(),
                start,
                is_table,
            });
        }
    });
    near
}

/// Shows `visit` the path and start of each key and list item, and whether it holds a table. Its own stack: how deep a
/// file nests is for the file to say.
fn each_key(table: &DeTable<'_>, mut visit: impl FnMut(&str, usize, bool)) {
    enum Name<'a> {
        Key(&'a str),
        Item(usize),
    }
    fn push_table<'a>(
        stack: &mut Vec<(usize, Name<'a>, usize, &'a DeValue<'a>)>,
        depth: usize,
        table: &'a DeTable<'a>,
    ) {
        stack.extend(table.iter().map(|(key, value)| {
            let name = Name::Key(key.get_ref());
            (depth, name, key.span().start, value.get_ref())
        }));
    }
    let mut stack = Vec::new();
    push_table(&mut stack, 0, table);
    let mut path = String::new();
    while let Some((parent_len, name, start, value)) = stack.pop() {
        path.truncate(parent_len);
        match name {
            Name::Key(key) if path.is_empty() => path.push_str(key),
            Name::Key(key) => {
                path.push('.');
                path.push_str(key);
            }
            Name::Item(index) => path.push_str(&format!("[{index}]")),
        }
        visit(&path, start, value.is_table());
        match value {
            DeValue::Table(table) => push_table(&mut stack, path.len(), table),
            DeValue::Array(items) => stack.extend(items.iter().enumerate().map(|(index, item)| {
                (
                    path.len(),
                    Name::Item(index),
                    item.span().start,
                    item.get_ref(),
                )
            })),
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => {}
        }
    }
}
