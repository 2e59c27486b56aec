//! The name of a content file, and back.

use std::path::{Path, PathBuf};

use crate::ids::{Epoch, FlareRef, Seq, SliceId, Stamp};
use crate::key::Key;

/// A content file: a segment of a flare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId(pub FlareRef, pub u32);

/// What the names of files with checksums end with.
const SUMS: &str = "crc";

/// The directory for keys with this first byte.
pub fn part(first: u8) -> String {
    format!("{first:02x}")
}

impl FileId {
    /// The file's path below the content directory.
    pub fn path(self, directory: &Path) -> PathBuf {
        let FileId(flare, segment) = self;
        directory
            .join(part(flare.key().0[0]))
            .join(format!("{flare}.{segment}"))
    }

    /// The path of the file with its checksums.
    pub fn sums_path(self, directory: &Path) -> PathBuf {
        {
            let mut path = self.path(directory).into_os_string();
            path.push(".");
            path.push(SUMS);
            path.into()
        }
    }

    /// From the name of a content file or of its checksums.
    pub fn of_any(name: &str) -> Option<FileId> {
        FileId::parse(
            name.strip_suffix(SUMS)
                .and_then(|n| n.strip_suffix('.'))
                .unwrap_or(name),
        )
    }

    /// From a file's name; none when no content file has such a name.
    pub fn parse(name: &str) -> Option<FileId> {
        let (key, rest) = name.split_once('.')?;
        let (inc, segment) = rest.split_once('.')?;
        let mut parts = inc.splitn(3, '-');
        let mut number = || parts.next()?.parse().ok();
        let inc = Stamp(SliceId(number()?), Epoch(number()?), Seq(number()?));
        let key: Key = key.parse().ok()?;
        let id = FileId(FlareRef(key, inc), segment.parse().ok()?);
        // Whatever parses but is written differently (`+1`, `007`) is not ours.
        let FileId(flare, segment) = id;
        (format!("{flare}.{segment}") == name).then_some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let flare = FlareRef(Key::of_path(b"/etc"), Stamp(SliceId(3), Epoch(2), Seq(99)));
        let path = FileId(flare, 7).path(Path::new("content"));
        assert_eq!(
            path,
            Path::new("content/c0/c0bc6f00fb44f015c1ed113e5bb202fd0597bec2.3-2-99.7")
        );
        let name = path.file_name().and_then(|name| name.to_str());
        assert_eq!(name.and_then(FileId::parse), Some(FileId(flare, 7)));
        for other in [
            "",
            "lost+found",
            "c0bc6f00fb44f015c1ed113e5bb202fd0597bec2.3-2.7",
            "c0bc6f00fb44f015c1ed113e5bb202fd0597bec2.3-2-099.7",
            "C0bc6f00fb44f015c1ed113e5bb202fd0597bec2.3-2-99.7",
            "c0bc6f00fb44f015c1ed113e5bb202fd0597bec2.3-2-99.7.bak",
        ] {
            assert_eq!(FileId::parse(other), None, "{other}");
        }
    }
}
