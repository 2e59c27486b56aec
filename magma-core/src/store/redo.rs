//! The redo log: what the store was told since SQLite last committed.
//!
//! A commit of SQLite writes every page that changed, twice over: dozens of pages for the few
//! hundred bytes that an operation is. So one transaction of SQLite stays open over many batches,
//! and what makes a batch outlive the process is a frame of this log, written with one call.
//! After a crash the frames that SQLite does not have are applied again.
//!
//! **Order.** A batch is: rows into SQLite's open transaction, content into its files, then the
//! frame. A batch without its frame did not happen. SQLite's commit says up to which frame it
//! has everything, in the same transaction; so a frame is never applied to rows that have it.
//!
//! **Again from the start.** Frames carry a generation. When the log has grown, SQLite commits
//! the next generation and puts its own log on the disk; only then are old frames written over.
//! A loss of power therefore finds each synced operation in SQLite or in the frames.
//!
//! **Whose frames.** Each frame's sum goes on from the one before, and the first from a seed that
//! is drawn for the generation and kept in SQLite. So neither frames of another store, nor those
//! that a loss of power has left behind a gap, are taken for the ones that come next.
//!
//! **Content files** are not in the log: their bytes left the process before the frame, and must
//! not be written again under what came later. Inline content is.

use std::collections::hash_map::RandomState;
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::content::io_error;
use super::{StoreError, StoreResult};
use crate::effect::Effect;
use crate::ids::{Epoch, Seq, SliceId};
use crate::key::Key;
use crate::limits::REDO_ANEW_BYTES;

/// Name of the log inside the store's directory.
pub const REDO_FILE: &str = "redo.log";
/// Begins each frame, with the version of the format.
const MAGIC: [u8; 4] = *b"MRL1";
/// Magic, sum, generation, number, length.
const HEADER: usize = 4 + 4 + 8 + 8 + 4;

/// Bytes of the writes of some effects, in order: those that go into rows.
pub(super) type Contents<'a> = Vec<Option<&'a serde_bytes::Bytes>>;

/// One thing that the store was told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Change<'a> {
    /// [`super::Store::apply`]: the record as it is journalled.
    Apply(
        #[serde(borrow)] &'a serde_bytes::Bytes,
        #[serde(borrow)] Contents<'a>,
    ),
    /// [`super::Store::apply_rows`]: the effects, encoded.
    Rows(
        SliceId,
        #[serde(borrow)] &'a serde_bytes::Bytes,
        #[serde(borrow)] Contents<'a>,
    ),
    /// [`super::Store::set_position`].
    Position(SliceId, Epoch, Seq),
    /// [`super::Store::cut_slice`].
    Cut(SliceId, SliceId, Key, Key, Epoch, Seq),
    /// [`super::Store::clear_range`].
    Clear(Key, Key, u64),
    /// [`super::Store::forget_slice`].
    Forget(SliceId),
    /// [`super::Store::trim_journal`].
    Trim(SliceId, Seq),
    /// A value of the volcano's own.
    Meta(&'a str, #[serde(borrow)] &'a serde_bytes::Bytes),
}

/// The bytes of the writes that [`Change::Apply`] and [`Change::Rows`] keep.
pub(super) fn contents<'a>(effects: &'a [Effect], kept: &[bool]) -> Contents<'a> {
    let writes = effects.iter().filter_map(|effect| match effect {
        Effect::Write(write) => Some(serde_bytes::Bytes::new(&write.data)),
        _ => None,
    });
    writes
        .zip(kept)
        .map(|(data, kept)| kept.then_some(data))
        .collect()
}

/// Gives the writes of decoded effects the bytes that the log has kept; the others stay empty.
pub(super) fn fill_in(effects: &mut [Effect], contents: &Contents<'_>) {
    let writes = effects.iter_mut().filter_map(|effect| match effect {
        Effect::Write(write) => Some(write),
        _ => None,
    });
    for (write, data) in writes.zip(contents) {
        write.data = data.map_or_else(Bytes::new, |data| Bytes::copy_from_slice(data));
    }
}

/// A place in the log: everything before it is in SQLite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// The generation of the frames.
    pub(super) generation: u64,
    /// The number of the first frame that SQLite does not have.
    pub(super) frame: u64,
    /// What the sums of the generation begin with.
    pub(super) seed: u32,
}

impl Mark {
    /// The beginning of a generation, which no frame that was ever written belongs to.
    pub(super) fn of_generation(generation: u64) -> Mark {
        // Drawn by the standard library for its maps: it need not be secret.
        let drawn = RandomState::new().build_hasher().finish();
        Mark {
            generation,
            frame: 0,
            seed: (drawn ^ (drawn >> 32)) as u32,
        }
    }

    /// As it is kept in SQLite.
    pub(super) fn to_bytes(self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&self.generation.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.frame.to_be_bytes());
        bytes[16..].copy_from_slice(&self.seed.to_be_bytes());
        bytes
    }

    /// From what SQLite keeps.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Mark> {
        let (generation, rest) = bytes.split_first_chunk()?;
        let (frame, seed) = rest.split_first_chunk()?;
        Some(Mark {
            generation: u64::from_be_bytes(*generation),
            frame: u64::from_be_bytes(*frame),
            seed: u32::from_be_bytes(seed.try_into().ok()?),
        })
    }
}

/// The log of a store.
#[derive(Debug)]
pub(super) struct RedoLog {
    file: File,
    path: PathBuf,
    /// The generation that is being written.
    generation: u64,
    /// The number of the next frame, and where it goes.
    next: u64,
    end: u64,
    /// The sum that the next frame goes on from, and the one that the generation began with.
    sum: u32,
    seed: u32,
    /// Changes of the batch, encoded, each after its length; room for the header before them.
    batch: Vec<u8>,
    /// Something was appended since the file was last synced.
    unsynced: bool,
}

impl RedoLog {
    /// Opens the log, or makes it. What it holds is read by [`RedoLog::after`].
    pub(super) fn open(directory: &Path) -> StoreResult<RedoLog> {
        let path = directory.join(REDO_FILE);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|source| io_error("open", &path, source))?;
        Ok(RedoLog {
            file,
            path,
            generation: 0,
            next: 0,
            end: 0,
            sum: 0,
            seed: 0,
            batch: Vec::new(),
            unsynced: true,
        })
    }

    /// The frames from a mark on: their bodies, in order. What is appended next follows them,
    /// unless the log is short: a loss of power can take frames that SQLite has, and then the
    /// log must begin anew first ([`RedoLog::is_short`]).
    pub(super) fn after(&mut self, mark: Mark) -> StoreResult<Vec<Vec<u8>>> {
        let bytes =
            std::fs::read(&self.path).map_err(|source| io_error("read", &self.path, source))?;
        let found = frames(&bytes, mark);
        (self.generation, self.seed) = (mark.generation, mark.seed);
        (self.next, self.end, self.sum) = (found.next, found.end, found.sum);
        let bodies = found.bodies.into_iter().map(<[u8]>::to_vec).collect();
        // What lies behind them belongs to nobody.
        self.file
            .set_len(self.end)
            .map_err(|source| io_error("cut", &self.path, source))?;
        Ok(bodies)
    }

    /// Whether the file has lost frames before a mark: what is appended would not be found.
    pub(super) fn is_short(&self, mark: Mark) -> bool {
        self.next < mark.frame
    }

    /// Notes a change of the batch.
    pub(super) fn note(&mut self, change: &Change<'_>) -> StoreResult<()> {
        if self.batch.is_empty() {
            self.batch.resize(HEADER, 0);
        }
        let at = self.batch.len();
        self.batch.extend_from_slice(&[0; 4]);
        let encoded = rmp_serde::encode::write(&mut self.batch, change);
        let len = u32::try_from(self.batch.len() - at - 4);
        match (encoded, len) {
            (Ok(()), Ok(len)) => {
                self.batch[at..at + 4].copy_from_slice(&len.to_be_bytes());
                Ok(())
            }
            (Err(error), _) => Err(io_error("write to", &self.path, io::Error::other(error))),
            (_, Err(error)) => Err(io_error("write to", &self.path, io::Error::other(error))),
        }
    }

    /// Whether the batch has changes.
    pub(super) fn is_noted(&self) -> bool {
        !self.batch.is_empty()
    }

    /// Forgets the changes of the batch.
    pub(super) fn forget(&mut self) {
        self.batch.clear();
        // A batch that was large once need not be remembered for ever.
        self.batch.shrink_to(1 << 20);
    }

    /// Writes the batch as one frame: from here on it outlives the process. Returns its length.
    pub(super) fn append(&mut self) -> StoreResult<u64> {
        let body = self.batch.len().saturating_sub(HEADER);
        let len = u32::try_from(body)
            .map_err(|error| io_error("write to", &self.path, io::Error::other(error)))?;
        let generation = self.generation;
        self.batch[..4].copy_from_slice(&MAGIC);
        self.batch[8..16].copy_from_slice(&generation.to_be_bytes());
        self.batch[16..24].copy_from_slice(&self.next.to_be_bytes());
        self.batch[24..28].copy_from_slice(&len.to_be_bytes());
        let sum = crc32c::crc32c_append(self.sum, &self.batch[8..]);
        self.batch[4..8].copy_from_slice(&sum.to_be_bytes());
        if let Err(source) = self.file.write_all_at(&self.batch, self.end) {
            return Err(match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full {
                    path: self.path.clone(),
                },
                _ => io_error("write to", &self.path, source),
            });
        }
        let written = self.batch.len() as u64;
        self.end += written;
        self.next += 1;
        self.sum = sum;
        self.unsynced = true;
        self.forget();
        Ok(written)
    }

    /// Puts everything appended on the disk.
    pub(super) fn sync(&mut self) -> StoreResult<()> {
        if self.unsynced {
            self.file
                .sync_data()
                .map_err(|source| io_error("sync", &self.path, source))?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// What SQLite has when it commits now.
    pub(super) fn mark(&self) -> Mark {
        Mark {
            generation: self.generation,
            frame: self.next,
            seed: self.seed,
        }
    }

    /// A mark under which the log can begin anew.
    pub(super) fn next_generation(&self) -> Mark {
        Mark::of_generation(self.generation + 1)
    }

    /// How long the log is, in bytes.
    pub(super) fn len(&self) -> u64 {
        self.end
    }

    /// Begins anew under a mark that is on the disk in SQLite: old frames are written over from
    /// here on.
    pub(super) fn begin_anew(&mut self, mark: Mark) {
        if self.end > 2 * REDO_ANEW_BYTES
            && let Err(error) = self.file.set_len(REDO_ANEW_BYTES)
        {
            tracing::debug!(%error, "the redo log keeps its length");
        }
        (self.generation, self.seed, self.sum) = (mark.generation, mark.seed, mark.seed);
        (self.next, self.end) = (0, 0);
    }
}

/// What a log file holds from a mark on, without making or changing anything.
pub(super) fn peek(directory: &Path, mark: Mark) -> StoreResult<Vec<Vec<u8>>> {
    let path = directory.join(REDO_FILE);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(frames(&bytes, mark)
            .bodies
            .into_iter()
            .map(<[u8]>::to_vec)
            .collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(io_error("read", &path, source)),
    }
}

/// Frames of a generation, from a number on.
struct Frames<'a> {
    bodies: Vec<&'a [u8]>,
    /// The number after the last, where it ends, and its sum.
    next: u64,
    end: u64,
    sum: u32,
}

/// The first frame that is not whole, or not the next of this generation, ends the log.
fn frames(bytes: &[u8], mark: Mark) -> Frames<'_> {
    let mut bodies = Vec::new();
    let (mut next, mut end, mut sum) = (0, 0, mark.seed);
    while let Some((body, its_sum)) = frame(&bytes[end..], mark.generation, next, sum) {
        if next >= mark.frame {
            bodies.push(body);
        }
        next += 1;
        end += HEADER + body.len();
        sum = its_sum;
    }
    Frames {
        bodies,
        next,
        end: end as u64,
        sum,
    }
}

fn frame(bytes: &[u8], generation: u64, number: u64, before: u32) -> Option<(&[u8], u32)> {
    let header = bytes.get(..HEADER)?;
    let len = u32::from_be_bytes(header[24..28].try_into().ok()?) as usize;
    let whole = bytes.get(..HEADER.checked_add(len)?)?;
    let sum = crc32c::crc32c_append(before, &whole[8..]);
    let right = header[..4] == MAGIC
        && header[8..16] == generation.to_be_bytes()
        && header[16..24] == number.to_be_bytes()
        && header[4..8] == sum.to_be_bytes();
    right.then(|| (&whole[HEADER..], sum))
}

/// The changes of a frame, in order.
pub(super) fn changes(body: &[u8]) -> impl Iterator<Item = Result<Change<'_>, String>> {
    let mut rest = body;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some((len, after)) = rest.split_first_chunk::<4>() else {
            rest = &[];
            return Some(Err("it ends inside a change".to_owned()));
        };
        let len = u32::from_be_bytes(*len) as usize;
        let Some((change, after)) = after.split_at_checked(len) else {
            rest = &[];
            return Some(Err("it ends inside a change".to_owned()));
        };
        rest = after;
        Some(rmp_serde::from_slice(change).map_err(|error| error.to_string()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(directory: &Path) -> (RedoLog, Vec<Vec<u8>>) {
        let mut log = RedoLog::open(directory).expect("opens");
        let found = log.after(Mark::default()).expect("reads");
        (log, found)
    }

    fn append(log: &mut RedoLog, slice: u64) {
        log.note(&Change::Forget(SliceId(slice))).expect("notes");
        log.note(&Change::Trim(SliceId(slice), Seq(7)))
            .expect("notes");
        log.append().expect("appends");
    }

    fn slices(bodies: &[Vec<u8>]) -> Vec<u64> {
        let first = |body: &Vec<u8>| match changes(body).next() {
            Some(Ok(Change::Forget(SliceId(slice)))) => slice,
            other => panic!("not what was written: {other:?}"),
        };
        bodies.iter().map(first).collect()
    }

    #[test]
    fn frames_come_back_up_to_the_first_that_is_not_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut one, none) = log(dir.path());
        assert!(none.is_empty());
        for slice in 1..=3 {
            append(&mut one, slice);
        }
        let whole = one.len();
        let (_, found) = log(dir.path());
        assert_eq!(slices(&found), [1, 2, 3]);
        let of_mark = |frame| {
            peek(
                dir.path(),
                Mark {
                    frame,
                    ..Mark::default()
                },
            )
            .expect("reads")
        };
        assert_eq!(slices(&of_mark(2)), [3]);
        assert!(of_mark(3).is_empty());
        // Torn at every byte of the last frame, and what was there before behind it.
        let bytes = std::fs::read(dir.path().join(REDO_FILE)).expect("reads");
        let last = bytes.len() - bytes.len() / 3;
        for cut in last..whole as usize {
            std::fs::write(dir.path().join(REDO_FILE), &bytes[..cut]).expect("writes");
            let (mut cut, found) = log(dir.path());
            assert_eq!(slices(&found), [1, 2]);
            append(&mut cut, 9);
            assert_eq!(slices(&log(dir.path()).1), [1, 2, 9]);
        }
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            std::fs::write(dir.path().join(REDO_FILE), &flipped).expect("writes");
            assert!(log(dir.path()).1.len() < 3, "a flip at {at} was not seen");
        }
    }

    #[test]
    fn an_old_generation_is_not_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut one, _) = log(dir.path());
        for slice in 1..=3 {
            append(&mut one, slice);
        }
        let mark = one.next_generation();
        one.begin_anew(mark);
        append(&mut one, 8);
        assert_eq!(slices(&peek(dir.path(), mark).expect("reads")), [8]);
        // Of a generation with the same number, as another store has it.
        let other = Mark::of_generation(mark.generation);
        assert_eq!(slices(&peek(dir.path(), other).expect("reads")), []);
        assert_eq!(Mark::from_bytes(&mark.to_bytes()), Some(mark));
        assert_eq!(Mark::from_bytes(b"short"), None);
    }

    #[test]
    fn frames_behind_a_gap_that_was_filled_again_are_old() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut one, _) = log(dir.path());
        for slice in 1..=3 {
            append(&mut one, slice);
        }
        let mut bytes = std::fs::read(dir.path().join(REDO_FILE)).expect("reads");
        // A loss of power takes the second of three, and another comes in its place.
        let frame = bytes.len() / 3;
        bytes[frame + 9] ^= 1;
        std::fs::write(dir.path().join(REDO_FILE), &bytes).expect("writes");
        let (mut cut, found) = log(dir.path());
        assert_eq!(slices(&found), [1]);
        append(&mut cut, 9);
        assert_eq!(slices(&log(dir.path()).1), [1, 9]);
        // Even where the file was not cut.
        let new = std::fs::read(dir.path().join(REDO_FILE)).expect("reads");
        bytes[..new.len()].copy_from_slice(&new);
        std::fs::write(dir.path().join(REDO_FILE), &bytes).expect("writes");
        assert_eq!(slices(&log(dir.path()).1), [1, 9]);
    }

    #[test]
    fn a_batch_that_is_forgotten_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut one, _) = log(dir.path());
        one.note(&Change::Forget(SliceId(1))).expect("notes");
        assert!(one.is_noted());
        one.forget();
        assert!(!one.is_noted());
        append(&mut one, 2);
        assert_eq!(slices(&log(dir.path()).1), [2]);
    }
}
