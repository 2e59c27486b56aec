//! Nodes: what a client knows of a flare, and the path under which it was last seen.
//!
//! The path is only ever a hint: where a lookup guesses first, and the birth key of what is
//! created. Another mount may rename a directory at any time; then guesses miss, the
//! parent's entry decides, and everything goes on.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use magma_core::flare::{Kind, Name};
use magma_core::ids::FlareRef;
use magma_core::key::{self, Key};
use magma_core::limits::{BIRTH_PATH_MAX, PATH_MAX};

use super::locked;

/// Guesses in a row that must have been right before a directory's lookups stop asking the
/// parent at the same time.
const TRUST_AFTER: u8 = 3;

/// A flare in one of its lives, with the name under which it was last seen.
///
/// A node holds its parent's node, so that the rename of a directory, recorded once with
/// [`Node::moved`], shows in the paths of everything below it.
#[derive(Debug)]
pub struct Node {
    flare: FlareRef,
    kind: Kind,
    place: Mutex<Option<Place>>,
    /// Directories: guesses in a row that were right, up to [`TRUST_AFTER`].
    hits: AtomicU8,
}

#[derive(Clone, Debug)]
struct Place {
    parent: Arc<Node>,
    name: Name,
}

impl Node {
    /// The root of the tree.
    pub fn root(flare: FlareRef) -> Arc<Node> {
        Node::make(flare, Kind::Directory, None)
    }

    /// A flare seen as (parent, name).
    pub fn child(parent: &Arc<Node>, name: &Name, flare: FlareRef, kind: Kind) -> Arc<Node> {
        Node::make(
            flare,
            kind,
            Some(Place {
                parent: parent.clone(),
                name: name.clone(),
            }),
        )
    }

    fn make(flare: FlareRef, kind: Kind, place: Option<Place>) -> Arc<Node> {
        Arc::new(Node {
            flare,
            kind,
            place: Mutex::new(place),
            hits: AtomicU8::new(0),
        })
    }

    /// Key and incarnation.
    pub fn flare(&self) -> FlareRef {
        self.flare
    }

    /// The type.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The inode number.
    pub fn ino(&self) -> u64 {
        self.flare.key().ino()
    }

    /// The directory in which it was last seen; none for the root.
    pub fn parent(&self) -> Option<Arc<Node>> {
        locked(&self.place)
            .as_ref()
            .map(|place| place.parent.clone())
    }

    /// It was seen under this name now. A place below the node itself is not taken: two
    /// renames by other mounts, half seen here, could otherwise tie directories to a ring.
    pub fn moved(self: &Arc<Node>, parent: &Arc<Node>, name: &Name) {
        {
            let place = locked(&self.place);
            match place.as_ref() {
                Some(old) if Arc::ptr_eq(&old.parent, parent) && old.name == *name => return,
                // The root stays where it is.
                None => return,
                Some(_) => {}
            }
        }
        if self.kind == Kind::Directory && parent.is_at_or_below(self) {
            return;
        }
        *locked(&self.place) = Some(Place {
            parent: parent.clone(),
            name: name.clone(),
        });
    }

    fn is_at_or_below(self: &Arc<Node>, above: &Arc<Node>) -> bool {
        let mut at = Some(self.clone());
        for _ in 0..BIRTH_PATH_MAX / 2 {
            match at {
                Some(node) if node.flare == above.flare => return true,
                Some(node) => at = node.parent(),
                None => return false,
            }
        }
        true
    }

    /// The path of a child under which it is looked for, and born.
    pub fn birth_path(self: &Arc<Node>, name: &Name) -> BirthPath {
        let mut names = vec![name.clone()];
        let mut length = name.as_bytes().len() + 1;
        let mut at = self.clone();
        loop {
            let place = locked(&at.place).clone();
            let Some(place) = place else { break };
            length += place.name.as_bytes().len() + 1;
            if length > BIRTH_PATH_MAX {
                return BirthPath::below(self.flare.key(), name);
            }
            names.push(place.name);
            at = place.parent;
        }
        if at.flare.key() != key::ROOT {
            // The top is not the root of the tree: a path from there would be another
            // flare's path.
            return BirthPath::below(self.flare.key(), name);
        }
        let mut path = Vec::with_capacity(length);
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name.as_bytes());
        }
        BirthPath(path)
    }

    /// Whether the birth paths of this directory's children have been right lately.
    pub(crate) fn guesses_well(&self) -> bool {
        self.hits.load(Ordering::Relaxed) >= TRUST_AFTER
    }

    /// A guess in this directory was right, or wrong. Lost updates do no harm.
    pub(crate) fn guessed(&self, right: bool) {
        let hits = self.hits.load(Ordering::Relaxed);
        let next = if right {
            (hits + 1).min(TRUST_AFTER)
        } else {
            0
        };
        if next != hits {
            self.hits.store(next, Ordering::Relaxed);
        }
    }
}

impl Drop for Node {
    /// Drops the chain of ancestors in a loop: a tree may be deeper than the stack.
    fn drop(&mut self) {
        let parent_of = |node: &mut Node| {
            let place = node.place.get_mut();
            let place = place.unwrap_or_else(std::sync::PoisonError::into_inner);
            place.take().map(|place| place.parent)
        };
        let mut parent = parent_of(self);
        while let Some(mut node) = parent.and_then(Arc::into_inner) {
            parent = parent_of(&mut node);
        }
    }
}

/// The bytes of which a birth key is made: an absolute path, normalised. Longer than
/// [`PATH_MAX`] when a program has gone down a deep tree by relative names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BirthPath(Vec<u8>);

impl BirthPath {
    /// Where no usable path is known (deeper than [`BIRTH_PATH_MAX`]), the directory's key
    /// stands for its path: unique, and the same for whoever comes by the same way. No
    /// path of the tree reads so, as every one begins with a slash.
    fn below(parent: Key, name: &Name) -> BirthPath {
        let mut path = parent.to_string().into_bytes();
        path.push(b'/');
        path.extend_from_slice(name.as_bytes());
        BirthPath(path)
    }

    /// The `n`th candidate for the birth key.
    pub fn key(&self, n: u32) -> Key {
        Key::of_path_nth(&self.0, n)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether one system call can name it.
    pub fn is_deep(&self) -> bool {
        self.0.len() > PATH_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use magma_core::ids::{Epoch, Seq, SliceId, Stamp};

    fn flare(path: &str) -> FlareRef {
        FlareRef(
            Key::of_path(path.as_bytes()),
            Stamp(SliceId(1), Epoch(1), Seq(1)),
        )
    }

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).expect("a name")
    }

    fn path(node: &Arc<Node>, child: &str) -> String {
        String::from_utf8(node.birth_path(&name(child)).as_bytes().to_vec()).expect("UTF-8")
    }

    fn dir(parent: &Arc<Node>, text: &str) -> Arc<Node> {
        Node::child(parent, &name(text), flare(text), Kind::Directory)
    }

    #[test]
    fn paths_from_the_root() {
        let root = Node::root(flare("/"));
        assert_eq!(path(&root, "etc"), "/etc");
        let etc = dir(&root, "etc");
        assert_eq!(path(&etc, "hostname"), "/etc/hostname");
        assert_eq!(
            etc.birth_path(&name("hostname")).key(0).to_string(),
            "d9c5f609a163521eb09b8bce743db9459da8aa83"
        );
    }

    #[test]
    fn a_renamed_directory_takes_its_children_along() {
        let root = Node::root(flare("/"));
        let (a, b) = (dir(&root, "a"), dir(&root, "b"));
        let deep = dir(&a, "deep");
        a.moved(&b, &name("c"));
        assert_eq!(path(&deep, "x"), "/b/c/deep/x");
        // A place below itself would make a ring.
        a.moved(&deep, &name("a"));
        assert_eq!(path(&deep, "x"), "/b/c/deep/x");
        root.moved(&a, &name("root"));
        assert_eq!(path(&root, "x"), "/x");
    }

    #[test]
    fn deeper_than_a_path_may_be() {
        let mut at = Node::root(flare("/"));
        for _ in 0..40 {
            at = dir(&at, &"d".repeat(200));
        }
        let deep = at.birth_path(&name("x"));
        assert!(deep.is_deep() && deep.as_bytes().starts_with(b"/d"));
        for _ in 0..400 {
            at = dir(&at, &"d".repeat(200));
        }
        let lost = at.birth_path(&name("x"));
        assert_eq!(lost, BirthPath::below(at.flare().key(), &name("x")));
    }

    #[test]
    fn a_chain_that_is_longer_than_the_stack() {
        let mut at = Node::root(flare("/"));
        for _ in 0..300_000 {
            at = Node::child(&at, &name("d"), at.flare(), Kind::Directory);
        }
        drop(at);
    }

    #[test]
    fn a_top_that_is_not_the_root() {
        let top = Node::root(flare("/some/where"));
        let path = top.birth_path(&name("x"));
        assert!(!path.as_bytes().starts_with(b"/"));
        assert_ne!(path.key(0), path.key(1));
    }

    #[test]
    fn trust_grows_slowly_and_goes_at_once() {
        let root = Node::root(flare("/"));
        assert!(!root.guesses_well());
        for _ in 0..TRUST_AFTER {
            root.guessed(true);
        }
        assert!(root.guesses_well());
        root.guessed(false);
        assert!(!root.guesses_well());
    }
}
