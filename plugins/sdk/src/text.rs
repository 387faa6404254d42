//! Which characters may be part of a name, and how others are shown: a name stands in logs, tables and error lines, and
//! must neither forge one nor read as another.

/// Whether a character may be part of a name: no control or format character (which turn text round or hide), no line
/// separator, nothing unassigned, no space but the plain one.
pub fn is_printable(character: char) -> bool {
    // Behind a letter, so that a combining mark is taken for what it is.
    let escaped: String = ['a', character].into_iter().collect();
    let mut rest = escaped.escape_debug().skip(1);
    rest.next() != Some('\\') || matches!(rest.next(), Some('\\' | '\'' | '"'))
}

/// `text` on one line: what does not print is written as an escape.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_printable(character) {
            shown.push(character);
        } else {
            shown.extend(character.escape_debug());
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hides_or_moves_text_is_escaped() {
        let shown = [
            ("a\nb\u{1b}[31m", "a\\nb\\u{1b}[31m"),
            ("m\u{202e}gpj\u{200b}", "m\\u{202e}gpj\\u{200b}"),
            ("e\u{301} 'x' \"y\" \\", "e\u{301} 'x' \"y\" \\"),
            ("\u{65e5}\u{672c}", "\u{65e5}\u{672c}"),
        ];
        for (text, expected) in shown {
            assert_eq!(printable(text), expected);
            assert_eq!(text.chars().all(is_printable), text == expected);
        }
    }
}
