//! What can be asked of a tree.

use rand::Rng;
use rand::rngs::StdRng;

/// Names of which paths are made. Few, so that they are in each other's way.
const NAMES: [&str; 5] = ["a", "b", "c", "dd", "e e"];
/// Open files at a time.
pub const HANDLES: usize = 6;
/// Contents grow to about this size: across the border between small and big ones.
const SIZE: u64 = 24 * 1024;

/// One system call, or nearly so.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Step {
    Mkdir(String, u32),
    Mknod(String, u32),
    Symlink(String, String),
    Link(String, String),
    Unlink(String),
    Rmdir(String),
    Rename(String, String, Flag),
    Stat(String),
    List(String),
    ReadLink(String),
    Chmod(String, u32),
    Chown(String, u32, u32),
    /// Modification time, in seconds long ago.
    SetTime(String, i64),
    Truncate(String, u64),
    SetXattr(String, &'static str, usize),
    GetXattr(String, &'static str),
    ListXattr(String),
    RemoveXattr(String, &'static str),
    /// An access control list: which, and its entries as tag, rights and number.
    SetAcl(String, &'static str, Vec<(u16, u16, u32)>),
    GetAcl(String, &'static str),
    /// Into one of [`HANDLES`] places; what was open there is closed.
    Open(usize, String, OpenHow),
    Close(usize),
    Read(usize, u64, usize),
    Write(usize, u64, u8, usize),
    Append(usize, u8, usize),
    Resize(usize, u64),
    StatOpen(usize),
    Sync(usize),
    Allocate(usize, Allocation, u64, u64),
    CopyRange(usize, u64, usize, u64, usize),
}

/// How a name is moved.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Flag {
    Plain,
    NoReplace,
    Exchange,
}

/// What becomes of a range.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Allocation {
    Extend,
    Keep,
    Punch,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct OpenHow {
    pub write: bool,
    pub create: bool,
    pub exclusive: bool,
    pub truncate: bool,
    pub append: bool,
    pub mode: u32,
}

fn path(rng: &mut StdRng) -> String {
    let depth = [1, 1, 2, 2, 2, 3][rng.random_range(0..6)];
    let names: Vec<&str> = (0..depth)
        .map(|_| NAMES[rng.random_range(0..NAMES.len())])
        .collect();
    names.join("/")
}

fn mode(rng: &mut StdRng) -> u32 {
    [0o644, 0o755, 0o600, 0o4755, 0o2775, 0o1777, 0o000][rng.random_range(0..7)]
}

fn attribute(rng: &mut StdRng) -> &'static str {
    ["user.one", "user.two", "trusted.three"][rng.random_range(0..3)]
}

fn list_name(rng: &mut StdRng) -> &'static str {
    ["system.posix_acl_access", "system.posix_acl_default"][rng.random_range(0..2)]
}

/// Mostly a valid list; sometimes none, one without its mask, or one that says no more than a mode.
fn list(rng: &mut StdRng) -> Vec<(u16, u16, u32)> {
    const NOBODY: u32 = u32::MAX;
    let kind = rng.random_range(0..8);
    let mut list = vec![(1, NOBODY)];
    list.extend((kind > 2).then_some((2, 1000)));
    list.push((4, NOBODY));
    list.extend((kind > 4).then_some((8, 50)));
    list.extend((kind > 1 && kind != 3).then_some((16, NOBODY)));
    list.push((32, NOBODY));
    list.truncate(if kind == 0 { 0 } else { list.len() });
    let with_rights = |(tag, id)| (tag, rng.random_range(0..8), id);
    list.into_iter().map(with_rights).collect()
}

fn open_how(rng: &mut StdRng) -> OpenHow {
    let write = rng.random_bool(0.8);
    OpenHow {
        write,
        create: rng.random_bool(0.6),
        exclusive: rng.random_bool(0.1),
        truncate: write && rng.random_bool(0.2),
        append: write && rng.random_bool(0.2),
        mode: mode(rng),
    }
}

impl Step {
    /// The next one, and on which of so many mounts.
    pub fn draw(rng: &mut StdRng, mounts: usize) -> (Step, usize) {
        let mount = rng.random_range(0..mounts);
        let (at, other) = (rng.random_range(0..HANDLES), rng.random_range(0..HANDLES));
        let (place, count) = (rng.random_range(0..SIZE), rng.random_range(0..SIZE / 3));
        let byte = rng.random_range(1..=255_u8);
        let len = usize::try_from(count).unwrap_or_default();
        let step = match rng.random_range(0..100) {
            0..7 => Step::Mkdir(path(rng), mode(rng)),
            7..9 => Step::Mknod(path(rng), mode(rng)),
            9..12 => Step::Symlink(path(rng), path(rng)),
            12..17 => Step::Link(path(rng), path(rng)),
            17..23 => Step::Unlink(path(rng)),
            23..26 => Step::Rmdir(path(rng)),
            26..33 => {
                let flag = match rng.random_range(0..4) {
                    0 => Flag::NoReplace,
                    1 => Flag::Exchange,
                    _ => Flag::Plain,
                };
                Step::Rename(path(rng), path(rng), flag)
            }
            33..39 => Step::Stat(path(rng)),
            39..42 => Step::List(path(rng)),
            42..44 => Step::ReadLink(path(rng)),
            44..47 => Step::Chmod(path(rng), mode(rng)),
            47..49 => {
                let id = |rng: &mut StdRng| [0, 1, 1000, u32::MAX][rng.random_range(0..4)];
                Step::Chown(path(rng), id(rng), id(rng))
            }
            49..51 => Step::SetTime(path(rng), rng.random_range(1..1_000_000)),
            52..54 => Step::Truncate(path(rng), place),
            54..55 => Step::SetXattr(path(rng), attribute(rng), len % 2000),
            55..56 => Step::SetAcl(path(rng), list_name(rng), list(rng)),
            56..57 => Step::GetXattr(path(rng), attribute(rng)),
            51..52 | 57..58 => Step::GetAcl(path(rng), list_name(rng)),
            58..59 => Step::ListXattr(path(rng)),
            59..60 => Step::RemoveXattr(path(rng), attribute(rng)),
            60..70 => Step::Open(at, path(rng), open_how(rng)),
            70..73 => Step::Close(at),
            73..80 => Step::Read(at, place, len),
            80..87 => Step::Write(at, place, byte, len),
            87..89 => Step::Append(at, byte, len),
            89..91 => Step::Resize(at, place),
            91..94 => Step::StatOpen(at),
            94..95 => Step::Sync(at),
            95..98 => {
                let how = match rng.random_range(0..3) {
                    0 => Allocation::Extend,
                    1 => Allocation::Keep,
                    _ => Allocation::Punch,
                };
                Step::Allocate(at, how, place, count)
            }
            _ => Step::CopyRange(at, place, other, rng.random_range(0..SIZE), len),
        };
        (step, mount)
    }
}
