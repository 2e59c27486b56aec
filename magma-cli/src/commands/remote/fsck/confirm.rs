//! A finding of the pass is only a suspicion: the rows were not all read at one time. Here it
//! is looked at again, with the rule that makes it certain.
//!
//! * A name: the flare, then the entry, then the flare again, unchanged. An entry is removed
//!   before its flare is dropped, and written after its flare was.
//! * A copy: the owner; the copy, as of an operation not before that; the owner again, unchanged.
//! * Content: owner and copy with the same version, unchanged while it was read.

use std::collections::BTreeSet;
use std::time::Duration;

use magma_core::error::{OpError, OpResult};
use magma_core::fsck::Finding;
use magma_core::ids::{FlareRef, VolcanoId};
use magma_core::key::{Key, ROOT};
use magma_core::limits::{FSCK_DEPTH_MAX, PARK_LIMIT_MS};
use magma_fuse::client::Client;

use super::scan::{Progress, Whole, read_content, read_key};

/// How often everything is looked at again before it is believed, and the pause before each.
const ROUNDS: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_millis(600),
    Duration::from_millis(1200),
];
/// A transaction may wait this long for a lease to be given back: it is looked at once more
/// after that.
const TRANSACTION_PAUSE: Duration = Duration::from_millis(PARK_LIMIT_MS);
/// Times that something which changes all the time is read in one round.
const TRIES: u32 = 5;
/// How long a copy may take to get to an operation of its owner.
const COPY_PAUSES: u32 = 50;
const COPY_PAUSE: Duration = Duration::from_millis(100);

/// What of these is so, and stays so.
pub(super) async fn confirm(
    client: &Client,
    mut findings: BTreeSet<Finding>,
) -> OpResult<BTreeSet<Finding>> {
    let mut progress = Progress::new();
    for pause in ROUNDS.into_iter().chain([TRANSACTION_PAUSE]) {
        let is_transaction = |finding: &Finding| matches!(finding, Finding::Unfinished { .. });
        if findings.is_empty()
            || (pause == TRANSACTION_PAUSE && !findings.iter().any(is_transaction))
        {
            break;
        }
        tokio::time::sleep(pause).await;
        client.refresh().await;
        let mut left = BTreeSet::new();
        let all = findings.len();
        for (at, finding) in findings.into_iter().enumerate() {
            progress.tell(|| format!("{at} of {all} suspicions looked at again"));
            left.extend(still(client, &finding).await?);
        }
        findings = left;
    }
    Ok(findings)
}

/// The owner of a key by the newest lava.
pub(super) fn owner(client: &Client, key: Key) -> OpResult<VolcanoId> {
    client.lava().owner_of(key).ok_or(OpError::TryAgain)
}

/// What the owner has under a key.
pub(super) async fn owned(client: &Client, key: Key) -> OpResult<Option<Whole>> {
    read_key(client, owner(client, key)?, key, false).await
}

/// The flare in this incarnation.
fn same(whole: &Option<Whole>, flare: FlareRef) -> Option<&Whole> {
    let whole = whole.as_ref()?;
    let facts = whole.flare.as_ref()?;
    (facts.flare == flare).then_some(whole)
}

fn has_link(whole: &Whole, dir: FlareRef, name: &magma_core::flare::Name) -> bool {
    let mut links = whole.links.iter();
    links.any(|link| link.parent == dir && link.name == *name)
}

/// Whether nothing was changed between two readings.
fn unchanged(before: &Whole, after: &Option<Whole>) -> bool {
    after.as_ref().is_some_and(|after| {
        after.flare == before.flare
            && after.links == before.links
            && after.unfinished == before.unfinished
    })
}

/// The finding as it is now; none when it is not so.
pub(super) async fn still(client: &Client, finding: &Finding) -> OpResult<Option<Finding>> {
    for _ in 0..TRIES {
        match look(client, finding).await? {
            Look::Is(finding) => return Ok(Some(finding)),
            Look::IsNot => return Ok(None),
            Look::Changed => {}
        }
    }
    // What changes all the time is alive.
    Ok(None)
}

enum Look {
    Is(Finding),
    IsNot,
    Changed,
}

impl Look {
    fn of(is: bool, finding: &Finding) -> Look {
        match is {
            true => Look::Is(finding.clone()),
            false => Look::IsNot,
        }
    }
}

async fn look(client: &Client, finding: &Finding) -> OpResult<Look> {
    let is = match finding {
        Finding::EntryWithoutFlare { dir, name, child } => {
            let flare = owned(client, child.key()).await?;
            let entry = client.fsck_entry(*dir, name).await?;
            same(&flare, *child).is_none() && entry.is_some_and(|(found, _)| found == *child)
        }
        Finding::EntryWithoutLink { dir, name, child } => {
            let flare = owned(client, child.key()).await?;
            let Some(before) = same(&flare, *child) else {
                return Ok(Look::IsNot);
            };
            let entry = client.fsck_entry(*dir, name).await?;
            let there = entry.is_some_and(|(found, _)| found == *child);
            if !there || has_link(before, *dir, name) || before.unfinished != 0 {
                return Ok(Look::IsNot);
            }
            if !unchanged(before, &owned(client, child.key()).await?) {
                return Ok(Look::Changed);
            }
            true
        }
        Finding::WrongType {
            dir,
            name,
            child,
            kind,
        } => {
            let flare = owned(client, child.key()).await?;
            let entry = client.fsck_entry(*dir, name).await?;
            same(&flare, *child).is_some()
                && entry.is_some_and(|(found, of)| found == *child && of != *kind)
        }
        Finding::LinkWithoutEntry {
            flare, dir, name, ..
        } => {
            let found = owned(client, flare.key()).await?;
            let Some(before) = same(&found, *flare) else {
                return Ok(Look::IsNot);
            };
            if before.unfinished != 0 || !has_link(before, *dir, name) {
                return Ok(Look::IsNot);
            }
            let entry = client.fsck_entry(*dir, name).await?;
            if entry.is_some_and(|(found, _)| found == *flare) {
                return Ok(Look::IsNot);
            }
            if !unchanged(before, &owned(client, flare.key()).await?) {
                return Ok(Look::Changed);
            }
            true
        }
        Finding::WrongLinks { flare, .. }
        | Finding::WrongEntries { flare, .. }
        | Finding::ManyNames { flare, .. } => {
            let found = owned(client, flare.key()).await?;
            let Some(whole) = same(&found, *flare) else {
                return Ok(Look::IsNot);
            };
            if whole.moved {
                return Ok(Look::Changed);
            }
            counts_are_wrong(whole, *flare, finding)
        }
        Finding::Orphan { flare, .. } => {
            let found = owned(client, flare.key()).await?;
            same(&found, *flare).is_some_and(|w| w.link_count == 0 && !w.open && w.unfinished == 0)
        }
        Finding::Leftovers { key } => owned(client, *key)
            .await?
            .is_some_and(|w| w.flare.is_none() && w.link_count + w.entries > 0),
        Finding::Unfinished { key, what } => owned(client, *key)
            .await?
            .is_some_and(|w| w.unfinished == *what && !w.moved),
        Finding::NoRoot => owned(client, ROOT).await?.is_none_or(|w| w.flare.is_none()),
        Finding::Unreachable { flare } => is_in_cycle(client, *flare).await?,
        Finding::CopyDiffers { key, volcano, .. } => return copy(client, *key, *volcano).await,
        Finding::ContentDiffers {
            flare,
            volcano,
            offset,
            ..
        } => return content(client, finding, *flare, *volcano, *offset).await,
        Finding::Stray { key, volcano } => {
            let lava = client.lava();
            let slice = lava.slice_of(*key);
            slice.is_some_and(|s| s.owner != *volcano && s.copy_on(*volcano).is_none())
                && read_key(client, *volcano, *key, true).await?.is_some()
        }
    };
    Ok(Look::of(is, finding))
}

fn counts_are_wrong(whole: &Whole, flare: FlareRef, finding: &Finding) -> bool {
    let Some(facts) = &whole.flare else {
        return false;
    };
    if whole.unfinished != 0 || (whole.link_count == 0 && flare.key() != ROOT) {
        return false;
    }
    let is_dir = facts.kind == magma_core::flare::Kind::Directory;
    match finding {
        Finding::WrongLinks { .. } if is_dir => u64::from(facts.nlink) != 2 + whole.subdirectories,
        Finding::WrongLinks { .. } => u64::from(facts.nlink) != whole.link_count,
        Finding::WrongEntries { .. } => facts.entries != whole.entries,
        _ => is_dir && whole.link_count > 1,
    }
}

/// Follows the links upwards: does the way come back to where it began?
async fn is_in_cycle(client: &Client, flare: FlareRef) -> OpResult<bool> {
    let mut at = flare.key();
    for _ in 0..FSCK_DEPTH_MAX {
        let Some(parent) = owned(client, at)
            .await?
            .and_then(|whole| whole.links.first().map(|link| link.parent.key()))
        else {
            return Ok(false);
        };
        if parent == ROOT {
            return Ok(false);
        }
        if parent == flare.key() {
            return Ok(true);
        }
        at = parent;
    }
    Ok(false)
}

async fn copy(client: &Client, key: Key, volcano: VolcanoId) -> OpResult<Look> {
    let lava = client.lava();
    let Some(slice) = lava.slice_of(key) else {
        return Ok(Look::IsNot);
    };
    if slice.copy_on(volcano).is_none_or(|copy| !copy.in_sync) {
        return Ok(Look::IsNot);
    }
    let rows = |of| read_with_position(client, of, key);
    let (before, from) = rows(slice.owner).await?;
    let mut pauses = 0;
    let copied = loop {
        let (copied, at) = rows(volcano).await?;
        match (from, at) {
            (Some(from), Some(at)) if at.0 == from.0 && at.2 >= from.2 => break copied,
            _ if pauses == COPY_PAUSES => return Ok(Look::Changed),
            _ => {}
        }
        pauses += 1;
        tokio::time::sleep(COPY_PAUSE).await;
        client.refresh().await;
        if client.lava().slices != lava.slices {
            return Ok(Look::Changed);
        }
    };
    let digest = |whole: &Option<Whole>| whole.as_ref().map(|whole| whole.digest);
    if digest(&copied) == digest(&before) {
        return Ok(Look::IsNot);
    }
    let (after, _) = rows(slice.owner).await?;
    if digest(&after) != digest(&before) {
        return Ok(Look::Changed);
    }
    let has_flare = |whole: &Option<Whole>| whole.as_ref().is_some_and(|w| w.flare.is_some());
    Ok(Look::Is(Finding::CopyDiffers {
        key,
        slice: slice.id,
        volcano,
        has_more: has_flare(&copied) && !has_flare(&before),
    }))
}

/// Rows of a key, and the last operation that they show, also when there are none.
async fn read_with_position(
    client: &Client,
    volcano: VolcanoId,
    key: Key,
) -> OpResult<(Option<Whole>, Option<magma_core::ids::Stamp>)> {
    let mut walk = super::scan::Walk::new(client, volcano, (key, key), true);
    let whole = walk.key(None).await?;
    Ok((whole, walk.position()))
}

async fn content(
    client: &Client,
    finding: &Finding,
    flare: FlareRef,
    volcano: VolcanoId,
    offset: u64,
) -> OpResult<Look> {
    let lava = client.lava();
    let slice = lava.slice_of(flare.key());
    let Some(slice) = slice.filter(|s| s.copy_on(volcano).is_some_and(|copy| copy.in_sync)) else {
        return Ok(Look::IsNot);
    };
    let (one, other) = tokio::join!(
        read_content(client, slice.owner, flare, offset),
        read_content(client, volcano, flare, offset),
    );
    let (one, other) = match (one, other) {
        (Err(OpError::Stale), _) | (_, Err(OpError::Stale)) => return Ok(Look::IsNot),
        (one, other) => (one?, other?),
    };
    let ((one, _, version), (other, _, at)) = (one, other);
    if version.is_none() || version != at {
        tokio::time::sleep(COPY_PAUSE).await;
        return Ok(Look::Changed);
    }
    Ok(Look::of(one != other, finding))
}
