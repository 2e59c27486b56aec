//! A file system in a map: what a client that is alone must see, exactly.

use std::collections::BTreeMap;

use magma_core::error::OpError;
use magma_core::flare::Kind;
use magma_core::op::RenameMode;

/// An absolute path as its names; the root has none.
pub type Path = Vec<&'static str>;
type Result<T> = std::result::Result<T, OpError>;

#[derive(Clone, Debug)]
enum Node {
    Directory(BTreeMap<&'static str, usize>),
    File { content: Vec<u8>, links: u32 },
}

/// What stat shows of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The type.
    pub kind: Kind,
    /// Size of a file.
    pub size: u64,
    /// Count of links.
    pub nlink: u32,
}

/// The file system.
#[derive(Clone, Debug)]
pub struct Model {
    nodes: Vec<Node>,
}

impl Default for Model {
    fn default() -> Model {
        Model {
            nodes: vec![Node::Directory(BTreeMap::new())],
        }
    }
}

impl Model {
    fn find(&self, path: &[&'static str]) -> Result<usize> {
        path.iter().try_fold(0, |at, name| match &self.nodes[at] {
            Node::Directory(names) => names.get(name).copied().ok_or(OpError::NotFound),
            Node::File { .. } => Err(OpError::NotDirectory),
        })
    }

    fn names(&mut self, at: usize) -> Result<&mut BTreeMap<&'static str, usize>> {
        match &mut self.nodes[at] {
            Node::Directory(names) => Ok(names),
            Node::File { .. } => Err(OpError::NotDirectory),
        }
    }

    fn parent(&self, path: &Path) -> Result<(usize, &'static str)> {
        let (name, above) = path.split_last().ok_or(OpError::Invalid)?;
        let at = self.find(above)?;
        match &self.nodes[at] {
            Node::Directory(_) => Ok((at, name)),
            Node::File { .. } => Err(OpError::NotDirectory),
        }
    }

    fn is_dir(&self, at: usize) -> bool {
        matches!(self.nodes[at], Node::Directory(_))
    }

    /// What a path shows.
    pub fn stat(&self, path: &Path) -> Result<Shown> {
        let at = self.find(path)?;
        Ok(match &self.nodes[at] {
            Node::Directory(names) => Shown {
                kind: Kind::Directory,
                size: 0,
                nlink: 2 + names.values().filter(|at| self.is_dir(**at)).count() as u32,
            },
            Node::File { content, links } => Shown {
                kind: Kind::File,
                size: content.len() as u64,
                nlink: *links,
            },
        })
    }

    /// A new file or directory.
    pub fn create(&mut self, path: &Path, kind: Kind) -> Result<()> {
        let (at, name) = self.parent(path)?;
        let new = self.nodes.len();
        let names = self.names(at)?;
        if names.contains_key(name) {
            return Err(OpError::Exists);
        }
        names.insert(name, new);
        self.nodes.push(match kind {
            Kind::Directory => Node::Directory(BTreeMap::new()),
            _ => Node::File {
                content: Vec::new(),
                links: 1,
            },
        });
        Ok(())
    }

    /// Removes a name.
    pub fn remove(&mut self, path: &Path, directory: bool) -> Result<()> {
        let (at, name) = self.parent(path)?;
        let child = self.find(path)?;
        match (&mut self.nodes[child], directory) {
            (Node::Directory(names), true) if !names.is_empty() => return Err(OpError::NotEmpty),
            (Node::Directory(_), true) => {}
            (Node::Directory(_), false) => return Err(OpError::IsDirectory),
            (Node::File { .. }, true) => return Err(OpError::NotDirectory),
            (Node::File { links, .. }, false) => *links -= 1,
        }
        self.names(at)?.remove(name);
        Ok(())
    }

    /// Another name of a file.
    pub fn link(&mut self, from: &Path, to: &Path) -> Result<()> {
        let child = self.find(from)?;
        let (at, name) = self.parent(to)?;
        if self.is_dir(child) {
            return Err(OpError::NotPermitted);
        }
        let names = self.names(at)?;
        if names.contains_key(name) {
            return Err(OpError::Exists);
        }
        names.insert(name, child);
        if let Node::File { links, .. } = &mut self.nodes[child] {
            *links += 1;
        }
        Ok(())
    }

    /// Moves a name. Paths where one lies in the other are not asked for.
    pub fn rename(&mut self, from: &Path, to: &Path, mode: RenameMode) -> Result<()> {
        let child = self.find(from)?;
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        let there = self.names(to_dir)?.get(to_name).copied();
        match (there, mode) {
            (Some(_), RenameMode::NoReplace) => return Err(OpError::Exists),
            (None, RenameMode::Exchange) => return Err(OpError::NotFound),
            (Some(other), _) if other == child => return Ok(()),
            (Some(other), RenameMode::Exchange) => {
                self.names(from_dir)?.insert(from_name, other);
                self.names(to_dir)?.insert(to_name, child);
                return Ok(());
            }
            (Some(other), RenameMode::Replace) => {
                match (self.is_dir(child), &mut self.nodes[other]) {
                    (true, Node::File { .. }) => return Err(OpError::NotDirectory),
                    (false, Node::Directory(_)) => return Err(OpError::IsDirectory),
                    (true, Node::Directory(names)) if !names.is_empty() => {
                        return Err(OpError::NotEmpty);
                    }
                    (true, Node::Directory(_)) => {}
                    (false, Node::File { links, .. }) => *links -= 1,
                }
            }
            (None, _) => {}
        }
        self.names(from_dir)?.remove(from_name);
        self.names(to_dir)?.insert(to_name, child);
        Ok(())
    }

    /// Writes into a file; returns its size.
    pub fn write(&mut self, path: &Path, offset: Option<usize>, data: &[u8]) -> Result<u64> {
        let at = self.find(path)?;
        let Node::File { content, .. } = &mut self.nodes[at] else {
            return Err(OpError::IsDirectory);
        };
        let offset = offset.unwrap_or(content.len());
        let end = offset + data.len();
        content.resize(content.len().max(end), 0);
        content[offset..end].copy_from_slice(data);
        Ok(content.len() as u64)
    }

    /// Cuts a file, or leaves a hole at its end.
    pub fn truncate(&mut self, path: &Path, size: usize) -> Result<()> {
        let at = self.find(path)?;
        match &mut self.nodes[at] {
            Node::File { content, .. } => content.resize(size, 0),
            Node::Directory(_) => return Err(OpError::IsDirectory),
        }
        Ok(())
    }

    /// The content of a file.
    pub fn read(&self, path: &Path) -> Result<Vec<u8>> {
        match &self.nodes[self.find(path)?] {
            Node::File { content, .. } => Ok(content.clone()),
            Node::Directory(_) => Err(OpError::IsDirectory),
        }
    }

    /// The names of a directory, sorted.
    pub fn list(&self, path: &Path) -> Result<Vec<String>> {
        match &self.nodes[self.find(path)?] {
            Node::Directory(names) => Ok(names.keys().map(|name| (*name).to_owned()).collect()),
            Node::File { .. } => Err(OpError::NotDirectory),
        }
    }
}
