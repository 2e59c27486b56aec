//! What was found, for a person and for a program.

use std::collections::{BTreeMap, BTreeSet};

use magma_actors::console::render;
use magma_core::error::OpResult;
use magma_core::flare::Name;
use magma_core::fsck::Finding;
use magma_core::ids::FlareRef;
use magma_core::key::{Key, ROOT};
use magma_core::limits::PATH_MAX;
use magma_fuse::client::Client;
use serde_json::json;

use super::super::{RemoteError, json as documents};
use super::confirm::owned;
use super::repair::Outcome;
use super::scan::Counts;
use crate::output;

/// Findings whose path is looked up; the others are named by their key.
const PATHS_MAX: usize = 200;

/// One finding, ready to be shown.
pub(super) struct Line {
    key: Key,
    path: Option<String>,
    volcano: String,
    kind: &'static str,
    what: String,
    remedy: &'static str,
    outcome: Option<Outcome>,
}

/// The findings with their paths and what became of them.
pub(super) async fn lines(
    client: &Client,
    findings: &BTreeSet<Finding>,
    outcomes: Option<&BTreeMap<Finding, Outcome>>,
) -> OpResult<Vec<Line>> {
    let lava = client.lava();
    let mut lines = Vec::with_capacity(findings.len());
    for finding in findings {
        let key = finding.key();
        let path = match lines.len() < PATHS_MAX {
            true => path_of(client, finding).await?,
            false => None,
        };
        let volcano = match finding {
            Finding::CopyDiffers { volcano, .. }
            | Finding::ContentDiffers { volcano, .. }
            | Finding::Stray { volcano, .. } => Some(*volcano),
            _ => lava.owner_of(key),
        };
        let (kind, what, remedy) = words(finding);
        lines.push(Line {
            key,
            path,
            volcano: volcano.map_or_else(|| "nobody".to_owned(), |id| lava.nick(id)),
            kind,
            what,
            remedy,
            outcome: outcomes.and_then(|outcomes| outcomes.get(finding).cloned()),
        });
    }
    Ok(lines)
}

/// Kind, what is wrong, and what to do.
fn words(finding: &Finding) -> (&'static str, String, &'static str) {
    const REPAIR: &str = "run with --repair";
    const REFILL: &str = "run with --repair: the copy is filled anew";
    match finding {
        Finding::EntryWithoutFlare { name, child, .. } => (
            "entry_without_flare",
            format!("the entry {name} names {child}, which is gone"),
            "restore the file from a backup after --repair has removed the entry",
        ),
        Finding::EntryWithoutLink { name, child, .. } => (
            "entry_without_link",
            format!("the entry {name} names {child}, which does not know this name"),
            REPAIR,
        ),
        Finding::WrongType { name, kind, .. } => (
            "wrong_type",
            format!("the entry {name} has another type than its flare ({kind:?})"),
            REPAIR,
        ),
        Finding::LinkWithoutEntry { dir, name, .. } => (
            "link_without_entry",
            format!("it is linked as {name} in {dir}, which has no such entry"),
            REPAIR,
        ),
        Finding::WrongLinks { has, wanted, .. } => (
            "wrong_links",
            format!("it counts {has} links, there are {wanted}"),
            REPAIR,
        ),
        Finding::WrongEntries { has, wanted, .. } => (
            "wrong_entries",
            format!("it counts {has} entries, there are {wanted}"),
            REPAIR,
        ),
        Finding::ManyNames { names, .. } => (
            "many_names",
            format!("the directory has {names} names"),
            "rename or remove all but one",
        ),
        Finding::Orphan { kind, entries, .. } => (
            "orphan",
            format!("a flare without name ({kind:?}, {entries} entries) that nobody has open"),
            "run with --repair: it is dropped, unless it has entries",
        ),
        Finding::Leftovers { .. } => (
            "leftovers",
            "rows under a key that has no flare".to_owned(),
            REPAIR,
        ),
        Finding::Unfinished { .. } => (
            "unfinished",
            "a transaction does not end".to_owned(),
            "look at magma status and the logs of its volcanos",
        ),
        Finding::NoRoot => (
            "no_root",
            "the root directory is not there".to_owned(),
            "stop the network and compare the stores with magma verify",
        ),
        Finding::Unreachable { .. } => (
            "unreachable",
            "the directory lies below itself and cannot be reached from the root".to_owned(),
            "stop the network and look at its links with magma verify",
        ),
        Finding::CopyDiffers { has_more: true, .. } => (
            "copy_has_more",
            "the copy has a flare that its owner lacks".to_owned(),
            "stop both volcanos and save their stores before anything else",
        ),
        Finding::CopyDiffers { .. } => (
            "copy_differs",
            "the rows of the copy are not those of the owner".to_owned(),
            REFILL,
        ),
        Finding::ContentDiffers { offset, .. } => (
            "content_differs",
            format!("the content of the copy differs in the piece at byte {offset}"),
            REFILL,
        ),
        Finding::Stray { .. } => (
            "stray",
            "rows of a key that this volcano neither owns nor copies".to_owned(),
            REPAIR,
        ),
    }
}

/// Where in the tree it is, as far as links lead to the root.
async fn path_of(client: &Client, finding: &Finding) -> OpResult<Option<String>> {
    let (mut at, mut path) = match finding {
        Finding::EntryWithoutFlare { dir, name, .. }
        | Finding::EntryWithoutLink { dir, name, .. }
        | Finding::WrongType { dir, name, .. }
        | Finding::LinkWithoutEntry { dir, name, .. } => (dir.key(), below(name)),
        _ => (finding.key(), Vec::new()),
    };
    while at != ROOT {
        let found = owned(client, at).await?;
        let link = found.and_then(|whole| whole.links.into_iter().next());
        let Some(link) = link.filter(|_| path.len() <= PATH_MAX) else {
            return Ok(None);
        };
        let FlareRef(parent, _) = link.parent;
        path.splice(0..0, below(&link.name));
        at = parent;
    }
    if path.is_empty() {
        path.push(b'/');
    }
    Ok(Some(render::escaped(&path).to_string()))
}

fn below(name: &Name) -> Vec<u8> {
    [b"/", name.as_bytes()].concat()
}

/// Prints all of it.
pub(super) fn show(
    client: &Client,
    counts: &Counts,
    lines: &[Line],
    (cut, code): (bool, u8),
    as_json: bool,
) -> Result<(), RemoteError> {
    if as_json {
        let findings = lines.iter().map(|line| {
            json!({
                "kind": line.kind,
                "key": line.key.to_string(),
                "path": line.path,
                "node": line.volcano,
                "what": line.what,
                "remedy": line.remedy,
                "repaired": line.outcome.as_ref().map(Result::is_ok),
                "left_because": line.outcome.as_ref().and_then(|o| o.as_ref().err()),
            })
        });
        return documents::print(&json!({
            "epoch": client.lava().epoch.0,
            "keys": counts.keys,
            "copied_keys": counts.copied,
            "content_bytes": counts.bytes,
            "findings": findings.collect::<Vec<_>>(),
            "more": cut,
            "code": code,
        }));
    }
    for line in lines {
        let place = match &line.path {
            Some(path) => format!("{path} ({})", line.key),
            None => line.key.to_string(),
        };
        let end = match &line.outcome {
            Some(Ok(())) => "repaired".to_owned(),
            Some(Err(reason)) => format!("left: {reason}; {}", line.remedy),
            None => line.remedy.to_owned(),
        };
        let Line { volcano, what, .. } = line;
        output::result(format_args!("{place} on {volcano}: {what}; {end}"));
    }
    if cut {
        output::result("There is more: run it again after these.");
    }
    let repaired = lines.iter().filter(|line| line.outcome == Some(Ok(())));
    let repaired = repaired.count();
    output::result(format_args!(
        "{} keys at their owners, {} at copies, {} bytes of content: {}",
        counts.keys,
        counts.copied,
        counts.bytes,
        match lines.len() {
            0 => "clean".to_owned(),
            found => format!(
                "{found} found, {repaired} repaired, {} left",
                found - repaired
            ),
        }
    ));
    Ok(())
}
