//! `/proc/self/mountinfo`: what is mounted where (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::FS_TYPE;

/// The device number of a mounted file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Major number; 0 for file systems without a block device.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Which file system.
    pub device: Device,
    /// Where.
    pub target: PathBuf,
    /// Its type.
    pub fs_type: String,
    /// FSName.
    pub source: OsString,
}

impl Mount {
    /// Whether it is a mount of Magma.
    pub fn is_magma(&self) -> bool {
        self.fs_type == FS_TYPE
    }
}

/// All mounts, in the order in which they were made. Empty when there is no /proc.
pub fn read() -> Vec<Mount> {
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    text.split(|&byte| byte == b'\n')
        .filter_map(parse)
        .collect()
}

/// The uppermost mount exactly at a path (absolute, without symbolic links).
pub fn at(target: &Path) -> Option<Mount> {
    read()
        .into_iter()
        .rev()
        .find(|mount| mount.target == target)
}

fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let target = fields.nth(1)?;
    // A variable number of optional fields ends with a hyphen.
    fields.by_ref().skip(1).find(|field| *field == b"-")?;
    Some(Mount {
        device: Device {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        },
        target: PathBuf::from(OsString::from_vec(unescape(target))),
        fs_type: String::from_utf8(unescape(fields.next()?)).ok()?,
        source: OsString::from_vec(unescape(fields.next()?)),
    })
}

/// Blanks, tabs, newlines and backslashes stand as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let code = match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..]) => {
                Some((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'))
            }
            _ => None,
        };
        match code {
            Some(byte) => {
                plain.push(byte);
                rest = &tail[3..];
            }
            None => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}

/// A path as the table shows it: absolute and without symbolic links, found without asking
/// the file system that is (or hangs) there.
pub fn canonical_target(path: &Path) -> std::io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if name.as_bytes() != b".." => {
            let direct = std::fs::canonicalize(parent)?.join(name);
            if read().iter().any(|mount| mount.target == direct) {
                return Ok(direct);
            }
            std::fs::canonicalize(path)
        }
        _ => std::fs::canonicalize(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let line =
            b"45 26 0:38 / /mnt/a\\040b rw,relatime shared:8 - fuse.magma h1,h2:/ rw,user_id=0";
        let mount = parse(line).unwrap();
        assert!(mount.is_magma());
        assert_eq!(mount.device.to_string(), "0:38");
        assert_eq!(mount.target, Path::new("/mnt/a b"));
        assert_eq!(mount.source, "h1,h2:/");
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"45 26 0:38 / /mnt rw"), None);
        assert_eq!(unescape(b"a\\134b\\9\\"), b"a\\b\\9\\");
        let root = at(Path::new("/")).unwrap();
        assert!(!root.is_magma());
    }
}
