//! What a peer can make the engine write.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::{Mutex, Once};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::support::Rig;

/// Every line of level INFO and above that this process wrote.
static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Lines;

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0, " {}={value:?}", field.name()).expect("a string takes all");
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        LINES.lock().expect("no panic").push(text.0);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Keeps what is logged from here on.
pub(crate) fn keep() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing::subscriber::set_global_default(Lines).expect("the only one"));
}

/// Lines with all of these words.
pub(crate) fn count(words: &[&str]) -> usize {
    let lines = LINES.lock().expect("no panic");
    lines
        .iter()
        .filter(|line| words.iter().all(|word| line.contains(word)))
        .count()
}

/// Sum of the counts in summaries of `what`.
fn summed(what: &str) -> u64 {
    let lines = LINES.lock().expect("no panic");
    let of_kind = |line: &&String| line.contains(&format!("what=\"{what}\""));
    lines
        .iter()
        .filter(of_kind)
        .filter_map(|line| line.split("count=").nth(1))
        .filter_map(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

#[test]
fn bad_connections_fill_no_log() {
    keep();
    const BAD: usize = 400;
    let rig = Rig::new();
    // A reason that no other test of this process provokes: a header length no PDU has.
    let mut terminate = vec![0u8; 24];
    terminate[..8].copy_from_slice(&[0x02, 0, 24, 0, 24, 0, 0, 0]);
    let before = rig.drops_total();
    for _ in 0..BAD {
        let mut stream = TcpStream::connect(rig.address()).expect("the port is open");
        // The engine may close before everything is sent.
        let _ = stream.write_all(&terminate);
    }
    rig.until("all are dropped", |rig| {
        rig.drops_total() - before >= BAD as u64
    });
    let reason = rig.most_frequent_drop();
    rig.until("the rest is summed up", |_| summed(reason) > 0);
    let written = count(&["connection closed", &format!("reason=\"{reason}\"")]);
    assert!(written > 0, "the first ones are written");
    assert!(written <= BAD / 4, "{written} lines of {BAD}");
    rig.until("each is written or summed up", |_| {
        let written = count(&["connection closed", &format!("reason=\"{reason}\"")]) as u64;
        written + summed(reason) >= BAD as u64
    });
}
