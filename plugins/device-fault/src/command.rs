//! Commands: `list`, `add RULE`, `remove N|all|inject://..`, `release [N]`, `power-cut`, and `inject://..` alone, which adds.

use std::fmt;

use sdk::services::Level;

use crate::inject::{self, InjectError};
use crate::limits::{COMMAND_TEXT_MAX, RULES_MAX};
use crate::plan::TooManyRules;
use crate::rule::{self, Rule, RuleError};
use crate::shared::{Shared, State};

/// Why a text is no command, or no rule of this device.
#[derive(Debug)]
pub(crate) enum CommandError {
    /// It is longer than [`COMMAND_TEXT_MAX`].
    TooLong,
    /// There is no such command.
    Unknown(String),
    /// A command has words it does not take.
    Surplus {
        /// The command.
        command: &'static str,
        /// The words.
        words: String,
    },
    /// The word is not the number of a rule.
    NoSuchRule(String),
    /// The rule does not parse.
    Rule(RuleError),
    /// The `inject://` URI does not parse.
    Inject(InjectError),
    /// The `inject://` URI names another device.
    OtherDevice {
        /// The device named.
        named: String,
        /// Names of this one.
        names: String,
    },
    /// There is no room for another rule.
    TooManyRules,
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "a command is longer than {COMMAND_TEXT_MAX} bytes"),
            Self::Unknown(word) => write!(
                f,
                "command '{word}' is unknown; use one of: list, add RULE, remove N|all|inject://URI, release [N], power-cut, inject://URI"
            ),
            Self::Surplus { command, words } => {
                write!(f, "'{command}' does not take '{words}'; remove it")
            }
            Self::NoSuchRule(word) => write!(f, "there is no rule '{word}'; see 'list'"),
            Self::Rule(error) => error.fmt(f),
            Self::Inject(error) => error.fmt(f),
            Self::OtherDevice { named, names } => {
                write!(f, "it names device '{named}', this one is {names}")
            }
            Self::TooManyRules => write!(
                f,
                "there are {RULES_MAX} rules, and there can be no more; remove one"
            ),
        }
    }
}

impl std::error::Error for CommandError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Rule(error) => Some(error),
            Self::Inject(error) => Some(error),
            _ => None,
        }
    }
}

impl From<RuleError> for CommandError {
    fn from(error: RuleError) -> Self {
        Self::Rule(error)
    }
}

impl From<InjectError> for CommandError {
    fn from(error: InjectError) -> Self {
        Self::Inject(error)
    }
}

impl From<TooManyRules> for CommandError {
    fn from(_: TooManyRules) -> Self {
        Self::TooManyRules
    }
}

/// The rule a text describes, in either language, for the device with these names.
///
/// # Errors
/// Any about rules.
pub(crate) fn parse_rule(text: &str, names: &[&str]) -> Result<Rule, CommandError> {
    if !inject::is_injection(text) {
        return Ok(rule::parse(text)?);
    }
    let injection = inject::parse(text)?;
    let is_ours = |name: &&str| name.trim_start_matches('/') == injection.device;
    if names.iter().any(is_ours) {
        return Ok(injection.rule);
    }
    Err(CommandError::OtherDevice {
        named: injection.device,
        names: format!("'{}'", names.join("' on '")),
    })
}

/// Obeys a command to the device with these names and answers it. What changes something leaves a line in the log.
///
/// # Errors
/// Any [`CommandError`]; nothing has changed then.
pub(crate) fn obey(shared: &Shared, names: &[&str], text: &str) -> Result<String, CommandError> {
    if text.len() > COMMAND_TEXT_MAX {
        return Err(CommandError::TooLong);
    }
    let text = text.trim();
    let (word, rest) = text
        .split_once(char::is_whitespace)
        .map_or((text, ""), |(word, rest)| (word, rest.trim_start()));
    let answer = match word {
        "list" => {
            no_more("list", rest)?;
            return Ok(list(shared));
        }
        "add" => add(shared, names, rest)?,
        "remove" => shared.with(|state| remove(state, rest))?,
        "release" => shared.with(|state| release(state, rest))?,
        "power-cut" => {
            no_more("power-cut", rest)?;
            let blocks = shared.with(|state| state.overlay.power_cut());
            format!("{blocks} blocks of unflushed writes are lost")
        }
        _ if inject::is_injection(word) => add(shared, names, text)?,
        _ => return Err(CommandError::Unknown(word.to_owned())),
    };
    shared.count_command();
    let line = format!(
        "{}: '{text}' obeyed: {answer}",
        names.first().unwrap_or(&"")
    );
    shared.services().log(Level::Info, &line);
    Ok(answer)
}

fn no_more(command: &'static str, rest: &str) -> Result<(), CommandError> {
    if rest.is_empty() {
        return Ok(());
    }
    let words = rest.to_owned();
    Err(CommandError::Surplus { command, words })
}

fn list(shared: &Shared) -> String {
    let (blocks, rules) = shared.with(|state| (state.overlay.blocks(), state.plan.describe()));
    format!("overlay: {blocks} blocks\nheld: {}\n{rules}", shared.held())
}

fn add(shared: &Shared, names: &[&str], text: &str) -> Result<String, CommandError> {
    let rule = parse_rule(text, names)?;
    let text = rule.to_string();
    let id = shared.with(|state| state.plan.add(rule))?;
    Ok(format!("rule {id}: {text}"))
}

fn remove(state: &mut State, what: &str) -> Result<String, CommandError> {
    let count = if what == "all" {
        state.plan.clear()
    } else if inject::is_injection(what) {
        state.plan.remove_injected(what)
    } else {
        usize::from(what.parse().is_ok_and(|id| state.plan.remove(id)))
    };
    match count {
        0 if what != "all" => Err(CommandError::NoSuchRule(what.to_owned())),
        1 => Ok("1 rule removed".to_owned()),
        count => Ok(format!("{count} rules removed")),
    }
}

fn release(state: &mut State, what: &str) -> Result<String, CommandError> {
    let id = match what {
        "" => None,
        word => match word.parse() {
            Ok(id) => Some(id),
            Err(_) => return Err(CommandError::NoSuchRule(word.to_owned())),
        },
    };
    if state.plan.release(id) {
        Ok("released".to_owned())
    } else {
        Err(CommandError::NoSuchRule(what.to_owned()))
    }
}
