//! `inspect`.

use magma_core::flare::{FlareRow, Kind, Layout, LinkRow, LinkState};
use magma_core::key::{self, Key};
use magma_core::lava::Lava;
use magma_core::op::Inspection;

use super::{CommandError, Shell};
use crate::console::ask;
use crate::console::render;
use crate::console::walk::{LastLink, Node};
use crate::utc;

/// `inspect`: all that is known of a flare, by its path or by its key.
pub async fn inspect(shell: &mut Shell, object: &[u8]) -> Result<(), CommandError> {
    let typed_key = std::str::from_utf8(object)
        .ok()
        .and_then(|text| text.parse::<Key>().ok());
    let (key, path) = match typed_key {
        Some(key) => (key, None),
        None => {
            let place = shell.walk(object, LastLink::Keep).await?;
            match &place.node {
                Node::Flare(attr) => (attr.flare.key(), Some(place.path.to_string())),
                // It is made from the lava: there is a key and an owner, and no flare.
                Node::Dht => return show_key(shell, key::DHT).await,
                Node::Volcano(_) => return show_key(shell, place.path.key()).await,
            }
        }
    };
    let inspection = ask::inspect(shell.backend.as_ref(), key).await;
    let inspection = inspection.map_err(|error| CommandError::Ask {
        object: path.clone().unwrap_or_else(|| key.to_string()),
        error,
    })?;
    if let Some(path) = path {
        shell.output.line(format!("path: {path}")).await?;
    }
    show_key(shell, key).await?;
    for line in flare_lines(&inspection) {
        for line in render::wrapped(&line, "  ") {
            shell.output.line(line).await?;
        }
    }
    Ok(())
}

/// Shows what the lava says of a key.
async fn show_key(shell: &mut Shell, key: Key) -> Result<(), CommandError> {
    for line in key_lines(&shell.backend.lava(), key) {
        shell.output.line(line).await?;
    }
    Ok(())
}

/// What the lava says of a key: its slice, who owns it and who has copies.
pub fn key_lines(lava: &Lava, key: Key) -> Vec<String> {
    let mut lines = vec![format!("key: {key}"), format!("inode: {}", key.ino())];
    let Some(slice) = lava.slice_of(key) else {
        lines.push("owner: nobody: the lava is empty".to_owned());
        return lines;
    };
    lines.push(format!("slice: {}", slice.id));
    lines.push(format!("owner: {}", render::nick(lava, slice.owner)));
    lines.extend(slice.copies.iter().map(|copy| {
        let state = render::copy_state(lava, *copy);
        format!("copy: {} ({state})", render::nick(lava, copy.volcano))
    }));
    if slice.copies.is_empty() {
        lines.push("copy: none".to_owned());
    }
    lines
}

/// What the owner of a flare knows of it.
pub fn flare_lines(inspection: &Inspection) -> Vec<String> {
    let row = &inspection.row;
    let mut lines = vec![
        format!("incarnation: {}", row.inc),
        format!("version: {}", row.version),
        format!("type: {}", render::kind(row.kind)),
        format!(
            "mode: {} ({:04o})",
            render::mode(row.kind, row.mode),
            row.mode
        ),
        format!("uid, gid: {}, {}", row.uid, row.gid),
        format!("size: {}", row.size),
        format!("link count: {}", row.nlink),
    ];
    if row.is_dir() {
        lines.push(format!("entries: {}", row.entries));
    }
    if matches!(row.kind, Kind::CharDevice | Kind::BlockDevice) {
        lines.push(format!("device: {}", render::device(row.rdev)));
    }
    lines.extend(times(row));
    if let Some(tx) = row.nascent {
        lines.push(format!("nascent: transaction {tx} is not settled"));
    }
    lines.extend(inspection.links.iter().map(link_line));
    if inspection.links.is_empty() && row.key != key::ROOT {
        lines.push("name: none (removed, but kept open)".to_owned());
    }
    lines.extend(
        inspection
            .xattrs
            .iter()
            .map(|name| format!("xattr: {}", render::escaped(name))),
    );
    let place = match row.layout {
        Layout::Inline => "in the row",
        Layout::Segments => "in content files",
    };
    lines.push(format!(
        "content: {place}: {}",
        render::text(&inspection.content)
    ));
    lines.push(format!(
        "answered by: {}",
        render::text(&inspection.volcano)
    ));
    lines
}

fn times(row: &FlareRow) -> [String; 4] {
    [
        ("read", row.atime),
        ("written", row.mtime),
        ("changed", row.ctime),
        ("born", row.crtime),
    ]
    .map(|(what, time)| format!("{what}: {} UTC", utc::nanoseconds(time)))
}

/// A link names its parent by key: its path is the parent's owner's to know.
fn link_line(link: &LinkRow) -> String {
    let state = match &link.state {
        LinkState::Settled => String::new(),
        LinkState::Nascent(tx) => format!(" (being added by transaction {tx})"),
        LinkState::Going(tx) => format!(" (being removed by transaction {tx})"),
        LinkState::HeldOld(tx, _) => format!(" (leaves by rename {tx})"),
        LinkState::HeldNew(tx, _) => format!(" (comes by rename {tx})"),
    };
    let name = render::quoted(link.name.as_bytes());
    format!("name: {name} in {}{state}", link.parent.key())
}
