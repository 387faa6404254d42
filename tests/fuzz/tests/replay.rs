//! Runs every target on its committed corpus and on inputs of a seeded generator, on a stable toolchain.
//!
//! Does: fails with the path of each input that breaks an oracle, and with the seed and number of each generated one.
//! Does not: look for new inputs; `README.md` says how that is done.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Random inputs per target: enough to reach the common paths, and a few seconds unoptimised.
const RANDOM_INPUTS: u64 = 4_000;
/// Bytes of the longest random input.
const RANDOM_LEN_MAX: u64 = 600;
/// The seed unless the environment names another.
const SEED: u64 = 0x5eed;
/// Environment variable with another seed, decimal.
const SEED_VARIABLE: &str = "FUZZ_SEED";

type Target = fn(&[u8]);

#[test]
fn pdu_parse() {
    replay("pdu_parse", fuzz::pdu_parse::run);
}

#[test]
fn plugin_elf() {
    replay("plugin_elf", fuzz::plugin_elf::run);
}

#[test]
fn nvme_spec() {
    replay("nvme_spec", fuzz::nvme_spec::run);
}

#[test]
fn nvme_tcp_controller() {
    replay("nvme_tcp_controller", fuzz::nvme_tcp_controller::run);
}

#[test]
fn nvme_tcp_host() {
    replay("nvme_tcp_host", fuzz::nvme_tcp_host::run);
}

#[test]
fn target() {
    replay("target", fuzz::target::run);
}

#[test]
fn device_uri() {
    replay("device_uri", fuzz::device_uri::run);
}

#[test]
fn config() {
    replay("config", fuzz::config::run);
}

#[test]
fn pool_format() {
    replay("pool_format", fuzz::pool_format::run);
}

#[test]
fn pool_image() {
    replay("pool_image", fuzz::pool_image::run);
}

#[test]
fn an_input_that_panics_is_named() {
    let directory = corpus("pdu_parse");
    let victim = inputs(&directory).pop().expect("an input");
    let bytes = fs::read(&victim).expect("readable");
    let bad = broken_by_corpus(&directory, |input| assert!(input != bytes, "as told"));
    assert_eq!(bad, [victim.display().to_string()]);
}

#[test]
#[should_panic(expected = "no corpus")]
fn a_missing_corpus_fails() {
    inputs(&corpus("no-such-target"));
}

#[test]
fn a_random_input_that_panics_is_numbered() {
    let number = std::cell::Cell::new(0);
    let bad = broken_by_random(SEED, |_| {
        number.set(number.get() + 1);
        assert!(number.get() != 3, "as told");
    });
    assert_eq!(bad, [format!("{SEED_VARIABLE}={SEED}, input 2")]);
}

/// Feeds `run` the whole corpus of `name` and the random inputs.
fn replay(name: &str, run: Target) {
    let seed = std::env::var(SEED_VARIABLE).map_or(SEED, |seed| seed.parse().expect("a number"));
    println!("{name}: {SEED_VARIABLE}={seed}");
    let mut bad = broken_by_corpus(&corpus(name), run);
    bad.extend(broken_by_random(seed, run));
    assert!(bad.is_empty(), "{name} panics on:\n{}", bad.join("\n"));
}

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name)
}

/// The files of `directory` in a fixed order; at least one.
fn inputs(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("no corpus {}: {error}", directory.display()));
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("a directory entry").path())
        .collect();
    assert!(!paths.is_empty(), "no corpus in {}", directory.display());
    paths.sort();
    paths
}

/// Paths of the inputs on which `run` panics.
fn broken_by_corpus(directory: &Path, run: impl Fn(&[u8])) -> Vec<String> {
    let mut bad = Vec::new();
    for path in inputs(directory) {
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        if panics(&run, &bytes) {
            bad.push(path.display().to_string());
        }
    }
    bad
}

/// Numbers of the random inputs on which `run` panics.
fn broken_by_random(seed: u64, run: impl Fn(&[u8])) -> Vec<String> {
    let mut random = Random(seed);
    let mut bad = Vec::new();
    for number in 0..RANDOM_INPUTS {
        let input = random.input();
        if panics(&run, &input) {
            bad.push(format!("{SEED_VARIABLE}={seed}, input {number}"));
        }
    }
    bad
}

fn panics(run: &impl Fn(&[u8]), input: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| run(input))).is_err()
}

/// `SplitMix64`: a full-period generator from one word of state.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Any length; half of the inputs are of small bytes, which more often mean something than large ones.
    fn input(&mut self) -> Vec<u8> {
        let len = self.next() % RANDOM_LEN_MAX;
        let mask = if self.next().is_multiple_of(2) {
            0xff
        } else {
            0x0f
        };
        (0..len).map(|_| self.next() as u8 & mask).collect()
    }
}
