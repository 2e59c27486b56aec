//! readdir: what a directory handle shows from a given offset on.
//!
//! Offsets are cookies of the owner, which never change while an entry lives, so a listing
//! may go on after any of them however the directory changes. The owner gives 16 and
//! more; 1 and 2 are `.` and `..`.

use fuser::FileType;
use std::sync::Arc;

use magma_core::error::OpResult;
use magma_core::ids::FlareRef;
use magma_core::limits::READDIR_BATCH;
use magma_core::op::Credentials;

use crate::client::Client;
use crate::convert::file_type;
use crate::handles::OpenDirectory;

/// Entries whose attributes are fetched at a time: about what fits into a READDIRPLUS reply
/// of a page or two.
pub const PLUS_BATCH: usize = 64;

const COOKIE_DOT: u64 = 1;
const COOKIE_DOT_DOT: u64 = 2;

/// A line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirItem {
    /// The inode number.
    pub ino: u64,
    /// The offset to go on after it.
    pub cookie: u64,
    /// The type.
    pub kind: FileType,
    /// The name.
    pub name: Vec<u8>,
    /// The flare; none for `.`, `..` and the internal directory.
    pub flare: Option<FlareRef>,
}

/// Entries that were read ahead for one directory handle.
///
/// A stream may show entries as they were when it read them, as POSIX allows; a rewind
/// (offset 0) reads anew.
#[derive(Debug, Default)]
pub struct Window {
    /// Holds everything after this cookie, up to its last entry.
    after: u64,
    items: Arc<Vec<DirItem>>,
    /// The directory ends after the last of them.
    end: bool,
}

/// A part of a listing, from an offset on.
#[derive(Debug, Default)]
pub struct DirPart {
    dots: Vec<DirItem>,
    items: Arc<Vec<DirItem>>,
    from: usize,
}

impl DirPart {
    /// A part made of these items.
    pub fn of(dots: Vec<DirItem>, items: Vec<DirItem>) -> DirPart {
        DirPart {
            dots,
            items: Arc::new(items),
            from: 0,
        }
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = &DirItem> {
        self.dots.iter().chain(self.items.iter().skip(self.from))
    }
}

/// `.` and `..`, as far as they come after an offset.
pub fn dots(after: u64, own: u64, parent: u64) -> Vec<DirItem> {
    [(COOKIE_DOT, own, "."), (COOKIE_DOT_DOT, parent, "..")]
        .into_iter()
        .filter(|(cookie, ..)| *cookie > after)
        .map(|(cookie, ino, name)| DirItem {
            ino,
            cookie,
            kind: FileType::Directory,
            name: name.as_bytes().to_vec(),
            flare: None,
        })
        .collect()
}

/// The owner's cookie for an offset: before its first for those of `.` and `..`.
fn owner_cookie(offset: u64) -> u64 {
    if offset <= COOKIE_DOT_DOT { 0 } else { offset }
}

impl Window {
    /// What it holds after a cookie; none when it must be read.
    fn part(&self, after: u64) -> Option<usize> {
        let last = self.items.last().map_or(self.after, |item| item.cookie);
        let inside = after >= self.after && (after < last || (after == last && self.end));
        inside.then(|| self.items.partition_point(|item| item.cookie <= after))
    }
}

/// What an open directory shows after an offset.
pub async fn read(
    client: &Client,
    dir: &OpenDirectory,
    offset: u64,
    cred: &Credentials,
) -> OpResult<DirPart> {
    let own = dir.node.ino();
    let parent = dir.node.parent().map_or(own, |parent| parent.ino());
    let dots = dots(offset, own, parent);
    let after = owner_cookie(offset);
    let mut window = dir.window.lock().await;
    // From the start means anew.
    let held = if offset == 0 {
        None
    } else {
        window.part(after)
    };
    let from = match held {
        Some(from) => from,
        None => {
            let flare = dir.node.flare();
            let listing = client.readdir(flare, after, READDIR_BATCH, cred).await?;
            let items = listing.entries.into_iter().map(|entry| DirItem {
                ino: entry.child.key().ino(),
                cookie: entry.cookie,
                kind: file_type(entry.kind),
                name: entry.name.as_bytes().to_vec(),
                flare: Some(entry.child),
            });
            *window = Window {
                after,
                items: Arc::new(items.collect()),
                end: listing.end,
            };
            0
        }
    };
    Ok(DirPart {
        dots,
        items: window.items.clone(),
        from,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(cookie: u64) -> DirItem {
        DirItem {
            ino: cookie,
            cookie,
            kind: FileType::RegularFile,
            name: b"x".to_vec(),
            flare: None,
        }
    }

    #[test]
    fn dots_come_first_and_once() {
        let names = |after| dots(after, 7, 8).len();
        assert_eq!((names(0), names(1), names(2), names(16)), (2, 1, 0, 0));
        assert_eq!(dots(1, 7, 8)[0].ino, 8);
        assert_eq!((owner_cookie(0), owner_cookie(2)), (0, 0));
        assert_eq!(owner_cookie(16), 16);
    }

    #[test]
    fn a_window_knows_its_edges() {
        let window = Window {
            after: 20,
            items: Arc::new(vec![item(21), item(25), item(30)]),
            end: false,
        };
        assert_eq!(window.part(20), Some(0));
        // An entry that is gone leaves a place to go on from.
        assert_eq!(window.part(23), Some(1));
        assert_eq!(window.part(25), Some(2));
        assert_eq!(window.part(30), None);
        assert_eq!(window.part(19), None);
        let last = Window {
            end: true,
            ..window
        };
        assert_eq!(last.part(30), Some(3));
        assert_eq!(last.part(31), None);
    }

    #[test]
    fn an_empty_window_is_read() {
        assert_eq!(Window::default().part(0), None);
        let empty = Window {
            end: true,
            ..Window::default()
        };
        assert_eq!(empty.part(0), Some(0));
    }
}
