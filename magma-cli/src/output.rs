//! How results and errors reach a person: results on stdout, one line an error on stderr.

use std::fmt::Display;
use std::io::Write;

/// Exit code of wrong usage.
pub const USAGE: u8 = 2;
/// Exit code of work that failed.
pub const FAILED: u8 = 1;

/// Writes a result. A reader that went away (`| head`) is no error of ours.
pub fn result(line: impl Display) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Writes raw bytes of a result.
pub fn raw(bytes: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Writes one line about an error, as `PROGRAM: what happened`.
pub fn error(program: &str, what: impl Display) {
    let line = one_line(&what.to_string());
    let _ = writeln!(std::io::stderr().lock(), "{program}: {line}");
}

/// Joins the lines of a message.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The one line of a message of clap: without its `error:` and without usage and tips.
pub fn clap_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let line = one_line(paragraph);
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

/// A table for a person: columns as wide as they must be, two blanks between them.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut lines = Vec::with_capacity(rows.len());
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
        }
        lines.push(line.trim_end().to_owned());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["a", "long", "x"], ["longer", "b", ""]];
        let rows: Vec<Vec<String>> = rows
            .iter()
            .map(|row| row.iter().map(|cell| (*cell).to_owned()).collect())
            .collect();
        assert_eq!(table(&rows), "a       long  x\nlonger  b");
    }
}
