//! The log filter: which directives are taken.
//!
//! The filter itself reads a bare unknown word as a target, of which everything is logged, and of the rest nothing: a
//! mistyped level would silence the engine. So a word alone must be a level here.

/// Names of levels; each is also known by its place here, as a number.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The directives of `text`, separated by commas, without white space around them.
///
/// # Errors
/// Says which directive is none, and what to write.
pub(crate) fn normalized(text: &str) -> Result<String, String> {
    let pieces: Vec<&str> = text
        .split(',')
        .map(str::trim)
        .filter(|piece| !piece.is_empty())
        .collect();
    let example = "write e.g. info or warn,engine=debug";
    if pieces.is_empty() {
        return Err(format!(
            "'{text}' is not a log filter (it names no level); {example}"
        ));
    }
    for piece in &pieces {
        // Spans and fields have a syntax of their own, which is checked where the filter is made.
        if piece.contains(['[', ']', '{', '}']) {
            continue;
        }
        let (target, level) = match piece.split_once('=') {
            Some((target, level)) => (Some(target), level),
            None => (None, *piece),
        };
        if is_level(level) && target != Some("") {
            continue;
        }
        return Err(format!(
            "'{text}' is not a log filter ('{level}' is none of {}); {example}",
            LEVELS.join(", ")
        ));
    }
    Ok(pieces.join(","))
}

fn is_level(text: &str) -> bool {
    let by_number = text
        .parse()
        .is_ok_and(|number: usize| number < LEVELS.len());
    by_number || LEVELS.iter().any(|level| level.eq_ignore_ascii_case(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_targets_with_levels_are_taken() {
        for text in [
            "info",
            "OFF",
            "0",
            "5",
            "info,nvme_target=debug",
            "warn,a::b=trace,[span{field=1}]=debug",
            "a[span]=info",
        ] {
            assert_eq!(normalized(text).as_deref(), Ok(text));
        }
        assert_eq!(
            normalized(" info, engine=debug,").as_deref(),
            Ok("info,engine=debug")
        );
    }

    #[test]
    fn what_would_silence_the_engine_is_refused() {
        for text in [
            "",
            " ",
            ",",
            "inf",
            "6",
            "-1",
            "info,nvme_target",
            "engine=loud",
            "engine=",
            "=info",
            "info debug",
        ] {
            let problem = normalized(text).expect_err(text);
            assert!(
                problem.starts_with(&format!("'{text}' is not a log filter (")),
                "{problem}"
            );
            assert!(
                problem.ends_with("; write e.g. info or warn,engine=debug"),
                "{problem}"
            );
        }
    }
}
