//! Asks a tree, by the system calls themselves.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FallocateFlags, RenameFlags, copy_file_range, fallocate, renameat2};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;
use walkdir::WalkDir;

use super::step::{Allocation, Flag, HANDLES, OpenHow, Step};

/// Times before this were set by a step.
const LONG_AGO: i64 = 1_000_000_000;

/// What an answer shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It was done.
    Done,
    /// It failed with this errno.
    Failed(Errno),
    /// Attributes.
    Stat(Shown),
    /// Names, sorted.
    Names(Vec<Vec<u8>>),
    /// Bytes: how many, their first ones, and a sum of all.
    Bytes(usize, Vec<u8>, u64),
    /// How many.
    Count(usize),
    /// There is nothing open in that place.
    NotOpen,
}

/// The attributes that must be the same everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Shown {
    pub mode: u32,
    pub nlink: u64,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub rdev: u64,
    /// If it was set.
    pub mtime: Option<i64>,
}

impl Shown {
    fn of(metadata: &fs::Metadata) -> Shown {
        let is_dir = metadata.is_dir();
        let is_device =
            metadata.file_type().is_char_device() || metadata.file_type().is_block_device();
        Shown {
            mode: metadata.mode(),
            nlink: metadata.nlink(),
            uid: metadata.uid(),
            gid: metadata.gid(),
            size: if is_dir { 0 } else { metadata.size() },
            rdev: if is_device { metadata.rdev() } else { 0 },
            mtime: Some(metadata.mtime()).filter(|time| *time < LONG_AGO),
        }
    }
}

fn bytes(data: &[u8]) -> Seen {
    let sum = data
        .iter()
        .enumerate()
        .map(|(at, byte)| (at as u64 + 1).wrapping_mul(u64::from(*byte)))
        .fold(0, u64::wrapping_add);
    Seen::Bytes(data.len(), data.iter().take(16).copied().collect(), sum)
}

/// Files that are open.
#[derive(Debug, Default)]
pub struct Files {
    open: [Option<File>; HANDLES],
}

impl Files {
    /// Does a step on the tree below `root`.
    pub fn ask(&mut self, root: &Path, step: &Step) -> Seen {
        let done = match step {
            Step::Open(at, path, how) => self.open(*at, &root.join(path), *how),
            Step::Close(at) => {
                self.open[*at] = None;
                Ok(Seen::Done)
            }
            Step::Read(at, ..)
            | Step::Write(at, ..)
            | Step::Append(at, ..)
            | Step::Resize(at, ..)
            | Step::StatOpen(at)
            | Step::Sync(at)
            | Step::Allocate(at, ..) => match &self.open[*at] {
                Some(file) => by_handle(file, step),
                None => Ok(Seen::NotOpen),
            },
            Step::CopyRange(from, at, to, into, len) => {
                match (&self.open[*from], &self.open[*to]) {
                    // Within one file the kernel refuses what overlaps, and on two mounts it does not know.
                    (Some(one), Some(other)) => match (one.metadata(), other.metadata()) {
                        (Ok(one), Ok(other)) if one.ino() == other.ino() => Ok(Seen::NotOpen),
                        _ => copy_range((one, *at), (other, *into), *len),
                    },
                    _ => Ok(Seen::NotOpen),
                }
            }
            by_path => self::by_path(root, by_path),
        };
        done.unwrap_or_else(|error| {
            Seen::Failed(Errno::from_raw(error.raw_os_error().unwrap_or_default()))
        })
    }

    fn open(&mut self, at: usize, path: &Path, how: OpenHow) -> io::Result<Seen> {
        self.open[at] = None;
        let mut flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        for (wanted, flag) in [
            (how.create, libc::O_CREAT),
            (how.exclusive && how.create, libc::O_EXCL),
            (how.truncate, libc::O_TRUNC),
        ] {
            flags |= if wanted { flag } else { 0 };
        }
        // By flags: the standard library knows combinations that it refuses by itself.
        let file = OpenOptions::new()
            .read(true)
            .write(how.write)
            .append(how.append)
            .custom_flags(flags)
            .mode(how.mode)
            .open(path)?;
        let seen = Seen::Stat(Shown::of(&file.metadata()?));
        if file.metadata()?.is_file() {
            self.open[at] = Some(file);
        }
        Ok(seen)
    }
}

fn by_handle(file: &File, step: &Step) -> io::Result<Seen> {
    Ok(match step {
        Step::Read(_, at, len) => {
            let mut data = vec![0; *len];
            let mut read = 0;
            while read < *len {
                match file.read_at(&mut data[read..], at + read as u64)? {
                    0 => break,
                    count => read += count,
                }
            }
            bytes(&data[..read])
        }
        Step::Write(_, at, byte, len) => {
            // pwrite(2) on Linux appends to what was opened with O_APPEND, wherever it is told to write.
            file.write_all_at(&vec![*byte; *len], *at)?;
            Seen::Stat(Shown::of(&file.metadata()?))
        }
        Step::Append(_, byte, len) => {
            let end = file.metadata()?.len();
            file.write_all_at(&vec![*byte; *len], end)?;
            Seen::Count(usize::try_from(file.metadata()?.len()).unwrap_or_default())
        }
        Step::Resize(_, size) => {
            file.set_len(*size)?;
            Seen::Done
        }
        Step::StatOpen(_) => Seen::Stat(Shown::of(&file.metadata()?)),
        Step::Sync(_) => {
            file.sync_all()?;
            Seen::Done
        }
        Step::Allocate(_, how, at, len) => {
            let flags = match how {
                Allocation::Extend => FallocateFlags::empty(),
                Allocation::Keep => FallocateFlags::FALLOC_FL_KEEP_SIZE,
                Allocation::Punch => {
                    FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE
                }
            };
            let (at, len) = (i64::try_from(*at), i64::try_from(*len));
            fallocate(file, flags, at.unwrap_or_default(), len.unwrap_or_default())?;
            Seen::Stat(Shown::of(&file.metadata()?))
        }
        _ => Seen::NotOpen,
    })
}

fn copy_range(from: (&File, u64), to: (&File, u64), len: usize) -> io::Result<Seen> {
    let (mut at, mut into) = (from.1 as i64, to.1 as i64);
    let mut copied = 0;
    while copied < len {
        // As cp(1) does. The kernel ends the copy at the size that it knows, without asking for a newer
        // one. Each time: into the same file through the other mount, the copy itself makes it longer.
        from.0.metadata()?;
        match copy_file_range(from.0, Some(&mut at), to.0, Some(&mut into), len - copied)? {
            0 => break,
            count => copied += count,
        }
    }
    Ok(Seen::Count(copied))
}

fn by_path(root: &Path, step: &Step) -> io::Result<Seen> {
    let at = |path: &String| root.join(path);
    match step {
        Step::Mkdir(path, mode) => nix::unistd::mkdir(&at(path), Mode::from_bits_truncate(*mode))?,
        Step::Mknod(path, mode) => {
            let (kind, device) = match mode {
                0o600 => (SFlag::S_IFCHR, nix::sys::stat::makedev(7, 300)),
                _ => (SFlag::S_IFIFO, 0),
            };
            mknod(&at(path), kind, Mode::from_bits_truncate(*mode), device)?;
        }
        // Relative: it must not lead out of the tree.
        Step::Symlink(target, path) => std::os::unix::fs::symlink(target, at(path))?,
        Step::Link(from, to) => fs::hard_link(at(from), at(to))?,
        Step::Unlink(path) => nix::unistd::unlink(&at(path))?,
        Step::Rmdir(path) => fs::remove_dir(at(path))?,
        Step::Rename(from, to, flag) => {
            let flags = match flag {
                Flag::Plain => RenameFlags::empty(),
                Flag::NoReplace => RenameFlags::RENAME_NOREPLACE,
                Flag::Exchange => RenameFlags::RENAME_EXCHANGE,
            };
            let rename = || renameat2(AT_FDCWD, &at(from), AT_FDCWD, &at(to), flags);
            match rename() {
                // Under its rename lock the kernel cannot take over a directory that another mount has
                // moved, on any network file system (`__d_unalias` of fs/dcache.c): who looks first can.
                Err(Errno::ESTALE) => {
                    let _ = (fs::symlink_metadata(at(from)), fs::symlink_metadata(at(to)));
                    rename()?;
                }
                done => done?,
            }
        }
        Step::Stat(path) => return Ok(Seen::Stat(Shown::of(&fs::symlink_metadata(at(path))?))),
        Step::List(path) => {
            let entries: io::Result<Vec<_>> = fs::read_dir(at(path))?.collect();
            let names = entries?.into_iter().map(|entry| entry.file_name());
            let mut names: Vec<Vec<u8>> = names.map(|name| name.as_bytes().to_vec()).collect();
            names.sort();
            return Ok(Seen::Names(names));
        }
        Step::ReadLink(path) => {
            return Ok(bytes(fs::read_link(at(path))?.as_os_str().as_bytes()));
        }
        Step::Chmod(path, mode) => {
            let flags = nix::sys::stat::FchmodatFlags::FollowSymlink;
            let mode = Mode::from_bits_truncate(*mode);
            nix::sys::stat::fchmodat(AT_FDCWD, &at(path), mode, flags)?;
        }
        Step::Chown(path, uid, gid) => {
            let id = |id: u32| Some(id).filter(|id| *id != u32::MAX);
            std::os::unix::fs::lchown(at(path), id(*uid), id(*gid))?;
        }
        Step::SetTime(path, seconds) => {
            let time = TimeSpec::new(*seconds, 123_456_789);
            let flags = UtimensatFlags::NoFollowSymlink;
            utimensat(AT_FDCWD, &at(path), &time, &time, flags)?;
        }
        Step::Truncate(path, size) => {
            nix::unistd::truncate(&at(path), i64::try_from(*size).unwrap_or_default())?;
        }
        Step::SetXattr(path, name, len) => set_xattr(&at(path), name, &vec![b'x'; *len], true)?,
        // Not to a symbolic link: nothing has a list there.
        Step::SetAcl(path, name, entries) => {
            let mut value = 2_u32.to_le_bytes().to_vec();
            for (tag, rights, id) in entries {
                value.extend(tag.to_le_bytes());
                value.extend(rights.to_le_bytes());
                value.extend(id.to_le_bytes());
            }
            set_xattr(&at(path), name, &value, false)?;
        }
        Step::GetXattr(path, name) | Step::GetAcl(path, name) => {
            let (path, name, mut value) = (c_path(&at(path))?, CString::new(*name)?, [0_u8; 4096]);
            // SAFETY: the strings end with NUL, and there is as much room as is said.
            let len = check(unsafe {
                let (room, len) = (value.as_mut_ptr().cast(), value.len());
                libc::lgetxattr(path.as_ptr(), name.as_ptr(), room, len)
            })?;
            return Ok(bytes(&value[..len]));
        }
        Step::ListXattr(path) => {
            let (path, mut list) = (c_path(&at(path))?, [0_u8; 4096]);
            // SAFETY: the string ends with NUL, and there is as much room as is said.
            let len = check(unsafe {
                libc::llistxattr(path.as_ptr(), list.as_mut_ptr().cast(), list.len())
            })?;
            let names = list[..len].split(|byte| *byte == 0);
            let mut names: Vec<Vec<u8>> = names
                .filter(|name| {
                    name.starts_with(b"user.")
                        || name.starts_with(b"trusted.")
                        || name.starts_with(b"system.")
                })
                .map(<[u8]>::to_vec)
                .collect();
            names.sort();
            return Ok(Seen::Names(names));
        }
        Step::RemoveXattr(path, name) => {
            let (path, name) = (c_path(&at(path))?, CString::new(*name)?);
            // SAFETY: the strings end with NUL.
            check(unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) } as isize)?;
        }
        _ => return Ok(Seen::NotOpen),
    }
    Ok(Seen::Done)
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn set_xattr(path: &Path, name: &str, value: &[u8], of_link: bool) -> io::Result<()> {
    let set = if of_link {
        libc::lsetxattr
    } else {
        libc::setxattr
    };
    let (path, name) = (c_path(path)?, CString::new(name)?);
    // SAFETY: the strings end with NUL, and the value is as long as is said.
    check(unsafe {
        let (value, len) = (value.as_ptr().cast(), value.len());
        set(path.as_ptr(), name.as_ptr(), value, len, 0) as isize
    })?;
    Ok(())
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Everything below a directory: attributes and contents, by path.
pub fn whole(root: &Path) -> Vec<(Vec<u8>, Seen, Seen)> {
    let mut all = BTreeMap::new();
    for entry in WalkDir::new(root).min_depth(1) {
        let seen = entry.map_err(io::Error::from).and_then(|entry| {
            let path = entry.path();
            let metadata = fs::symlink_metadata(path)?;
            let content = match metadata.file_type() {
                kind if kind.is_file() => bytes(&read_all(path)?),
                kind if kind.is_symlink() => bytes(fs::read_link(path)?.as_os_str().as_bytes()),
                _ => Seen::Done,
            };
            let below = path.strip_prefix(root).map_err(io::Error::other)?;
            let key = below.as_os_str().as_bytes().to_vec();
            Ok((key, (Seen::Stat(Shown::of(&metadata)), content)))
        });
        match seen {
            Ok((key, seen)) => drop(all.insert(key, seen)),
            Err(error) => {
                let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
                all.insert(
                    format!("error {error}").into_bytes(),
                    (Seen::Failed(errno), Seen::Done),
                );
            }
        }
    }
    all.into_iter()
        .map(|(path, (stat, content))| (path, stat, content))
        .collect()
}

/// Opened so that a fifo in its place would not be waited for.
fn read_all(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    debug_assert!(file.as_raw_fd() >= 0);
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    Ok(content)
}
