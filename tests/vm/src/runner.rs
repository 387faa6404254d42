//! Runs scenarios one after the other in as few guests as possible, and reports each.
//!
//! Decides: when a guest is started afresh (after a failure or when it stopped answering), what is cleaned between
//! scenarios, and what fails a scenario besides its own text: an engine that died, a kernel warning nobody provoked.
//! Does not: pick scenarios or print the closing line.

use std::cell::RefCell;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::artifacts::{self, Artifacts};
use crate::engine::{Engine, Programs};
use crate::vm::{Accel, PATIENCE, Vm, report};

/// One story told to a real kernel.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Name on the command line.
    pub name: &'static str,
    /// What the scenario shows, one sentence.
    pub about: &'static str,
    /// Parts of kernel messages of level warning or worse that the scenario provokes on purpose.
    pub provokes: &'static [&'static str],
    /// The story. It fails by panicking.
    pub run: fn(&mut Vm, &mut Lab),
}

/// What the host side gives a scenario: engines, which live until the guest is cleaned up, and a place for files.
#[derive(Debug)]
pub struct Lab {
    programs: Programs,
    dir: PathBuf,
    share: PathBuf,
    engines: Vec<Engine>,
}

impl Lab {
    /// Starts an engine with extra command-line arguments.
    pub fn engine(&mut self, arguments: &[&str]) -> &mut Engine {
        let dir = self.dir.join(format!("engine-{}", self.engines.len()));
        let engine = Engine::start(&self.programs, &dir, arguments);
        let at = self.engines.len();
        self.engines.push(engine);
        &mut self.engines[at]
    }

    /// Copies engine, client, plugins and their libraries into `engine` in the directory the guest can mount, with the
    /// configuration `engine.toml` of an engine that lies in `directory` there; gives the engine's size.
    pub fn put_engine_into_share(&self, directory: &Path) -> u64 {
        let programs = &self.programs;
        let place = self.share.join("engine");
        fs::create_dir_all(&place).unwrap_or_else(|e| panic!("create {}: {e}", place.display()));
        for program in [&programs.engine, &programs.client]
            .into_iter()
            .chain(&programs.plugins)
        {
            let name = program.file_name().unwrap_or_default();
            fs::copy(program, place.join(name))
                .unwrap_or_else(|e| panic!("copy {}: {e}", program.display()));
            artifacts::copy_with_libraries(program, &self.share.join("root"))
                .unwrap_or_else(|e| panic!("{e}"));
        }
        let config = place.join("engine.toml");
        let text = programs.config(Some(directory)).unwrap_or_default();
        fs::write(&config, text).unwrap_or_else(|e| panic!("write {}: {e}", config.display()));
        fs::metadata(place.join("io-engine")).map_or(0, |meta| meta.len())
    }
}

/// How one scenario ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every expectation held.
    Passed,
    /// Something did not; the report says what.
    Failed,
}

/// Runs scenarios in order.
#[derive(Debug)]
pub struct Runner {
    artifacts: Artifacts,
    accel: Accel,
    programs: Programs,
    dir: PathBuf,
    keep: bool,
    guest: Option<Vm>,
    guests: u32,
}

impl Runner {
    /// A runner whose files go to `dir`; `keep` leaves files of passed scenarios there too.
    pub fn new(
        artifacts: Artifacts,
        accel: Accel,
        programs: Programs,
        dir: &Path,
        keep: bool,
    ) -> Self {
        Self {
            artifacts,
            accel,
            programs,
            dir: dir.to_owned(),
            keep,
            guest: None,
            guests: 0,
        }
    }

    /// Runs one scenario and prints its line, with everything known about a failure below it.
    pub fn run(&mut self, scenario: &Scenario) -> Verdict {
        let start = Instant::now();
        let outcome = self.attempt(scenario);
        let seconds = start.elapsed().as_secs_f32();
        match outcome {
            Ok(()) => {
                report(&format!("ok      {} ({seconds:.1} s)", scenario.name));
                Verdict::Passed
            }
            Err(reason) => {
                report(&format!("FAILED  {} ({seconds:.1} s)", scenario.name));
                for line in reason.lines() {
                    report(&format!("        {line}"));
                }
                // What is left in a guest after a failure is unknown; the next scenario gets a fresh one.
                self.guest = None;
                Verdict::Failed
            }
        }
    }

    fn attempt(&mut self, scenario: &Scenario) -> Result<(), String> {
        let share = self.dir.join("share");
        fs::create_dir_all(&share).map_err(|e| format!("create {}: {e}", share.display()))?;
        let mut vm = match self.guest.take() {
            Some(vm) if !vm.is_broken() => vm,
            _ => self.boot(&share)?,
        };
        let mut lab = Lab {
            programs: self.programs.clone(),
            dir: self.dir.join(scenario.name),
            share,
            engines: Vec::new(),
        };
        // A state directory left over from an earlier run would change what the engine starts with.
        if lab.dir.exists() {
            fs::remove_dir_all(&lab.dir)
                .map_err(|e| format!("remove {}: {e}", lab.dir.display()))?;
        }
        let outcome = guarded(|| {
            vm.mark_kernel_log(scenario.name);
            (scenario.run)(&mut vm, &mut lab);
            clean(&mut vm);
            check(&mut vm, &mut lab, scenario);
        });
        let outcome = outcome.map_err(|reason| describe_failure(&reason, &mut vm, &lab));
        drop(lab.engines);
        if outcome.is_ok() {
            if !self.keep && lab.dir.exists() {
                fs::remove_dir_all(&lab.dir)
                    .map_err(|e| format!("remove {}: {e}", lab.dir.display()))?;
            }
            self.guest = Some(vm);
        }
        outcome
    }

    fn boot(&mut self, share: &Path) -> Result<Vm, String> {
        let start = Instant::now();
        let dir = self.dir.join(format!("guest-{}", self.guests));
        self.guests += 1;
        let vm = Vm::boot(&self.artifacts, self.accel, &dir, share)?;
        report(&format!(
            "guest {} with kernel {} up in {:.1} s",
            self.guests,
            self.artifacts.release,
            start.elapsed().as_secs_f32()
        ));
        Ok(vm)
    }
}

/// Unmounts, disconnects and removes what the scenario left; the engines are still there to say goodbye to.
///
/// The guest's files are in its memory, half of which the next scenario may need.
fn clean(vm: &mut Vm) {
    vm.sh(
        "for dir in $(awk '$2 ~ \"^/mnt/\" { print $2 }' /proc/mounts); do umount \"$dir\"; done; \
         nvme disconnect-all",
    );
    vm.wait_until(
        "all controllers gone",
        PATIENCE,
        "[ -z \"$(ls /sys/class/nvme 2>/dev/null)\" ]",
    );
    vm.sh("rm -rf /tmp/* /run/jobs/*");
}

fn check(vm: &mut Vm, lab: &mut Lab, scenario: &Scenario) {
    let warnings = vm.kernel_warnings(scenario.provokes);
    assert!(
        warnings.is_empty(),
        "the guest's kernel warned:\n{}",
        warnings.join("\n")
    );
    for engine in &mut lab.engines {
        assert!(engine.is_alive(), "the engine died:\n{}", engine.log_tail());
        engine.stop();
    }
}

fn describe_failure(reason: &str, vm: &mut Vm, lab: &Lab) -> String {
    let mut text = reason.to_owned();
    for engine in &lab.engines {
        text.push_str(&format!("\n-- engine log:\n{}", engine.log_tail()));
    }
    let log = guarded(|| vm.sh("dmesg | tail -n 25"));
    text.push_str("\n-- guest's kernel log:\n");
    text.push_str(&log.unwrap_or_else(|_| vm.console_tail()));
    text.push_str(&format!("\n-- files: {}", lab.dir.display()));
    text
}

thread_local! {
    /// Text and place of the last panic, which `catch_unwind` alone does not give.
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs `body`, turning a panic into its text.
fn guarded<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let text = payload
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| {
                payload
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
            })
            .unwrap_or_else(|| "panic without a text".to_owned());
        let place = info
            .location()
            .map_or_else(String::new, |at| format!(" [{at}]"));
        LAST_PANIC.with(|last| *last.borrow_mut() = text + &place);
    }));
    let result = catch_unwind(AssertUnwindSafe(body));
    std::panic::set_hook(default);
    result.map_err(|_| LAST_PANIC.with(|last| last.take()))
}
