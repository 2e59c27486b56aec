//! A tree as large and as odd as real ones are, the same each time. See [`generate`].

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

/// Files of a directory.
const PER_DIRECTORY: usize = 25;
/// Most bytes of a small file.
const SMALL_MAX: u32 = 20 * 1024;
/// Files of a MiB.
const LARGE: usize = 3;
const MIB: usize = 1 << 20;
/// Levels of the deepest directory.
const DEEP: usize = 40;
/// Sizes at which something changes: nothing, one byte, blocks and their neighbours.
const EDGES: [usize; 7] = [0, 1, 4095, 4096, 4097, 8192, 65536];
/// Permission bits, one after the other.
const MODES: [u32; 6] = [0o644, 0o600, 0o755, 0o444, 0o4755, 0o2711];
/// 2001-09-09; files are a second and a bit apart from there.
const FIRST_TIME: u64 = 1_000_000_000;

/// Names that some program or other has got wrong.
const ODD_NAMES: [&[u8]; 9] = [
    b"with space",
    b"with\nnewline",
    b"invalid-\xff\xfe-utf8",
    b"-dash",
    b"...",
    b"quote'\"`$\\",
    b"\x01control\x7f",
    "\u{e9}\u{4e16}\u{1f30b}".as_bytes(),
    &[b'n'; 255],
];

/// Makes a tree with about so many small files in a directory, which must not exist: deep and
/// odd names, sizes around blocks, symlinks (also dangling), hard links, modes and times.
pub fn generate(root: &Path, files: usize, seed: u64) -> io::Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut stamp = 0;
    fs::create_dir(root)?;
    let mut directories = vec![root.to_owned()];
    for number in 0..files {
        if number % PER_DIRECTORY == 0 {
            let parent = rng.next_u32() as usize % directories.len();
            let dir = directories[parent].join(format!("dir{}", number / PER_DIRECTORY));
            fs::create_dir(&dir)?;
            directories.push(dir);
        }
        let dir = &directories[directories.len() - 1];
        let size = EDGES
            .get(number)
            .copied()
            .unwrap_or((rng.next_u32() % SMALL_MAX) as usize);
        let path = dir.join(format!("file{number}.c"));
        let mode = MODES[number % MODES.len()];
        make_file(&path, size, mode, &mut rng, &mut stamp)?;
    }
    let odd = root.join("odd");
    fs::create_dir(&odd)?;
    for name in ODD_NAMES {
        let path = odd.join(OsStr::from_bytes(name));
        make_file(&path, name.len(), 0o640, &mut rng, &mut stamp)?;
    }
    for number in 0..LARGE {
        let path = root.join(format!("large{number}"));
        make_file(&path, MIB, 0o644, &mut rng, &mut stamp)?;
    }
    let mut deep = root.join("deep");
    for level in 0..DEEP {
        fs::create_dir(&deep)?;
        deep.push(format!("level{level}"));
    }
    make_file(&deep, 100, 0o644, &mut rng, &mut stamp)?;
    make_links(root)
}

fn make_links(root: &Path) -> io::Result<()> {
    let links = root.join("links");
    fs::create_dir(&links)?;
    for (name, target) in [
        ("to-file", "../large0"),
        ("to-dir", "../odd"),
        ("dangling", "no/such/thing"),
        ("absolute", "/etc/passwd"),
        ("loop", "loop"),
    ] {
        symlink(target, links.join(name))?;
    }
    let long: PathBuf = ["x"; 1000].iter().collect();
    symlink(long, links.join("long"))?;
    for number in 0..20 {
        let target = root.join(format!("large{}", number % LARGE));
        fs::hard_link(target, links.join(format!("hard{number}")))?;
    }
    Ok(())
}

fn make_file(
    path: &Path,
    size: usize,
    mode: u32,
    rng: &mut StdRng,
    stamp: &mut u64,
) -> io::Result<()> {
    let mut content = vec![0; size];
    rng.fill_bytes(&mut content);
    fs::write(path, content)?;
    *stamp += 1;
    let time = Duration::new(
        FIRST_TIME + *stamp,
        (*stamp as u32 * 1_234_567) % 1_000_000_000,
    );
    File::options()
        .append(true)
        .open(path)?
        .set_modified(SystemTime::UNIX_EPOCH + time)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}
