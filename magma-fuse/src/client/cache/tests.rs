//! Tests of what is remembered, and of what is not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use magma_core::error::{OpError, OpResult};
use magma_core::flare::{Attr, FlareRow, Kind, Layout, Name};
use magma_core::ids::{Epoch, FlareRef, Seq, SliceId, Stamp, VolcanoId};
use magma_core::key::Key;
use magma_core::op::{Answer, ListedEntry, NewFlare, Op, SetAttr};
use magma_core::time::Timestamp;
use magma_core::wire::flare_protocol::Grant;

use super::{Cache, Changing, Lesson, NameKnown, Source, Ticket};

const OWNER: Source = Source {
    volcano: VolcanoId(1),
    connection: 7,
};

fn flare(path: &str) -> FlareRef {
    let key = Key::of_path(path.as_bytes());
    FlareRef(key, Stamp(SliceId(1), Epoch(1), Seq(1)))
}

fn attr(flare: FlareRef, size: u64) -> Attr {
    let row = FlareRow {
        key: flare.key(),
        inc: flare.inc(),
        version: flare.inc(),
        kind: Kind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size,
        nlink: 1,
        rdev: 0,
        atime: Timestamp(2, 0),
        mtime: Timestamp(1, 0),
        ctime: Timestamp(1, 0),
        crtime: Timestamp(1, 0),
        layout: Layout::Inline,
        entries: 0,
        next_cookie: 16,
        nascent: None,
        asked: 0,
        acls: None,
    };
    Attr::of(&row, 0)
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

fn granted(number: u64) -> Option<Grant> {
    Some(Grant {
        number,
        valid_ms: 5_000,
        void: 0,
        shown: true,
    })
}

/// A cache that has heard of the owner just now.
fn cache() -> Arc<Cache> {
    let cache = Arc::new(Cache::default());
    cache.connected(OWNER);
    cache.heard(OWNER, Instant::now(), &granted(0).expect("some"));
    cache
}

fn learn(cache: &Cache, ticket: Ticket, number: u64, op: &Op, result: &OpResult<Answer>) {
    cache.learn(&Lesson {
        source: OWNER,
        ticket,
        grant: granted(number),
        op,
        result,
    });
}

fn changed(cache: &Cache, changing: Changing, ticket: Ticket, op: &Op, result: &OpResult<Answer>) {
    let lesson = Lesson {
        source: OWNER,
        ticket,
        grant: granted(2),
        op,
        result,
    };
    cache.changed(changing, &lesson);
}

fn learn_attr(cache: &Cache, number: u64, flare: FlareRef) {
    let answer = Ok(Answer::Attr(Box::new(attr(flare, 1))));
    learn(cache, cache.ticket(), number, &Op::GetAttr(flare), &answer);
}

fn learn_listing(cache: &Cache, dir: FlareRef, names: &[&str], end: bool) {
    let list = names.iter().enumerate().map(|(at, text)| ListedEntry {
        name: name(text),
        child: flare(&format!("/d/{text}")),
        kind: Kind::File,
        cookie: 16 + at as u64,
    });
    let op = Op::ReadDir {
        dir,
        after: 0,
        max_bytes: 4096,
    };
    let list = list.collect();
    learn(
        cache,
        cache.ticket(),
        1,
        &op,
        &Ok(Answer::Entries { list, end }),
    );
}

#[test]
fn attributes_are_shown_while_the_lease_is_valid() {
    let cache = cache();
    let file = flare("/f");
    learn_attr(&cache, 1, file);
    let (known, left) = cache.attr(file).expect("known");
    assert_eq!(known.size, 1);
    assert!(left > Duration::from_secs(4) && left <= Duration::from_secs(5));
    // Another life of the same key is another flare.
    let other = FlareRef(file.key(), Stamp(SliceId(1), Epoch(1), Seq(9)));
    assert!(cache.attr(other).is_none());
    let silent = Arc::new(Cache::default());
    silent.connected(OWNER);
    learn_attr(&silent, 1, file);
    assert!(silent.attr(file).is_none(), "validity was never heard of");
}

#[test]
fn a_recall_voids_what_is_on_its_way() {
    let cache = cache();
    let file = flare("/f");
    learn_attr(&cache, 1, file);
    let forgotten = cache.recalled(7, &[file.key()], 3).expect("this owner");
    assert_eq!(forgotten[0].ino, file.key().ino());
    assert!(cache.attr(file).is_none());
    learn_attr(&cache, 3, file);
    assert!(cache.attr(file).is_none(), "granted before the recall");
    learn_attr(&cache, 4, file);
    assert!(cache.attr(file).is_some());
    assert!(cache.recalled(8, &[file.key()], 9).is_none(), "a stranger");
    assert!(cache.attr(file).is_some());
}

#[test]
fn what_has_run_out_does_not_come_back() {
    let cache = cache();
    let file = flare("/f");
    learn_attr(&cache, 1, file);
    let again = Grant {
        void: 1,
        ..granted(2).expect("some")
    };
    cache.heard(OWNER, Instant::now(), &again);
    assert!(cache.attr(file).is_none());
}

#[test]
fn a_new_connection_begins_with_nothing() {
    let cache = cache();
    let file = flare("/f");
    learn_attr(&cache, 1, file);
    assert_eq!(cache.connecting(OWNER.volcano).len(), 1);
    assert!(cache.attr(file).is_none());
    let next = Source {
        connection: 8,
        ..OWNER
    };
    cache.connected(next);
    learn_attr(&cache, 2, file);
    assert!(cache.attr(file).is_none(), "a reply by the old connection");
}

#[test]
fn what_we_are_changing_is_not_kept() {
    let cache = cache();
    let file = flare("/f");
    let before = cache.ticket();
    let changing = cache.changing([file.key()].into_iter());
    learn_attr(&cache, 1, file);
    assert!(cache.attr(file).is_none(), "a change is under way");
    let set = Op::SetAttr(file, SetAttr::default());
    let ticket = cache.ticket();
    let result = Ok(Answer::Attr(Box::new(attr(file, 5))));
    changed(&cache, changing.expect("a key"), ticket, &set, &result);
    assert_eq!(cache.attr(file).expect("its own answer").0.size, 5);
    // Asked before the change, answered after it.
    let old = Ok(Answer::Attr(Box::new(attr(file, 1))));
    learn(&cache, before, 3, &Op::GetAttr(file), &old);
    assert_eq!(cache.attr(file).expect("still").0.size, 5);
}

#[test]
fn of_two_changes_at_a_time_neither_answer_is_kept() {
    let cache = cache();
    let file = flare("/f");
    let changes = [0, 1].map(|_| cache.changing([file.key()].into_iter()).expect("a key"));
    let ticket = cache.ticket();
    let set = Op::SetAttr(file, SetAttr::default());
    for changing in changes {
        let result = Ok(Answer::Attr(Box::new(attr(file, 5))));
        changed(&cache, changing, ticket, &set, &result);
        assert!(cache.attr(file).is_none());
    }
    learn_attr(&cache, 3, file);
    assert!(cache.attr(file).is_some());
}

#[test]
fn a_whole_listing_tells_what_is_not_there() {
    let cache = cache();
    let dir = flare("/d");
    learn_listing(&cache, dir, &["a", "b"], false);
    assert_eq!(cache.name(dir, &name("c")), NameKnown::Unknown);
    learn_listing(&cache, dir, &["a", "b"], true);
    assert!(matches!(cache.name(dir, &name("c")), NameKnown::Absent(_)));
    let child = flare("/d/a");
    assert_eq!(cache.name(dir, &name("a")), NameKnown::Child(child));
    assert!(cache.name_left(dir, &name("a"), &attr(child, 1)).is_zero());
    learn_attr(&cache, 2, child);
    assert!(matches!(cache.name(dir, &name("a")), NameKnown::Here(..)));
    assert!(!cache.name_left(dir, &name("a"), &attr(child, 1)).is_zero());
}

#[test]
fn our_own_creates_and_removals_are_put_in() {
    let cache = cache();
    let (dir, child) = (flare("/d"), flare("/d/new"));
    learn_listing(&cache, dir, &["a"], true);
    let create = Op::Create {
        parent: dir,
        name: name("new"),
        new: NewFlare {
            kind: Kind::File,
            mode: 0o644,
            umask: 0,
            rdev: 0,
            target: Vec::new(),
            open: None,
        },
    };
    let change = |op: &Op, result: OpResult<Answer>| {
        let changing = cache.changing(op.changes().into_iter().flatten());
        let changing = changing.expect("the directory");
        changed(&cache, changing, cache.ticket(), op, &result);
    };
    change(&create, Err(OpError::NoSpace));
    assert!(matches!(
        cache.name(dir, &name("new")),
        NameKnown::Absent(_)
    ));
    let linked = Answer::Linked {
        attr: Box::new(attr(child, 0)),
        dir: Some(Box::new(attr(dir, 9))),
    };
    change(&create, Ok(linked));
    assert!(matches!(cache.name(dir, &name("new")), NameKnown::Here(..)));
    assert_eq!(cache.attr(dir).expect("as told").0.size, 9);
    let unlink = Op::Unlink {
        flare: child,
        parent: dir,
        name: name("new"),
    };
    change(&unlink, Ok(Answer::Unlinked { dir: None }));
    assert!(matches!(
        cache.name(dir, &name("new")),
        NameKnown::Absent(_)
    ));
    // Who never hears what became of a change knows nothing of the directory any more.
    drop(cache.changing([dir.key()].into_iter()));
    assert_eq!(cache.name(dir, &name("a")), NameKnown::Unknown);
}

#[test]
fn a_guess_tells_of_the_directory_only_if_its_lease_is_older() {
    let cache = cache();
    let (dir, child) = (flare("/d"), flare("/d/a"));
    let guess = Op::Guess {
        parent: dir,
        name: name("a"),
    };
    let answer = Ok(Answer::Attr(Box::new(attr(child, 1))));
    let before = cache.ticket();
    learn_listing(&cache, dir, &[], false);
    learn(&cache, before, 2, &guess, &answer);
    assert_eq!(cache.name(dir, &name("a")), NameKnown::Unknown);
    learn(&cache, cache.ticket(), 3, &guess, &answer);
    assert!(matches!(cache.name(dir, &name("a")), NameKnown::Here(..)));
}

#[test]
fn a_directory_is_listed_when_enough_lookups_had_to_ask() {
    let cache = cache();
    let dir = flare("/d");
    assert_eq!(cache.worth_listing(dir), None);
    assert_eq!(cache.worth_listing(dir), None);
    assert_eq!(cache.worth_listing(dir), Some(0));
    for _ in 0..9 {
        assert_eq!(cache.worth_listing(dir), None, "one is under way");
    }
    cache.listed(dir, true);
    assert_eq!(cache.worth_listing(dir), Some(0));
}

#[test]
fn attributes_are_fetched_ahead_in_the_order_of_the_listing() {
    let cache = cache();
    let dir = flare("/d");
    let names: Vec<String> = (0..100).map(|n| format!("{n:03}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    learn_listing(&cache, dir, &names, true);
    let child = |at: usize| flare(&format!("/d/{}", names[at]));
    assert_eq!(cache.next_children(dir, child(0)).len(), 16);
    assert_eq!(cache.next_children(dir, child(17)).len(), 32);
    // Somewhere else: from the beginning.
    assert_eq!(cache.next_children(dir, child(5)).len(), 16);
    assert_eq!(cache.next_children(dir, child(99)).len(), 0);
    assert_eq!(cache.next_children(dir, flare("/x")).len(), 0);
}

#[test]
fn what_makes_room_is_given_back() {
    use magma_core::limits::CLIENT_CACHE_FLARES;
    let cache = cache();
    for n in 0..=CLIENT_CACHE_FLARES {
        learn_attr(&cache, 1 + n as u64, flare(&format!("/{n}")));
    }
    let given = cache.take_evicted();
    let (owner, forgotten, keys, upto) = &given[0];
    assert_eq!((*owner, forgotten.len(), keys.len()), (OWNER.volcano, 1, 1));
    assert_eq!((keys[0], *upto), (flare("/0").key(), 1));
    assert!(cache.take_evicted().is_empty());
}
