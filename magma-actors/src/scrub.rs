//! The scrub: a thread that compares all content of this volcano with its checksums, once a week
//! or when somebody asks, slowly enough that nobody notices.
//!
//! It only looks. What it finds is repaired from another volcano by the engine
//! (`magma-core/src/engine/repair.rs`), and while enough of that waits, the scrub waits too. Where it
//! is, and when it was last done, is in the file `scrub` of the volcano's directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use magma_core::limits::{BAD_BLOCKS_KEPT, SCRUB_EVERY_SECS, SCRUB_RATE, SCRUB_RATE_NOW};
use magma_core::store::StoreResult;
use magma_core::store::content::ContentFiles;
use magma_core::store::content::name::FileId;
use magma_core::wire::codec;
use serde::{Deserialize, Serialize};

use crate::node::lock;

/// Directories of content, by the first byte of the key.
const PARTS: u16 = 256;
/// How long the repairs of what was found are waited for before they are looked at again.
const REPAIRS: Duration = Duration::from_millis(200);
/// Pause after a disk has failed, before it is tried again.
const AFTER_FAILURE: Duration = Duration::from_secs(60);
/// The file in the volcano's directory.
const FILE: &str = "scrub";

/// One walk over all content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// When it began, in seconds since 1970.
    pub began: u64,
    /// When it was done.
    pub ended: Option<u64>,
    /// Directories of content that are done, of 256.
    pub parts: u16,
    /// Content files that were compared.
    pub files: u64,
    /// Bytes that were compared.
    pub bytes: u64,
    /// Blocks that did not have their checksum.
    pub damaged: u64,
}

/// What is known of the scrub.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubState {
    /// The walk that is under way.
    pub now: Option<Round>,
    /// The last one that was done.
    pub last: Option<Round>,
    /// When the next one begins, in seconds since 1970.
    pub next: u64,
    /// Somebody has asked for the walk under way: it goes faster.
    pub hurry: bool,
    /// Why it stands still.
    pub trouble: Option<String>,
}

impl ScrubState {
    fn begin(&mut self) {
        let began = seconds();
        self.next = began.saturating_add(SCRUB_EVERY_SECS);
        self.now = Some(Round {
            began,
            ..Round::default()
        });
    }
}

/// A handle to the thread.
#[derive(Clone, Debug)]
pub struct Scrub {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<ScrubState>,
    woken: Condvar,
    ending: Mutex<bool>,
    file: PathBuf,
}

impl Scrub {
    /// Starts the thread over the content of the volcano in `dir`. It ends with the process, or
    /// by [`Self::stop`].
    pub fn start(dir: &Path, content: ContentFiles) -> std::io::Result<Scrub> {
        let file = dir.join(FILE);
        let kept = fs::read(&file).ok();
        // What cannot be read is forgotten: the walk begins anew, in a week.
        let mut state: ScrubState = kept
            .and_then(|bytes| codec::decode(&bytes).ok())
            .unwrap_or_default();
        if state.next == 0 {
            // What is new needs no looking at.
            state.next = seconds().saturating_add(SCRUB_EVERY_SECS);
        }
        state.trouble = None;
        let scrub = Scrub {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                woken: Condvar::new(),
                ending: Mutex::new(false),
                file,
            }),
        };
        let walker = Walker {
            shared: scrub.shared.clone(),
            content,
        };
        std::thread::Builder::new()
            .name("scrub".into())
            .spawn(move || walker.run())?;
        Ok(scrub)
    }

    /// What is known.
    pub fn state(&self) -> ScrubState {
        lock(&self.shared.state).clone()
    }

    /// Begins a walk at once, or hurries the one that is under way.
    pub fn now(&self) {
        let mut state = lock(&self.shared.state);
        state.hurry = true;
        if state.now.is_none() {
            state.begin();
        }
        drop(state);
        self.shared.woken.notify_all();
    }

    /// Gives up the walk under way, if there is one: the next begins in its time.
    pub fn give_up(&self) -> bool {
        let mut state = lock(&self.shared.state);
        (state.hurry, state.trouble) = (false, None);
        state.now.take().is_some()
    }

    /// Ends the thread at its next step.
    pub fn stop(&self) {
        *lock(&self.shared.ending) = true;
        self.shared.woken.notify_all();
    }
}

fn seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

struct Walker {
    shared: Arc<Shared>,
    content: ContentFiles,
}

/// The thread is to end, or the walk was given up.
struct Over;

impl Walker {
    fn run(self) {
        self.keep();
        while !*lock(&self.shared.ending) {
            let round = {
                let mut state = lock(&self.shared.state);
                if state.now.is_none() && state.next <= seconds() {
                    state.begin();
                }
                state.now
            };
            let Some(round) = round else {
                // A clock that was set, or the end: looked at now and then.
                self.sleep(Duration::from_secs(60));
                continue;
            };
            match self.walk(round) {
                Ok(Ok(())) | Ok(Err(Over)) => {}
                Err(error) => {
                    tracing::error!(target: "magma::r", "the scrub stands still: {error}");
                    lock(&self.shared.state).trouble = Some(error.to_string());
                    self.sleep(AFTER_FAILURE);
                }
            }
        }
    }

    fn walk(&self, mut round: Round) -> StoreResult<Result<(), Over>> {
        if round.parts == 0 {
            tracing::info!(target: "magma::r", "the scrub begins: all content is compared with its checksums");
        }
        while round.parts < PARTS {
            for file in self.content.files_of_part(round.parts as u8)? {
                if self.file(file, &mut round)?.is_err() {
                    return Ok(Err(Over));
                }
                round.files += 1;
            }
            round.parts += 1;
            if self.tell(round).is_err() {
                return Ok(Err(Over));
            }
            self.keep();
        }
        round.ended = Some(seconds());
        {
            let mut state = lock(&self.shared.state);
            if state.now.is_none() {
                return Ok(Err(Over));
            }
            state.last = Some(round);
            (state.now, state.hurry) = (None, false);
        }
        self.keep();
        tracing::info!(target: "magma::r", files = round.files, bytes = round.bytes, damaged = round.damaged,
            "the scrub is done");
        Ok(Ok(()))
    }

    fn file(&self, file: FileId, round: &mut Round) -> StoreResult<Result<(), Over>> {
        let mut offset = 0;
        loop {
            while self.content.bad_waiting() > BAD_BLOCKS_KEPT / 2 {
                self.sleep(REPAIRS);
                if self.tell(*round).is_err() {
                    return Ok(Err(Over));
                }
            }
            let began = Instant::now();
            let found = self.content.scrub(file, offset)?;
            offset += found.bytes;
            round.bytes += found.bytes;
            round.damaged += found.damaged;
            if found.rewritten > 0 {
                tracing::warn!(target: "magma::r", flare = %file.0, offset, blocks = found.rewritten,
                    "the disk did not have what was written: it was written again");
            }
            if self.tell(*round).is_err() {
                return Ok(Err(Over));
            }
            let rate = match lock(&self.shared.state).hurry {
                true => SCRUB_RATE_NOW,
                false => SCRUB_RATE,
            };
            let takes = Duration::from_secs_f64(found.bytes as f64 / rate as f64);
            let left = takes.saturating_sub(began.elapsed());
            if !left.is_zero() {
                self.sleep(left);
            }
            if found.end {
                return Ok(Ok(()));
            }
        }
    }

    /// Shows how far it is; an error when nobody wants it any more.
    fn tell(&self, round: Round) -> Result<(), Over> {
        if *lock(&self.shared.ending) {
            return Err(Over);
        }
        let mut state = lock(&self.shared.state);
        state.trouble = None;
        match &mut state.now {
            Some(now) if now.began == round.began => *now = round,
            _ => return Err(Over),
        }
        Ok(())
    }

    /// Sleeps, unless somebody asks for something.
    fn sleep(&self, time: Duration) {
        let ending = lock(&self.shared.ending);
        if !*ending {
            let slept = self.shared.woken.wait_timeout(ending, time);
            drop(slept.unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Keeps the state for the next start. What is lost by a crash is done again.
    fn keep(&self) {
        let state = lock(&self.shared.state).clone();
        let kept = codec::encode(&state)
            .map_err(std::io::Error::other)
            .and_then(|bytes| {
                let new = self.shared.file.with_extension("new");
                fs::write(&new, bytes)?;
                fs::rename(&new, &self.shared.file)
            });
        if let Err(error) = kept {
            let file = self.shared.file.display();
            tracing::debug!(target: "magma::r", %file, "how far the scrub is was not kept: {error}");
        }
    }
}
