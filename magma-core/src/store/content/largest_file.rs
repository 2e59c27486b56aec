//! How large a file of content can be: what the disk says, and not what is known of its file system.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::limits::FILE_SIZE_MAX;

/// Stays behind only when the volcano is killed while it asks: the next one removes it.
const PROBE: &str = "size-probe";

/// The largest length that a file in this directory takes. What is asked with is one hole, and has
/// no space.
pub(super) fn largest_file(directory: &Path) -> io::Result<u64> {
    let file = probe(directory)?;
    let mut impossible = FILE_SIZE_MAX.min(process_limit()).saturating_add(1);
    if file.set_len(impossible - 1).is_ok() {
        return Ok(impossible - 1);
    }
    let mut possible = 0;
    while impossible - possible > 1 {
        let middle = possible + (impossible - possible) / 2;
        match file.set_len(middle) {
            Ok(()) => possible = middle,
            Err(error) if matches!(error.raw_os_error(), Some(libc::EFBIG | libc::EINVAL)) => {
                impossible = middle;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(possible)
}

/// A file without a name.
fn probe(directory: &Path) -> io::Result<File> {
    let nameless = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(0o600)
        .open(directory);
    nameless.or_else(|_| {
        // Not on every file system.
        let path = directory.join(PROBE);
        let file = File::create(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    })
}

/// `RLIMIT_FSIZE`: beyond it a write ends the process by a signal.
fn process_limit() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: `limit` has room for what the call writes.
    match unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) } {
        0 => limit.rlim_cur,
        _ => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_largest() {
        let dir = tempfile::tempdir().unwrap();
        let largest = largest_file(dir.path()).unwrap();
        assert!(largest > 1 << 30);
        let file = File::create(dir.path().join("file")).unwrap();
        file.set_len(largest).unwrap();
        assert!(largest == FILE_SIZE_MAX || file.set_len(largest + 1).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
