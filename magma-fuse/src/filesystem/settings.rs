//! What fuser and the kernel are asked for before the first call.

use fuser::{InitFlags, KernelConfig};
use std::io;
use std::sync::Arc;

use magma_core::limits::{FUSE_BACKGROUND, IO_MAX};

use crate::client::Node;

/// Threads that read calls: one copies content while the other goes on.
const READERS: usize = 2;

/// What a mount can be told.
#[derive(Clone, Debug)]
pub struct FsOptions {
    /// The directory that is mounted: [`crate::client::Client::root`], or the end of a walk.
    pub root: Arc<Node>,
    /// Let the kernel ask for attributes with listings. While entries may not be cached it
    /// looks every name up again anyway, so this only pays with leases.
    pub readdirplus: bool,
}

impl FsOptions {
    /// The defaults.
    pub fn new(root: Arc<Node>) -> FsOptions {
        FsOptions {
            root,
            readdirplus: false,
        }
    }
}

/// fuser's settings as far as they belong to the file system; the mount options are the
/// mounter's.
pub fn fuse_config() -> fuser::Config {
    let mut config = fuser::Config::default();
    config.n_threads = Some(READERS);
    // Who may use the mount is checked by the kernel (`allow_other`) and by permissions.
    config.acl = fuser::SessionACL::All;
    config
}

/// Asks the kernel for what it can do, and for its limits. Fails where a write could not be as
/// large as an operation.
pub(super) fn negotiate(options: &FsOptions, config: &mut KernelConfig) -> io::Result<()> {
    let mut wanted = vec![
        // Several lookups and listings in one directory at a time.
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_ASYNC_DIO,
        // open with O_TRUNC is one request, and is one at the owner too.
        InitFlags::FUSE_ATOMIC_O_TRUNC,
        // Shared mappings, although files are opened past the page cache.
        InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        InitFlags::FUSE_AUTO_INVAL_DATA,
        // The owner drops set-id bits at write, truncate and chown.
        InitFlags::FUSE_HANDLE_KILLPRIV,
        // The kernel obeys access control lists, and leaves the umask to the owner of a directory,
        // whose default list may take its place.
        InitFlags::FUSE_POSIX_ACL,
        InitFlags::FUSE_DONT_MASK,
        // Locks bind the processes of all mounts.
        InitFlags::FUSE_POSIX_LOCKS,
        InitFlags::FUSE_FLOCK_LOCKS,
    ];
    if options.readdirplus {
        wanted.push(InitFlags::FUSE_DO_READDIRPLUS);
        wanted.push(InitFlags::FUSE_READDIRPLUS_AUTO);
    }
    for flag in wanted {
        if let Err(missing) = config.add_capabilities(flag) {
            tracing::info!(?missing, "this kernel cannot do that");
        }
    }
    let refused = |what: &str, most: u32| {
        io::Error::other(format!("fuser refuses {what}, and offers {most}"))
    };
    config
        .set_max_write(IO_MAX as u32)
        .map_err(|most| refused("the size of a write", most))?;
    config
        .set_max_background(FUSE_BACKGROUND)
        .map_err(|most| refused("the count of background requests", most.into()))?;
    // Only mapped files are read ahead. A kernel that allows less names its limit, which
    // is also the default.
    if let Err(most) = config.set_max_readahead(IO_MAX as u32) {
        tracing::debug!(most, "less readahead than wanted");
    }
    Ok(())
}
