//! Mounting without being root: fusermount3 is, opens the device, mounts it, and passes it
//! back over a socket (the protocol of libfuse: the socket's number in `_FUSE_COMMFD`).

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair,
};

use super::MountError;
use super::options::{MountOptions, flag_names};

const PROGRAM: &str = "fusermount3";

/// Mounts, and returns the device over which the kernel will talk.
pub(super) fn mount(options: &MountOptions) -> Result<OwnedFd, MountError> {
    let failed = |error: io::Error| MountError::Fusermount(error.to_string());
    // Theirs is inherited, ours is not.
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::empty(),
    )
    .map_err(|errno| failed(errno.into()))?;
    nix::fcntl::fcntl(
        &ours,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
    )
    .map_err(|errno| failed(errno.into()))?;
    let child = Command::new(PROGRAM)
        .arg("-o")
        .arg(option_list(options))
        .arg("--")
        .arg(&options.target)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => MountError::Fusermount(
                "it is not installed (package fuse3); without it only root can mount".to_owned(),
            ),
            _ => failed(error),
        })?;
    drop(theirs);
    let device = receive_device(&ours);
    drop(ours);
    let output = child.wait_with_output().map_err(failed)?;
    match device {
        Ok(device) => Ok(device),
        Err(error) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.trim().trim_start_matches("fusermount3: ");
            Err(if said.is_empty() {
                failed(error)
            } else {
                MountError::Fusermount(said.to_owned())
            })
        }
    }
}

/// Unmounts lazily.
pub(super) fn unmount(target: &Path) -> io::Result<()> {
    let output = Command::new(PROGRAM)
        .args(["-u", "-z", "-q", "--"])
        .arg(target)
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{PROGRAM}: {}", said.trim())))
}

fn option_list(options: &MountOptions) -> String {
    // A comma in a name would end the option: several hosts are separated by commas.
    let source = options.source.replace('\\', "\\\\").replace(',', "\\,");
    let mut list = format!(
        "fsname={source},subtype=magma,max_read={}",
        options.max_read
    );
    if options.default_permissions {
        list.push_str(",default_permissions");
    }
    if options.allow_other {
        list.push_str(",allow_other");
    }
    for name in flag_names(options.flags) {
        list.push(',');
        list.push_str(name);
    }
    list
}

fn receive_device(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let mut byte = [0; 1];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(libc::c_int);
    let message = loop {
        match recvmsg::<()>(
            socket.as_raw_fd(),
            &mut buffers,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        ) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other?,
        }
    };
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control
            && let Some(&fd) = fds.first()
        {
            // SAFETY: the kernel has just made this descriptor for us; nobody else has it.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
    Err(io::Error::other("it ended without passing the device"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_the_source_are_escaped() {
        let mut options = MountOptions::new("a,b:/x\\y".to_owned(), "/mnt".into());
        options.allow_other = false;
        let list = option_list(&options);
        assert!(list.starts_with("fsname=a\\,b:/x\\\\y,subtype=magma,"));
        assert!(!list.contains("allow_other"));
    }
}
