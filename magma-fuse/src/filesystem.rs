//! The FUSE side: unpacks the kernel's calls, and answers from the client's thread.
//!
//! A call is read by a thread of fuser, which only builds the request; the rest happens on
//! the client's runtime, which owns the connections and writes the answer back. Nothing here
//! decides anything: see [`crate::volume`].

mod replies;
mod settings;

use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags,
    INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use magma_core::error::OpResult;
use magma_core::flare::Name;
use magma_core::limits::{XATTR_LIST_MAX, XATTR_VALUE_MAX};
use magma_core::op::{Credentials, SetAttr};

use crate::client::Client;
use crate::client::names::NewMode;
use crate::convert::{OpenHow, errno, name, rename_mode, set_time, xattr_mode};
use crate::credentials::Callers;
use crate::locking::KernelLock;
use crate::signals::WaitingThread;
use crate::volume::Volume;
use replies::{add_plus, attributes, empty, entry, found, sized, statfs};
pub use settings::{FsOptions, fuse_config};

/// A mount, as fuser drives it.
pub struct MagmaFs {
    volume: Arc<Volume>,
    callers: Callers,
    options: FsOptions,
}

impl MagmaFs {
    /// A file system over a client. Give it to [`fuser::Session::from_fd`].
    pub fn new(client: Client, options: FsOptions) -> MagmaFs {
        MagmaFs {
            volume: Arc::new(Volume::new(client, options.root.clone())),
            callers: Callers::default(),
            options,
        }
    }

    /// The state behind it, for notifications to the kernel.
    pub fn volume(&self) -> Arc<Volume> {
        self.volume.clone()
    }

    fn cred(&self, req: &Request) -> Credentials {
        self.callers.credentials(req.pid(), req.uid(), req.gid())
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.volume.client.spawn(work);
    }
}

impl Filesystem for MagmaFs {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        settings::negotiate(&self.options, config)
    }

    fn destroy(&mut self) {
        let client = self.volume.client.clone();
        if tokio::runtime::Handle::try_current().is_ok() {
            // Dropped inside somebody's runtime, where waiting is not allowed.
            self.spawn(async move { client.close().await });
        } else {
            self.volume.client.block_on(client.close());
        }
    }

    fn lookup(&self, req: &Request, parent: INodeNo, text: &OsStr, reply: ReplyEntry) {
        let name = match name(text) {
            Ok(name) => name,
            Err(error) => return reply.error(errno(&error)),
        };
        if let Some(known) = self.volume.lookup_known(parent, &name) {
            return found(reply, &self.volume, (parent, &name), known);
        }
        let (volume, cred) = (self.volume.clone(), self.cred(req));
        self.spawn(async move {
            let result = volume.lookup(parent, &name, &cred).await;
            found(reply, &volume, (parent, &name), result);
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.volume.inodes().forget(ino, nlookup);
    }

    fn getattr(&self, req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        if let Some(known) = self.volume.getattr_known(ino, fh) {
            return attributes(reply, Ok(known));
        }
        let (volume, cred) = (self.volume.clone(), self.cred(req));
        self.spawn(async move { attributes(reply, volume.getattr(ino, fh, &cred).await) });
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            by_handle: false,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
        };
        let (volume, cred) = (self.volume.clone(), self.cred(req));
        self.spawn(async move { attributes(reply, volume.setattr(ino, fh, set, &cred).await) });
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        let (volume, cred) = (self.volume.clone(), self.cred(req));
        self.spawn(async move {
            match volume.readlink(ino, &cred).await {
                Ok(target) => reply.data(&target),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        text: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let name = match name(text) {
            Ok(name) => name,
            Err(error) => return reply.error(errno(&error)),
        };
        let (volume, cred) = (self.volume.clone(), self.cred(req));
        self.spawn(async move {
            entry(
                reply,
                volume
                    .mknod(parent, &name, NewMode { mode, umask }, rdev, &cred)
                    .await,
            );
        });
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        text: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let name = match name(text) {
            Ok(name) => name,
            Err(error) => return reply.error(errno(&error)),
        };
        let (volume, cred) = (self.volume.clone(), self.cred(req));
        self.spawn(async move {
            entry(
                reply,
                volume
                    .mkdir(parent, &name, NewMode { mode, umask }, &cred)
                    .await,
            )
        });
    }

    fn unlink(&self, req: &Request, parent: INodeNo, text: &OsStr, reply: ReplyEmpty) {
        self.remove(req, parent, text, false, reply);
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, text: &OsStr, reply: ReplyEmpty) {
        self.remove(req, parent, text, true, reply);
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        text: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let name = match name(text) {
            Ok(name) => name,
            Err(error) => return reply.error(errno(&error)),
        };
        let target = target.as_os_str().as_bytes().to_vec();
        let (volume, cred) = (self.volume.clone(), self.cred(req));
        self.spawn(async move {
            entry(reply, volume.symlink(parent, &name, &target, &cred).await);
        });
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        text: &OsStr,
        newparent: INodeNo,
        newtext: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let unpack = || OpResult::Ok((name(text)?, name(newtext)?, rename_mode(flags)?));
        let (from, to, mode) = match unpack() {
            Ok(unpacked) => unpacked,
            Err(error) => return reply.error(errno(&error)),
        };
        let (volume, cred) = (self.volume.clone(), self.cred(req));
        self.spawn(async move {
            let (from, to) = ((parent, &from), (newparent, &to));
            empty(reply, volume.rename(from, to, mode, &cred).await);
        });
    }

    fn link(
        &self,
        req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newtext: &OsStr,
        reply: ReplyEntry,
    ) {
        let name = match name(newtext) {
            Ok(name) => name,
            Err(error) => return reply.error(errno(&error)),
        };
        let (volume, cred) = (self.volume.clone(), self.cred(req));
        self.spawn(async move { entry(reply, volume.link(ino, newparent, &name, &cred).await) });
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (volume, cred) = (self.volume.clone(), self.cred(req));
        if let Some((fh, flags)) = volume.open_known(ino, OpenHow(flags.0), &cred) {
            return reply.opened(fh, flags);
        }
        self.spawn(async move {
            match volume.open(ino, OpenHow(flags.0), &cred).await {
                Ok((fh, flags)) => reply.opened(fh, flags),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let volume = self.volume.clone();
        self.spawn(async move {
            match volume.read(fh, offset, size).await {
                Ok(content) => reply.data(&content),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn write(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // The buffer is read into again as soon as this returns.
        let content = Bytes::copy_from_slice(data);
        let by_kernel = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let writer = (!by_kernel).then(|| (req.uid(), req.gid()));
        let volume = self.volume.clone();
        self.spawn(async move {
            let how = OpenHow(flags.0);
            match volume.write(fh, offset, content, how, writer).await {
                Ok(count) => reply.written(count),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    /// Each close(2) ends what the process has locked of the file.
    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        match self.volume.close_locks(fh, lock_owner.0) {
            None => reply.ok(),
            Some(released) => self.spawn(async move {
                released.await;
                reply.ok();
            }),
        }
    }

    fn getlk(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let lock = KernelLock {
            owner: lock_owner.0,
            pid,
            start,
            end,
            kind: typ,
        };
        let (volume, cred) = (self.volume.clone(), self.cred(req));
        self.spawn(async move {
            match volume.get_lock(fh, lock, &cred).await {
                Ok(held) => reply.locked(held.start, held.end, held.kind, held.pid),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn setlk(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let lock = KernelLock {
            owner: lock_owner.0,
            pid,
            start,
            end,
            kind: typ,
        };
        let waits = sleep.then(|| WaitingThread::new(req.pid()));
        let (volume, cred) = (self.volume.clone(), self.cred(req));
        self.spawn(async move { empty(reply, volume.set_lock(fh, lock, waits, &cred).await) });
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.volume.release(fh, lock_owner.map(|owner| owner.0));
        reply.ok();
    }

    fn fsync(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let (volume, cred) = (self.volume.clone(), self.cred(req));
        self.spawn(async move { empty(reply, volume.fsync(ino, fh, datasync, &cred).await) });
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.volume.opendir(ino) {
            Ok(fh) => reply.opened(fh, FopenFlags::empty()),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdir(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let (volume, cred) = (self.volume.clone(), self.cred(req));
        self.spawn(async move {
            let part = match volume.readdir(fh, offset, &cred).await {
                Ok(part) => part,
                Err(error) => return reply.error(errno(&error)),
            };
            for item in part.iter() {
                let name = OsStr::from_bytes(&item.name);
                if reply.add(INodeNo(item.ino), item.cookie, item.kind, name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn readdirplus(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (volume, cred) = (self.volume.clone(), self.cred(req));
        self.spawn(async move {
            let items = match volume.readdirplus(fh, offset, &cred).await {
                Ok(items) => items,
                Err(error) => return reply.error(errno(&error)),
            };
            for plus in &items {
                volume.plus_seen(fh, plus);
                if add_plus(&mut reply, plus) {
                    volume.plus_unseen(plus);
                    break;
                }
            }
            reply.ok();
        });
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.volume.release(fh, None);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.fsync(req, ino, fh, datasync, reply);
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let volume = self.volume.clone();
        self.spawn(async move {
            match volume.client.statfs().await {
                Ok(space) => statfs(reply, space),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        text: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let unpack = || OpResult::Ok((self.volume.xattr_flare(ino)?, xattr_mode(flags)?));
        let (flare, mode) = match unpack() {
            Ok(unpacked) => unpacked,
            Err(error) => return reply.error(errno(&error)),
        };
        let (name, value) = (text.as_bytes().to_vec(), value.to_vec());
        let (volume, cred) = (self.volume.clone(), self.cred(req));
        self.spawn(async move {
            let client = &volume.client;
            let set = client.setxattr(flare, &name, &value, mode, &cred);
            empty(reply, set.await);
        });
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, text: &OsStr, size: u32, reply: ReplyXattr) {
        let flare = match self.volume.xattr_flare(ino) {
            Ok(flare) => flare,
            Err(error) => return reply.error(errno(&error)),
        };
        // The kernel asks for lists whenever permission is not decided by the owner's bits.
        if let Some(list) = self.volume.client.list_known(flare, text.as_bytes()) {
            return sized(reply, size, XATTR_VALUE_MAX, list);
        }
        let name = text.as_bytes().to_vec();
        let (volume, cred) = (self.volume.clone(), self.cred(req));
        self.spawn(async move {
            let value = volume.client.getxattr(flare, &name, &cred).await;
            sized(reply, size, XATTR_VALUE_MAX, value);
        });
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let flare = match self.volume.xattr_flare(ino) {
            Ok(flare) => flare,
            Err(error) => return reply.error(errno(&error)),
        };
        let (volume, cred) = (self.volume.clone(), self.cred(req));
        self.spawn(async move {
            let list = volume.client.listxattr(flare, &cred).await;
            sized(reply, size, XATTR_LIST_MAX, list);
        });
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, text: &OsStr, reply: ReplyEmpty) {
        let flare = match self.volume.xattr_flare(ino) {
            Ok(flare) => flare,
            Err(error) => return reply.error(errno(&error)),
        };
        let name = text.as_bytes().to_vec();
        let (volume, cred) = (self.volume.clone(), self.cred(req));
        self.spawn(async move {
            empty(reply, volume.client.removexattr(flare, &name, &cred).await);
        });
    }

    /// With `default_permissions` the kernel decides and does not ask.
    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        text: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let name = match name(text) {
            Ok(name) => name,
            Err(error) => return reply.error(errno(&error)),
        };
        let (volume, cred) = (self.volume.clone(), self.cred(req));
        self.spawn(async move {
            match volume
                .create(
                    parent,
                    &name,
                    NewMode { mode, umask },
                    OpenHow(flags),
                    &cred,
                )
                .await
            {
                Ok((entry, fh, flags)) => {
                    reply.created(&entry.ttl, &entry.attr, entry.generation, fh, flags);
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    /// Files are always ready: ENOSYS lets the kernel say so by itself.
    fn poll(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let volume = self.volume.clone();
        self.spawn(async move {
            empty(reply, volume.allocate(fh, offset, length, mode).await);
        });
    }

    fn lseek(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let volume = self.volume.clone();
        self.spawn(async move {
            match volume.seek(fh, offset, whence).await {
                Ok(found) => reply.offset(found),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let volume = self.volume.clone();
        let (from, to) = ((fh_in, offset_in), (fh_out, offset_out));
        self.spawn(async move {
            match volume.copy_range(from, to, len).await {
                Ok(count) => reply.written(count),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }
}

impl MagmaFs {
    fn remove(
        &self,
        req: &Request,
        parent: INodeNo,
        text: &OsStr,
        directory: bool,
        reply: ReplyEmpty,
    ) {
        let name: Name = match name(text) {
            Ok(name) => name,
            Err(error) => return reply.error(errno(&error)),
        };
        let (volume, cred) = (self.volume.clone(), self.cred(req));
        self.spawn(async move {
            empty(reply, volume.remove(parent, &name, directory, &cred).await);
        });
    }
}
