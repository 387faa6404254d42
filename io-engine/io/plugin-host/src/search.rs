//! Where plugins are looked for.

use std::io;
use std::path::{Path, PathBuf};

/// Files of one directory, at most.
const FILES_MAX: usize = 1024;

/// What to load at start, in order.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// Files named by the operator: each must load.
    pub files: Vec<PathBuf>,
    /// Directories whose `*.so` are loaded; one that is not there is passed by.
    pub directories: Vec<PathBuf>,
}

/// The plugins of a directory, by name: regular files that end in `.so`.
///
/// # Errors
/// When the directory is there and cannot be read.
pub fn files_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries.take(FILES_MAX) {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "so") && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
