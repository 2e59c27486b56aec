//! One pass over the whole network: the tree into the checker, every copy beside its owner.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use magma_core::error::{OpError, OpResult};
use magma_core::fsck::{Checker, Finding};
use magma_core::ids::{FlareRef, Stamp, VolcanoId};
use magma_core::key::Key;
use magma_core::lava::{Lava, Slice};
use magma_core::op::fsck::{FsckAsk, FsckAt, FsckFlare, FsckKey, FsckLink, FsckPage, FsckTold};
use magma_fuse::client::Client;

use crate::output;

/// Progress is told this often.
const PROGRESS: Duration = Duration::from_secs(1);

/// What was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// Keys, at their owners.
    pub(super) keys: u64,
    /// Keys, at copies.
    pub(super) copied: u64,
    /// Bytes of content compared.
    pub(super) bytes: u64,
}

/// Tells a person how far it is, once it takes longer than a moment.
pub(super) struct Progress(Instant);

impl Progress {
    pub(super) fn new() -> Progress {
        Progress(Instant::now())
    }
    pub(super) fn tell(&mut self, what: impl FnOnce() -> String) {
        if self.0.elapsed() >= PROGRESS {
            output::error("magma fsck", what());
            self.0 = Instant::now();
        }
    }
}

/// A key with all its parts added up.
#[derive(Clone, Debug, Default)]
pub(super) struct Whole {
    pub(super) key: Key,
    pub(super) digest: u128,
    pub(super) flare: Option<FsckFlare>,
    pub(super) links: Vec<FsckLink>,
    pub(super) link_count: u64,
    pub(super) entries: u64,
    pub(super) subdirectories: u64,
    pub(super) open: bool,
    pub(super) unfinished: u128,
    /// It has changed between two parts: they do not add up.
    pub(super) moved: bool,
}

impl Whole {
    fn add(&mut self, part: &FsckKey) {
        if let (Some(before), Some(now)) = (&self.flare, &part.flare) {
            self.moved |= before.version != now.version;
        }
        self.key = part.key;
        self.digest = self.digest.wrapping_add(part.digest);
        self.flare = part.flare;
        self.links.extend(part.links.iter().cloned());
        self.link_count += u64::from(part.link_count);
        self.entries += part.entry_count;
        self.subdirectories += part.subdirectories;
        self.open |= part.open;
        self.unfinished = self.unfinished.wrapping_add(part.unfinished);
    }
}

/// One volcano's rows of a range of keys, page by page.
pub(super) struct Walk<'a> {
    client: &'a Client,
    volcano: VolcanoId,
    upto: Key,
    brief: bool,
    next: Option<FsckAt>,
    page: std::vec::IntoIter<FsckKey>,
    position: Option<Stamp>,
    /// The volcano is throwing away what is no longer its own.
    pub(super) clearing: bool,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        client: &'a Client,
        volcano: VolcanoId,
        (start, upto): (Key, Key),
        brief: bool,
    ) -> Walk<'a> {
        Walk {
            client,
            volcano,
            upto,
            brief,
            next: Some(FsckAt {
                key: start,
                after: None,
            }),
            page: Vec::new().into_iter(),
            position: None,
            clearing: false,
        }
    }

    /// The last operation of the slice that the last page shows.
    pub(super) fn position(&self) -> Option<Stamp> {
        self.position
    }

    async fn part(&mut self) -> OpResult<Option<FsckKey>> {
        loop {
            if let Some(part) = self.page.next() {
                return Ok(Some(part));
            }
            let Some(from) = self.next else {
                return Ok(None);
            };
            let (upto, brief) = (self.upto, self.brief);
            let ask = FsckAsk::Rows { from, upto, brief };
            let FsckPage {
                keys,
                next,
                position,
                clearing,
            } = match asked(self.client, self.volcano, ask).await? {
                FsckTold::Page(page) => page,
                FsckTold::Content { .. } | FsckTold::Cleared => return Err(OpError::Io),
            };
            // A page always gets on, or this would never end.
            if next.is_some_and(|next| next <= from) {
                return Err(OpError::Io);
            }
            (self.next, self.position, self.clearing) = (next, position, clearing);
            self.page = keys.into_iter();
        }
    }

    /// The next key, its parts also to the checker.
    pub(super) async fn key(&mut self, checker: Option<&mut Checker>) -> OpResult<Option<Whole>> {
        let mut whole = Whole::default();
        let mut checker = checker;
        loop {
            let Some(part) = self.part().await? else {
                return Ok(None);
            };
            whole.add(&part);
            if let Some(checker) = checker.as_deref_mut() {
                checker.add(&part);
            }
            if part.more.is_none() {
                return Ok(Some(whole));
            }
            whole.links.truncate(magma_core::limits::FSCK_LINKS_MAX);
        }
    }
}

/// Asks a volcano, and names it when it does not answer: the error alone would not.
async fn asked(client: &Client, volcano: VolcanoId, ask: FsckAsk) -> OpResult<FsckTold> {
    let told = client.fsck_ask(volcano, ask).await;
    if let Err(error) = &told
        && *error != OpError::Stale
    {
        let nick = client.lava().nick(volcano);
        output::error("magma fsck", format_args!("{nick}: {error}"));
    }
    told
}

/// What a volcano has under one key.
pub(super) async fn read_key(
    client: &Client,
    volcano: VolcanoId,
    key: Key,
    brief: bool,
) -> OpResult<Option<Whole>> {
    Walk::new(client, volcano, (key, key), brief)
        .key(None)
        .await
}

/// A piece of content: digest, length, version.
pub(super) async fn read_content(
    client: &Client,
    volcano: VolcanoId,
    flare: FlareRef,
    offset: u64,
) -> OpResult<(u128, u64, Option<Stamp>)> {
    let ask = FsckAsk::Content { flare, offset };
    match asked(client, volcano, ask).await? {
        FsckTold::Content {
            digest,
            len,
            version,
        } => Ok((digest, len, version)),
        FsckTold::Page(_) | FsckTold::Cleared => Err(OpError::Io),
    }
}

/// Looks at everything once.
pub(super) async fn scan(
    client: &Client,
    lava: &Lava,
    content: bool,
    counts: &mut Counts,
) -> OpResult<BTreeSet<Finding>> {
    let mut checker = Checker::default();
    let mut findings = BTreeSet::new();
    let mut progress = Progress::new();
    for slice in &lava.slices {
        let pass = Pass {
            client,
            lava,
            slice,
            content,
        };
        pass.slice(&mut checker, counts, &mut findings, &mut progress)
            .await?;
    }
    for volcano in &lava.volcanos {
        strays(client, lava, volcano.id, &mut findings).await?;
    }
    findings.extend(checker.finish());
    Ok(findings)
}

/// A slice that is looked at.
struct Pass<'a> {
    client: &'a Client,
    lava: &'a Lava,
    slice: &'a Slice,
    content: bool,
}

impl Pass<'_> {
    async fn slice(
        &self,
        checker: &mut Checker,
        counts: &mut Counts,
        findings: &mut BTreeSet<Finding>,
        progress: &mut Progress,
    ) -> OpResult<()> {
        let range = (self.slice.start, self.slice.end);
        let mut owner = Walk::new(self.client, self.slice.owner, range, false);
        let mut copies: Vec<(Walk<'_>, Option<Whole>)> = Vec::new();
        for volcano in self.slice.in_sync() {
            let mut walk = Walk::new(self.client, volcano, range, true);
            let first = walk.key(None).await?;
            counts.copied += u64::from(first.is_some());
            copies.push((walk, first));
        }
        loop {
            let owned = owner.key(Some(checker)).await?;
            for (walk, at) in &mut copies {
                let volcano = walk.volcano;
                // What the copy has before the owner's next key, the owner lacks.
                while let Some(copy) = at
                    .as_ref()
                    .filter(|copy| owned.as_ref().is_none_or(|owned| copy.key < owned.key))
                {
                    findings.insert(self.differs(copy.key, volcano, copy.flare.is_some()));
                    *at = walk.key(None).await?;
                    counts.copied += u64::from(at.is_some());
                }
                let Some(owned) = &owned else { continue };
                match at.as_ref().filter(|copy| copy.key == owned.key) {
                    None => {
                        findings.insert(self.differs(owned.key, volcano, false));
                    }
                    Some(copy) => {
                        if copy.digest != owned.digest {
                            let more = copy.flare.is_some() && owned.flare.is_none();
                            findings.insert(self.differs(owned.key, volcano, more));
                        }
                        if self.content
                            && let Some(offset) = self.content(owned, volcano, counts).await?
                            && let Some(facts) = &owned.flare
                        {
                            findings.insert(Finding::ContentDiffers {
                                flare: facts.flare,
                                slice: self.slice.id,
                                volcano,
                                offset,
                            });
                        }
                        *at = walk.key(None).await?;
                        counts.copied += u64::from(at.is_some());
                    }
                }
            }
            if owned.is_none() {
                return Ok(());
            }
            counts.keys += 1;
            let (keys, epoch) = (counts.keys, self.lava.epoch);
            progress.tell(|| format!("{keys} keys looked at, epoch {epoch}"));
        }
    }

    fn differs(&self, key: Key, volcano: VolcanoId, has_more: bool) -> Finding {
        Finding::CopyDiffers {
            key,
            slice: self.slice.id,
            volcano,
            has_more,
        }
    }

    /// The first piece of content that differs, in bytes.
    async fn content(
        &self,
        owned: &Whole,
        volcano: VolcanoId,
        counts: &mut Counts,
    ) -> OpResult<Option<u64>> {
        let Some(facts) = owned.flare.filter(|facts| facts.segments) else {
            return Ok(None);
        };
        let mut offset = 0;
        while offset < facts.size {
            let (one, other) = tokio::join!(
                read_content(self.client, self.slice.owner, facts.flare, offset),
                read_content(self.client, volcano, facts.flare, offset),
            );
            match (one, other) {
                // Gone meanwhile at one of them: its rows differ, if it stays so.
                (Err(OpError::Stale), _) | (_, Err(OpError::Stale)) => return Ok(None),
                (Err(error), _) | (_, Err(error)) => return Err(error),
                (Ok(one), Ok(other)) if one != other => return Ok(Some(offset)),
                (Ok((_, 0, _)), Ok(_)) => return Ok(None),
                (Ok((_, len, _)), Ok(_)) => {
                    counts.bytes += len;
                    offset += len;
                }
            }
        }
        Ok(None)
    }
}

/// Rows of a volcano outside of all slices that it owns or copies.
async fn strays(
    client: &Client,
    lava: &Lava,
    volcano: VolcanoId,
    findings: &mut BTreeSet<Finding>,
) -> OpResult<()> {
    for slice in &lava.slices {
        if slice.owner == volcano || slice.copy_on(volcano).is_some() {
            continue;
        }
        let mut walk = Walk::new(client, volcano, (slice.start, slice.end), true);
        while let Some(found) = walk.key(None).await? {
            if walk.clearing || findings.len() >= magma_core::limits::FSCK_FINDINGS_MAX {
                break;
            }
            findings.insert(Finding::Stray {
                key: found.key,
                volcano,
            });
        }
    }
    Ok(())
}
