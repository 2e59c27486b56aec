//! What `--repair` does about findings: only what throws no data away that has a name or is
//! found elsewhere. The owner of each key decides it once more from its own rows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use magma_core::error::{OpError, OpResult};
use magma_core::flare::Kind;
use magma_core::fsck::Finding;
use magma_core::ids::{SliceId, VolcanoId};
use magma_core::key::Key;
use magma_core::op::fsck::{FsckAsk, FsckRepair};
use magma_fuse::client::Client;

use super::confirm::{owned, still};
use super::scan::Progress;

/// How long a copy may take to be filled anew.
const FILL_LIMIT: Duration = Duration::from_secs(600);
/// How long the removal of a copy may take to be decided.
const REMOVAL_LIMIT: Duration = Duration::from_secs(10);
/// Pause between two looks at the lava.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// What became of a finding: repaired, or why not.
pub(super) type Outcome = Result<(), String>;

/// Repairs what is safe, in an order in which one repair does not make another wrong.
pub(super) async fn repair(
    client: &Client,
    findings: &BTreeSet<Finding>,
) -> OpResult<BTreeMap<Finding, Outcome>> {
    let mut outcomes = BTreeMap::new();
    // Keys whose flare only a copy has: nothing that concerns them may be thrown away.
    let lost: BTreeSet<Key> = findings
        .iter()
        .filter_map(|finding| match finding {
            Finding::CopyDiffers {
                key,
                has_more: true,
                ..
            } => Some(*key),
            _ => None,
        })
        .collect();
    for turn in [Turn::Names, Turn::Counts, Turn::Nameless, Turn::Strays] {
        for finding in findings.iter().filter(|finding| turn_of(finding) == turn) {
            let outcome = one(client, finding, &lost).await?;
            outcomes.insert(finding.clone(), outcome);
        }
    }
    refill(client, findings, &lost, &mut outcomes).await?;
    Ok(outcomes)
}

/// When something is repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Names,
    Counts,
    Nameless,
    Strays,
    Copies,
}

fn turn_of(finding: &Finding) -> Turn {
    match finding {
        Finding::EntryWithoutFlare { .. }
        | Finding::EntryWithoutLink { .. }
        | Finding::WrongType { .. }
        | Finding::LinkWithoutEntry { .. } => Turn::Names,
        Finding::WrongLinks { .. }
        | Finding::WrongEntries { .. }
        | Finding::ManyNames { .. }
        | Finding::Unfinished { .. }
        | Finding::NoRoot
        | Finding::Unreachable { .. } => Turn::Counts,
        Finding::Orphan { .. } | Finding::Leftovers { .. } => Turn::Nameless,
        Finding::Stray { .. } => Turn::Strays,
        Finding::CopyDiffers { .. } | Finding::ContentDiffers { .. } => Turn::Copies,
    }
}

/// Repairs one finding, and looks whether it is gone.
async fn one(client: &Client, finding: &Finding, lost: &BTreeSet<Key>) -> OpResult<Outcome> {
    // An earlier repair may have settled it.
    let Some(finding) = still(client, finding).await? else {
        return Ok(Ok(()));
    };
    let repair = match plan(client, &finding, lost).await? {
        Ok(repair) => repair,
        Err(reason) => return Ok(Err(reason)),
    };
    let done = match (&finding, repair) {
        (Finding::Stray { key, volcano }, _) => {
            let ask = FsckAsk::ClearStray(*key);
            client.fsck_ask(*volcano, ask).await.map(|_| ())
        }
        (_, Some(repair)) => match repair.key() {
            Some(key) => client.fsck_repair(key, repair).await,
            None => Ok(()),
        },
        (_, None) => Ok(()),
    };
    match done {
        // Not so any more, or dropped by the volcano itself: the look says.
        Ok(()) | Err(OpError::Stale) => {}
        Err(error) => return Ok(Err(format!("its owner refuses: {error}"))),
    }
    Ok(match still(client, &finding).await? {
        None => Ok(()),
        Some(_) => Err("it is still so after the repair".to_owned()),
    })
}

/// How a finding is repaired, or why it is left.
async fn plan(
    client: &Client,
    finding: &Finding,
    lost: &BTreeSet<Key>,
) -> OpResult<Result<Option<FsckRepair>, String>> {
    let only_copy = || Err("a copy still has the flare".to_owned());
    let left = |why: &str| Err(why.to_owned());
    Ok(match finding.clone() {
        Finding::EntryWithoutFlare { child, .. } if lost.contains(&child.key()) => only_copy(),
        Finding::Leftovers { key } if lost.contains(&key) => only_copy(),
        Finding::EntryWithoutFlare { dir, name, child } => {
            Ok(Some(FsckRepair::DropEntry { dir, name, child }))
        }
        Finding::EntryWithoutLink { dir, name, child } => Ok(Some(FsckRepair::PutLink {
            flare: child,
            dir,
            name,
        })),
        Finding::WrongType {
            dir,
            name,
            child,
            kind,
        } => Ok(Some(FsckRepair::PutEntry {
            dir,
            name,
            child,
            kind,
        })),
        Finding::LinkWithoutEntry {
            flare,
            kind,
            dir,
            name,
            others,
        } => {
            let parent = owned(client, dir.key()).await?;
            let parent = parent.and_then(|whole| whole.flare);
            let is_there =
                parent.is_some_and(|facts| facts.flare == dir && facts.kind == Kind::Directory);
            match (is_there, client.fsck_entry(dir, &name).await?) {
                (true, None) => Ok(Some(FsckRepair::PutEntry {
                    dir,
                    name,
                    child: flare,
                    kind,
                })),
                _ if others => Ok(Some(FsckRepair::DropLink { flare, dir, name })),
                (false, _) => left("its directory is gone, and it has no other name"),
                (true, Some(_)) => left("its only name belongs to another flare now"),
            }
        }
        Finding::WrongLinks { flare, .. } | Finding::WrongEntries { flare, .. } => {
            Ok(Some(FsckRepair::Counts(flare)))
        }
        Finding::Orphan { entries, .. } if entries > 0 => {
            left("it is a directory with entries: data is never deleted")
        }
        Finding::Orphan { flare, .. } => Ok(Some(FsckRepair::DropOrphan(flare))),
        Finding::Leftovers { key } => Ok(Some(FsckRepair::DropLeftovers(key))),
        Finding::Stray { key, .. } => {
            // Its owner must have the key, or this is the last of it.
            match owned(client, key).await? {
                Some(whole) if whole.flare.is_some() => Ok(None),
                Some(_) | None => left("its owner does not have it"),
            }
        }
        Finding::ManyNames { .. } => left("which of its names is right is for you to say"),
        Finding::Unfinished { .. } => left("only its volcanos can end it: see their logs"),
        Finding::NoRoot => left("there is nothing to repair it from"),
        Finding::Unreachable { .. } => left("where it belongs is for you to say"),
        Finding::CopyDiffers { .. } | Finding::ContentDiffers { .. } => Ok(None),
    })
}

/// Copies that differ are filled anew, each once.
async fn refill(
    client: &Client,
    findings: &BTreeSet<Finding>,
    lost: &BTreeSet<Key>,
    outcomes: &mut BTreeMap<Finding, Outcome>,
) -> OpResult<()> {
    let mut copies: BTreeMap<(SliceId, VolcanoId), Vec<&Finding>> = BTreeMap::new();
    for finding in findings {
        if let Finding::CopyDiffers { slice, volcano, .. }
        | Finding::ContentDiffers { slice, volcano, .. } = finding
        {
            copies.entry((*slice, *volcano)).or_default().push(finding);
        }
    }
    for ((slice, volcano), findings) in copies {
        let mut open = Vec::new();
        for finding in &findings {
            open.extend(still(client, finding).await?);
        }
        let endangered = findings.iter().any(|finding| lost.contains(&finding.key()));
        let outcome = if open.is_empty() {
            Ok(())
        } else if endangered {
            Err("the copy has what its owner lacks: data is never deleted".to_owned())
        } else {
            fill(client, slice, volcano).await?
        };
        for finding in findings {
            let outcome = match &outcome {
                Ok(()) if still(client, finding).await?.is_some() => {
                    Err("it is still so after the copy was filled anew".to_owned())
                }
                outcome => outcome.clone(),
            };
            outcomes.insert(finding.clone(), outcome);
        }
    }
    Ok(())
}

async fn fill(client: &Client, slice: SliceId, volcano: VolcanoId) -> OpResult<Outcome> {
    let state = || {
        let lava = client.lava();
        let copy = lava.slice(slice).and_then(|slice| slice.copy_on(volcano));
        copy.map(|copy| copy.in_sync)
    };
    let Some(key) = client.lava().slice(slice).map(|slice| slice.start) else {
        return Ok(Err("the slice is gone".to_owned()));
    };
    let asked = client
        .fsck_repair(key, FsckRepair::Refill { slice, volcano })
        .await;
    if let Err(error) = asked {
        return Ok(Err(format!("the owner refuses: {error}")));
    }
    let mut progress = Progress::new();
    let began = Instant::now();
    while state() == Some(true) {
        if began.elapsed() > REMOVAL_LIMIT {
            return Ok(Err("the copy could not be taken out of the lava".to_owned()));
        }
        tokio::time::sleep(LOOK_PAUSE).await;
        client.refresh().await;
    }
    while state() != Some(true) {
        if began.elapsed() > FILL_LIMIT {
            return Ok(Err("it is not filled yet: look at magma status".to_owned()));
        }
        progress.tell(|| format!("slice {slice} is copied anew"));
        tokio::time::sleep(LOOK_PAUSE).await;
        client.refresh().await;
    }
    Ok(Ok(()))
}
