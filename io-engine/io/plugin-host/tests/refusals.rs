//! Files that are no plugins, plugins of another contract, and plugins that are harmful before they do anything: each is
//! refused with one line that names both sides, and the engine goes on.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plugin_host::{PluginHost, Search};
use support::{bad, example, probe};
use tempfile::TempDir;

/// Long enough for a loaded machine, where only a blocking constructor needs all of it.
const PATIENT: Duration = Duration::from_secs(60);

/// The child of a probe; run by [`plugin_host::Probe`] only.
#[test]
#[ignore = "is the child of other tests"]
fn probe_child() {
    plugin_host::probe_child().expect("standard input and output work");
    // The test harness has words of its own to say after this; the parent does not mind.
}

struct Bench {
    directory: TempDir,
    host: PluginHost,
}

impl Bench {
    fn new() -> Self {
        Self::with_deadline(PATIENT)
    }

    fn with_deadline(deadline: Duration) -> Self {
        Self {
            directory: tempfile::tempdir().expect("a directory"),
            host: PluginHost::new(Some(probe(deadline)), None),
        }
    }

    fn file(&self, name: &str, contents: &[u8]) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, contents).expect("a file");
        path
    }

    /// The reason of a refusal, without the path; the host is as it was.
    fn refusal(&self, path: &Path) -> String {
        let before = self.host.plugins().len();
        let refusal = self.host.load(path).expect_err("a refusal").to_string();
        assert_eq!(self.host.plugins().len(), before);
        assert!(!refusal.contains('\n'), "one line: {refusal}");
        let begin = format!("plugin {} refused: ", path.display());
        refusal
            .strip_prefix(&begin)
            .unwrap_or_else(|| panic!("the file is not named: {refusal}"))
            .to_owned()
    }
}

/// Where the descriptor's magic lies in a file.
fn descriptor_at(file: &[u8]) -> usize {
    file.windows(8)
        .position(|bytes| bytes == b"IOEPLUGN")
        .expect("a descriptor")
}

#[test]
fn a_file_that_is_no_plugin_is_refused() {
    let bench = Bench::new();
    let good = fs::read(example(bench.directory.path())).unwrap();
    assert!(
        bench
            .refusal(Path::new("/no/such/file.so"))
            .starts_with("it cannot be read: ")
    );
    assert!(
        bench
            .refusal(bench.directory.path())
            .starts_with("it is not a regular file")
    );
    for contents in [&b""[..], b"\x7fEL", b"#!/bin/sh\n", b"not a plugin at all"] {
        let file = bench.file("text.so", contents);
        assert_eq!(
            bench.refusal(&file),
            "it is not an ELF file; this engine loads shared objects (.so) only"
        );
    }
    let mut other = good.clone();
    other[4] = 1;
    assert_eq!(
        bench.refusal(&bench.file("bits.so", &other)),
        "it is ELF, 32 bit; this engine is ELF, 64 bit, little-endian"
    );
    let mut other = good.clone();
    other[18..20].copy_from_slice(&243u16.to_le_bytes());
    let refusal = bench.refusal(&bench.file("machine.so", &other));
    assert!(
        refusal.starts_with("it is for RISC-V; this engine runs on "),
        "{refusal}"
    );
    let mut other = good.clone();
    other[16] = 2;
    assert_eq!(
        bench.refusal(&bench.file("program.so", &other)),
        "it is ELF of type 2; this engine loads shared objects (type 3)"
    );
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let bench = Bench::new();
    let good = fs::read(example(bench.directory.path())).unwrap();
    for len in [5, 63, 64, 200, good.len() / 2, good.len() - 1] {
        let refusal = bench.refusal(&bench.file("cut.so", &good[..len]));
        assert!(
            refusal.contains(&format!("it has {len}")) || refusal.starts_with("it is not an ELF"),
            "{len}: {refusal}"
        );
    }
}

#[test]
fn nonsense_in_headers_and_notes_is_refused_and_never_a_crash() {
    let bench = Bench::new();
    let good = fs::read(example(bench.directory.path())).unwrap();
    let note = descriptor_at(&good) - 24;
    let places = (32..64).chain(64..64 + 56 * 8).chain(note..note + 24);
    for at in places {
        let mut other = good.clone();
        other[at] ^= 0xff;
        // Whatever it makes of it: without loading, without a panic.
        let _ = plugin_host::read(&bench.file("flip.so", &other));
    }
    let mut other = good.clone();
    other[note + 12] = b'x';
    let refusal = bench.refusal(&bench.file("name.so", &other));
    assert!(
        refusal.starts_with("it has no descriptor (ELF note '.note.io-engine')"),
        "{refusal}"
    );
}

#[test]
fn a_plugin_of_another_contract_is_refused() {
    let bench = Bench::new();
    let good = fs::read(example(bench.directory.path())).unwrap();
    let at = descriptor_at(&good);
    let patched = |offset: usize, bytes: &[u8]| {
        let mut other = good.clone();
        other[at + offset..at + offset + bytes.len()].copy_from_slice(bytes);
        bench.refusal(&bench.file("patched.so", &other))
    };
    use std::mem::offset_of;
    let major = patched(offset_of!(abi::IoeDescriptor, abi_major), &[2, 0]);
    assert_eq!(
        major,
        "it is built for ABI 2.1; this engine has ABI 1.1, and major versions must be equal"
    );
    let minor = patched(offset_of!(abi::IoeDescriptor, needs_minor), &[9, 0]);
    assert_eq!(minor, "it needs ABI 1.9 or newer; this engine has ABI 1.1");
    let abort = patched(offset_of!(abi::IoeDescriptor, flags), &[1]);
    assert!(abort.starts_with("it is built with panic=abort"), "{abort}");
    let magic = patched(0, b"X");
    assert!(magic.contains("it begins with"), "{magic}");
    let stamps = offset_of!(abi::IoeDescriptor, stamps);
    let size = patched(stamps + offset_of!(abi::IoeStamp, size), &[8]);
    assert!(
        size.starts_with("its table 'plugin' has 8 bytes and hash")
            && size.contains("; here it has 56 bytes and hash"),
        "{size}"
    );
    let hash = patched(stamps + offset_of!(abi::IoeStamp, hash), &[0, 0, 0]);
    assert!(
        hash.starts_with("its table 'plugin' has 56 bytes and hash"),
        "{hash}"
    );
    let count = patched(offset_of!(abi::IoeDescriptor, stamp_count), &[255, 255]);
    assert!(count.contains("it says 65535 tables"), "{count}");
}

#[test]
fn a_plugin_that_is_harmful_as_it_loads_takes_a_child_only() {
    let bench = Bench::new();
    let refusal = |defines: &[&str]| bench.refusal(&bad(bench.directory.path(), defines));
    let crash = refusal(&["CRASH_IN_CONSTRUCTOR"]);
    assert_eq!(
        crash,
        "it crashed a child process that tried to load it (signal 6, SIGABRT); it was not loaded here"
    );
    let exit = refusal(&["EXIT_IN_CONSTRUCTOR"]);
    assert!(exit.contains("(exit status 3)"), "{exit}");
    let entry = refusal(&["REFUSES"]);
    assert_eq!(entry, "its entry answered status 16");
    let none = refusal(&["NO_ENTRY"]);
    assert!(
        none.starts_with("it has a descriptor but no entry 'io_engine_plugin_v1'"),
        "{none}"
    );
    let quick = Bench::with_deadline(Duration::from_millis(1500));
    let block = quick.refusal(&bad(quick.directory.path(), &["BLOCK_IN_CONSTRUCTOR"]));
    assert_eq!(
        block,
        "loading it took a child process longer than 1.5 s; it was not loaded here"
    );
}

#[test]
fn the_same_scheme_twice_is_refused_and_the_first_goes_on() {
    let bench = Bench::new();
    let first = example(bench.directory.path());
    let second = bench.file("second.so", &fs::read(&first).unwrap());
    bench.host.load(&first).unwrap();
    assert_eq!(
        bench.refusal(&second),
        "it brings scheme 'cram', which plugin 'example-c-ram' has; unload one of them"
    );
    assert!(bench.host.open_device("cram:///still?size_mb=1").is_ok());
}

#[test]
fn a_directory_is_loaded_by_name_and_one_that_is_not_there_is_passed_by() {
    let bench = Bench::new();
    example(bench.directory.path());
    bench.file("zzz.so", b"not a plugin");
    bench.file("notes.txt", b"not looked at");
    let refusals = bench.host.load_all(&Search {
        files: Vec::new(),
        directories: vec![
            bench.directory.path().join("missing"),
            bench.directory.path().to_owned(),
        ],
    });
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    assert!(refusals[0].to_string().contains("zzz.so refused"));
    assert_eq!(bench.host.schemes(), ["cram"]);
}
