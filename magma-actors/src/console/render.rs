//! What the console shows, as text: names, modes, sizes, lines of a screen 80 columns wide.

use std::fmt::Write;

use magma_core::flare::Kind;
use magma_core::ids::VolcanoId;
use magma_core::lava::{CopyState, Lava, Volcano};
use magma_core::wire::node_protocol::VolcanoStatus;

/// Columns of the screen.
pub const WIDTH: usize = 80;

/// Bytes of a name or path for a person: UTF-8 as it is; control characters, backslashes and
/// bytes that are no UTF-8 escaped so that [`super::parser::split`] reads them back.
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                _ => push_visible(&mut text, c),
            }
        }
        chunk
            .invalid()
            .iter()
            .for_each(|byte| push_hex(&mut text, *byte));
    }
    text
}

/// As [`escaped`], in quotation marks where spaces or marks would split it otherwise.
pub fn quoted(bytes: &[u8]) -> String {
    let text = escaped(bytes);
    if text.is_empty() || text.contains([' ', '"']) {
        format!("\"{}\"", text.replace('"', "\\\""))
    } else {
        text
    }
}

/// A character as it is, unless a terminal would obey it.
fn push_visible(text: &mut String, c: char) {
    match c {
        '\r' => text.push_str("\\r"),
        _ if c.is_ascii_control() => push_hex(text, c as u8),
        // The controls of ISO 6429 above ASCII; many terminals obey them in UTF-8 too.
        _ if c.is_control() => text.extend(c.escape_unicode()),
        _ => text.push(c),
    }
}

fn push_hex(text: &mut String, byte: u8) {
    // Writing to a String does not fail.
    let _ = write!(text, "\\x{byte:02x}");
}

/// Shows content as it comes, without letting it take over the terminal: line ends become
/// CRLF, tabs stay, other control characters and bytes that are no UTF-8 are escaped (so no
/// byte of it can be a telnet command either).
#[derive(Debug, Default)]
pub struct ContentText {
    /// The beginning of a character that the next piece may complete; at most three bytes.
    carry: Vec<u8>,
    mid_line: bool,
}

impl ContentText {
    /// The next piece.
    pub fn piece(&mut self, bytes: &[u8]) -> String {
        let mut whole = std::mem::take(&mut self.carry);
        whole.extend_from_slice(bytes);
        let complete = whole.len() - cut_off_tail(&whole);
        self.carry = whole.split_off(complete);
        self.show(&whole)
    }

    /// What is left at the end; ends the last line.
    pub fn end(mut self) -> String {
        let carry = std::mem::take(&mut self.carry);
        let mut text = self.show(&carry);
        if self.mid_line {
            text.push_str("\r\n");
        }
        text
    }

    fn show(&mut self, bytes: &[u8]) -> String {
        let mut text = String::with_capacity(bytes.len() + bytes.len() / 8);
        for chunk in bytes.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\n' => text.push_str("\r\n"),
                    '\t' => text.push('\t'),
                    _ => push_visible(&mut text, c),
                }
            }
            chunk
                .invalid()
                .iter()
                .for_each(|byte| push_hex(&mut text, *byte));
        }
        if !text.is_empty() {
            self.mid_line = !text.ends_with('\n');
        }
        text
    }
}

/// How many bytes at the end are the beginning of a character.
fn cut_off_tail(bytes: &[u8]) -> usize {
    match std::str::from_utf8(&bytes[bytes.len().saturating_sub(3)..]) {
        Ok(_) => 0,
        Err(_) => (1..=3.min(bytes.len()))
            .find(|tail| {
                std::str::from_utf8(&bytes[bytes.len() - tail..])
                    .is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
            })
            .unwrap_or(0),
    }
}

/// Type and permissions, as `ls -l` has them.
pub fn mode(kind: Kind, mode: u32) -> String {
    let mut text = String::from(kind.letter());
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// Major and minor number of a device (the kernel's `new_decode_dev`).
pub fn device(rdev: u32) -> String {
    let major = (rdev & 0xf_ff00) >> 8;
    let minor = (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00);
    format!("{major}, {minor}")
}

/// What a kind of flare is called.
pub fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symbolic link",
        Kind::Fifo => "named pipe",
        Kind::Socket => "socket",
        Kind::CharDevice => "character device",
        Kind::BlockDevice => "block device",
    }
}

/// A text broken at spaces into lines of at most [`WIDTH`] columns; all but the first begin
/// with the indent. A word wider than that stays whole, so that it can be copied.
pub fn wrapped(text: &str, indent: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut empty = true;
    for word in text.split(' ') {
        let width = line.chars().count() + usize::from(!empty) + word.chars().count();
        if !empty && width > WIDTH {
            lines.push(std::mem::replace(&mut line, indent.to_owned()));
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    lines.push(line);
    lines
}

/// What `lava` shows of one volcano, without the blank line after it.
pub fn volcano(
    lava: &Lava,
    volcano: &Volcano,
    status: Option<&(VolcanoStatus, bool)>,
) -> Vec<String> {
    let info = &volcano.info;
    let mut lines = vec![
        format!("node: {} ({})", text(&info.nick), text(&info.fqdn)),
        format!(
            "alive: {}",
            if status.is_some_and(|(_, alive)| *alive) {
                "yes"
            } else if volcano.evicted {
                "no (evicted)"
            } else {
                "no"
            }
        ),
    ];
    if info.arbiter {
        lines.push("arbiter: yes".to_owned());
    }
    for slice in lava.owned_by(volcano.id) {
        lines.push(format!("start: {}", slice.start));
        lines.push(format!("stop: {}", slice.end));
    }
    // Before its first heartbeat nobody knows, and 0 would be a lie.
    let heard = status.map(|(status, _)| status);
    let keys = heard.map_or("unknown".to_owned(), |status| status.keys.to_string());
    lines.push(format!("keys: {keys}"));
    lines.push(format!("bwidth: {} Kbit/s", info.bandwidth_kbit));
    let (free, total) = match heard {
        Some(status) if status.total_bytes > 0 => {
            (mbytes(status.free_bytes), mbytes(status.total_bytes))
        }
        _ if info.storage_bytes > 0 => ("unknown".to_owned(), mbytes(info.storage_bytes)),
        _ => ("unknown".to_owned(), "unknown".to_owned()),
    };
    lines.push(format!("storage: {free} / {total} MByte"));
    lines
}

/// What `cat /.dht/NICK` shows: more of the same, and no secret.
pub fn volcano_details(
    lava: &Lava,
    member: &Volcano,
    status: Option<&(VolcanoStatus, bool)>,
) -> Vec<String> {
    let info = &member.info;
    let mut lines = volcano(lava, member, status);
    lines.push(format!("id: {}", member.id));
    let coordinates = lava.coordinator() == Some(member.id);
    lines.push(format!(
        "coordinator: {}",
        if coordinates { "yes" } else { "no" }
    ));
    lines.push(format!("flare protocol: {} UDP", info.flare_addr()));
    lines.push(format!("node protocol: {} UDP", info.node_addr()));
    lines.push(format!("console: {} TCP", info.console_addr()));
    for slice in lava.copied_on(member.id) {
        let Some(copy) = slice.copy_on(member.id) else {
            continue;
        };
        let state = copy_state(lava, copy);
        lines.push(format!(
            "copy of slice {} of {}: {state}",
            slice.id,
            nick(lava, slice.owner)
        ));
    }
    if let Some((status, _)) = status {
        lines.push(format!("copied keys: {}", status.copy_keys));
        lines.push(format!("content: {} MByte", mbytes(status.bytes)));
        lines.push(format!("operations: {}", status.operations));
        lines.push(format!("epoch: {}", status.epoch));
        lines.push(format!("start number: {}", status.start_number));
    }
    lines
}

/// The nickname of a member.
pub fn nick(lava: &Lava, id: VolcanoId) -> String {
    text(&lava.nick(id))
}

/// Whether a copy counts.
pub fn copy_state(lava: &Lava, copy: CopyState) -> &'static str {
    match copy.in_sync {
        true => "in sync",
        false if lava.is_down(copy.volcano) => "down",
        false => "being filled",
    }
}

/// Text that came from another volcano, for a terminal.
pub fn text(text: &str) -> String {
    escaped(text.as_bytes())
}

fn mbytes(bytes: u64) -> String {
    (bytes >> 20).to_string()
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
