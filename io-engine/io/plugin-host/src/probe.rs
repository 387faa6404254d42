//! The first load of a file, tried in a child process with a deadline: a constructor that crashes or blocks takes the
//! child, not the engine.
//!
//! The child is this program again, with arguments that lead it to [`probe_child`]. The file's path reaches it on its
//! standard input, the outcome comes back as one line on its standard output.

use std::ffi::OsString;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, setrlimit};
use sdk::block::{Device, OpenError};
use sdk::bridge::EngineContext;
use sdk::services::{Level, Services, StoreError};

use crate::elf::read;
use crate::load;
use crate::refusal::Why;

/// What the child answers when all is well.
const FINE: &str = "io-engine-plugin-probe: fine";
/// What its answer begins with when the plugin refused.
const REFUSED: &str = "io-engine-plugin-probe: ";
/// Most of the child's output that is read.
const OUTPUT_BYTES_MAX: u64 = 64 << 10;
/// How often the parent looks whether the child has ended.
const LOOK: Duration = Duration::from_millis(5);

/// How a file is tried.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The program; mostly this one.
    pub program: PathBuf,
    /// Arguments that lead it to [`probe_child`].
    pub args: Vec<OsString>,
    /// How long a load may take.
    pub deadline: Duration,
}

impl Probe {
    /// Loads the file in a child.
    ///
    /// # Errors
    /// [`Why::Crashed`], [`Why::TooSlow`], [`Why::Load`] as the child says, [`Why::NotTried`].
    pub fn run(&self, path: &Path) -> Result<(), Why> {
        let mut child = Command::new(&self.program)
            .args(&self.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(Why::NotTried)?;
        let ended = self.attend(&mut child, path);
        if ended.is_err() {
            // Both fail only for a child that has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
        let status = ended?;
        let mut output = String::new();
        if let Some(stdout) = child.stdout.take() {
            let mut bytes = Vec::new();
            stdout
                .take(OUTPUT_BYTES_MAX)
                .read_to_end(&mut bytes)
                .map_err(Why::NotTried)?;
            output = String::from_utf8_lossy(&bytes).into_owned();
        }
        verdict(status, &output)
    }

    fn attend(&self, child: &mut Child, path: &Path) -> Result<ExitStatus, Why> {
        let end = Instant::now() + self.deadline;
        if let Some(mut stdin) = child.stdin.take() {
            let mut line = path.as_os_str().as_bytes().to_vec();
            line.push(b'\n');
            stdin.write_all(&line).map_err(Why::NotTried)?;
        }
        loop {
            match child.try_wait().map_err(Why::NotTried)? {
                Some(status) => return Ok(status),
                None if Instant::now() >= end => {
                    return Err(Why::TooSlow {
                        deadline: self.deadline,
                    });
                }
                None => std::thread::sleep(LOOK),
            }
        }
    }
}

fn verdict(status: ExitStatus, output: &str) -> Result<(), Why> {
    let line = output.lines().find(|line| line.contains(REFUSED));
    match line {
        Some(line) if line.contains(FINE) => Ok(()),
        Some(line) => Err(Why::Load {
            reason: line
                .split_once(REFUSED)
                .map_or(line, |(_, reason)| reason)
                .to_owned(),
        }),
        None => Err(Why::Crashed {
            how: match (status.signal(), status.code()) {
                (Some(signal), _) => format!("signal {signal}{}", signal_name(signal)),
                (None, Some(code)) => format!("exit status {code}"),
                (None, None) => "no status".to_owned(),
            },
        }),
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        4 => ", SIGILL",
        6 => ", SIGABRT",
        7 => ", SIGBUS",
        8 => ", SIGFPE",
        9 => ", SIGKILL",
        11 => ", SIGSEGV",
        _ => "",
    }
}

/// The child's part: reads a path from standard input, loads the plugin there and enters it, and says how it went.
///
/// # Errors
/// When standard input or output fail.
pub fn probe_child() -> io::Result<()> {
    // A crash here is expected; its memory is of no interest. Fails only where limits cannot be changed.
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _ = setrlimit(Resource::Core, none);
    let mut line = Vec::new();
    io::stdin().lock().read_until(b'\n', &mut line)?;
    while line.last() == Some(&b'\n') {
        line.pop();
    }
    let path = PathBuf::from(OsString::from_vec(line));
    let heard = Arc::new(Heard::default());
    let context = EngineContext::new(heard.clone());
    let is_same_minor =
        read(&path).is_ok_and(|descriptor| descriptor.abi_minor == abi::IOE_ABI_MINOR);
    let loaded =
        load::open(&path, is_same_minor).and_then(|entry| load::enter("probed", entry, context));
    let mut out = io::stdout().lock();
    match loaded {
        Ok(_) => writeln!(out, "{FINE}")?,
        Err(why) => {
            let said = heard.said();
            let joint = if said.is_empty() { "" } else { ": " };
            let reason = format!("{why}{joint}{said}").replace('\n', " ");
            writeln!(out, "{REFUSED}{reason}")?;
        }
    }
    out.flush()
}

/// The engine a probed plugin sees: it opens nothing, keeps nothing, and remembers what it is told.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Heard {
    fn said(&self) -> String {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .join("; ")
    }
}

impl Services for Heard {
    fn open_device(&self, uri: &str) -> Result<Box<dyn Device>, OpenError> {
        Err(OpenError::Unsuitable {
            what: uri.to_owned(),
            reason: "no device is opened while a plugin is tried".to_owned(),
        })
    }

    fn load(&self, _: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    fn store(&self, _: &str, _: Option<&[u8]>) -> Result<(), StoreError> {
        Err(StoreError::Failed(
            "nothing is stored while a plugin is tried".to_owned(),
        ))
    }

    fn count(&self, _: &str, _: u64) {}

    fn log(&self, level: Level, text: &str) {
        if level == Level::Error {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(text.to_owned());
        }
    }
}
