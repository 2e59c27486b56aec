//! Absolute paths inside the tree, normalised once at the edge.

use std::fmt;

use super::name::{BadName, Name, write_escaped};
use crate::key::Key;
use crate::limits::PATH_MAX;

/// A normalised absolute path: starts with `/`, no empty, `.` or `..` component, no trailing
/// slash unless it is the root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlarePath(Vec<u8>);

/// Why a path was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// Longer than [`PATH_MAX`].
    #[error("the path is longer than 4095 bytes")]
    TooLong,
    /// A component is no name.
    #[error(transparent)]
    Component(#[from] BadName),
    /// Does not begin with a slash.
    #[error("the path does not begin with /")]
    Relative,
}

impl FlarePath {
    /// The root.
    pub fn root() -> FlarePath {
        FlarePath(b"/".to_vec())
    }

    /// Reads an absolute path; repeated slashes and `.` vanish, `..` goes up.
    pub fn parse(bytes: &[u8]) -> Result<FlarePath, BadPath> {
        if bytes.first() != Some(&b'/') {
            return Err(BadPath::Relative);
        }
        FlarePath::root().join(bytes)
    }

    /// Reads a path relative to this one; an absolute one begins at the root.
    pub fn join(&self, bytes: &[u8]) -> Result<FlarePath, BadPath> {
        if bytes.len() > PATH_MAX {
            return Err(BadPath::TooLong);
        }
        let mut path = if bytes.first() == Some(&b'/') {
            FlarePath::root()
        } else {
            self.clone()
        };
        for part in bytes.split(|&b| b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => path = path.parent(),
                name => path = path.child(&Name::new(name)?)?,
            }
        }
        Ok(path)
    }

    /// The path of a child.
    pub fn child(&self, name: &Name) -> Result<FlarePath, BadPath> {
        let mut path = self.0.clone();
        if !self.is_root() {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
        if path.len() > PATH_MAX {
            return Err(BadPath::TooLong);
        }
        Ok(FlarePath(path))
    }

    /// The path of the directory that holds this one; the root's is the root.
    pub fn parent(&self) -> FlarePath {
        match self.0.iter().rposition(|&b| b == b'/') {
            None | Some(0) => FlarePath::root(),
            Some(at) => FlarePath(self.0[..at].to_vec()),
        }
    }

    /// The names from the root down.
    pub fn names(&self) -> impl Iterator<Item = Name> + '_ {
        self.0
            .split(|&b| b == b'/')
            .filter_map(|part| Name::new(part).ok())
    }

    /// Whether it is `/`.
    pub fn is_root(&self) -> bool {
        self.0 == b"/"
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key at which a flare of this path is born.
    pub fn key(&self) -> Key {
        Key::of_path(&self.0)
    }
}

impl fmt::Display for FlarePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> String {
        FlarePath::parse(text.as_bytes())
            .expect("a path")
            .to_string()
    }

    #[test]
    fn normalises() {
        assert_eq!(path("/"), "/");
        assert_eq!(path("//etc/./x/../hostname/"), "/etc/hostname");
        assert_eq!(path("/../.."), "/");
        assert_eq!(FlarePath::parse(b"etc"), Err(BadPath::Relative));
        let etc = FlarePath::parse(b"/etc").expect("a path");
        assert_eq!(
            etc.join(b"../usr//lib").expect("a path").to_string(),
            "/usr/lib"
        );
        assert_eq!(etc.key(), Key::of_path(b"/etc"));
        assert_eq!(etc.names().count(), 1);
    }

    #[test]
    fn too_long() {
        let long = format!("/{}", "a/".repeat(2500));
        assert_eq!(FlarePath::parse(long.as_bytes()), Err(BadPath::TooLong));
        let most = format!("/{}", "a/".repeat(2047));
        assert_eq!(most.len(), 4095);
        assert!(FlarePath::parse(most.as_bytes()).is_ok());
    }
}
