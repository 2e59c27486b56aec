//! `cat` and `erase`.

use magma_core::error::OpError;
use magma_core::flare::{Attr, Kind};
use magma_core::lava::Volcano;
use magma_core::limits::CONSOLE_CAT_MAX;

use super::{CommandError, Shell};
use crate::console::ask::{self, AskError};
use crate::console::render::{self, ContentText};
use crate::console::walk::{LastLink, Node, Place};

/// `cat`: the beginning of a file, [`CONSOLE_CAT_MAX`] bytes at most.
pub async fn cat(shell: &mut Shell, path: &[u8]) -> Result<(), CommandError> {
    let place = shell.walk(path, LastLink::Follow).await?;
    match &place.node {
        Node::Flare(attr) => match attr.kind {
            Kind::File => content(shell, &place, attr).await,
            Kind::Directory => Err(directory(&place)),
            kind => {
                let reason = format!("a {} has no content to show", render::kind(kind));
                Err(CommandError::unfit(&place, reason))
            }
        },
        Node::Dht => Err(directory(&place)),
        Node::Volcano(id) => {
            let lava = shell.backend.lava();
            let Some(volcano) = lava.volcano(*id) else {
                return Err(CommandError::ask(&place)(AskError::Op(OpError::NotFound)));
            };
            let text = volcano_text(shell, volcano);
            Ok(shell.output.raw(text.replace('\n', "\r\n")).await?)
        }
    }
}

fn directory(place: &Place) -> CommandError {
    CommandError::unfit(place, "it is a directory: `ls` lists it")
}

/// The content of a volcano's file in `/.dht`.
pub fn volcano_text(shell: &Shell, volcano: &Volcano) -> String {
    let statuses = shell.backend.statuses();
    let status = statuses.iter().find(|(s, _)| s.volcano == volcano.id);
    let lines = render::volcano_details(&shell.backend.lava(), volcano, status);
    lines.join("\n") + "\n"
}

async fn content(shell: &mut Shell, place: &Place, attr: &Attr) -> Result<(), CommandError> {
    let backend = shell.backend.clone();
    let mut text = ContentText::default();
    let mut offset = 0;
    let mut at_end = false;
    while !at_end && offset < CONSOLE_CAT_MAX {
        let left = CONSOLE_CAT_MAX - offset;
        let read = ask::read(backend.as_ref(), attr.flare, offset, left).await;
        let (bytes, eof) = read.map_err(CommandError::ask(place))?;
        offset += bytes.len() as u64;
        at_end = eof;
        shell.output.raw(text.piece(&bytes)).await?;
    }
    shell.output.raw(text.end()).await?;
    // The size may have changed since the walk; what was read is certain.
    if !at_end && attr.size > offset {
        let note = format!(
            "cat: {}: these were the first {offset} of {} bytes: read the rest on a mount",
            place.path, attr.size
        );
        shell.output.sentence(note).await?;
    }
    Ok(())
}

/// `erase`: removes a name, but not that of a directory.
pub async fn erase(shell: &mut Shell, path: &[u8]) -> Result<(), CommandError> {
    let place = shell.walk(path, LastLink::Keep).await?;
    let (attr, (parent, name)) = match (&place.node, &place.entry) {
        (Node::Flare(attr), _) if attr.kind == Kind::Directory => {
            let reason = "it is a directory: remove it with rmdir on a mount";
            return Err(CommandError::unfit(&place, reason));
        }
        (Node::Flare(attr), Some(entry)) => (attr, entry.clone()),
        (Node::Dht | Node::Volcano(_), _) | (Node::Flare(_), None) => {
            return Err(CommandError::ask(&place)(AskError::Op(OpError::ReadOnly)));
        }
    };
    let erased = ask::unlink(shell.backend.as_ref(), attr.flare, parent, name).await;
    erased.map_err(CommandError::ask(&place))?;
    tracing::info!(peer = shell.peer, path = %place.path, "erased on the console");
    Ok(shell.output.line(format!("erased {}", place.path)).await?)
}
