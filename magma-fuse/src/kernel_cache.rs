//! What the kernel of a mount remembers, and how it is made to forget.
//!
//! The kernel keeps attributes and names for as long as our replies say, which is never longer
//! than the leases behind them are valid. When a lease is taken back the kernel must forget
//! before the owner hears that we have, and making it forget must never wait for an operation
//! that waits for that owner:
//!
//! * Attributes go with `FUSE_NOTIFY_INVAL_INODE` without a range, which waits for nothing. Pages
//!   stay, and are not trusted: see [`crate::pages`]. Telling the kernel to drop a range would wait for
//!   pages that are being read, uninterruptibly: a mount that is killed while it waits would keep
//!   its own device open, nobody would ever answer that read, and sync(2) would hang for the whole
//!   host (tried).
//! * Names would go with `FUSE_NOTIFY_INVAL_ENTRY`, which takes the directory's lock, and a
//!   create in that directory may hold it while it waits for the very owner. Instead the mount's
//!   epoch is raised (`FUSE_NOTIFY_INC_EPOCH`, Linux 6.16): every name is looked up again
//!   when it is next used, which costs a call to us and no message.
//!   Kernels without it are told no names to keep.
//!
//! A reply that is on its way while this happens does no harm: the kernel takes the version and
//! the epoch of what it stores from before it asked. Except for an inode that it does not know
//! yet, which it cannot invalidate either (ENOENT): then it is told again until it knows it, or
//! has no reason to.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use fuser::{INodeNo, Notifier};
use magma_core::key;

use crate::client::{CacheSink, Done, Forgotten};
use crate::inodes::InodeTable;

/// `FUSE_NOTIFY_INC_EPOCH` of the kernel's `fuse.h`.
const NOTIFY_INC_EPOCH: i32 = 8;
/// How long an inode is waited for that the kernel should know and does not yet.
const KNOWN_LIMIT: Duration = Duration::from_millis(50);
/// Between two looks at it.
const KNOWN_PAUSE: Duration = Duration::from_micros(200);

/// Makes the kernel forget, from a thread of its own.
#[derive(Debug)]
pub struct KernelCache {
    jobs: Sender<Job>,
}

struct Job {
    what: Vec<Forgotten>,
    done: Done,
}

struct Worker {
    notifier: Notifier,
    device: File,
    inodes: Arc<InodeTable>,
    epochs: bool,
    jobs: Receiver<Job>,
}

impl KernelCache {
    /// Starts the thread. Sets `names` if the kernel can be made to forget names too.
    pub fn start(
        notifier: Notifier,
        device: OwnedFd,
        inodes: Arc<InodeTable>,
        names: &AtomicBool,
    ) -> io::Result<KernelCache> {
        let mut device = File::from(device);
        let epochs = raise_epoch(&mut device).is_ok();
        names.store(epochs, Ordering::Relaxed);
        if !epochs {
            tracing::info!("this kernel (before 6.16) is not told names to keep");
        }
        let (jobs, queue) = channel();
        let worker = Worker {
            notifier,
            device,
            inodes,
            epochs,
            jobs: queue,
        };
        std::thread::Builder::new()
            .name("kernel-cache".to_owned())
            .spawn(move || worker.run())?;
        Ok(KernelCache { jobs })
    }
}

impl CacheSink for KernelCache {
    fn forget(&self, what: Vec<Forgotten>, done: Done) {
        if what.is_empty() {
            return done();
        }
        // Without the thread there is no mount any more, and nothing is shown.
        if let Err(lost) = self.jobs.send(Job { what, done }) {
            (lost.0.done)();
        }
    }
}

impl Worker {
    fn run(mut self) {
        while let Ok(first) = self.jobs.recv() {
            let mut jobs = vec![first];
            jobs.extend(self.jobs.try_iter());
            for ino in jobs.iter().flat_map(|job| &job.what).map(|it| it.ino) {
                self.forget_inode(ino);
            }
            let names = jobs.iter().flat_map(|job| &job.what).any(|it| it.is_dir);
            if self.epochs
                && names
                && let Err(error) = raise_epoch(&mut self.device)
            {
                tracing::debug!(%error, "the epoch could not be raised: the mount ends");
            }
            jobs.into_iter().for_each(|job| (job.done)());
        }
    }

    fn forget_inode(&self, ino: u64) {
        let node = if ino == self.inodes.root().ino() || ino == key::ROOT.ino() {
            INodeNo::ROOT
        } else {
            INodeNo(ino)
        };
        let limit = Instant::now() + KNOWN_LIMIT;
        while let Err(error) = self.notifier.inval_inode(node, -1, 0) {
            let told = self.inodes.get(node).is_some();
            let unknown = error.raw_os_error() == Some(libc::ENOENT);
            if !(unknown && told) || Instant::now() > limit {
                return;
            }
            std::thread::sleep(KNOWN_PAUSE);
        }
    }
}

/// `struct fuse_out_header` without a body.
fn raise_epoch(device: &mut File) -> io::Result<()> {
    const LENGTH: u32 = 16;
    let mut message = [0; LENGTH as usize];
    message[..4].copy_from_slice(&LENGTH.to_ne_bytes());
    message[4..8].copy_from_slice(&NOTIFY_INC_EPOCH.to_ne_bytes());
    device.write_all(&message)
}
