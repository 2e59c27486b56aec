//! What the kernel refers to by inode number.
//!
//! FUSE knows two numbers: the *node id*, by which the kernel names an inode in its requests,
//! and the *inode number* that stat(2) shows. fuser 0.18 makes them one: it sends `attr.ino`
//! as the node id in the replies to LOOKUP, CREATE and READDIRPLUS. So a node id here is the
//! first 64 bits of the key, except for the root, which is node 1 by definition: its inode
//! number comes only with GETATTR and is that of its key (the kernel shows it and does not
//! compare the two).
//!
//! A key is used again when its flare is gone everywhere. The kernel then meets a known node
//! id with another *generation*: it turns the old inode bad, takes it out of its table and makes
//! a new one (`fuse_iget`). From then on everything on the old inode fails with EIO, also
//! through handles that are still open (tried on 6.18, as was the inode number of the root).
//! That is right for an object that is gone, and would be wrong for one that is unlinked but
//! open: so it matters that owners count a key as taken while its flare is open anywhere.
//! Calls on the old inode that are under way keep their own incarnation through their
//! handle, and the FORGETs of both add up to the lookups of both. So one row a node id is
//! enough, and it holds the newest incarnation.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};

use fuser::INodeNo;
use magma_core::flare::{Attr, Kind, Name};
use magma_core::ids::{FlareRef, Stamp};

use crate::client::{Node, locked};
use crate::dht::DhtItem;

/// What a node id stands for.
#[derive(Clone, Debug)]
pub enum Inode {
    /// A flare.
    Flare(Arc<Node>),
    /// Something in `/.dht`.
    Dht(DhtItem),
}

/// The inodes that the kernel knows. Its size is the kernel's: a row goes when the kernel forgets
/// it, which it does under memory pressure, and cannot go earlier.
#[derive(Debug)]
pub struct InodeTable {
    root: Arc<Node>,
    known: Mutex<HashMap<u64, Known>>,
}

#[derive(Debug)]
struct Known {
    inode: Inode,
    /// How often the kernel was told of it, less what it has forgotten.
    lookups: u64,
    /// A file that was opened to read: its pages in the kernel are of this version or later ones.
    pages: Option<Stamp>,
}

impl InodeTable {
    /// A table whose node 1 is that directory.
    pub fn new(root: Arc<Node>) -> InodeTable {
        InodeTable {
            root,
            known: Mutex::new(HashMap::new()),
        }
    }

    /// The root of the mount.
    pub fn root(&self) -> &Arc<Node> {
        &self.root
    }

    /// What a node id stands for; none when the kernel was never told of it.
    pub fn get(&self, node: INodeNo) -> Option<Inode> {
        if node == INodeNo::ROOT {
            return Some(Inode::Flare(self.root.clone()));
        }
        let known = locked(&self.known);
        known.get(&node.0).map(|known| known.inode.clone())
    }

    /// The kernel is about to be told that (parent, name) is this flare. Must come before the
    /// reply: the kernel may forget it the moment after.
    pub fn seen(&self, parent: &Arc<Node>, name: &Name, flare: FlareRef, kind: Kind) -> Arc<Node> {
        let mut known = locked(&self.known);
        let row = match known.entry(flare.key().ino()) {
            Entry::Occupied(row) => {
                let row = row.into_mut();
                row.lookups += 1;
                if let Inode::Flare(node) = &row.inode
                    && node.flare() == flare
                {
                    let node = node.clone();
                    drop(known);
                    node.moved(parent, name);
                    return node;
                }
                row
            }
            Entry::Vacant(place) => place.insert(Known {
                inode: Inode::Dht(DhtItem::Directory),
                lookups: 1,
                pages: None,
            }),
        };
        row.pages = None;
        let node = Node::child(parent, name, flare, kind);
        row.inode = Inode::Flare(node.clone());
        node
    }

    /// The kernel is about to be told of something in `/.dht`.
    pub fn seen_dht(&self, ino: u64, item: DhtItem) {
        let mut known = locked(&self.known);
        let row = known.entry(ino).or_insert(Known {
            inode: Inode::Dht(item),
            lookups: 0,
            pages: None,
        });
        row.inode = Inode::Dht(item);
        row.lookups += 1;
    }

    /// Whether the kernel may have pages of a file from before its last change.
    pub fn has_old_pages(&self, attr: &Attr) -> bool {
        let known = locked(&self.known);
        let row = known.get(&attr.ino());
        let pages = row.and_then(|row| row.pages);
        pages.is_some_and(|version| version != attr.version)
    }

    /// The kernel is about to open a file to read it, as it is now. Whether it may keep the
    /// pages that it has; if not, it drops them, and all that it has from then on are newer.
    pub fn opens_to_read(&self, attr: &Attr) -> bool {
        let mut known = locked(&self.known);
        let Some(row) = known.get_mut(&attr.ino()) else {
            return false;
        };
        row.pages.replace(attr.version) == Some(attr.version)
    }

    /// A flare has another name now: what lies below it has other paths.
    pub fn moved(&self, flare: FlareRef, parent: &Arc<Node>, name: &Name) {
        let node = match self.get(INodeNo(flare.key().ino())) {
            Some(Inode::Flare(node)) if node.flare() == flare => node,
            _ => return,
        };
        node.moved(parent, name);
    }

    /// The kernel has forgotten that many lookups.
    pub fn forget(&self, node: INodeNo, count: u64) {
        let mut known = locked(&self.known);
        let Entry::Occupied(mut row) = known.entry(node.0) else {
            return;
        };
        let left = row.get().lookups.saturating_sub(count);
        row.get_mut().lookups = left;
        if left == 0 {
            let gone = row.remove();
            // Its ancestors may go with it: not under the lock.
            drop(known);
            drop(gone);
        }
    }

    /// How many inodes the kernel knows.
    pub fn len(&self) -> usize {
        locked(&self.known).len()
    }

    /// Whether it knows only the root.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use magma_core::ids::{Epoch, Seq, SliceId, Stamp};
    use magma_core::key::{self, Key};

    fn flare(path: &str, birth: u64) -> FlareRef {
        FlareRef(
            Key::of_path(path.as_bytes()),
            Stamp(SliceId(1), Epoch(1), Seq(birth)),
        )
    }

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).expect("a name")
    }

    fn table() -> InodeTable {
        InodeTable::new(Node::root(FlareRef(key::ROOT, Stamp::default())))
    }

    fn node(table: &InodeTable, ino: u64) -> Option<Arc<Node>> {
        match table.get(INodeNo(ino)) {
            Some(Inode::Flare(node)) => Some(node),
            _ => None,
        }
    }

    #[test]
    fn counts_lookups() {
        let table = table();
        let a = flare("/a", 1);
        let ino = a.key().ino();
        let root = table.root().clone();
        table.seen(&root, &name("a"), a, Kind::File);
        table.seen(&root, &name("a"), a, Kind::File);
        table.forget(INodeNo(ino), 1);
        assert!(node(&table, ino).is_some());
        table.forget(INodeNo(ino), 1);
        assert!(node(&table, ino).is_none());
        table.forget(INodeNo(ino), 9);
        assert!(table.is_empty());
        assert!(node(&table, 1).is_some());
    }

    #[test]
    fn a_key_that_is_used_again() {
        let table = table();
        let root = table.root().clone();
        let (old, new) = (flare("/a", 1), flare("/a", 2));
        let ino = old.key().ino();
        let kept = table.seen(&root, &name("a"), old, Kind::File);
        table.seen(&root, &name("a"), new, Kind::Directory);
        // A handle on the old one goes on with the old one.
        assert_eq!(kept.flare(), old);
        assert_eq!(node(&table, ino).map(|node| node.flare()), Some(new));
        // The kernel forgets the old inode; the new one stays.
        table.forget(INodeNo(ino), 1);
        assert_eq!(node(&table, ino).map(|node| node.flare()), Some(new));
        table.forget(INodeNo(ino), 1);
        assert!(table.is_empty());
    }

    #[test]
    fn renames_show_in_paths() {
        let table = table();
        let root = table.root().clone();
        let dir = flare("/d", 1);
        let d = table.seen(&root, &name("d"), dir, Kind::Directory);
        table.moved(dir, &root, &name("e"));
        assert_eq!(d.birth_path(&name("x")).as_bytes(), b"/e/x");
        // Another incarnation under that name is not what was moved.
        table.moved(flare("/d", 2), &root, &name("f"));
        assert_eq!(d.birth_path(&name("x")).as_bytes(), b"/e/x");
        // A lookup that finds it elsewhere says the same.
        table.seen(&root, &name("g"), dir, Kind::Directory);
        assert_eq!(d.birth_path(&name("x")).as_bytes(), b"/g/x");
    }

    #[test]
    fn the_internal_directory() {
        let table = table();
        let ino = crate::dht::directory_ino();
        table.seen_dht(ino, DhtItem::Directory);
        assert!(matches!(
            table.get(INodeNo(ino)),
            Some(Inode::Dht(DhtItem::Directory))
        ));
        table.forget(INodeNo(ino), 1);
        assert!(table.is_empty());
    }
}
