//! Operations by path, for tools that work without a mount. Symbolic links are not followed.

use std::sync::Arc;

use magma_core::error::OpError;
use magma_core::flare::path::FlarePath;
use magma_core::flare::{Attr, Name};
use magma_core::limits::READDIR_BATCH;
use magma_core::op::{Credentials, ListedEntry};

use super::path::Node;
use super::{Client, ClientError};

/// Where a path leads.
#[derive(Clone, Debug)]
pub struct Walked {
    /// The flare, with its way back up.
    pub node: Arc<Node>,
    /// Its attributes.
    pub attr: Attr,
}

impl Client {
    /// Goes down a path from the root.
    pub async fn walk(&self, path: &FlarePath, cred: &Credentials) -> Result<Walked, ClientError> {
        let mut here = FlarePath::root();
        let root = self.root().await.map_err(at(&here))?;
        let found = self.getattr(root.flare(), cred).await;
        let mut walked = Walked {
            attr: found.map_err(at(&here))?.attr,
            node: root,
        };
        for name in path.names() {
            here = here
                .child(&name)
                .map_err(|_| at(path)(OpError::NameTooLong))?;
            let found = self.lookup(&walked.node, &name, cred).await;
            let attr = found.map_err(at(&here))?.attr;
            walked = Walked {
                node: Node::child(&walked.node, &name, attr.flare, attr.kind),
                attr,
            };
        }
        Ok(walked)
    }

    /// The directory that holds a path's last name, and that name. The root has none.
    pub async fn walk_to_parent(
        &self,
        path: &FlarePath,
        cred: &Credentials,
    ) -> Result<(Walked, Name), ClientError> {
        let Some(name) = path.names().last() else {
            return Err(at(path)(OpError::Invalid));
        };
        let parent = self.walk(&path.parent(), cred).await?;
        Ok((parent, name))
    }

    /// The content of a file, which must not be longer than `most` bytes.
    pub async fn read_all(
        &self,
        path: &FlarePath,
        most: u64,
        cred: &Credentials,
    ) -> Result<bytes::Bytes, ClientError> {
        let walked = self.walk(path, cred).await?;
        if walked.attr.size > most {
            return Err(at(path)(OpError::TooBig));
        }
        let size = usize::try_from(walked.attr.size).map_err(|_| at(path)(OpError::TooBig))?;
        let read = self.read(walked.attr.flare, 0, size, cred);
        read.await.map_err(at(path))
    }

    /// All entries of a directory, which must not be more than `most`.
    pub async fn list_all(
        &self,
        path: &FlarePath,
        most: usize,
        cred: &Credentials,
    ) -> Result<Vec<ListedEntry>, ClientError> {
        let dir = self.walk(path, cred).await?.attr.flare;
        let mut all: Vec<ListedEntry> = Vec::new();
        loop {
            let after = all.last().map_or(0, |entry| entry.cookie);
            let part = self.readdir(dir, after, READDIR_BATCH, cred).await;
            let part = part.map_err(at(path))?;
            all.extend(part.entries);
            if all.len() > most {
                return Err(at(path)(OpError::TooBig));
            }
            if part.end {
                return Ok(all);
            }
        }
    }
}

fn at(path: &FlarePath) -> impl FnOnce(OpError) -> ClientError {
    let path = path.clone();
    move |error| ClientError::At { path, error }
}
