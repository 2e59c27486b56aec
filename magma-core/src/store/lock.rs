//! The lock file that keeps a second volcano out of a directory.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use super::{StoreError, StoreResult};

/// Name of the lock file inside the directory.
pub const LOCK_FILE: &str = "lock";

/// Holds `DIR/lock` with flock(2) until it is dropped or the process ends, however it ends.
///
/// The file stays behind: removing it would let two processes lock two files of one name.
#[derive(Debug)]
pub struct DirLock {
    // Closing the file releases the lock.
    _file: File,
}

impl DirLock {
    /// Takes the lock of a directory that exists, and writes our process id into the file.
    pub fn take(dir: &Path) -> StoreResult<DirLock> {
        let path = dir.join(LOCK_FILE);
        let failed = |action| {
            let path = path.clone();
            move |source| StoreError::Io {
                action,
                path,
                source,
            }
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed("open"))?;
        // SAFETY: flock takes a descriptor, which `file` keeps open, and touches no memory.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            let error = std::io::Error::last_os_error();
            if error.kind() != std::io::ErrorKind::WouldBlock {
                return Err(failed("lock")(error));
            }
            let mut text = String::new();
            // Only for the message: an unreadable file is "unknown".
            let pid = match file.read_to_string(&mut text) {
                Ok(_) => text.trim().parse().unwrap_or(0),
                Err(_) => 0,
            };
            return Err(StoreError::Locked {
                path: dir.to_path_buf(),
                pid,
            });
        }
        file.set_len(0).map_err(failed("truncate"))?;
        file.seek(SeekFrom::Start(0)).map_err(failed("write"))?;
        writeln!(file, "{}", std::process::id()).map_err(failed("write"))?;
        Ok(DirLock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_is_refused_with_the_pid_of_the_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = DirLock::take(dir.path()).expect("free");
        match DirLock::take(dir.path()) {
            Err(StoreError::Locked { pid, .. }) => assert_eq!(pid, std::process::id()),
            other => panic!("not refused: {other:?}"),
        }
        drop(first);
        DirLock::take(dir.path()).expect("free again");
    }

    #[test]
    fn a_missing_directory_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = DirLock::take(&dir.path().join("absent")).expect_err("no directory");
        assert!(error.to_string().contains("absent"), "{error}");
    }
}
