//! mount(2), for root.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::options::MountOptions;
use super::{FS_TYPE, MountError};

/// Mounts, and returns the device over which the kernel will talk.
pub(super) fn mount(options: &MountOptions) -> Result<OwnedFd, MountError> {
    let path = &options.target;
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .map_err(MountError::Device)?;
    let mut data = format!(
        "fd={},rootmode={:o},user_id={},group_id={},max_read={}",
        device.as_raw_fd(),
        libc::S_IFDIR,
        nix::unistd::getuid(),
        nix::unistd::getgid(),
        options.max_read,
    );
    if options.default_permissions {
        data.push_str(",default_permissions");
    }
    if options.allow_other {
        data.push_str(",allow_other");
    }
    if options.source.contains('\0') {
        return Err(MountError::Text(options.source.clone()));
    }
    nix::mount::mount(
        Some(options.source.as_str()),
        path,
        Some(FS_TYPE),
        options.flags,
        Some(data.as_str()),
    )
    .map_err(|errno| MountError::Refused {
        path: path.clone(),
        source: io::Error::from(errno),
    })?;
    Ok(device.into())
}
