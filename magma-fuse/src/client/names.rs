//! Operations on names: lookup, create, link, unlink, rename.
//!
//! The parent's entry is the truth about a name. The key of the birth path is where the
//! flare probably is: its owner is asked first, or at the same time, and answers only when
//! it is certain that the entry says the same.

use std::sync::Arc;
use std::time::Duration;

use magma_core::error::{OpError, OpResult};
use magma_core::flare::{Attr, Kind, Name};
use magma_core::ids::FlareRef;
use magma_core::key::{self, Key};
use magma_core::limits::{BIRTH_TRIES, STALE_TRIES, SYMLINK_MAX};
use magma_core::op::{Answer, Credentials, NewFlare, Op, RenameMode};

use super::cache::NameKnown;
use super::path::Node;
use super::request::{Ask, Told, unexpected};
use super::retry::Backoff;
use super::{Client, Shared};

/// Attributes as a volcano has just told them.
#[derive(Clone, Debug)]
pub struct Found {
    /// The attributes, with key and incarnation.
    pub attr: Attr,
}

impl Found {
    /// From the answer to a request for attributes.
    pub(crate) fn from_told(told: Told) -> OpResult<Found> {
        match told.answer {
            Answer::Attr(attr) | Answer::Linked { attr, .. } => Ok(Found { attr: *attr }),
            other => Err(unexpected(&other)),
        }
    }
}

/// What a name stood for when it was removed or moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    /// The flare.
    pub flare: FlareRef,
    /// Its type.
    pub kind: Kind,
}

impl Client {
    /// What a name stands for.
    pub async fn lookup(
        &self,
        parent: &Arc<Node>,
        name: &Name,
        cred: &Credentials,
    ) -> OpResult<Found> {
        self.shared.lookup(parent, name, cred).await
    }

    /// Creates a flare of any type and links it.
    pub async fn create(
        &self,
        parent: &Arc<Node>,
        name: &Name,
        new: NewFlare,
        cred: &Credentials,
    ) -> OpResult<Found> {
        self.shared.create(parent, name, new, cred).await
    }

    /// Creates a directory.
    pub async fn mkdir(
        &self,
        parent: &Arc<Node>,
        name: &Name,
        mode: NewMode,
        cred: &Credentials,
    ) -> OpResult<Found> {
        let new = new_flare(Kind::Directory, mode);
        self.shared.create(parent, name, new, cred).await
    }

    /// Creates a file that is not opened, a fifo, a socket or a device.
    pub async fn mknod(
        &self,
        parent: &Arc<Node>,
        name: &Name,
        mode: NewMode,
        rdev: u32,
        cred: &Credentials,
    ) -> OpResult<Found> {
        let kind = match Kind::from_mode(mode.mode) {
            None | Some(Kind::Directory | Kind::Symlink) => return Err(OpError::Invalid),
            Some(kind) => kind,
        };
        let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        let new = NewFlare {
            rdev: if is_device { rdev } else { 0 },
            ..new_flare(kind, mode)
        };
        self.shared.create(parent, name, new, cred).await
    }

    /// Creates a symbolic link.
    pub async fn symlink(
        &self,
        parent: &Arc<Node>,
        name: &Name,
        target: &[u8],
        cred: &Credentials,
    ) -> OpResult<Found> {
        if target.is_empty() {
            return Err(OpError::NotFound);
        }
        if target.len() > SYMLINK_MAX {
            return Err(OpError::NameTooLong);
        }
        let new = NewFlare {
            target: target.to_vec(),
            ..new_flare(Kind::Symlink, NewMode::of(0o777))
        };
        self.shared.create(parent, name, new, cred).await
    }

    /// Creates a file and opens it; one that is there already is opened instead, unless
    /// `exclusive`. Another mount may have created it since the kernel looked.
    pub async fn create_open(
        &self,
        parent: &Arc<Node>,
        name: &Name,
        how: CreateOpen,
        cred: &Credentials,
    ) -> OpResult<Found> {
        let new = new_flare(Kind::File, how.mode);
        for _ in 0..STALE_TRIES {
            let opening = self.shared.opens.opening();
            let new = NewFlare {
                open: Some(opening.number()),
                ..new.clone()
            };
            match self.shared.create_told(parent, name, new, cred).await {
                Ok((found, again)) => {
                    opening.done(found.attr.flare, !again);
                    return Ok(found);
                }
                Err(OpError::Exists) if !how.exclusive => {}
                Err(error) => return Err(error),
            }
            let there = match self.lookup(parent, name, cred).await {
                // Gone again: create it after all.
                Err(OpError::NotFound) => continue,
                other => other?,
            };
            match there.attr.kind {
                Kind::File => {}
                Kind::Directory => return Err(OpError::IsDirectory),
                // The kernel walks the path anew when it hears this, and finds the link or
                // the special file.
                _ => return Err(OpError::Stale),
            }
            match self.open(there.attr.flare, how.open, cred).await {
                Err(OpError::Stale) => {}
                other => return other,
            }
        }
        Err(OpError::Stale)
    }

    /// Adds a name to a flare.
    pub async fn link(
        &self,
        flare: FlareRef,
        parent: &Arc<Node>,
        name: &Name,
        cred: &Credentials,
    ) -> OpResult<Found> {
        forbid_dht(parent, name)?;
        let op = Op::Link {
            flare,
            parent: parent.flare(),
            name: name.clone(),
        };
        let told = self.shared.ask(Ask::new(flare.key(), cred, op)).await?;
        Found::from_told(told)
    }

    /// Removes a name of anything but a directory.
    pub async fn unlink(
        &self,
        parent: &Arc<Node>,
        name: &Name,
        cred: &Credentials,
    ) -> OpResult<Gone> {
        self.shared.remove(parent, name, cred, false).await
    }

    /// Removes an empty directory.
    pub async fn rmdir(
        &self,
        parent: &Arc<Node>,
        name: &Name,
        cred: &Credentials,
    ) -> OpResult<Gone> {
        self.shared.remove(parent, name, cred, true).await
    }

    /// Moves a name. Returns what was moved.
    pub async fn rename(
        &self,
        from: (&Arc<Node>, &Name),
        to: (&Arc<Node>, &Name),
        mode: RenameMode,
        cred: &Credentials,
    ) -> OpResult<Gone> {
        forbid_dht(from.0, from.1)?;
        forbid_dht(to.0, to.1)?;
        let shared = &self.shared;
        shared
            .on_what_is_there(from.0, from.1, cred, |moved| Ask {
                payload: Default::default(),
                key: to.0.flare().key(),
                cred: cred.clone(),
                op: Op::Rename {
                    from_dir: from.0.flare(),
                    from_name: from.1.clone(),
                    moved: moved.flare,
                    moved_kind: moved.kind,
                    to_dir: to.0.flare(),
                    to_name: to.1.clone(),
                    mode,
                },
            })
            .await
    }
}

/// The mode of something new.
#[derive(Clone, Copy, Debug)]
pub struct NewMode {
    /// Permission bits, and for mknod(2) the type.
    pub mode: u32,
    /// What is taken from them, where the directory has no default access control list.
    pub umask: u32,
}

impl NewMode {
    /// One from which nothing more is taken.
    pub fn of(mode: u32) -> NewMode {
        NewMode { mode, umask: 0 }
    }
}

/// How [`Client::create_open`] creates or opens.
#[derive(Clone, Copy, Debug)]
pub struct CreateOpen {
    /// Permission bits of a new file.
    pub mode: NewMode,
    /// Fail when it is there (`O_EXCL`).
    pub exclusive: bool,
    /// How to open one that is there.
    pub open: super::objects::OpenFor,
}

impl Client {
    /// What a name stands for, if nobody need be asked.
    pub fn lookup_known(&self, parent: &Arc<Node>, name: &Name) -> Option<OpResult<Found>> {
        self.shared.lookup_known(parent, name)
    }

    /// How long a name may be shown with these attributes, without asking.
    pub fn name_left(&self, dir: FlareRef, name: &Name, shown: &Attr) -> Duration {
        self.shared.cache.name_left(dir, name, shown)
    }

    /// How long it may be shown that a name is not there.
    pub fn absent_left(&self, dir: FlareRef, name: &Name) -> Duration {
        match self.shared.cache.name(dir, name) {
            NameKnown::Absent(left) => left,
            _ => Duration::ZERO,
        }
    }
}

impl Shared {
    fn lookup_known(&self, parent: &Arc<Node>, name: &Name) -> Option<OpResult<Found>> {
        self.touch();
        match self.cache.name(parent.flare(), name) {
            NameKnown::Here(attr, _) => Some(Ok(Found { attr: *attr })),
            NameKnown::Absent(_) => Some(Err(OpError::NotFound)),
            NameKnown::Child(_) | NameKnown::Unknown => None,
        }
    }

    async fn lookup(
        self: &Arc<Self>,
        parent: &Arc<Node>,
        name: &Name,
        cred: &Credentials,
    ) -> OpResult<Found> {
        if parent.kind() != Kind::Directory {
            return Err(OpError::NotDirectory);
        }
        if let Some(known) = self.lookup_known(parent, name) {
            return known;
        }
        if let NameKnown::Child(child) = self.cache.name(parent.flare(), name) {
            match self.attr_of_child(parent.flare(), child, cred).await {
                // Ask for it in the plain way.
                Err(OpError::Stale | OpError::TryAgain) => {}
                attr => return Ok(Found { attr: attr? }),
            }
        }
        self.missed_name(parent.flare(), cred);
        let mut backoff = Backoff::new();
        for _ in 0..STALE_TRIES {
            match self.lookup_once(parent, name, cred).await? {
                Some(found) => {
                    let attr = &found.attr;
                    self.hints.note(parent.flare(), name, attr.flare, attr.kind);
                    return Ok(found);
                }
                // The entry changed hands between two questions.
                None => tokio::time::sleep(backoff.pause()).await,
            }
        }
        Err(OpError::Stale)
    }

    /// One round of questions. `None` when what the entry named is gone already.
    async fn lookup_once(
        self: &Arc<Self>,
        parent: &Arc<Node>,
        name: &Name,
        cred: &Credentials,
    ) -> OpResult<Option<Found>> {
        let guess = Ask::new(
            parent.birth_path(name).key(0),
            cred,
            Op::Guess {
                parent: parent.flare(),
                name: name.clone(),
            },
        );
        let entry = Ask::new(
            parent.flare().key(),
            cred,
            Op::LookupEntry {
                dir: parent.flare(),
                name: name.clone(),
            },
        );
        // Where guesses have been wrong lately, the parent is asked at the same time, so
        // that a wrong one costs no round trip; where they have been right, asking both
        // would cost the volcanos double work for nothing.
        let asked = (!parent.guesses_well()).then(|| {
            let client = self.clone();
            // A task of its own: when the guess is right its answer is not waited for, but
            // it must still come before the slot is free.
            let entry = Ask::new(entry.key, &entry.cred, entry.op.clone());
            self.runtime.spawn(async move { client.ask(entry).await })
        });
        match self.ask(guess).await.map(Found::from_guess) {
            Ok(Ok(Some(found))) => {
                parent.guessed(true);
                return Ok(Some(found));
            }
            // Whatever lives under that key is another flare; the entry decides.
            Ok(Ok(None)) | Err(OpError::NotFound | OpError::Stale) => parent.guessed(false),
            Ok(Err(error)) | Err(error) => return Err(error),
        }
        let told = match asked {
            Some(task) => task.await.unwrap_or(Err(OpError::Unreachable))?,
            None => self.ask(entry).await?,
        };
        let (child, attr) = match told.answer {
            Answer::Entry { child, attr, .. } => (child, attr),
            other => return Err(unexpected(&other)),
        };
        if let Some(attr) = attr {
            return Ok(Some(Found { attr: *attr }));
        }
        let told = self
            .ask(Ask::new(child.key(), cred, Op::GetAttr(child)))
            .await;
        match told {
            Ok(told) => Found::from_told(told).map(Some),
            Err(OpError::Stale) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn create(
        self: &Arc<Self>,
        parent: &Arc<Node>,
        name: &Name,
        new: NewFlare,
        cred: &Credentials,
    ) -> OpResult<Found> {
        let (found, _) = self.create_told(parent, name, new, cred).await?;
        Ok(found)
    }

    /// The same, and whether it was asked more than once.
    async fn create_told(
        self: &Arc<Self>,
        parent: &Arc<Node>,
        name: &Name,
        new: NewFlare,
        cred: &Credentials,
    ) -> OpResult<(Found, bool)> {
        forbid_dht(parent, name)?;
        let path = parent.birth_path(name);
        for n in 0..BIRTH_TRIES {
            let key = path.key(n);
            if !is_usable(key) {
                continue;
            }
            let op = Op::Create {
                parent: parent.flare(),
                name: name.clone(),
                new: new.clone(),
            };
            match self.ask(Ask::new(key, cred, op)).await {
                Err(OpError::KeyTaken) => {}
                Ok(told) => {
                    let again = told.again;
                    let found = Found::from_told(told)?;
                    let attr = &found.attr;
                    self.hints.note(parent.flare(), name, attr.flare, attr.kind);
                    return Ok((found, again));
                }
                Err(error) => return Err(error),
            }
        }
        Err(OpError::KeyTaken)
    }

    async fn remove(
        self: &Arc<Self>,
        parent: &Arc<Node>,
        name: &Name,
        cred: &Credentials,
        directory: bool,
    ) -> OpResult<Gone> {
        forbid_dht(parent, name)?;
        self.on_what_is_there(parent, name, cred, |there| {
            let (flare, parent, name) = (there.flare, parent.flare(), name.clone());
            let op = if directory {
                Op::Rmdir {
                    flare,
                    parent,
                    name,
                }
            } else {
                Op::Unlink {
                    flare,
                    parent,
                    name,
                }
            };
            Ask::new(flare.key(), cred, op)
        })
        .await
    }

    /// Does something to the flare that a name stands for, and looks again when the name
    /// stands for another one by then.
    async fn on_what_is_there(
        self: &Arc<Self>,
        parent: &Arc<Node>,
        name: &Name,
        cred: &Credentials,
        ask: impl Fn(Gone) -> Ask,
    ) -> OpResult<Gone> {
        let mut backoff = Backoff::new();
        let mut hint = self.hints.take(parent.flare(), name);
        for _ in 0..STALE_TRIES {
            let (there, from_hint) = match hint.take() {
                Some((flare, kind)) => (Gone { flare, kind }, true),
                None => {
                    let attr = self.lookup(parent, name, cred).await?.attr;
                    // Used here and now; what it stands for afterwards is another matter.
                    self.hints.take(parent.flare(), name);
                    let (flare, kind) = (attr.flare, attr.kind);
                    (Gone { flare, kind }, false)
                }
            };
            match self.ask(ask(there)).await {
                Ok(told) => match told.answer {
                    Answer::Done | Answer::Attr(_) | Answer::Unlinked { .. } => return Ok(there),
                    other => return Err(unexpected(&other)),
                },
                Err(OpError::Stale) => {}
                // What a hint led to may have been replaced by something of another type,
                // or be gone; only a fresh look can tell.
                Err(
                    OpError::NotFound
                    | OpError::NotDirectory
                    | OpError::IsDirectory
                    | OpError::NotEmpty
                    | OpError::IntoItself
                    | OpError::Access
                    | OpError::NotPermitted,
                ) if from_hint => {}
                Err(error) => return Err(error),
            }
            if !from_hint {
                tokio::time::sleep(backoff.pause()).await;
            }
        }
        Err(OpError::Stale)
    }
}

impl Found {
    /// From the answer to a guess; `None` when the parent must be asked.
    fn from_guess(told: Told) -> OpResult<Option<Found>> {
        match told.answer {
            Answer::AskParent => Ok(None),
            _ => Found::from_told(told).map(Some),
        }
    }
}

fn new_flare(kind: Kind, mode: NewMode) -> NewFlare {
    NewFlare {
        kind,
        mode: mode.mode & 0o7777,
        umask: mode.umask & 0o777,
        rdev: 0,
        target: Vec::new(),
        open: None,
    }
}

/// Inode numbers 0 and 1 mean "none" and "the root" to the kernel.
fn is_usable(key: Key) -> bool {
    key.ino() > 1
}

/// `/.dht` is the internal directory: nobody makes, moves or removes it.
fn forbid_dht(parent: &Arc<Node>, name: &Name) -> OpResult<()> {
    if parent.flare().key() == key::ROOT && name.as_bytes() == crate::dht::NAME {
        return Err(OpError::ReadOnly);
    }
    Ok(())
}
