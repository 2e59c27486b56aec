//! A volcano of three in memory, small enough to see through.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, pending, ready};
use magma_actors::console::{Answers, Backend, CachedFlare, Intervention};
use magma_actors::debug::Switch;
use magma_actors::scrub::{Round, ScrubState};
use magma_core::engine::Damage;
use magma_core::error::OpError;
use magma_core::flare::{Attr, FlareRow, Kind, Layout, LinkRow, LinkState, Name};
use magma_core::ids::{Epoch, FlareRef, Seq, SliceId, Stamp, VolcanoId};
use magma_core::key::{self, Key};
use magma_core::lava::{CopyState, Lava, Slice, Volcano, VolcanoInfo};
use magma_core::op::{Answer, Inspection, ListedEntry, Op};
use magma_core::time::Timestamp;
use magma_core::wire::node_protocol::VolcanoStatus;

/// What a flare is made of here.
struct Flare {
    row: FlareRow,
    links: Vec<LinkRow>,
    content: Vec<u8>,
    entries: BTreeMap<u64, (Name, FlareRef, Kind)>,
}

/// The volcano that the tests talk to.
pub struct Fake {
    lava: RefCell<Lava>,
    flares: RefCell<BTreeMap<Key, Flare>>,
    switch: &'static Switch,
    pub loading: Cell<bool>,
    /// Requests are never answered.
    pub hangs: Cell<bool>,
    /// So many requests are refused before one is served.
    pub busy: Cell<u32>,
    pub requests: Cell<u32>,
    pub acl_panics: Cell<bool>,
    pub refuse_shutdown: Cell<bool>,
    pub shutdowns: RefCell<Vec<(bool, String)>>,
    pub faults: RefCell<Vec<String>>,
    pub interventions: RefCell<Vec<Intervention>>,
    /// What is said of an eviction.
    pub eviction: Cell<&'static str>,
    scrub: RefCell<ScrubState>,
}

pub const ROOT_INC: Stamp = Stamp(SliceId(1), Epoch(1), Seq(1));

fn volcano(id: u64, nick: &str) -> Volcano {
    Volcano {
        id: VolcanoId(id),
        info: VolcanoInfo {
            nick: nick.to_owned(),
            fqdn: format!("{nick}.intranet"),
            addr: [192, 168, 1, 19 + id as u8].into(),
            port: 12000,
            bandwidth_kbit: 1024,
            storage_bytes: 0,
            arbiter: false,
        },
        down: false,
        evicted: false,
    }
}

fn lava() -> Lava {
    let cut = Key::from_prefix(1 << 63);
    let slice = |id, start, end, owner, copy, in_sync| Slice {
        id: SliceId(id),
        start,
        end,
        owner: VolcanoId(owner),
        home: VolcanoId(owner),
        since: Epoch(1),
        seized: false,
        copies: vec![CopyState {
            volcano: VolcanoId(copy),
            in_sync,
        }],
    };
    Lava {
        epoch: Epoch(7),
        volcanos: vec![
            volcano(1, "wallace"),
            volcano(2, "gromit"),
            volcano(3, "penguin"),
        ],
        slices: vec![
            slice(1, Key::MIN, cut.prev().expect("not the first"), 1, 2, true),
            slice(2, cut, Key::MAX, 2, 3, false),
        ],
        ..Lava::default()
    }
}

impl Fake {
    pub fn new() -> Rc<Fake> {
        let fake = Fake {
            lava: RefCell::new(lava()),
            flares: RefCell::default(),
            switch: Box::leak(Box::default()),
            loading: Cell::new(false),
            hangs: Cell::new(false),
            busy: Cell::new(0),
            requests: Cell::new(0),
            acl_panics: Cell::new(false),
            refuse_shutdown: Cell::new(false),
            shutdowns: RefCell::default(),
            faults: RefCell::default(),
            interventions: RefCell::default(),
            eviction: Cell::new("Nobody will wait for gromit."),
            scrub: RefCell::default(),
        };
        let root = fake.flare(key::ROOT, ROOT_INC, Kind::Directory, b"");
        fake.flares.borrow_mut().insert(key::ROOT, root);
        Rc::new(fake)
    }

    fn flare(&self, key: Key, inc: Stamp, kind: Kind, content: &[u8]) -> Flare {
        let time = Timestamp(1_423_846_800, 5);
        Flare {
            row: FlareRow {
                key,
                inc,
                version: inc,
                kind,
                mode: if kind == Kind::Directory {
                    0o755
                } else {
                    0o644
                },
                uid: 0,
                gid: 100,
                size: content.len() as u64,
                nlink: 1,
                rdev: 0x0801,
                atime: time,
                mtime: time,
                ctime: time,
                crtime: time,
                layout: Layout::Inline,
                entries: 0,
                next_cookie: 1,
                nascent: None,
                asked: 0,
                acls: None,
            },
            links: Vec::new(),
            content: content.to_vec(),
            entries: BTreeMap::new(),
        }
    }

    /// Puts a flare under a path whose parent is there.
    pub fn put(&self, path: &[u8], kind: Kind, content: &[u8]) {
        let slash = path.iter().rposition(|b| *b == b'/').expect("absolute");
        let parent = Key::of_path(if slash == 0 { b"/" } else { &path[..slash] });
        let name = Name::new(&path[slash + 1..]).expect("a name");
        let mut flares = self.flares.borrow_mut();
        let seq = Seq(flares.len() as u64 + 1);
        let inc = Stamp(SliceId(1), Epoch(1), seq);
        let mut flare = self.flare(Key::of_path(path), inc, kind, content);
        let flare_ref = flare.row.flare_ref();
        let dir = flares.get_mut(&parent).expect("a parent");
        let cookie = dir.row.next_cookie;
        dir.row.next_cookie += 1;
        dir.row.entries += 1;
        dir.entries.insert(cookie, (name.clone(), flare_ref, kind));
        flare.links.push(LinkRow {
            parent: dir.row.flare_ref(),
            name,
            state: LinkState::Settled,
        });
        flares.insert(flare_ref.key(), flare);
    }

    pub fn has(&self, path: &[u8]) -> bool {
        self.flares.borrow().contains_key(&Key::of_path(path))
    }

    fn serve(&self, key: Key, op: Op, payload: &mut Vec<u8>) -> Result<Answer, OpError> {
        let mut flares = self.flares.borrow_mut();
        let attr = |flare: &Flare| Attr::of(&flare.row, 1);
        let live = |flares: &BTreeMap<Key, Flare>, flare: FlareRef| {
            let found = flares.get(&flare.key());
            found
                .filter(|found| found.row.inc == flare.inc())
                .map(attr)
                .ok_or(OpError::Stale)
        };
        match op {
            Op::GetRoot => {
                assert_eq!(key, key::ROOT);
                Ok(Answer::Attr(Box::new(attr(&flares[&key]))))
            }
            Op::GetAttr(flare) => {
                assert_eq!(key, flare.key());
                live(&flares, flare).map(|attr| Answer::Attr(Box::new(attr)))
            }
            Op::GetAttrs(list) => {
                let owner = self.lava.borrow().owner_of(key);
                let answers = list.into_iter().map(|flare| {
                    assert_eq!(self.lava.borrow().owner_of(flare.key()), owner);
                    live(&flares, flare)
                });
                Ok(Answer::Attrs(answers.collect()))
            }
            Op::LookupEntry { dir, name } => {
                assert_eq!(key, dir.key());
                let mut entries = flares[&key].entries.values();
                let (_, child, kind) = entries
                    .find(|(known, ..)| *known == name)
                    .ok_or(OpError::NotFound)?;
                Ok(Answer::Entry {
                    child: *child,
                    kind: *kind,
                    attr: None,
                })
            }
            Op::ReadDir {
                dir,
                after,
                max_bytes,
            } => {
                assert_eq!(key, dir.key());
                let entries = &flares[&key].entries;
                let room = max_bytes as usize / 100;
                let list: Vec<ListedEntry> = entries
                    .range(after + 1..)
                    .take(room)
                    .map(|(cookie, (name, child, kind))| ListedEntry {
                        name: name.clone(),
                        child: *child,
                        kind: *kind,
                        cookie: *cookie,
                    })
                    .collect();
                let end = list.len() < room;
                Ok(Answer::Entries { list, end })
            }
            Op::ReadLink(flare) => {
                live(&flares, flare)?;
                Ok(Answer::Target(flares[&key].content.clone()))
            }
            Op::Read { flare, offset, len } => {
                live(&flares, flare)?;
                let content = &flares[&key].content;
                let start = content.len().min(offset as usize);
                let end = content.len().min(start + len as usize);
                payload.extend_from_slice(&content[start..end]);
                Ok(Answer::Data {
                    len: (end - start) as u32,
                    eof: end == content.len(),
                    version: ROOT_INC,
                    atime: Timestamp::default(),
                })
            }
            Op::Unlink {
                flare,
                parent,
                name,
            } => {
                assert_eq!(key, flare.key());
                live(&flares, flare)?;
                flares.remove(&key);
                let dir = flares.get_mut(&parent.key()).ok_or(OpError::NotFound)?;
                dir.entries.retain(|_, (known, ..)| *known != name);
                Ok(Answer::Done)
            }
            Op::Inspect(key) => {
                let flare = flares.get(&key).ok_or(OpError::NotFound)?;
                Ok(Answer::Inspection(Box::new(Inspection {
                    row: flare.row.clone(),
                    links: flare.links.clone(),
                    xattrs: vec![b"user.colour".to_vec().into()],
                    content: "row of store.sql".to_owned(),
                    volcano: "wallace".to_owned(),
                })))
            }
            _ => Err(OpError::Unsupported),
        }
    }
}

impl Backend for Fake {
    fn me(&self) -> VolcanoInfo {
        self.lava.borrow().volcanos[0].info.clone()
    }
    fn lava(&self) -> Lava {
        self.lava.borrow().clone()
    }
    fn statuses(&self) -> Vec<(VolcanoStatus, bool)> {
        let status = |id, alive| {
            let status = VolcanoStatus {
                volcano: VolcanoId(id),
                keys: 10 * id,
                free_bytes: 700 << 20,
                total_bytes: 1000 << 20,
                ..VolcanoStatus::default()
            };
            (status, alive)
        };
        vec![status(1, true), status(2, true), status(3, false)]
    }
    fn leader(&self) -> Option<VolcanoId> {
        Some(VolcanoId(1))
    }
    fn phase(&self) -> String {
        let phase = if self.loading.get() {
            "loading, waits for penguin"
        } else {
            "ready"
        };
        phase.to_owned()
    }
    fn is_ready(&self) -> bool {
        !self.loading.get()
    }
    fn request(&self, key: Key, ops: Vec<Op>) -> BoxFuture<'static, Result<Answers, OpError>> {
        self.requests.set(self.requests.get() + 1);
        if self.hangs.get() {
            return pending().boxed();
        }
        if let Some(left) = self.busy.get().checked_sub(1) {
            self.busy.set(left);
            return ready(Err(OpError::Busy)).boxed();
        }
        let mut payload = Vec::new();
        let results = ops.into_iter().map(|op| self.serve(key, op, &mut payload));
        let results = results.collect();
        ready(Ok((results, Bytes::from(payload)))).boxed()
    }
    fn cached(&self) -> BoxFuture<'static, Vec<CachedFlare>> {
        let flares = self.flares.borrow();
        let cached: Vec<_> = flares
            .values()
            .map(|flare| CachedFlare {
                row: flare.row.clone(),
                links: flare.links.clone(),
            })
            .collect();
        ready(cached).boxed()
    }
    fn shutdown(&self, whole_network: bool, by: String) -> BoxFuture<'static, Result<(), String>> {
        if self.refuse_shutdown.get() {
            return ready(Err("gromit is joining: wait until it has".to_owned())).boxed();
        }
        self.shutdowns.borrow_mut().push((whole_network, by));
        ready(Ok(())).boxed()
    }
    fn explain(&self, what: &Intervention) -> Result<Vec<String>, String> {
        match what {
            Intervention::Evict(nick) if nick == "gromit" => Ok(vec![self.eviction.get().into()]),
            other => Err(format!("{other:?} cannot be done")),
        }
    }

    fn intervene(
        &self,
        what: Intervention,
        by: String,
    ) -> BoxFuture<'static, Result<String, String>> {
        assert!(by.contains("console of"));
        self.interventions.borrow_mut().push(what);
        Box::pin(ready(Ok("Done, in epoch 8.".into())))
    }

    fn scrubbed(&self) -> BoxFuture<'static, (ScrubState, Damage)> {
        let lost = self.flares.borrow();
        let lost = lost.values().filter(|flare| !flare.links.is_empty());
        let damage = Damage {
            repaired: 2,
            under_way: 1,
            lost: lost
                .map(|flare| (flare.row.flare_ref(), 4096))
                .take(1)
                .collect(),
        };
        ready((self.scrub.borrow().clone(), damage)).boxed()
    }
    fn scrub_now(&self) {
        self.scrub.borrow_mut().now = Some(Round {
            began: 86_400,
            parts: 128,
            bytes: 5 << 20,
            damaged: 1,
            ..Round::default()
        });
    }
    fn scrub_stop(&self) -> bool {
        self.scrub.borrow_mut().now.take().is_some()
    }

    fn acl(&self) -> Vec<String> {
        assert!(!self.acl_panics.get(), "a bug in print acl");
        vec!["everybody who has the secret key: everything".to_owned()]
    }
    fn fault(&self, actor: &str) -> Result<(), String> {
        if actor != "flare" {
            return Err("there is no such actor".to_owned());
        }
        self.faults.borrow_mut().push(actor.to_owned());
        Ok(())
    }
    fn debug_switch(&self) -> &'static Switch {
        self.switch
    }
}
