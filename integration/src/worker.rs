//! A program at work on a mount, for tests that break something below it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::Cluster;

/// Writes files in a thread of its own, reads each, and remembers the longest that one took. Each
/// name hashes somewhere else, so that all volcanos are asked.
pub struct Worker {
    dir: PathBuf,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Result<(usize, Duration), String>>,
}

impl Worker {
    /// Begins in a new directory.
    #[track_caller]
    pub fn start(dir: PathBuf) -> Worker {
        fs::create_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (dir, stop) = (dir.clone(), stop.clone());
            std::thread::spawn(move || work(&dir, &stop))
        };
        Worker { dir, stop, thread }
    }

    /// Waits until so many more files are there.
    #[track_caller]
    pub fn goes_on(&self, files: usize) {
        let further = self.dir.join(format!("file-{}", count(&self.dir) + files));
        Cluster::eventually("the work goes on", || further.exists().then_some(()));
    }

    /// Ends, checks by way of any mount that all is there, and returns the longest that a file took.
    #[track_caller]
    pub fn end(self, seen_from: &Path) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let worked = self.thread.join();
        let worked = worked.unwrap_or_else(|_| panic!("the worker panicked"));
        let (made, longest) = worked.unwrap_or_else(|failed| panic!("{failed}"));
        let dir = seen_from.join(self.dir.file_name().unwrap_or_default());
        assert_eq!(count(&dir), made, "files in {}", dir.display());
        for file in 0..made {
            let path = dir.join(format!("file-{file}"));
            let seen = fs::read_to_string(&path);
            let seen = seen.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_eq!(seen, format!("content {file}"));
        }
        longest
    }
}

#[track_caller]
fn count(dir: &Path) -> usize {
    let listed = fs::read_dir(dir);
    let listed = listed.unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    listed.count()
}

fn work(dir: &Path, stop: &AtomicBool) -> Result<(usize, Duration), String> {
    let mut longest = Duration::ZERO;
    let mut made = 0;
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        let path = dir.join(format!("file-{made}"));
        let text = format!("content {made}");
        let failed = |error| format!("{}: {error}", path.display());
        fs::write(&path, &text).map_err(failed)?;
        let seen = fs::read_to_string(&path).map_err(failed)?;
        if seen != text {
            return Err(format!("{}: {seen:?}", path.display()));
        }
        longest = longest.max(begin.elapsed());
        made += 1;
    }
    Ok((made, longest))
}
