//! One engine alone, asked what no client with fresh knowledge would ask. What takes several
//! volcanos is the simulation's.

mod failover;
mod late;
mod locks;
mod opens;
mod replies;

use bytes::Bytes;

use std::collections::BTreeSet;

use super::{Action, Engine, Event, Origin};
use crate::agreement::Change;
use crate::effect::Effect;
use crate::error::OpError;
use crate::flare::{Kind, Name};
use crate::ids::{
    Epoch, FlareRef, NetworkId, Seq, SessionId, SliceId, Slot, SlotSeq, TxId, VolcanoId,
};
use crate::key::{Key, ROOT};
use crate::lava::{Lava, VolcanoInfo};
use crate::op::fsck::{FsckAsk, FsckAt, FsckRepair, FsckTold};
use crate::op::{Answer, Credentials, NewFlare, Op, RenameMode};
use crate::store::memory::MemoryStore;
use crate::store::{Durability, Store, View};
use crate::time::{Moment, Now};
use crate::wire::flare_protocol::{ClaimedLock, FromClient, Request, ToClient};
use crate::wire::peer::{PeerMessage, StepAnswer, StepDone, StepName};

/// An engine that owns every key, and one session.
struct Alone {
    engine: Engine<MemoryStore>,
    session: SessionId,
    seq: u64,
    time: u64,
}

fn info(number: u8) -> Box<VolcanoInfo> {
    Box::new(VolcanoInfo {
        nick: format!("v{number}"),
        fqdn: format!("v{number}.intranet"),
        addr: [10, 0, 0, number].into(),
        port: 12000,
        bandwidth_kbit: 0,
        storage_bytes: 0,
        arbiter: false,
    })
}

impl Alone {
    fn new() -> Alone {
        let bootstrap = Change::Bootstrap {
            network: NetworkId(7),
            volcano: info(1),
            redundancy: 1,
        };
        let session = Change::OpenSession {
            label: "test".into(),
        };
        let lava = Lava::default().apply(&bootstrap).unwrap();
        let lava = lava.apply(&session).unwrap();
        let session = lava.sessions[0].id;
        let engine = Engine::new(VolcanoId(1), lava, MemoryStore::new(), now(0)).unwrap();
        let mut alone = Alone {
            engine,
            session,
            seq: 0,
            time: 0,
        };
        alone.handle(Event::Serve);
        alone.handle(Event::SessionHello(alone.session));
        alone.claims(alone.session, 0, Vec::new());
        alone
    }

    fn handle(&mut self, event: Event) -> Vec<Action> {
        self.time += 1;
        self.engine.handle(now(self.time), vec![event]).unwrap()
    }

    /// The lava changes.
    fn change(&mut self, change: Change) {
        let lava = self.engine.lava().apply(&change).unwrap();
        self.handle(Event::Lava(Box::new(lava)));
    }

    /// A message comes from the second volcano; what is sent to it, and what is proposed.
    fn hears(&mut self, message: PeerMessage) -> (Vec<PeerMessage>, Vec<Change>) {
        let (mut sent, mut proposed) = (Vec::new(), Vec::new());
        for action in self.handle(Event::Peer {
            from: VolcanoId(2),
            message: Box::new(message),
            payload: Bytes::new(),
        }) {
            match action {
                Action::Send { message, .. } => sent.push(*message),
                Action::Propose { change, .. } => proposed.push(*change),
                _ => {}
            }
        }
        (sent, proposed)
    }

    fn ask(&mut self, key: Key, op: Op) -> Result<Answer, OpError> {
        let mut actions = self.send(key, op);
        // A client gives back what is recalled.
        while let Some((keys, upto)) = actions.iter().find_map(|action| match action {
            Action::Tell {
                message: ToClient::Recall { keys, upto },
                ..
            } => Some((keys.clone(), *upto)),
            _ => None,
        }) {
            actions = self.handle(Event::FromClient {
                session: self.session,
                message: FromClient::Recalled {
                    keys,
                    upto,
                    opens: Vec::new(),
                },
            });
        }
        replied(actions).unwrap()
    }

    fn send(&mut self, key: Key, op: Op) -> Vec<Action> {
        self.seq += 1;
        let request = Request {
            session: self.session,
            slot: Slot(0),
            seq: SlotSeq(self.seq),
            clock: 0,
            epoch: Epoch(0),
            key,
            hops: 0,
            cred: Credentials::root(),
            ops: vec![op],
        };
        let origin = Origin {
            token: self.seq,
            proxied: false,
        };
        self.handle(Event::Request {
            origin,
            request: Box::new(request),
            payload: Bytes::new(),
        })
    }

    /// A second volcano joins and owns the upper half of the keys, as if that had been decided
    /// before this one crashed: nothing was handed over.
    fn lose_upper_half(&mut self) {
        let (slice, volcano) = (SliceId(2), VolcanoId(2));
        let mut at = Key::MIN;
        at.0[0] = 0x80;
        for change in [
            Change::Join {
                volcano: info(2),
                after: VolcanoId(1),
            },
            Change::Cut {
                slice: SliceId(1),
                at,
            },
            Change::AddCopy { slice, volcano },
            Change::CopyInSync { slice, volcano },
            Change::MoveOwner { slice, to: volcano },
        ] {
            self.change(change);
        }
    }

    /// The volcano is killed and starts again.
    fn restart(&mut self) {
        let lava = self.engine.lava().clone();
        let fresh = Engine::new(VolcanoId(1), lava, MemoryStore::new(), now(0)).unwrap();
        let old = std::mem::replace(&mut self.engine, fresh);
        let (store, lava) = (old.store, old.lava);
        let at = now(self.time);
        self.engine = Engine::new(VolcanoId(1), lava, store, at).unwrap();
    }

    /// A session says which locks it holds.
    fn claims(&mut self, session: SessionId, number: u64, locks: Vec<ClaimedLock>) -> Vec<Action> {
        let message = FromClient::LocksHeld {
            number,
            locks,
            done: true,
        };
        self.handle(Event::FromClient { session, message })
    }

    fn root(&mut self) -> FlareRef {
        match self.ask(ROOT, Op::GetRoot) {
            Ok(Answer::Attr(attr)) => attr.flare,
            other => panic!("{other:?}"),
        }
    }

    fn create(&mut self, parent: FlareRef, path: &str, kind: Kind) -> FlareRef {
        let op = Op::Create {
            parent,
            name: last_name(path),
            new: NewFlare {
                kind,
                mode: 0o755,
                umask: 0,
                rdev: 0,
                target: Vec::new(),
                open: None,
            },
        };
        match self.ask(Key::of_path(path.as_bytes()), op) {
            Ok(Answer::Linked { attr, .. }) => attr.flare,
            other => panic!("{other:?}"),
        }
    }

    fn rename(
        &mut self,
        (from_dir, from): (FlareRef, &str),
        (moved, moved_kind): (FlareRef, Kind),
        (to_dir, to): (FlareRef, &str),
        mode: RenameMode,
    ) -> Result<Answer, OpError> {
        let op = Op::Rename {
            from_dir,
            from_name: last_name(from),
            moved,
            moved_kind,
            to_dir,
            to_name: last_name(to),
            mode,
        };
        self.ask(to_dir.key(), op)
    }
}

fn replied(actions: Vec<Action>) -> Option<Result<Answer, OpError>> {
    actions.into_iter().find_map(|action| match action {
        Action::Reply { mut reply, .. } => reply.results.pop(),
        _ => None,
    })
}

fn now(ms: u64) -> Now {
    Now {
        moment: Moment(ms),
        wall_nanos: 1_700_000_000_000_000_000 + ms * 1_000_000,
    }
}

/// The creation of a file.
fn new_file(parent: FlareRef, path: &str) -> Op {
    Op::Create {
        parent,
        name: last_name(path),
        new: NewFlare {
            kind: Kind::File,
            mode: 0o644,
            umask: 0,
            rdev: 0,
            target: Vec::new(),
            open: None,
        },
    }
}

fn last_name(path: &str) -> Name {
    let name = path.rsplit('/').next().unwrap_or_default();
    Name::new(name.as_bytes()).unwrap()
}

/// Another mount may have moved the source directory below the destination since the client
/// looked: the kernel's own check does not see that.
#[test]
fn an_exchange_brings_no_directory_below_itself() {
    for kind in [Kind::Directory, Kind::File] {
        let mut alone = Alone::new();
        let root = alone.root();
        let top = alone.create(root, "/a", Kind::Directory);
        let middle = alone.create(top, "/a/b", Kind::Directory);
        let bottom = alone.create(middle, "/a/b/c", Kind::Directory);
        let moved = alone.create(bottom, "/a/b/c/d", kind);
        let exchange = RenameMode::Exchange;
        let refused = alone.rename((bottom, "/a/b/c/d"), (moved, kind), (root, "/a"), exchange);
        assert_eq!(refused, Err(OpError::IntoItself));
        // The lock is given back, and what forms no cycle goes on.
        let other = alone.create(root, "/o", Kind::Directory);
        let fine = alone.rename((bottom, "/a/b/c/d"), (moved, kind), (root, "/o"), exchange);
        assert_eq!(fine, Ok(Answer::Done));
        let direct = alone.rename(
            (middle, "/a/b/c"),
            (bottom, Kind::Directory),
            (top, "/a/b"),
            exchange,
        );
        assert_eq!(direct, Err(OpError::IntoItself));
        assert_ne!(other, moved);
    }
}

#[test]
fn a_directory_is_not_moved_below_itself() {
    let mut alone = Alone::new();
    let root = alone.root();
    let top = alone.create(root, "/a", Kind::Directory);
    let middle = alone.create(top, "/a/b", Kind::Directory);
    let bottom = alone.create(middle, "/a/b/c", Kind::Directory);
    for into in [top, middle, bottom] {
        let refused = alone.rename(
            (root, "/a"),
            (top, Kind::Directory),
            (into, "/d"),
            RenameMode::Replace,
        );
        assert_eq!(refused, Err(OpError::IntoItself));
    }
    let fine = alone.rename(
        (middle, "/a/b/c"),
        (bottom, Kind::Directory),
        (root, "/d"),
        RenameMode::Replace,
    );
    assert_eq!(fine, Ok(Answer::Done));
}

/// The new owner may not know yet that it is one when the copy speaks to it, so it must be asked
/// again: what is still on its way from the old one is no answer.
#[test]
fn a_copy_asks_the_new_owner_until_that_one_answers() {
    let mut alone = Alone::new();
    alone.lose_upper_half();
    let (slice, third) = (SliceId(2), VolcanoId(3));
    for change in [
        Change::Join {
            volcano: info(3),
            after: VolcanoId(2),
        },
        Change::AddCopy {
            slice,
            volcano: third,
        },
        Change::CopyInSync {
            slice,
            volcano: third,
        },
        Change::MoveOwner { slice, to: third },
    ] {
        alone.change(change);
    }
    alone.handle(Event::PeerUp(third));
    alone.hears(PeerMessage::Ship {
        slice,
        epoch: alone.engine.lava().epoch,
        records: Vec::new(),
    });
    let mut asks = || {
        alone.time += 1_000;
        let said = alone.handle(Event::Tick).into_iter();
        said.filter(|action| {
            matches!(action, Action::Send { to, message, .. }
                if *to == third && matches!(**message, PeerMessage::ShipFrom { .. }))
        })
        .count()
    };
    assert!((0..5).map(|_| asks()).sum::<usize>() > 0);
}

/// Whoever asks may have looked at the source long ago.
#[test]
fn nothing_is_to_do_only_where_both_names_are_of_one_file() {
    for mode in [RenameMode::Replace, RenameMode::Exchange] {
        let mut alone = Alone::new();
        let root = alone.root();
        let dir = alone.create(root, "/dir", Kind::Directory);
        let file = alone.create(root, "/file", Kind::File);
        let other = alone.create(dir, "/dir/other", Kind::File);
        let below = alone.create(root, "/below", Kind::Directory);
        let place = (root, "/file");
        let stale = alone.rename((dir, "/dir/other"), (file, Kind::File), place, mode);
        assert_eq!(stale, Err(OpError::Stale));
        let stale = alone.rename(
            (dir, "/dir/other"),
            (below, Kind::Directory),
            (root, "/below"),
            mode,
        );
        assert_eq!(stale, Err(OpError::Stale));
        let link = Op::Link {
            flare: file,
            parent: dir,
            name: last_name("/dir/link"),
        };
        assert!(alone.ask(file.key(), link).is_ok());
        let nothing = alone.rename((dir, "/dir/link"), (file, Kind::File), place, mode);
        assert_eq!(nothing, Ok(Answer::Done));
        // It is not held any more.
        let done = alone.rename((dir, "/dir/other"), (other, Kind::File), place, mode);
        assert_eq!(done, Ok(Answer::Done));
        let links = alone.engine.store().links(file.key()).unwrap();
        assert_eq!(
            links.len(),
            if mode == RenameMode::Exchange { 2 } else { 1 }
        );
    }
}

/// A copy may ask twice to be filled. What it says about the first filling must not pass for
/// the second, for which it has thrown everything away: it could become the owner then.
#[test]
fn a_copy_is_whole_by_its_last_filling_only() {
    let mut alone = Alone::new();
    let (slice, volcano) = (SliceId(1), VolcanoId(2));
    alone.change(Change::Join {
        volcano: info(2),
        after: VolcanoId(1),
    });
    alone.change(Change::AddCopy { slice, volcano });
    alone.handle(Event::PeerUp(volcano));
    let mut ask = || {
        let (sent, _) = alone.hears(PeerMessage::ShipFrom { slice, have: None });
        let fill = sent.iter().find_map(|message| match message {
            PeerMessage::CopyBegin { fill, .. } => Some(*fill),
            _ => None,
        });
        let done = sent.iter().find_map(|message| match message {
            PeerMessage::CopyRows {
                rows, done: true, ..
            } => Some(rows.seq),
            _ => None,
        });
        (fill.unwrap(), done)
    };
    let (first, second) = (ask(), ask());
    assert_ne!(first.0, second.0);
    let mut answer = |(fill, done): (u64, Option<Seq>)| {
        let cursor = Key::MAX;
        let ack = PeerMessage::CopyAck {
            slice,
            fill,
            cursor,
            done,
        };
        alone.hears(ack).1
    };
    assert_eq!(answer(first), []);
    assert_eq!(answer(second), [Change::CopyInSync { slice, volcano }]);
}

/// Its own history may hold operations that the new owner never had: it says how far that goes, by
/// the epoch in which its last operation was decided.
#[test]
fn a_slice_that_left_says_what_its_last_operation_was() {
    let mut alone = Alone::new();
    alone.lose_upper_half();
    let actions = alone.handle(Event::PeerUp(VolcanoId(2)));
    let said: Vec<_> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Send { message, .. } => match **message {
                PeerMessage::ShipFrom { slice, have } => Some((slice, have)),
                _ => None,
            },
            _ => None,
        })
        .collect();
    assert_eq!(said, [(SliceId(2), Some((Epoch(4), Seq(1))))]);
}

/// Whoever looks at the source directory after a rename has returned must not see its old
/// counts and times: its owner hears of the decision first.
#[test]
fn a_rename_is_answered_when_the_source_directory_shows_it() {
    let mut alone = Alone::new();
    let root = alone.root();
    alone.lose_upper_half();
    let elsewhere = |byte: u8| FlareRef(Key([byte; 20]), root.inc());
    let (from_dir, moved) = (elsewhere(0xf0), elsewhere(0xe0));
    let op = Op::Rename {
        from_dir,
        from_name: last_name("/from"),
        moved,
        moved_kind: Kind::File,
        to_dir: root,
        to_name: last_name("/to"),
        mode: RenameMode::Replace,
    };
    assert_eq!(replied(alone.send(ROOT, op)), None);
    let tx = TxId(alone.session, Slot(0), SlotSeq(alone.seq), 0);
    let mut answer = |flare: FlareRef, step, told| {
        let done = StepDone {
            tx,
            driver: ROOT,
            key: flare.key(),
            step,
            clock: 0,
            result: Ok(told),
        };
        replied(alone.handle(Event::Peer {
            from: VolcanoId(2),
            message: Box::new(PeerMessage::StepDone(done)),
            payload: Bytes::new(),
        }))
    };
    let (kind, uid) = (Kind::File, 0);
    let held = StepAnswer::Held { kind, uid };
    assert_eq!(answer(moved, StepName::PrepareMove, held), None);
    let held = StepAnswer::HeldEntry { only_owner: false };
    assert_eq!(answer(from_dir, StepName::PrepareEntry, held), None);
    assert_eq!(answer(moved, StepName::Finish, StepAnswer::Done), None);
    assert_eq!(
        answer(from_dir, StepName::Finish, StepAnswer::Done),
        Some(Ok(Answer::Done))
    );
}

#[test]
fn fsck_counts_anew_only_what_is_wrong_and_has_a_name() {
    let mut alone = Alone::new();
    let root = alone.root();
    let file = alone.create(root, "/file", Kind::File);
    let mut row = alone.engine.store().flare(file.key()).unwrap().unwrap();
    row.nlink = 9;
    let slice = SliceId(1);
    let put = |alone: &mut Alone, effect: Effect| {
        alone.engine.store.begin().unwrap();
        alone.engine.commit(slice, vec![effect]).unwrap();
        alone.engine.store.commit(Durability::Process).unwrap();
    };
    put(&mut alone, Effect::PutFlare(Box::new(row)));
    let counts =
        |alone: &mut Alone, flare| alone.ask(file.key(), Op::FsckRepair(FsckRepair::Counts(flare)));
    assert_eq!(counts(&mut alone, file), Ok(Answer::Done));
    let nlink = |alone: &Alone| {
        alone
            .engine
            .store()
            .flare(file.key())
            .unwrap()
            .map(|r| r.nlink)
    };
    assert_eq!(nlink(&alone), Some(1));
    // Another incarnation, and another key than that of the request.
    let stale = FlareRef(file.key(), Default::default());
    assert_eq!(counts(&mut alone, stale), Err(OpError::Stale));
    assert_eq!(counts(&mut alone, root), Err(OpError::Invalid));
    // A file that has lost its names is not dropped for it: only as an orphan, once all opens
    // are known.
    put(
        &mut alone,
        Effect::DropLink(file.key(), root, last_name("/file")),
    );
    assert_eq!(counts(&mut alone, file), Err(OpError::Invalid));
    let drop = Op::FsckRepair(FsckRepair::DropOrphan(file));
    assert_eq!(alone.ask(file.key(), drop.clone()), Err(OpError::TryAgain));
    alone.time += crate::limits::SESSION_MS;
    assert_eq!(alone.ask(file.key(), drop), Ok(Answer::Done));
    assert_eq!(nlink(&alone), None);
}

#[test]
fn fsck_reads_big_directories_in_pages() {
    let mut alone = Alone::new();
    let root = alone.root();
    let count = crate::limits::FSCK_PAGE_ENTRIES as u64 + 3;
    for n in 0..count {
        alone.create(root, &format!("/{n}"), Kind::Directory);
    }
    let (mut from, mut entries, mut keys) = (Key::MIN, 0, BTreeSet::new());
    let mut after = None;
    loop {
        let ask = FsckAsk::Rows {
            from: FsckAt { key: from, after },
            upto: Key::MAX,
            brief: false,
        };
        let Ok(Answer::Fsck(told)) = alone.ask(Key::MIN, Op::FsckAsk(ask)) else {
            panic!("no page");
        };
        let FsckTold::Page(page) = *told else {
            panic!("{told:?}");
        };
        assert!(page.keys.len() <= crate::limits::FSCK_PAGE_KEYS);
        assert!(page.position.is_some());
        for part in &page.keys {
            entries += part.entries.len() as u64;
            keys.insert(part.key);
        }
        match page.next {
            Some(next) => (from, after) = (next.key, next.after),
            None => break,
        }
    }
    assert_eq!((entries, keys.len() as u64), (count, count + 1));
}
