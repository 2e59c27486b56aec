//! Names of directory entries, validated once at the edge.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::sync::Arc;

use crate::limits::NAME_MAX;

/// A name that a directory entry may have: 1 to 255 bytes, no slash, no NUL, not `.` or `..`.
/// Any other byte is allowed, as on every Linux file system.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<[u8]>);

/// Why a name was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Longer than [`NAME_MAX`].
    #[error("the name is longer than 255 bytes")]
    TooLong,
    /// Empty, `.`, `..`, or with a slash or NUL.
    #[error("a name is not empty, not . or .., and has no slash and no NUL")]
    Invalid,
}

impl Name {
    /// Checks and takes a name.
    pub fn new(bytes: &[u8]) -> Result<Name, BadName> {
        if bytes.len() > NAME_MAX {
            return Err(BadName::TooLong);
        }
        let reserved = matches!(bytes, b"" | b"." | b"..");
        if reserved || bytes.iter().any(|b| matches!(b, 0 | b'/')) {
            return Err(BadName::Invalid);
        }
        Ok(Name(bytes.into()))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl fmt::Display for Name {
    /// As text for a person: bytes that are not UTF-8, and control characters, are escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, &self.0)
    }
}

/// Writes bytes for a person: UTF-8 as it is, control characters and the rest as `\x..`.
pub fn write_escaped(f: &mut impl fmt::Write, bytes: &[u8]) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        for byte in chunk.invalid() {
            write!(f, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        let bytes = serde_bytes::ByteBuf::deserialize(deserializer)?;
        Name::new(&bytes).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges() {
        assert!(Name::new(&[b'a'; 255]).is_ok());
        assert_eq!(Name::new(&[b'a'; 256]), Err(BadName::TooLong));
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
            assert_eq!(Name::new(bad), Err(BadName::Invalid));
        }
        for good in [&b"..."[..], b"a\nb", b"\xff\xfe", b" "] {
            assert!(Name::new(good).is_ok());
        }
        assert_eq!(
            Name::new(b"a\n\xffb").expect("valid").to_string(),
            "a\\n\\xffb"
        );
    }
}
