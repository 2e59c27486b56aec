//! `ls`, `cd` and `pwd`.

use std::collections::BTreeMap;

use futures::stream::{self, StreamExt};
use magma_core::error::OpError;
use magma_core::flare::{Attr, Kind};
use magma_core::ids::{FlareRef, VolcanoId};
use magma_core::lava::Volcano;
use magma_core::limits::{ATTR_BATCH_MAX, CONSOLE_REQUESTS};
use magma_core::op::ListedEntry;

use super::{CommandError, Shell};
use crate::console::ask;
use crate::console::backend::Backend;
use crate::console::render;
use crate::console::walk::{LastLink, Node, Place};
use crate::utc;

/// A line of `ls`, before the columns are as wide as their widest.
struct Row {
    mode: String,
    nlink: String,
    uid: String,
    gid: String,
    size: String,
    time: String,
    name: String,
}

/// `ls`: a directory in the order of its names, or one file. A big directory comes in pages,
/// each in order by itself.
pub async fn ls(shell: &mut Shell, path: &[u8]) -> Result<(), CommandError> {
    let place = shell.walk(path, LastLink::Follow).await?;
    match &place.node {
        Node::Dht => {
            let lava = shell.backend.lava();
            let rows = lava
                .volcanos
                .iter()
                .map(|v| volcano_row(shell, v))
                .collect();
            show(shell, rows).await
        }
        Node::Volcano(id) => {
            let lava = shell.backend.lava();
            let row = lava.volcano(*id).map(|volcano| volcano_row(shell, volcano));
            show(shell, row.into_iter().collect()).await
        }
        Node::Flare(attr) if attr.kind == Kind::Directory => list(shell, &place, attr.flare).await,
        Node::Flare(attr) => show(shell, vec![row(attr, render::escaped(path))]).await,
    }
}

/// `cd`.
pub async fn cd(shell: &mut Shell, path: &[u8]) -> Result<(), CommandError> {
    let place = shell.walk(path, LastLink::Follow).await?;
    match &place.node {
        Node::Dht => {}
        Node::Flare(attr) if attr.kind == Kind::Directory => {}
        Node::Flare(attr) => {
            let kind = render::kind(attr.kind);
            let reason = format!("it is a {kind}, not a directory: `cat` shows files");
            return Err(CommandError::unfit(&place, reason));
        }
        Node::Volcano(_) => {
            let reason = "it is a file, not a directory: `cat` shows files";
            return Err(CommandError::unfit(&place, reason));
        }
    }
    shell.here = place.path;
    Ok(())
}

/// `pwd`.
pub async fn pwd(shell: &mut Shell) -> Result<(), CommandError> {
    let here = render::escaped(shell.here.as_bytes());
    Ok(shell.output.line(here).await?)
}

async fn list(shell: &mut Shell, place: &Place, dir: FlareRef) -> Result<(), CommandError> {
    let mut after = 0;
    loop {
        let backend = shell.backend.clone();
        let page = ask::read_dir(backend.as_ref(), dir, after).await;
        let (mut entries, end) = page.map_err(CommandError::ask(place))?;
        after = entries.last().map_or(after, |entry| entry.cookie);
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let rows = rows(backend.as_ref(), &entries).await;
        show(shell, rows).await?;
        // The peer sees each page while the next one is on its way.
        shell.output.flush().await?;
        if end {
            return Ok(());
        }
    }
}

/// Attributes are asked for in batches, one owner each.
async fn rows(backend: &dyn Backend, entries: &[ListedEntry]) -> Vec<Row> {
    let lava = backend.lava();
    let mut by_owner: BTreeMap<Option<VolcanoId>, Vec<&ListedEntry>> = BTreeMap::new();
    for entry in entries {
        let owner = lava.owner_of(entry.child.key());
        by_owner.entry(owner).or_default().push(entry);
    }
    let batches = by_owner
        .values()
        .flat_map(|list| list.chunks(ATTR_BATCH_MAX));
    let answers: Vec<_> = stream::iter(batches.map(|batch| batch_of(backend, batch)))
        .buffer_unordered(CONSOLE_REQUESTS)
        .collect()
        .await;
    let known: BTreeMap<FlareRef, Attr> = answers
        .into_iter()
        .flatten()
        .map(|attr| (attr.flare, attr))
        .collect();
    stream::iter(
        entries
            .iter()
            .map(|entry| row_of(backend, entry, known.get(&entry.child))),
    )
    .buffered(CONSOLE_REQUESTS)
    .collect()
    .await
}

async fn batch_of(backend: &dyn Backend, batch: &[&ListedEntry]) -> Vec<Attr> {
    let flares: Vec<FlareRef> = batch.iter().map(|entry| entry.child).collect();
    let Ok(answers) = ask::attrs(backend, flares.clone()).await else {
        // Its lines say that nothing is known; the names are worth showing all the same.
        return Vec::new();
    };
    let mut attrs = Vec::with_capacity(answers.len());
    for (flare, answer) in flares.into_iter().zip(answers) {
        match answer {
            Ok(attr) => attrs.push(attr),
            // Gone since: as its line will say.
            Err(OpError::Stale | OpError::NotFound) => {}
            // It may have moved to another owner since the batch was made up.
            Err(_) => attrs.extend(ask::get_attr(backend, flare).await.ok()),
        }
    }
    attrs
}

async fn row_of(backend: &dyn Backend, entry: &ListedEntry, attr: Option<&Attr>) -> Row {
    let mut name = render::escaped(entry.name.as_bytes());
    let Some(attr) = attr else {
        let unknown = || "?".to_owned();
        return Row {
            mode: format!("{}?????????", entry.kind.letter()),
            nlink: unknown(),
            uid: unknown(),
            gid: unknown(),
            size: unknown(),
            time: unknown(),
            name,
        };
    };
    if attr.kind == Kind::Symlink
        && let Ok(target) = ask::read_link(backend, attr.flare).await
    {
        name = format!("{name} -> {}", render::escaped(&target));
    }
    row(attr, name)
}

fn row(attr: &Attr, name: String) -> Row {
    let device = matches!(attr.kind, Kind::CharDevice | Kind::BlockDevice);
    Row {
        mode: render::mode(attr.kind, attr.mode),
        nlink: attr.nlink.to_string(),
        uid: attr.uid.to_string(),
        gid: attr.gid.to_string(),
        size: if device {
            render::device(attr.rdev)
        } else {
            attr.size.to_string()
        },
        time: utc::minutes(attr.mtime),
        name,
    }
}

fn volcano_row(shell: &Shell, volcano: &Volcano) -> Row {
    let text = super::file::volcano_text(shell, volcano);
    Row {
        mode: render::mode(Kind::File, 0o444),
        nlink: "1".to_owned(),
        uid: "0".to_owned(),
        gid: "0".to_owned(),
        size: text.len().to_string(),
        time: "-".to_owned(),
        name: render::text(&volcano.info.nick),
    }
}

async fn show(shell: &mut Shell, rows: Vec<Row>) -> Result<(), CommandError> {
    let widest = |column: fn(&Row) -> &String| {
        let widths = rows.iter().map(|row| column(row).len());
        widths.max().unwrap_or_default()
    };
    let nlink = widest(|row| &row.nlink);
    let uid = widest(|row| &row.uid);
    let gid = widest(|row| &row.gid);
    let size = widest(|row| &row.size);
    let time = widest(|row| &row.time);
    for row in &rows {
        let line = format!(
            "{} {:>nlink$} {:>uid$} {:>gid$} {:>size$} {:<time$} {}",
            row.mode, row.nlink, row.uid, row.gid, row.size, row.time, row.name
        );
        shell.output.line(line).await?;
    }
    Ok(())
}
