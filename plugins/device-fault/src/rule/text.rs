//! Rules as text: `KIND,key=value,...`, with commas or blanks between the words.

use std::fmt;
use std::time::Duration;

use units::{BlockRange, Blocks};

use super::{ErrorKind, Fault, OpKind, Ops, Rot, Rule, Stage};
use crate::limits::{DELAY_MAX, ROT_BITS_MAX, RULE_TEXT_MAX};

/// Why a text is no rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum RuleError {
    /// There is no text.
    Empty,
    /// It is longer than [`RULE_TEXT_MAX`].
    TooLong,
    /// There is no such fault.
    UnknownKind(String),
    /// A word is not of the form `key=value`.
    NoValue(String),
    /// A key is given twice.
    Twice(String),
    /// The fault does not know the key.
    UnknownKey {
        /// The fault.
        kind: &'static str,
        /// The key.
        key: String,
    },
    /// A value is not acceptable.
    BadValue {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// What it must be.
        expected: &'static str,
    },
    /// A key is missing.
    Missing {
        /// The fault.
        kind: &'static str,
        /// What it needs.
        key: &'static str,
    },
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a rule is empty; write e.g. error,kind=medium,op=read"),
            Self::TooLong => write!(f, "a rule is longer than {RULE_TEXT_MAX} bytes"),
            Self::UnknownKind(kind) => write!(
                f,
                "fault '{kind}' is unknown; use one of: delay, error, torn, lose, misdirect, rot, stuck"
            ),
            Self::NoValue(word) => write!(f, "'{word}' has no value; write {word}=VALUE"),
            Self::Twice(key) => write!(f, "'{key}' is given twice"),
            Self::UnknownKey { kind, key } => {
                write!(f, "fault '{kind}' does not know '{key}'; remove it")
            }
            Self::BadValue {
                key,
                value,
                expected,
            } => write!(f, "'{key}' is '{value}', must be {expected}"),
            Self::Missing { kind, key } => write!(f, "fault '{kind}' needs {key}"),
        }
    }
}

impl std::error::Error for RuleError {}

/// The `key=value` words of a rule, taken one by one.
struct Words {
    words: Vec<(String, String)>,
}

impl Words {
    /// Takes over words already split.
    ///
    /// # Errors
    /// [`RuleError::NoValue`], [`RuleError::Twice`].
    fn read<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Self, RuleError> {
        let mut words: Vec<(String, String)> = Vec::new();
        for text in texts {
            let Some((key, value)) = text.split_once('=') else {
                return Err(RuleError::NoValue(text.to_owned()));
            };
            if words.iter().any(|(known, _)| known == key) {
                return Err(RuleError::Twice(key.to_owned()));
            }
            words.push((key.to_owned(), value.to_owned()));
        }
        Ok(Self { words })
    }

    fn take(&mut self, key: &str) -> Option<String> {
        let at = self.words.iter().position(|(known, _)| known == key)?;
        Some(self.words.remove(at).1)
    }

    /// Takes a whole number from `low` to `high`.
    fn number(
        &mut self,
        key: &'static str,
        (low, high): (u64, u64),
        expected: &'static str,
    ) -> Result<Option<u64>, RuleError> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        number(&value)
            .filter(|number| (low..=high).contains(number))
            .map(Some)
            .ok_or_else(|| bad(key, &value, expected))
    }

    fn stage(&mut self) -> Result<Stage, RuleError> {
        match self.take("stage").as_deref() {
            None | Some("submit") => Ok(Stage::Submit),
            Some("complete") => Ok(Stage::Complete),
            Some(other) => Err(bad("stage", other, "submit or complete")),
        }
    }
}

/// A plain decimal number: digits only, no sign.
fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// An error about a value.
fn bad(key: &'static str, value: &str, expected: &'static str) -> RuleError {
    RuleError::BadValue {
        key,
        value: value.to_owned(),
        expected,
    }
}

/// The rule a text describes.
///
/// # Errors
/// Any [`RuleError`].
pub(crate) fn parse(text: &str) -> Result<Rule, RuleError> {
    if text.len() > RULE_TEXT_MAX {
        return Err(RuleError::TooLong);
    }
    let mut texts = text
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|word| !word.is_empty());
    let kind = texts.next().ok_or(RuleError::Empty)?;
    // The kind is known before its words are looked at, so that a misspelt kind is what the error is about.
    let known = kind_name(kind).ok_or_else(|| RuleError::UnknownKind(kind.to_owned()))?;
    let mut words = Words::read(texts)?;
    let fault = fault(known, &mut words)?;
    let rule = matcher(fault, &mut words)?;
    match words.words.into_iter().next() {
        None => Ok(rule),
        Some((key, _)) => Err(RuleError::UnknownKey { kind: known, key }),
    }
}

fn kind_name(kind: &str) -> Option<&'static str> {
    [
        "delay",
        "error",
        "torn",
        "lose",
        "misdirect",
        "rot",
        "stuck",
    ]
    .into_iter()
    .find(|known| *known == kind)
}

fn fault(kind: &'static str, words: &mut Words) -> Result<Fault, RuleError> {
    Ok(match kind {
        "delay" => delay(words)?,
        "error" => Fault::Error {
            kind: error_kind("kind", words)?.unwrap_or_default(),
            stage: words.stage()?,
        },
        "torn" => Fault::Torn {
            keep: words.number("keep", (0, u64::MAX), "a number of blocks")?,
            answer: answer(words)?,
        },
        "lose" => Fault::Lose {
            fua: yes_no("fua", words)?,
        },
        "misdirect" => Fault::Misdirect {
            shift: shift(words)?,
        },
        "rot" => Fault::Rot(rot(words)?),
        _ => Fault::Stuck {
            stage: words.stage()?,
        },
    })
}

fn delay(words: &mut Words) -> Result<Fault, RuleError> {
    const EXPECTED: &str = "1 to 3600000000 microseconds";
    const EXPECTED_MS: &str = "1 to 3600000 milliseconds";
    let us_max = DELAY_MAX.as_micros() as u64;
    let us = words.number("us", (1, us_max), EXPECTED)?;
    let ms = words.number("ms", (1, us_max / 1000), EXPECTED_MS)?;
    let base = match (us, ms) {
        (Some(us), None) => Duration::from_micros(us),
        (None, Some(ms)) => Duration::from_millis(ms),
        (Some(_), Some(ms)) => return Err(bad("ms", &ms.to_string(), "left out beside 'us'")),
        (None, None) => {
            return Err(RuleError::Missing {
                kind: "delay",
                key: "us=MICROSECONDS or ms=MILLISECONDS",
            });
        }
    };
    let jitter = words.number("jitter_us", (0, us_max), "0 to 3600000000 microseconds")?;
    Ok(Fault::Delay {
        base,
        jitter: Duration::from_micros(jitter.unwrap_or(0)),
        stage: words.stage()?,
    })
}

fn error_kind(key: &'static str, words: &mut Words) -> Result<Option<ErrorKind>, RuleError> {
    let Some(value) = words.take(key) else {
        return Ok(None);
    };
    let mut known = ErrorKind::NAMES.iter();
    known
        .find(|(_, name)| *name == value)
        .map(|(kind, _)| Some(*kind))
        .ok_or_else(|| {
            bad(
                key,
                &value,
                "one of: out-of-range, no-space, medium, gone, timeout, not-supported, busy, compare-failed, aborted",
            )
        })
}

fn answer(words: &mut Words) -> Result<Option<ErrorKind>, RuleError> {
    let is_ok = |(key, value): &(String, String)| key == "answer" && value == "ok";
    if words.words.iter().any(is_ok) {
        words.take("answer");
        return Ok(None);
    }
    error_kind("answer", words)
}

fn yes_no(key: &'static str, words: &mut Words) -> Result<bool, RuleError> {
    match words.take(key).as_deref() {
        None | Some("no") => Ok(false),
        Some("yes") => Ok(true),
        Some(other) => Err(bad(key, other, "yes or no")),
    }
}

fn shift(words: &mut Words) -> Result<i64, RuleError> {
    let Some(value) = words.take("shift") else {
        return Ok(1);
    };
    let parsed = value.parse().ok().filter(|shift| *shift != 0);
    parsed.ok_or_else(|| {
        bad(
            "shift",
            &value,
            "a number of blocks, with a minus for lower ones, not 0",
        )
    })
}

fn rot(words: &mut Words) -> Result<Rot, RuleError> {
    match words.take("bits").as_deref() {
        None => Ok(Rot::Bits(1)),
        Some("all") => Ok(Rot::All),
        Some(value) => number(value)
            .and_then(|bits| u32::try_from(bits).ok())
            .filter(|bits| (1..=ROT_BITS_MAX).contains(bits))
            .map(Rot::Bits)
            .ok_or_else(|| bad("bits", value, "1 to 4096, or all")),
    }
}

fn matcher(fault: Fault, words: &mut Words) -> Result<Rule, RuleError> {
    const MS: &str = "a whole number of milliseconds";
    // Most milliseconds that fit the arithmetic of durations everywhere; five hundred million years.
    const MS_MAX: u64 = u64::MAX >> 10;
    let mut rule = Rule::new(fault);
    if let Some(value) = words.take("op") {
        rule.ops = ops(&value, fault)?;
    }
    rule.range = range(words)?;
    let any = (0, u64::MAX);
    rule.skip = words.number("skip", any, "a whole number")?.unwrap_or(0);
    rule.count = words.number("count", (1, u64::MAX), "at least 1")?;
    if let Some(value) = words.take("probability") {
        let expected = "above 0 and at most 1, with at most 6 digits behind the point";
        rule.chance_ppm = chance_ppm(&value).ok_or_else(|| bad("probability", &value, expected))?;
    }
    rule.seed = words.number("seed", any, "a whole number below 2^64")?;
    let from = words.number("from_ms", (0, MS_MAX), MS)?.unwrap_or(0);
    let until = words.number("until_ms", (0, MS_MAX), MS)?;
    set_window(&mut rule, from, until, "until_ms")?;
    Ok(rule)
}

/// Sets the time of a rule; `key` names the end in the error.
///
/// # Errors
/// [`RuleError::BadValue`] if the end is not after the start.
pub(crate) fn set_window(
    rule: &mut Rule,
    from_ms: u64,
    until_ms: Option<u64>,
    key: &'static str,
) -> Result<(), RuleError> {
    if let Some(until) = until_ms.filter(|until| *until <= from_ms) {
        return Err(bad(key, &until.to_string(), "later than the start"));
    }
    rule.from = Duration::from_millis(from_ms);
    rule.until = until_ms.map(Duration::from_millis);
    Ok(())
}

fn ops(value: &str, fault: Fault) -> Result<Ops, RuleError> {
    let (able, _) = fault.ops();
    let mut kinds = Vec::new();
    for name in value.split('+') {
        if name == "all" {
            kinds.extend(OpKind::NAMES.map(|(kind, _)| kind));
            continue;
        }
        let known = OpKind::NAMES.iter().find(|(_, known)| *known == name);
        let Some((kind, _)) = known else {
            let expected = "all, or some of read, write, zeroes, discard, flush with '+' between";
            return Err(bad("op", value, expected));
        };
        kinds.push(*kind);
    }
    let ops = Ops::of(&kinds);
    if ops.is_within(able) {
        return Ok(ops);
    }
    Err(bad(
        "op",
        value,
        match fault {
            Fault::Torn { .. } => "write, zeroes or both: nothing else can be torn",
            Fault::Lose { .. } => "write, zeroes, flush: nothing else can be lost",
            Fault::Misdirect { .. } => "read, write, zeroes: nothing else can be misdirected",
            Fault::Rot(_) => "read, write or both: nothing else carries data",
            Fault::Delay { .. } | Fault::Error { .. } | Fault::Stuck { .. } => "an operation",
        },
    ))
}

fn range(words: &mut Words) -> Result<Option<BlockRange>, RuleError> {
    let start = words.number("start", (0, u64::MAX - 1), "a block address")?;
    let blocks = words.number("blocks", (1, u64::MAX), "at least 1")?;
    Ok(range_of(start, blocks))
}

/// The blocks from `start` (or the first one), `blocks` of them (or all that follow); nothing if neither is given.
pub(crate) fn range_of(start: Option<u64>, blocks: Option<u64>) -> Option<BlockRange> {
    if start.is_none() && blocks.is_none() {
        return None;
    }
    let start = start.unwrap_or(0);
    let rest = u64::MAX - start;
    Some(BlockRange::new(start, blocks.unwrap_or(rest).min(rest)))
}

/// A decimal fraction above 0, at most 1, in millionths.
fn chance_ppm(text: &str) -> Option<u32> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() || fraction.len() > 6 {
        return None;
    }
    let millionths = number(&format!("{fraction:0<6}"))?;
    let ppm = number(whole)?
        .checked_mul(1_000_000)?
        .checked_add(millionths)?;
    (1..=1_000_000).contains(&ppm).then_some(ppm as u32)
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.fault.name())?;
        match self.fault {
            Fault::Delay {
                base,
                jitter,
                stage,
            } => {
                write!(f, ",us={}", base.as_micros())?;
                if !jitter.is_zero() {
                    write!(f, ",jitter_us={}", jitter.as_micros())?;
                }
                write!(f, ",stage={stage}")?;
            }
            Fault::Error { kind, stage } => write!(f, ",kind={kind},stage={stage}")?,
            Fault::Torn { keep, answer } => {
                if let Some(keep) = keep {
                    write!(f, ",keep={keep}")?;
                }
                match answer {
                    None => f.write_str(",answer=ok")?,
                    Some(kind) => write!(f, ",answer={kind}")?,
                }
            }
            Fault::Lose { fua } => write!(f, ",fua={}", if fua { "yes" } else { "no" })?,
            Fault::Misdirect { shift } => write!(f, ",shift={shift}")?,
            Fault::Rot(Rot::Bits(bits)) => write!(f, ",bits={bits}")?,
            Fault::Rot(Rot::All) => f.write_str(",bits=all")?,
            Fault::Stuck { stage } => write!(f, ",stage={stage}")?,
        }
        write!(f, ",op={}", self.ops)?;
        if let Some(BlockRange {
            start,
            count: Blocks(blocks),
        }) = self.range
        {
            write!(f, ",start={},blocks={blocks}", start.0)?;
        }
        if self.skip > 0 {
            write!(f, ",skip={}", self.skip)?;
        }
        if let Some(count) = self.count {
            write!(f, ",count={count}")?;
        }
        if self.chance_ppm < 1_000_000 {
            write!(f, ",probability=0.{:06}", self.chance_ppm)?;
        }
        if let Some(seed) = self.seed {
            write!(f, ",seed={seed}")?;
        }
        if !self.from.is_zero() {
            write!(f, ",from_ms={}", self.from.as_millis())?;
        }
        match self.until {
            None => Ok(()),
            Some(until) => write!(f, ",until_ms={}", until.as_millis()),
        }
    }
}
