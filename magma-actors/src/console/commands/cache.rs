//! `cache load` and `print cache`.

use std::collections::{BTreeMap, BTreeSet};

use magma_core::ids::FlareRef;
use magma_core::key;

use super::{CommandError, Shell};
use crate::console::backend::CachedFlare;
use crate::console::render;

/// Deeper levels are not indented further: the names should stay on the screen.
const INDENT_MAX: usize = 16;

/// `cache load`.
pub async fn load(shell: &mut Shell) -> Result<(), CommandError> {
    let count = shell.backend.cached().await.len();
    Ok(shell
        .output
        .line(format!("flares in memory: {count}"))
        .await?)
}

/// `print cache`.
pub async fn print(shell: &mut Shell) -> Result<(), CommandError> {
    let flares = shell.backend.cached().await;
    let tree = Tree::of(&flares);
    let mut walk = Walk::new(&tree);
    while let Some(line) = walk.next_line() {
        shell.output.line(line).await?;
    }
    Ok(shell
        .output
        .line(format!("flares in memory: {}", flares.len()))
        .await?)
}

/// Flares by their parents, as far as both are in memory.
struct Tree<'a> {
    flares: BTreeMap<FlareRef, &'a CachedFlare>,
    /// For each flare: its children by name.
    children: BTreeMap<FlareRef, BTreeMap<&'a [u8], FlareRef>>,
    /// The root, and flares without a parent in memory.
    tops: Vec<FlareRef>,
}

impl<'a> Tree<'a> {
    fn of(flares: &'a [CachedFlare]) -> Tree<'a> {
        let known: BTreeMap<_, _> = flares.iter().map(|f| (f.row.flare_ref(), f)).collect();
        let mut children: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        let mut tops = Vec::new();
        for (flare, cached) in &known {
            // The root hangs from nothing, whatever its row says.
            let root = flare.key() == key::ROOT;
            let mut top = true;
            for link in cached.links.iter().filter(|_| !root) {
                if known.contains_key(&link.parent) {
                    top = false;
                    let names = children.entry(link.parent).or_default();
                    names.insert(link.name.as_bytes(), *flare);
                }
            }
            if top {
                tops.push(*flare);
            }
        }
        // The root first, the others in the order of their keys.
        tops.sort_by_key(|top| (top.key() != key::ROOT, *top));
        Tree {
            flares: known,
            children,
            tops,
        }
    }
}

/// Depth first, without recursion: a tree may be as deep as paths are long.
struct Walk<'a> {
    tree: &'a Tree<'a>,
    /// What is still to be shown, the next one last: depth, name, flare.
    ahead: Vec<(usize, Option<&'a [u8]>, FlareRef)>,
    /// A directory has one parent; rows in motion may say otherwise for a moment.
    shown: BTreeSet<FlareRef>,
}

impl<'a> Walk<'a> {
    fn new(tree: &'a Tree<'a>) -> Walk<'a> {
        let ahead = tree.tops.iter().rev().map(|top| (0, None, *top)).collect();
        Walk {
            tree,
            ahead,
            shown: BTreeSet::new(),
        }
    }

    fn next_line(&mut self) -> Option<String> {
        let (depth, name, flare) = self.ahead.pop()?;
        if self.shown.insert(flare)
            && let Some(children) = self.tree.children.get(&flare)
        {
            let children = children.iter().rev();
            self.ahead
                .extend(children.map(|(name, child)| (depth + 1, Some(*name), *child)));
        }
        let cached = self.tree.flares.get(&flare)?;
        let indent = "  ".repeat(depth.min(INDENT_MAX));
        let name = match name {
            Some(name) => render::quoted(name),
            None if flare.key() == key::ROOT => "/".to_owned(),
            None => {
                let name = cached.links.first().map(|link| link.name.as_bytes());
                let name = match name {
                    Some(name) => render::quoted(name),
                    None if cached.row.nlink == 0 => "without a name".to_owned(),
                    None => "(its name is not in memory)".to_owned(),
                };
                format!("{} {name}", flare.key())
            }
        };
        let letter = cached.row.kind.letter();
        Some(format!("{indent}{letter} {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use magma_core::flare::{FlareRow, Kind, Layout, LinkRow, LinkState, Name};
    use magma_core::ids::{Epoch, Seq, SliceId, Stamp};
    use magma_core::key::Key;
    use magma_core::time::Timestamp;

    fn flare(path: &[u8]) -> FlareRef {
        FlareRef(Key::of_path(path), Stamp(SliceId(1), Epoch(1), Seq(1)))
    }

    fn cached(path: &str, kind: Kind, names: &[(&str, &str)]) -> CachedFlare {
        let FlareRef(key, inc) = flare(path.as_bytes());
        let link = |(parent, name): &(&str, &str)| LinkRow {
            parent: flare(parent.as_bytes()),
            name: Name::new(name.as_bytes()).expect("a name"),
            state: LinkState::Settled,
        };
        CachedFlare {
            row: FlareRow {
                key,
                inc,
                version: inc,
                kind,
                mode: 0o755,
                uid: 0,
                gid: 0,
                size: 0,
                nlink: 1,
                rdev: 0,
                atime: Timestamp::default(),
                mtime: Timestamp::default(),
                ctime: Timestamp::default(),
                crtime: Timestamp::default(),
                layout: Layout::Inline,
                entries: 0,
                next_cookie: 1,
                nascent: None,
                asked: 0,
                acls: None,
            },
            links: names.iter().map(link).collect(),
        }
    }

    fn shown(flares: &[CachedFlare]) -> Vec<String> {
        let tree = Tree::of(flares);
        let mut walk = Walk::new(&tree);
        std::iter::from_fn(|| walk.next_line()).collect()
    }

    #[test]
    fn a_tree() {
        let flares = [
            cached("/a/b", Kind::File, &[("/a", "b"), ("/", "also b")]),
            cached("/", Kind::Directory, &[]),
            cached("/a", Kind::Directory, &[("/", "a")]),
            cached("/x/y", Kind::Symlink, &[("/x", "y")]),
        ];
        let orphan = format!("l {} y", Key::of_path(b"/x/y"));
        let lines = ["d /", "  d a", "    - b", "  - \"also b\"", &orphan];
        assert_eq!(shown(&flares), lines);
    }

    #[test]
    fn a_loop_ends() {
        let flares = [
            cached("/", Kind::Directory, &[("/a", "up")]),
            cached("/a", Kind::Directory, &[("/b", "a")]),
            cached("/b", Kind::Directory, &[("/a", "b")]),
        ];
        // The two hold each other and hang from nothing: only their count tells of them.
        assert_eq!(shown(&flares), ["d /"]);
        let below = [
            cached("/", Kind::Directory, &[]),
            cached("/a", Kind::Directory, &[("/", "a"), ("/a/b", "loop")]),
            cached("/a/b", Kind::Directory, &[("/a", "b")]),
        ];
        assert_eq!(shown(&below), ["d /", "  d a", "    d b", "      d loop"]);
    }
}
