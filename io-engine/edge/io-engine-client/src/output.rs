//! Columns and units.

use clap::ValueEnum;

/// Units of sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Units {
    /// Binary: KiB, MiB, ..
    I,
    /// Decimal: kB, MB, ..
    D,
}

/// `bytes` in `units`; plain bytes without.
pub(crate) fn size(bytes: u64, units: Option<Units>) -> String {
    let (step, names): (f64, [&str; 6]) = match units {
        None => return bytes.to_string(),
        Some(Units::I) => (1024.0, ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]),
        Some(Units::D) => (1000.0, ["kB", "MB", "GB", "TB", "PB", "EB"]),
    };
    let mut value = bytes as f64;
    let mut unit = "B";
    for name in names {
        if value < step {
            break;
        }
        value /= step;
        unit = name;
    }
    if unit == "B" {
        format!("{bytes} B")
    } else {
        format!("{value:.2} {unit}")
    }
}

/// Nanoseconds as microseconds with two digits.
pub(crate) fn micros(ns: u64) -> String {
    format!("{:.2}", ns as f64 / 1e3)
}

/// Rows under headings; a heading that starts with `>` is right-aligned.
#[derive(Debug)]
pub(crate) struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(headings: &[&'static str]) -> Self {
        Self {
            headings: headings.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row with one cell a heading.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.headings.len(), "one cell a heading");
        self.rows.push(cells);
    }

    /// The text, every line ended, two spaces between columns; empty cells show as `-`, so that columns can be counted.
    pub(crate) fn render(&self, with_headings: bool) -> String {
        let right: Vec<bool> = self.headings.iter().map(|h| h.starts_with('>')).collect();
        let headings = self
            .headings
            .iter()
            .map(|h| h.trim_start_matches('>').to_owned());
        let mut lines: Vec<Vec<String>> = Vec::new();
        if with_headings {
            lines.push(headings.collect());
        }
        let shown = |cell: &String| {
            if cell.is_empty() {
                "-".to_owned()
            } else {
                cell.clone()
            }
        };
        lines.extend(self.rows.iter().map(|row| row.iter().map(shown).collect()));
        let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max();
        let widths: Vec<usize> = (0..right.len()).map(|c| width(c).unwrap_or(0)).collect();
        let mut text = String::new();
        for line in &lines {
            let cells = line
                .iter()
                .zip(&widths)
                .zip(&right)
                .map(|((cell, width), right)| {
                    if *right {
                        format!("{cell:>width$}")
                    } else {
                        format!("{cell:<width$}")
                    }
                });
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_the_units() {
        assert_eq!(size(67_108_864, None), "67108864");
        assert_eq!(size(67_108_864, Some(Units::I)), "64.00 MiB");
        assert_eq!(size(67_108_864, Some(Units::D)), "67.11 MB");
        assert_eq!(size(512, Some(Units::I)), "512 B");
        assert_eq!(size(0, Some(Units::D)), "0 B");
        assert_eq!(size(u64::MAX, Some(Units::I)), "16.00 EiB");
    }

    #[test]
    fn columns_line_up_and_empty_cells_are_seen() {
        let mut table = Table::new(&["NAME", ">SIZE", "URI"]);
        table.row(vec!["a".into(), "5".into(), String::new()]);
        table.row(vec!["longer".into(), "12345".into(), "x".into()]);
        assert_eq!(
            table.render(true),
            "NAME     SIZE  URI\na           5  -\nlonger  12345  x\n"
        );
        assert_eq!(table.render(false), "a           5  -\nlonger  12345  x\n");
    }
}
