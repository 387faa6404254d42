//! See [`pool_tool`].

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut out = std::io::stdout().lock();
    let outcome = pool_tool::run(&words, &mut out);
    match (outcome, out.flush()) {
        (Ok(outcome), Ok(())) => ExitCode::from(outcome.code()),
        // Nobody reads what is found: as good as not looked at.
        (Ok(_) | Err(_), _) => ExitCode::from(pool_tool::Outcome::NotOpened.code()),
    }
}
