//! From a path to what it names: one lookup a name, from the root down.

use magma_core::error::OpError;
use magma_core::flare::path::{BadPath, FlarePath};
use magma_core::flare::{Attr, Kind, Name};
use magma_core::ids::{FlareRef, VolcanoId};
use magma_core::limits::{PATH_MAX, SYMLINK_HOPS_MAX};

use super::ask::{self, AskError};
use super::backend::Backend;
use super::render;

/// The name of the internal directory in the root. It is made from the lava, here and now,
/// and is there also while the network is not.
pub const DHT_NAME: &[u8] = b".dht";

/// Whether a symbolic link at the end of the path stands for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastLink {
    /// What it leads to is meant.
    Follow,
    /// The link is meant.
    Keep,
}

/// Where a path leads.
#[derive(Clone, Debug)]
pub struct Place {
    /// The path without links and `..`.
    pub path: FlarePath,
    /// What is there.
    pub node: Node,
    /// The directory that holds it, and its name there; none for the root and inside `/.dht`.
    pub entry: Option<(FlareRef, Name)>,
}

/// What a path names.
#[derive(Clone, Debug)]
pub enum Node {
    /// A flare.
    Flare(Box<Attr>),
    /// `/.dht`.
    Dht,
    /// A volcano's file in `/.dht`.
    Volcano(VolcanoId),
}

/// Why a path leads nowhere.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct WalkError {
    /// As far as we came.
    pub path: String,
    /// Why not further.
    pub reason: Obstacle,
}

/// What is in the way.
#[derive(Debug, thiserror::Error)]
pub enum Obstacle {
    /// The owner of a directory or flare.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// It is no path.
    #[error(transparent)]
    Path(#[from] BadPath),
    /// Links that lead to links.
    #[error("more than {SYMLINK_HOPS_MAX} symbolic links on the way")]
    Loop,
    /// A link with an absolute target, which begins at the root of a client.
    #[error("it is a symbolic link to {0}, which only means something on a mount")]
    Outside(String),
}

impl From<OpError> for Obstacle {
    fn from(error: OpError) -> Obstacle {
        Obstacle::Ask(AskError::Op(error))
    }
}

/// Walks a path, relative to a directory unless it begins with a slash.
pub async fn walk(
    backend: &dyn Backend,
    from: &FlarePath,
    path: &[u8],
    last: LastLink,
) -> Result<Place, WalkError> {
    let mut walk = Walk {
        backend,
        root: None,
        down: Vec::new(),
        ahead: Vec::new(),
        hops: 0,
    };
    let goal = || {
        if path.starts_with(b"/") {
            render::escaped(path)
        } else {
            render::escaped(&[from.as_bytes(), b"/", path].concat()).replacen("//", "/", 1)
        }
    };
    if path.len() > PATH_MAX {
        return Err(WalkError {
            path: goal(),
            reason: BadPath::TooLong.into(),
        });
    }
    walk.look_ahead(path);
    if !path.starts_with(b"/") {
        walk.look_ahead(from.as_bytes());
    }
    match walk.run(last).await {
        Ok(place) => Ok(place),
        Err((at, reason)) => Err(WalkError {
            path: at.map_or_else(goal, |path| path.to_string()),
            reason,
        }),
    }
}

struct Walk<'a> {
    backend: &'a dyn Backend,
    root: Option<Attr>,
    /// The names behind us, from the root.
    down: Vec<(Name, Node)>,
    /// The names ahead, the next one last.
    ahead: Vec<Vec<u8>>,
    hops: usize,
}

/// The path at which the walk has ended, if it is known better than what was typed.
type Stuck = (Option<FlarePath>, Obstacle);

impl Walk<'_> {
    fn look_ahead(&mut self, path: &[u8]) {
        let parts = path.split(|&byte| byte == b'/').rev();
        let parts = parts.filter(|part| !part.is_empty() && *part != b".");
        self.ahead.extend(parts.map(<[u8]>::to_vec));
    }

    async fn run(&mut self, last: LastLink) -> Result<Place, Stuck> {
        while let Some(part) = self.ahead.pop() {
            if part == b".." {
                self.down.pop();
                continue;
            }
            let name = Name::new(&part).map_err(|bad| (None, BadPath::from(bad).into()))?;
            let path = self.path_to(&name).map_err(|bad| (None, bad.into()))?;
            let node = self
                .child(&name)
                .await
                .map_err(|why| (Some(path.clone()), why))?;
            let follow = !self.ahead.is_empty() || last == LastLink::Follow;
            match &node {
                Node::Flare(attr) if attr.kind == Kind::Symlink && follow => {
                    let target = self.target(attr).await.map_err(|why| (Some(path), why))?;
                    self.look_ahead(&target);
                }
                _ => self.down.push((name, node)),
            }
        }
        self.arrive().await
    }

    async fn arrive(&mut self) -> Result<Place, Stuck> {
        let Some((name, node)) = self.down.pop() else {
            let root = self
                .root()
                .await
                .map_err(|why| (Some(FlarePath::root()), why))?;
            return Ok(Place {
                path: FlarePath::root(),
                node: Node::Flare(Box::new(root)),
                entry: None,
            });
        };
        let path = self.path_to(&name).map_err(|bad| (None, bad.into()))?;
        let parent = match self.down.last() {
            None => self.root.as_ref(),
            Some((_, Node::Flare(attr))) => Some(&**attr),
            Some(_) => None,
        };
        let entry = match &node {
            Node::Flare(_) => parent.map(|parent| (parent.flare, name)),
            Node::Dht | Node::Volcano(_) => None,
        };
        Ok(Place { path, node, entry })
    }

    fn path_to(&self, name: &Name) -> Result<FlarePath, BadPath> {
        let names = self.down.iter().map(|(name, _)| name).chain([name]);
        let mut bytes = Vec::new();
        for name in names {
            bytes.push(b'/');
            bytes.extend_from_slice(name.as_bytes());
        }
        FlarePath::parse(&bytes)
    }

    async fn child(&mut self, name: &Name) -> Result<Node, Obstacle> {
        let parent = match self.down.last() {
            None if name.as_bytes() == DHT_NAME => return Ok(Node::Dht),
            None => self.root().await?,
            Some((_, Node::Flare(attr))) => (**attr).clone(),
            Some((_, Node::Dht)) => {
                let lava = self.backend.lava();
                let mut volcanos = lava.volcanos.iter();
                let found = volcanos.find(|v| v.info.nick.as_bytes() == name.as_bytes());
                let found = found.ok_or(OpError::NotFound)?;
                return Ok(Node::Volcano(found.id));
            }
            Some((_, Node::Volcano(_))) => return Err(OpError::NotDirectory.into()),
        };
        if parent.kind != Kind::Directory {
            return Err(OpError::NotDirectory.into());
        }
        let attr = match ask::lookup(self.backend, parent.flare, name).await {
            // The name may stand for another flare by now: only the directory knows.
            Err(AskError::Op(OpError::Stale)) => {
                ask::lookup(self.backend, parent.flare, name).await?
            }
            other => other?,
        };
        Ok(Node::Flare(Box::new(attr)))
    }

    async fn target(&mut self, link: &Attr) -> Result<Vec<u8>, Obstacle> {
        self.hops += 1;
        if self.hops > SYMLINK_HOPS_MAX {
            return Err(Obstacle::Loop);
        }
        let target = ask::read_link(self.backend, link.flare).await?;
        if target.starts_with(b"/") {
            return Err(Obstacle::Outside(render::escaped(&target)));
        }
        if target.len() > PATH_MAX {
            return Err(BadPath::TooLong.into());
        }
        Ok(target)
    }

    /// Asked for only when it is needed: inside `/.dht` it is not.
    async fn root(&mut self) -> Result<Attr, Obstacle> {
        if let Some(root) = &self.root {
            return Ok(root.clone());
        }
        let root = ask::root(self.backend).await?;
        self.root = Some(root.clone());
        Ok(root)
    }
}
