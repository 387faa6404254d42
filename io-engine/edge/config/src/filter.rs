//! The log filter: which directives are taken.
//!
//! The filter itself reads a bare unknown word as a target, of which everything is logged, and of the rest nothing: a
//! mistyped level would silence the engine. So a word alone must be a level here. A directive about spans is
//! `target[span{field=value,..}]=level`; its target and level are checked as those of others, and its brackets for being
//! closed: the filter takes what it does not understand of them for a span nobody has.

/// Names of levels; each is also known by its place here, as a number.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The directives of `text`, separated by commas, without white space around them.
///
/// # Errors
/// Says which directive is none, and what to write.
pub(crate) fn normalized(text: &str) -> Result<String, String> {
    let pieces = directives(text);
    let example = "write e.g. info or warn,engine=debug";
    if pieces.is_empty() {
        return Err(format!(
            "'{text}' is not a log filter (it names no level); {example}"
        ));
    }
    for piece in &pieces {
        if let Err(reason) = check(piece) {
            return Err(format!(
                "'{text}' is not a log filter ({reason}); {example}"
            ));
        }
    }
    Ok(pieces.join(","))
}

/// The pieces between commas that are not within brackets, without white space around them.
fn directives(text: &str) -> Vec<&str> {
    let mut depth = 0usize;
    let pieces = text.split(|letter| {
        match letter {
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter == ',' && depth == 0
    });
    let pieces = pieces.map(str::trim);
    pieces.filter(|piece| !piece.is_empty()).collect()
}

/// What is wrong with one directive.
fn check(piece: &str) -> Result<(), String> {
    let no_level = |level: &str| format!("'{level}' is none of {}", LEVELS.join(", "));
    let Some((target, rest)) = piece.split_once('[') else {
        let (target, level) = match piece.split_once('=') {
            Some((target, level)) => (Some(target), level),
            None => (None, piece),
        };
        return match is_level(level) && target != Some("") {
            true => Ok(()),
            false => Err(no_level(level)),
        };
    };
    let Some((span, after)) = rest.rsplit_once(']') else {
        return Err(format!("'{piece}' has no ']'"));
    };
    if target.contains(['=', '{', '}', ']']) || span.contains(['[', ']']) {
        return Err(format!(
            "'{piece}' is not target[span{{field=value}}]=level"
        ));
    }
    if let Some((_, fields)) = span.split_once('{') {
        let Some(fields) = fields.strip_suffix('}') else {
            return Err(format!("'{piece}' has no '}}' before its ']'"));
        };
        if fields.contains(['{', '}']) || fields.split(',').any(|field| field.trim().is_empty()) {
            return Err(format!("'{piece}' has a field without a name"));
        }
    } else if span.is_empty() || span.contains('}') {
        return Err(format!("'{piece}' names no span between its brackets"));
    }
    // Without a level, all of the span is logged, which is what the brackets ask for.
    match after.strip_prefix('=') {
        None if after.is_empty() => Ok(()),
        Some(level) if is_level(level) => Ok(()),
        Some(level) => Err(no_level(level)),
        None => Err(format!("'{piece}' goes on behind its ']'")),
    }
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
            "[span]",
            "a::b[span{x,y=2}]=trace,info",
            "[{field}]=debug",
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
            "[span",
            "span]",
            "info,[span]=loud",
            "[span]debug",
            "[]=info",
            "[span{]=info",
            "[span{x,}]=info",
            "a=b[span]=info",
            "[[span]]=info",
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
