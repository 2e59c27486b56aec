//! Ranges of open files without data from the process: reserved, emptied, searched, copied.

use fuser::FileHandle;
use magma_core::error::{OpError, OpResult};
use magma_core::op::AllocateHow;

use super::Volume;
use crate::handles::Handle;

impl Volume {
    /// fallocate(2), with its mode.
    pub async fn allocate(&self, fh: FileHandle, offset: u64, len: u64, mode: i32) -> OpResult<()> {
        let how = allocate_how(mode)?;
        let handle = self.handle(fh)?;
        let Handle::File(file) = handle.as_ref() else {
            return Err(OpError::ReadOnly);
        };
        self.still_locked(file)?;
        let client = &self.client;
        client
            .allocate(file.flare, offset, len, how, &file.opener)
            .await
    }

    /// lseek(2) with `SEEK_DATA` or `SEEK_HOLE`; the kernel does the others by itself.
    pub async fn seek(&self, fh: FileHandle, offset: i64, whence: i32) -> OpResult<i64> {
        let data = match whence {
            libc::SEEK_DATA => true,
            libc::SEEK_HOLE => false,
            _ => return Err(OpError::Invalid),
        };
        let offset = u64::try_from(offset).map_err(|_| OpError::NoData)?;
        let found = match self.handle(fh)?.as_ref() {
            Handle::File(file) => {
                self.still_locked(file)?;
                let client = &self.client;
                client.seek(file.flare, offset, data, &file.opener).await?
            }
            Handle::DhtFile(content) => match content.len() as u64 {
                len if offset >= len => return Err(OpError::NoData),
                _ if data => offset,
                len => len,
            },
            Handle::Directory(_) | Handle::DhtDirectory => return Err(OpError::IsDirectory),
        };
        i64::try_from(found).map_err(|_| OpError::TooBig)
    }

    /// copy_file_range(2). Returns how many bytes were copied; the caller goes on from there.
    /// Files of `/.dht` are copied by the kernel, as between two file systems.
    pub async fn copy_range(
        &self,
        from: (FileHandle, u64),
        to: (FileHandle, u64),
        len: u64,
    ) -> OpResult<u32> {
        let (source, target) = (self.handle(from.0)?, self.handle(to.0)?);
        let (Handle::File(source), Handle::File(target)) = (source.as_ref(), target.as_ref())
        else {
            return Err(OpError::Unsupported);
        };
        self.still_locked(source)?;
        self.still_locked(target)?;
        let (from, to) = ((source.flare, from.1), (target.flare, to.1));
        self.client.copy_range(from, to, len, &target.opener).await
    }
}

/// The modes of fallocate(2) that there are here: no range is taken out or put in.
fn allocate_how(mode: i32) -> OpResult<AllocateHow> {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
    const ZERO_KEEP: i32 = ZERO | KEEP;
    match mode {
        0 => Ok(AllocateHow::Extend),
        KEEP => Ok(AllocateHow::KeepSize),
        PUNCH => Ok(AllocateHow::Punch),
        ZERO => Ok(AllocateHow::Zero),
        ZERO_KEEP => Ok(AllocateHow::ZeroKeepSize),
        _ => Err(OpError::Unsupported),
    }
}
