//! The command line.

use std::path::PathBuf;

/// What a user is told.
pub(crate) const HELP: &str = "\
usage: pool check [--repair] [--quick] [--export DIR] DISK...
       pool dump DISK...

  check      compares metadata copies, allocation with what is in use, and data with its checks
  --repair   writes bad copies again and corrects bitmaps; never touches the only copy of anything
  --quick    metadata only
  --export   writes each replica and snapshot to DIR as a sparse raw file, as far as it can be read
  dump       prints labels, roots, tables and the journal
  DISK       a file or block device; all disks of the pool, in any order

exit: 0 clean, 1 repaired, 2 faults left, 3 not opened, 64 usage";

/// What `check` is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Check {
    pub(crate) disks: Vec<PathBuf>,
    pub(crate) repairs: bool,
    pub(crate) is_quick: bool,
    pub(crate) export: Option<PathBuf>,
}

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Command {
    Check(Check),
    Dump { disks: Vec<PathBuf> },
    Help,
}

/// # Errors
/// A sentence that says which word means nothing.
pub(crate) fn parse(words: &[String]) -> Result<Command, String> {
    let mut words = words.iter();
    let command = words.next().map(String::as_str).unwrap_or_default();
    let mut check = Check {
        disks: Vec::new(),
        repairs: false,
        is_quick: false,
        export: None,
    };
    let is_check = match command {
        "check" => true,
        "dump" => false,
        "help" | "--help" | "-h" => return Ok(Command::Help),
        "" => return Err("no command".to_owned()),
        other => return Err(format!("{other} is no command")),
    };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--repair" if is_check => check.repairs = true,
            "--quick" if is_check => check.is_quick = true,
            "--export" if is_check => {
                let directory = words.next().ok_or("--export needs a directory")?;
                check.export = Some(directory.into());
            }
            "--help" | "-h" => return Ok(Command::Help),
            option if option.starts_with('-') => return Err(format!("{option} is not known")),
            disk => check.disks.push(disk.into()),
        }
    }
    if check.disks.is_empty() {
        return Err("no disk".to_owned());
    }
    if is_check {
        Ok(Command::Check(check))
    } else {
        Ok(Command::Dump { disks: check.disks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_line_means_what_the_help_says() {
        let found = parse(&words("check --repair --export out a b"));
        let wanted = Check {
            disks: vec!["a".into(), "b".into()],
            repairs: true,
            is_quick: false,
            export: Some("out".into()),
        };
        assert_eq!(found, Ok(Command::Check(wanted)));
        assert!(parse(&words("check")).is_err());
        assert!(parse(&words("check --fix a")).is_err());
        assert!(parse(&words("dump --repair a")).is_err());
        assert!(parse(&words("mend a")).is_err());
    }
}
