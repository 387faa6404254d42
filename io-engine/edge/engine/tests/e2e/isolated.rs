//! Plugins that break their promises under a running engine: hosts of other devices, on the same reactor, do not notice. One
//! that blocks or spins has to have a reactor of its own for that.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use engine::control::dataplane::{DataPlane, ProblemKind};
use engine::plane::linked_into;
use io_engine_perf::ClientError;
use plugin_host::{Isolation, PluginHost};

use crate::logs;
use crate::support::{Rig, config, driver, pattern};

/// Time a device has for an operation in these tests.
const DEADLINE: Duration = Duration::from_secs(2);

/// The fixture that breaks the promise `define`, built with the system's compiler, which linking Rust needs as well.
fn fixture(define: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let name = format!("libisolated_{}.so", define.to_lowercase());
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let built = Command::new("cc")
        .args(["-std=c11", "-O1", "-fPIC", "-fvisibility=hidden", "-shared"])
        .arg(format!("-D{define}"))
        .arg("-I")
        .arg(root.join("plugins/abi/include"))
        .arg("-o")
        .arg(&to)
        .arg(root.join("io-engine/io/plugin-host/tests/fixtures/bad.c"))
        .status()
        .expect("the C compiler starts");
    assert!(built.success());
    to
}

/// A plane with one reactor, the default set linked in, and the fixture.
struct Bench {
    rig: Rig,
    plugins: PluginHost,
    /// While there is this file, the fixture's `submit` does not return.
    gate: PathBuf,
    good: String,
    bad: String,
}

impl Bench {
    fn isolated(define: &str) -> Self {
        Self::new(define, &["bad"])
    }

    fn new(define: &str, isolated: &[&str]) -> Self {
        let names = isolated.iter().map(|name| (*name).to_owned());
        let isolation = Isolation::new(names.collect(), driver(), DEADLINE);
        let plugins = linked_into(PluginHost::new(None, None).isolating(isolation)).unwrap();
        plugins.load(&fixture(define)).unwrap();
        plugins.watch().unwrap();
        let mut plane = config();
        plane.device.deadline = DEADLINE;
        plane.device.overdue_max = 1;
        let mut rig = Rig::with_plugins(plane, Arc::default(), &plugins);
        let gate = rig.file("gate", 0);
        std::fs::remove_file(&gate).unwrap();
        let good = rig.serve("good", &["malloc:///m?size_mb=16"]);
        let bad = rig.serve("bad", &[&uri(&gate)]);
        Self {
            rig,
            plugins,
            gate,
            good,
            bad,
        }
    }

    /// A host that reads from the fixture's device.
    fn reading(&self) -> JoinHandle<Result<Vec<u8>, ClientError>> {
        let mut client = self.rig.connect(&self.bad);
        std::thread::spawn(move || client.read(1, 0, 8))
    }

    fn fault(&self) -> Option<String> {
        self.rig
            .plane
            .device_fault(self.rig.handle(&uri(&self.gate)))
    }

    fn inflight(&self) -> usize {
        self.rig
            .runtime
            .block_on(self.rig.plane.inflight(100))
            .len()
    }
}

fn uri(gate: &Path) -> String {
    format!("bad://{}", gate.display())
}

/// What a host in good health sees of it all, until `end`: nothing.
fn works(bench: &Bench, end: impl Fn() -> bool) -> (u32, Duration) {
    let mut client = bench.rig.connect(&bench.good);
    let (mut rounds, mut longest) = (0, Duration::ZERO);
    while !end() {
        let begin = Instant::now();
        let data = pattern(rounds.into(), 4096);
        client.write(1, 8, &data).expect("a write");
        assert!(client.read(1, 8, 8).expect("a read") == data);
        longest = longest.max(begin.elapsed());
        rounds += 1;
    }
    (rounds, longest)
}

fn others_go_on_while_it(define: &str) {
    logs::keep();
    let bench = Bench::isolated(define);
    assert!(bench.reading().join().unwrap().unwrap() == [0x5a; 4096]);

    std::fs::write(&bench.gate, "").unwrap();
    let reader = bench.reading();
    let (rounds, longest) = works(&bench, || reader.is_finished());
    assert!(rounds > 100, "{rounds} rounds in {DEADLINE:?}");
    assert!(longest < DEADLINE / 2, "one waited {longest:?}");
    assert!(reader.join().unwrap().is_err(), "answered at its deadline");
    assert_eq!(
        bench.fault().as_deref(),
        Some("offline: an operation did not end by its deadline; mend it, then bdev rescan")
    );
    // Connecting anew, listing and the like do not wait for the plugin either; its device fails at once.
    let begin = Instant::now();
    assert!(bench.reading().join().unwrap().is_err());
    assert!(begin.elapsed() < DEADLINE / 2, "{:?}", begin.elapsed());
    assert_eq!(bench.inflight(), 1, "the plugin has it still");
    bench.rig.until("the watchdog names the plugin", |_| {
        logs::count(&["plugin=\"bad\"", "object=\"queue\"", "its own reactor"]) > 0
    });
    is_not_opened_again(&bench);

    // It lets go: late, and harmless.
    std::fs::remove_file(&bench.gate).unwrap();
    bench
        .rig
        .until("the operation ended", |_| bench.inflight() == 0);
    assert!(bench.fault().is_some(), "what was offline stays so");
    works_for_a_while(&bench);
    let device = uri(&bench.gate);
    let handle = bench.rig.handle(&device);
    let reopening = bench.rig.plane.reopen_device(handle, &device);
    bench.rig.runtime.block_on(reopening).unwrap();
    assert!(bench.reading().join().unwrap().unwrap() == [0x5a; 4096]);
    assert_eq!(bench.plugins.plugin("bad").unwrap().faults, 0);
    bench.rig.until("every buffer came back", |rig| {
        let reactors = rig.runtime.block_on(rig.plane.reactors());
        reactors[0].arena_used_bytes == 0
    });
}

/// A rescan, and a further device of the plugin, are refused in bounded time with a reason.
fn is_not_opened_again(bench: &Bench) {
    let (plane, runtime) = (&bench.rig.plane, &bench.rig.runtime);
    let uri = uri(&bench.gate);
    let handle = bench.rig.handle(&uri);
    let problem = runtime.block_on(plane.reopen_device(handle, &uri));
    let problem = problem.unwrap_err();
    assert_eq!(problem.kind(), ProblemKind::Busy);
    assert!(problem.to_string().contains("still in it"), "{problem}");
    let problem = runtime.block_on(plane.open_device(&uri)).unwrap_err();
    assert!(
        problem.to_string().ends_with(
            "the reactor of plugin 'bad' does not answer: a call into the plugin blocks it"
        ),
        "{problem}"
    );
}

#[test]
fn others_go_on_while_it_blocks() {
    others_go_on_while_it("BLOCKS");
}

#[test]
fn others_go_on_while_it_spins() {
    others_go_on_while_it("SPINS");
}

#[test]
fn the_engine_stops_while_it_blocks() {
    let bench = Bench::isolated("BLOCKS");
    std::fs::write(&bench.gate, "").unwrap();
    let reader = bench.reading();
    bench
        .rig
        .until("the read is in the plugin", |_| bench.inflight() == 1);
    let (begin, gate) = (Instant::now(), bench.gate.clone());
    let plugins = bench.plugins.clone();
    drop(bench.rig);
    assert!(begin.elapsed() < Duration::from_secs(30));
    assert!(reader.join().unwrap().is_err());
    // The buffer it writes to outlives the reactor that lent it. (The rig took the gate away with its directory.)
    assert!(!gate.exists());
    drop(plugins);
}

#[test]
fn operations_that_never_end_cost_their_device() {
    let bench = Bench::new("NEVER", &[]);
    let readers = [bench.reading(), bench.reading()];
    let is_over = || readers.iter().all(JoinHandle::is_finished);
    let (rounds, longest) = works(&bench, is_over);
    assert!(
        rounds > 100 && longest < DEADLINE / 2,
        "{rounds}, {longest:?}"
    );
    for reader in readers {
        assert!(reader.join().unwrap().is_err());
    }
    assert_eq!(
        bench.fault().as_deref(),
        Some("offline: too many operations never completed; mend it, then bdev rescan")
    );
    works_for_a_while(&bench);
}

#[test]
fn broken_promises_are_counted_and_cost_no_more_than_the_device() {
    // What is broken, whether the read succeeds, whether the device does from then on.
    for (define, is_read, is_well) in [
        ("TWICE", true, true),
        ("TWICE_MIXED", true, true),
        ("UNKNOWN", true, true),
        ("TOO_MANY_ENDS", true, true),
        ("SHORT_READ", false, true),
        ("NO_BUFFER", false, true),
        ("BAD_STATUS", false, true),
        ("PANICS", false, false),
    ] {
        let bench = Bench::new(define, &[]);
        let read = bench.reading().join().unwrap();
        assert_eq!(read.is_ok(), is_read, "{define}: {read:?}");
        assert_eq!(bench.fault().is_none(), is_well, "{define}");
        assert!(bench.plugins.plugin("bad").unwrap().faults > 0, "{define}");
        assert_eq!(bench.inflight(), 0, "{define}");
        works_for_a_while(&bench);
    }
}

fn works_for_a_while(bench: &Bench) {
    let begin = Instant::now();
    let (rounds, _) = works(bench, || begin.elapsed() > Duration::from_millis(50));
    assert!(rounds > 0);
}
