//! What a mount shows: the client's operations in terms of the kernel's inodes and handles.

mod lost_locks;
mod ranges;

use bytes::Bytes;
use fuser::{FileAttr, FileHandle, FopenFlags, Generation, INodeNo, Notifier};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use magma_core::error::{OpError, OpResult};
use magma_core::flare::{Attr, Kind, Name};
use magma_core::ids::FlareRef;
use magma_core::key;
use magma_core::op::{Credentials, RenameMode, SetAttr};

use crate::client::names::{CreateOpen, Found, NewMode};
use crate::client::{Client, Node, locked};
use crate::convert::{OpenHow, file_attr, generation};
use crate::dht::{self, DhtItem};
use crate::handles::{Handle, HandleTable, OpenDirectory, OpenFile};
use crate::inodes::{Inode, InodeTable};
use crate::kernel_cache::KernelCache;
use crate::listing::{self, DirItem, DirPart};
use crate::pages::{nudged, open_flags};

/// A name as the kernel is told of it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// How long it and its attributes may be shown without asking.
    pub ttl: Duration,
    /// The attributes; `ino` is the node id.
    pub attr: FileAttr,
    /// Tells lives of one node id apart.
    pub generation: Generation,
}

/// Attributes, and how long they may be shown without asking.
pub type Attributes = (Duration, FileAttr);

/// The state of one mount.
pub struct Volume {
    pub(crate) client: Client,
    inodes: Arc<InodeTable>,
    handles: HandleTable,
    /// The kernel can be made to forget names, so it may be told some to keep.
    names: AtomicBool,
}

impl Volume {
    /// A mount of that directory.
    pub fn new(client: Client, root: Arc<Node>) -> Volume {
        Volume {
            client,
            inodes: Arc::new(InodeTable::new(root)),
            handles: HandleTable::default(),
            names: AtomicBool::new(false),
        }
    }

    /// Has the kernel forget what leases covered before they are given back. Nothing is cached
    /// in the kernel without it.
    pub fn attached(&self, notifier: Notifier, device: OwnedFd) -> io::Result<()> {
        let inodes = self.inodes.clone();
        let kernel = KernelCache::start(notifier, device, inodes, &self.names)?;
        self.client.set_cache_sink(Arc::new(kernel));
        Ok(())
    }

    /// The session behind it.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What the kernel refers to.
    pub fn inodes(&self) -> &InodeTable {
        &self.inodes
    }

    fn inode(&self, ino: INodeNo) -> OpResult<Inode> {
        self.inodes.get(ino).ok_or(OpError::Stale)
    }

    /// A flare to look at or change.
    fn node(&self, ino: INodeNo) -> OpResult<Arc<Node>> {
        match self.inode(ino)? {
            Inode::Flare(node) => Ok(node),
            Inode::Dht(_) => Err(OpError::ReadOnly),
        }
    }

    /// A flare by the handle if there is one: a handle keeps its own incarnation.
    fn flare(&self, ino: INodeNo, fh: Option<FileHandle>) -> OpResult<FlareRef> {
        match self.handles.file(fh) {
            Some(flare) => Ok(flare),
            None => Ok(self.node(ino)?.flare()),
        }
    }

    fn handle(&self, fh: FileHandle) -> OpResult<Arc<Handle>> {
        self.handles.get(fh).ok_or(OpError::Stale)
    }

    /// What the kernel is told of a flare that was just made or linked: to keep nothing, because it
    /// takes these attributes without looking whether they were recalled on their way.
    fn new_entry(&self, parent: &Arc<Node>, name: &Name, found: Found) -> OpResult<Entry> {
        let entry = self.entry(parent, name, found)?;
        Ok(Entry {
            ttl: Duration::ZERO,
            ..entry
        })
    }

    /// What the kernel is told of a flare that it will refer to from now on.
    fn entry(&self, parent: &Arc<Node>, name: &Name, found: Found) -> OpResult<Entry> {
        let attr = &found.attr;
        if attr.ino() <= INodeNo::ROOT.0 {
            tracing::warn!(flare = %attr.flare, "a key whose inode number is reserved");
            return Err(OpError::Io);
        }
        self.inodes.seen(parent, name, attr.flare, attr.kind);
        let keeps = self.names.load(Ordering::Relaxed) && !self.inodes.has_old_pages(attr);
        let ttl = match keeps {
            true => self.client.name_left(parent.flare(), name, attr),
            false => Duration::ZERO,
        };
        Ok(Entry {
            ttl,
            attr: file_attr(attr),
            generation: generation(attr),
        })
    }

    fn attributes(&self, found: &Found, fh: Option<FileHandle>) -> Attributes {
        let attr = file_attr(&found.attr);
        match (self.inodes.has_old_pages(&found.attr), fh) {
            (false, _) => (self.client.attr_left(&found.attr), attr),
            (true, None) => (Duration::ZERO, attr),
            (true, Some(_)) => (Duration::ZERO, nudged(attr)),
        }
    }

    /// How long the kernel may keep that there is no such name.
    pub fn absent_left(&self, parent: INodeNo, name: &Name) -> Duration {
        match self.inode(parent) {
            Ok(Inode::Flare(dir)) if self.names.load(Ordering::Relaxed) => {
                self.client.absent_left(dir.flare(), name)
            }
            _ => Duration::ZERO,
        }
    }

    /// A name, if nobody need be asked.
    pub fn lookup_known(&self, parent: INodeNo, name: &Name) -> Option<OpResult<Entry>> {
        let Ok(Inode::Flare(dir)) = self.inode(parent) else {
            return None;
        };
        if is_dht(&dir, name) {
            return None;
        }
        match self.client.lookup_known(&dir, name)? {
            Ok(found) => Some(self.entry(&dir, name, found)),
            Err(error) => Some(Err(error)),
        }
    }

    /// Attributes, if nobody need be asked.
    pub fn getattr_known(&self, ino: INodeNo, fh: Option<FileHandle>) -> Option<Attributes> {
        let flare = match self.handles.file(fh) {
            Some(flare) => flare,
            None => match self.inode(ino).ok()? {
                Inode::Flare(node) => node.flare(),
                Inode::Dht(_) => return None,
            },
        };
        let attr = self.client.attr_known(flare)?;
        Some(self.attributes(&Found { attr }, fh))
    }

    /// A name.
    pub async fn lookup(
        &self,
        parent: INodeNo,
        name: &Name,
        cred: &Credentials,
    ) -> OpResult<Entry> {
        match self.inode(parent)? {
            Inode::Flare(dir) if is_dht(&dir, name) => self.dht_entry(DhtItem::Directory),
            Inode::Flare(dir) => {
                let found = self.client.lookup(&dir, name, cred).await?;
                self.entry(&dir, name, found)
            }
            Inode::Dht(DhtItem::Directory) => {
                let item = dht::lookup(&self.client.lava(), name).ok_or(OpError::NotFound)?;
                self.dht_entry(item)
            }
            Inode::Dht(DhtItem::Volcano(_)) => Err(OpError::NotDirectory),
        }
    }

    fn dht_entry(&self, item: DhtItem) -> OpResult<Entry> {
        let attr = dht::attr(&self.client.lava(), item).ok_or(OpError::NotFound)?;
        self.inodes.seen_dht(attr.ino.0, item);
        Ok(Entry {
            ttl: Duration::ZERO,
            attr,
            generation: Generation(0),
        })
    }

    /// Attributes.
    pub async fn getattr(
        &self,
        ino: INodeNo,
        fh: Option<FileHandle>,
        cred: &Credentials,
    ) -> OpResult<Attributes> {
        if self.handles.file(fh).is_none()
            && let Inode::Dht(item) = self.inode(ino)?
        {
            let attr = dht::attr(&self.client.lava(), item).ok_or(OpError::Stale)?;
            return Ok((Duration::ZERO, attr));
        }
        let found = self.client.getattr(self.flare(ino, fh)?, cred).await?;
        Ok(self.attributes(&found, fh))
    }

    /// Changes attributes.
    pub async fn setattr(
        &self,
        ino: INodeNo,
        fh: Option<FileHandle>,
        set: SetAttr,
        cred: &Credentials,
    ) -> OpResult<Attributes> {
        let flare = self.flare(ino, fh)?;
        if set.size.is_some() {
            self.handle_still_locked(fh)?;
        }
        // A handle that may write has passed the check at open; ftruncate needs no other.
        let by_handle = set.size.is_some() && self.is_writable(fh);
        let set = SetAttr { by_handle, ..set };
        let found = self.client.setattr(flare, set, cred).await?;
        // Told to keep nothing: the kernel takes these without looking whether they were recalled
        // on their way.
        Ok((Duration::ZERO, file_attr(&found.attr)))
    }

    fn is_writable(&self, fh: Option<FileHandle>) -> bool {
        let handle = fh.and_then(|fh| self.handles.get(fh));
        matches!(handle.as_deref(), Some(Handle::File(file)) if file.write)
    }

    /// The target of a symbolic link.
    pub async fn readlink(&self, ino: INodeNo, cred: &Credentials) -> OpResult<Vec<u8>> {
        let node = match self.inode(ino)? {
            Inode::Flare(node) => node,
            Inode::Dht(_) => return Err(OpError::Invalid),
        };
        self.client.readlink(node.flare(), cred).await
    }

    /// Creates a directory.
    pub async fn mkdir(
        &self,
        parent: INodeNo,
        name: &Name,
        mode: NewMode,
        cred: &Credentials,
    ) -> OpResult<Entry> {
        let dir = self.node(parent)?;
        let found = self.client.mkdir(&dir, name, mode, cred).await?;
        self.new_entry(&dir, name, found)
    }

    /// Creates a file, fifo, socket or device.
    pub async fn mknod(
        &self,
        parent: INodeNo,
        name: &Name,
        mode: NewMode,
        rdev: u32,
        cred: &Credentials,
    ) -> OpResult<Entry> {
        let dir = self.node(parent)?;
        let found = self.client.mknod(&dir, name, mode, rdev, cred).await?;
        self.new_entry(&dir, name, found)
    }

    /// Creates a symbolic link.
    pub async fn symlink(
        &self,
        parent: INodeNo,
        name: &Name,
        target: &[u8],
        cred: &Credentials,
    ) -> OpResult<Entry> {
        let dir = self.node(parent)?;
        let found = self.client.symlink(&dir, name, target, cred).await?;
        self.new_entry(&dir, name, found)
    }

    /// Adds a name.
    pub async fn link(
        &self,
        ino: INodeNo,
        parent: INodeNo,
        name: &Name,
        cred: &Credentials,
    ) -> OpResult<Entry> {
        let (node, dir) = (self.node(ino)?, self.node(parent)?);
        let found = self.client.link(node.flare(), &dir, name, cred).await?;
        self.new_entry(&dir, name, found)
    }

    /// Removes a name, or an empty directory.
    pub async fn remove(
        &self,
        parent: INodeNo,
        name: &Name,
        directory: bool,
        cred: &Credentials,
    ) -> OpResult<()> {
        let dir = self.node(parent)?;
        if directory {
            self.client.rmdir(&dir, name, cred).await?;
        } else {
            self.client.unlink(&dir, name, cred).await?;
        }
        Ok(())
    }

    /// Moves a name.
    pub async fn rename(
        &self,
        from: (INodeNo, &Name),
        to: (INodeNo, &Name),
        mode: RenameMode,
        cred: &Credentials,
    ) -> OpResult<()> {
        let (from_dir, to_dir) = (self.node(from.0)?, self.node(to.0)?);
        let source = (&from_dir, from.1);
        let destination = (&to_dir, to.1);
        let moved = self.client.rename(source, destination, mode, cred).await?;
        // What an exchange put at the source is learned at its next lookup.
        self.inodes.moved(moved.flare, &to_dir, to.1);
        Ok(())
    }

    /// Opens a file.
    pub async fn open(
        &self,
        ino: INodeNo,
        how: OpenHow,
        cred: &Credentials,
    ) -> OpResult<(FileHandle, FopenFlags)> {
        let node = match self.inode(ino)? {
            Inode::Flare(node) => node,
            Inode::Dht(_) if how.writes() => return Err(OpError::ReadOnly),
            Inode::Dht(DhtItem::Directory) => return Err(OpError::IsDirectory),
            Inode::Dht(DhtItem::Volcano(id)) => {
                let content = dht::content(&self.client.lava(), id).ok_or(OpError::Stale)?;
                let handle = Handle::DhtFile(Bytes::copy_from_slice(&content));
                return Ok((self.handles.insert(handle), FopenFlags::FOPEN_DIRECT_IO));
            }
        };
        let found = self.client.open(node.flare(), how.open_for(), cred).await?;
        let flags = self.open_flags(&found.attr, how);
        Ok((self.opened(found.attr.flare, how, cred), flags))
    }

    /// Opens a file, if nobody need be asked.
    pub fn open_known(
        &self,
        ino: INodeNo,
        how: OpenHow,
        cred: &Credentials,
    ) -> Option<(FileHandle, FopenFlags)> {
        let Ok(Inode::Flare(node)) = self.inode(ino) else {
            return None;
        };
        let attr = self.client.open_known(node.flare(), how.open_for(), cred)?;
        let flags = self.open_flags(&attr, how);
        Some((self.opened(attr.flare, how, cred), flags))
    }

    fn open_flags(&self, attr: &Attr, how: OpenHow) -> FopenFlags {
        open_flags(how, !how.writes() && self.inodes.opens_to_read(attr))
    }

    fn opened(&self, flare: FlareRef, how: OpenHow, cred: &Credentials) -> FileHandle {
        self.handles.insert(Handle::File(OpenFile {
            flare,
            opener: cred.clone(),
            write: how.open_for().write,
            lockers: Default::default(),
        }))
    }

    /// Creates and opens a file.
    pub async fn create(
        &self,
        parent: INodeNo,
        name: &Name,
        mode: NewMode,
        how: OpenHow,
        cred: &Credentials,
    ) -> OpResult<(Entry, FileHandle, FopenFlags)> {
        let dir = self.node(parent)?;
        let create = CreateOpen {
            mode,
            exclusive: how.is_exclusive(),
            open: how.open_for(),
        };
        let found = self.client.create_open(&dir, name, create, cred).await?;
        let (flare, attr) = (found.attr.flare, found.attr.clone());
        match self.new_entry(&dir, name, found) {
            Ok(entry) => {
                let flags = self.open_flags(&attr, how);
                Ok((entry, self.opened(flare, how, cred), flags))
            }
            Err(error) => {
                self.client.close_file(flare);
                Err(error)
            }
        }
    }

    /// What a handle stands for.
    pub(crate) fn opened_as(&self, fh: FileHandle) -> Option<Arc<Handle>> {
        self.handles.get(fh)
    }

    /// Lets go of a file, and of what was locked through it. The volcano hears of it in the
    /// background: close(2) does not wait.
    pub fn release(&self, fh: FileHandle, lock_owner: Option<u64>) {
        let Some(handle) = self.handles.remove(fh) else {
            return;
        };
        let Handle::File(file) = handle.as_ref() else {
            return;
        };
        if lock_owner.is_none() && locked(&file.lockers).is_empty() {
            return self.client.close_file(file.flare);
        }
        let client = self.client.clone();
        self.client.spawn(async move {
            if let Handle::File(file) = handle.as_ref() {
                Volume::release_locks(&client, file, lock_owner).await;
                client.close_file(file.flare);
            }
        });
    }

    /// Reads.
    pub async fn read(&self, fh: FileHandle, offset: u64, size: u32) -> OpResult<Bytes> {
        let size = size as usize;
        match self.handle(fh)?.as_ref() {
            // As whoever opened it: permission was checked then.
            Handle::File(file) => {
                self.still_locked(file)?;
                let cred = &file.opener;
                self.client.read(file.flare, offset, size, cred).await
            }
            Handle::DhtFile(content) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                let from = from.min(content.len());
                let to = from.saturating_add(size).min(content.len());
                Ok(content.slice(from..to))
            }
            Handle::Directory(_) | Handle::DhtDirectory => Err(OpError::IsDirectory),
        }
    }

    /// Writes. `writer` is the process's user and group, by which the owner decides whether
    /// set-id bits stay; the groups are those of the opener. None for pages that the kernel
    /// writes back by itself.
    pub async fn write(
        &self,
        fh: FileHandle,
        offset: u64,
        content: Bytes,
        how: OpenHow,
        writer: Option<(u32, u32)>,
    ) -> OpResult<u32> {
        let handle = self.handle(fh)?;
        let Handle::File(file) = handle.as_ref() else {
            return Err(OpError::ReadOnly);
        };
        self.still_locked(file)?;
        let (uid, gid) = writer.unwrap_or((file.opener.uid, file.opener.gid));
        let cred = Credentials {
            uid,
            gid,
            groups: file.opener.groups.clone(),
        };
        let mut how = how.write_how();
        // A mapped page has its place, whatever the flags of the file through which it
        // happens to be written back.
        how.append &= writer.is_some();
        let written = self
            .client
            .write(file.flare, offset, content, how, &cred)
            .await?;
        u32::try_from(written.count).map_err(|_| OpError::Io)
    }

    /// Puts a file or directory on the disks.
    pub async fn fsync(
        &self,
        ino: INodeNo,
        fh: FileHandle,
        data_only: bool,
        cred: &Credentials,
    ) -> OpResult<()> {
        let flare = match self.handles.get(fh).as_deref() {
            Some(Handle::File(file)) => {
                self.still_locked(file)?;
                file.flare
            }
            Some(Handle::Directory(dir)) => dir.node.flare(),
            Some(Handle::DhtFile(_) | Handle::DhtDirectory) => return Ok(()),
            None => self.node(ino)?.flare(),
        };
        self.client.fsync(flare, data_only, cred).await
    }

    /// Opens a directory. Asks nobody: the kernel has just looked it up, and the owner checks
    /// each listing.
    pub fn opendir(&self, ino: INodeNo) -> OpResult<FileHandle> {
        let handle = match self.inode(ino)? {
            Inode::Flare(node) if node.kind() == Kind::Directory => {
                Handle::Directory(OpenDirectory {
                    node,
                    window: Default::default(),
                })
            }
            Inode::Dht(DhtItem::Directory) => Handle::DhtDirectory,
            Inode::Flare(_) | Inode::Dht(_) => return Err(OpError::NotDirectory),
        };
        Ok(self.handles.insert(handle))
    }

    /// Lists a directory from an offset on.
    pub async fn readdir(
        &self,
        fh: FileHandle,
        offset: u64,
        cred: &Credentials,
    ) -> OpResult<DirPart> {
        match self.handle(fh)?.as_ref() {
            Handle::Directory(dir) => listing::read(&self.client, dir, offset, cred).await,
            Handle::DhtDirectory => {
                let lava = self.client.lava();
                let dots = listing::dots(offset, dht::directory_ino(), key::ROOT.ino());
                let items = dht::entries(&lava, offset)
                    .into_iter()
                    .map(|entry| DirItem {
                        ino: entry.ino,
                        cookie: entry.cookie,
                        kind: fuser::FileType::RegularFile,
                        name: entry.name,
                        flare: None,
                    });
                Ok(DirPart::of(dots, items.collect()))
            }
            Handle::File(_) | Handle::DhtFile(_) => Err(OpError::NotDirectory),
        }
    }

    /// Lists a directory with attributes. What the kernel is told of counts as looked up:
    /// [`Volume::plus_seen`] for each entry that went into the reply.
    pub async fn readdirplus(
        &self,
        fh: FileHandle,
        offset: u64,
        cred: &Credentials,
    ) -> OpResult<Vec<PlusItem>> {
        let part = self.readdir(fh, offset, cred).await?;
        let items: Vec<DirItem> = part.iter().take(listing::PLUS_BATCH).cloned().collect();
        let flares: Vec<FlareRef> = items.iter().filter_map(|item| item.flare).collect();
        let mut attrs = self.client.getattrs(&flares, cred).await.into_iter();
        let mut plus = Vec::with_capacity(items.len());
        for item in items {
            let attr = match item.flare {
                None => None,
                Some(_) => match attrs.next() {
                    Some(Ok(attr)) => Some(attr),
                    // Removed since it was listed.
                    Some(Err(OpError::Stale | OpError::NotFound)) => continue,
                    Some(Err(error)) if plus.is_empty() => return Err(error),
                    // The kernel asks again from here, and is told then.
                    Some(Err(_)) | None => break,
                },
            };
            plus.push(PlusItem { item, attr });
        }
        Ok(plus)
    }

    /// An entry is about to be told with READDIRPLUS.
    pub fn plus_seen(&self, fh: FileHandle, plus: &PlusItem) {
        let handle = self.handles.get(fh);
        if let Some(Handle::Directory(dir)) = handle.as_deref()
            && let Some(attr) = &plus.attr
            && let Ok(name) = Name::new(&plus.item.name)
        {
            self.inodes.seen(&dir.node, &name, attr.flare, attr.kind);
        }
    }

    /// The same entry did not fit after all.
    pub fn plus_unseen(&self, plus: &PlusItem) {
        if plus.attr.is_some() {
            self.inodes.forget(INodeNo(plus.item.ino), 1);
        }
    }

    /// A flare whose extended attributes are asked for; the internal directory has none.
    pub fn xattr_flare(&self, ino: INodeNo) -> OpResult<FlareRef> {
        match self.inode(ino)? {
            Inode::Flare(node) => Ok(node.flare()),
            Inode::Dht(_) => Err(OpError::Unsupported),
        }
    }
}

/// A line of a listing with attributes.
#[derive(Clone, Debug)]
pub struct PlusItem {
    /// The line.
    pub item: DirItem,
    /// The attributes; none for `.`, `..` and the internal directory.
    pub attr: Option<magma_core::flare::Attr>,
}

/// Whether a name is that of the internal directory.
fn is_dht(parent: &Arc<Node>, name: &Name) -> bool {
    parent.flare().key() == key::ROOT && name.as_bytes() == dht::NAME
}
