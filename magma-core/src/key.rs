//! The 160-bit key space.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha1::{Digest, Sha1};
use std::fmt;
use std::str::FromStr;

/// A key: the SHA-1 of a flare's absolute path at its birth.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub [u8; 20]);

/// The key of `/`, where every walk begins.
pub const ROOT: Key = Key([
    0x42, 0x09, 0x9b, 0x4a, 0xf0, 0x21, 0xe5, 0x3f, 0xd8, 0xfd, 0x4e, 0x05, 0x6c, 0x25, 0x68, 0xd7,
    0xc2, 0xe3, 0xff, 0xa8,
]);

/// The key of `/.dht`, whose holder is the coordinator.
pub const DHT: Key = Key([
    0xa1, 0x40, 0x2b, 0x54, 0xc4, 0x5a, 0x52, 0x8a, 0x94, 0xd0, 0xca, 0x34, 0x19, 0xb9, 0x91, 0x03,
    0x0f, 0xbd, 0x13, 0x0b,
]);

impl Key {
    /// The lowest key.
    pub const MIN: Key = Key([0x00; 20]);
    /// The highest key.
    pub const MAX: Key = Key([0xff; 20]);

    /// The key of a normalised absolute path (bytes, no trailing slash unless it is `/`).
    pub fn of_path(path: &[u8]) -> Key {
        Key(Sha1::digest(path).into())
    }

    /// The `n`th key to try for a path whose birth key is taken: `SHA-1(path ‖ 0x00 ‖ n)`,
    /// with `n` in decimal digits; `n` = 0 is the birth key itself.
    pub fn of_path_nth(path: &[u8], n: u32) -> Key {
        if n == 0 {
            return Key::of_path(path);
        }
        let mut hash = Sha1::new();
        hash.update(path);
        hash.update([0]);
        hash.update(n.to_string().as_bytes());
        Key(hash.finalize().into())
    }

    /// The inode number: the first 64 bits.
    pub fn ino(self) -> u64 {
        let mut prefix = [0; 8];
        prefix.copy_from_slice(&self.0[..8]);
        u64::from_be_bytes(prefix)
    }

    /// The lowest key with these first 64 bits.
    pub fn from_prefix(prefix: u64) -> Key {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&prefix.to_be_bytes());
        Key(bytes)
    }

    /// The highest key with these first 64 bits.
    pub fn prefix_end(prefix: u64) -> Key {
        let mut bytes = [0xff; 20];
        bytes[..8].copy_from_slice(&prefix.to_be_bytes());
        Key(bytes)
    }

    /// The key after this one; none after [`Key::MAX`].
    pub fn next(self) -> Option<Key> {
        let mut bytes = self.0;
        for byte in bytes.iter_mut().rev() {
            let (sum, carry) = byte.overflowing_add(1);
            *byte = sum;
            if !carry {
                return Some(Key(bytes));
            }
        }
        None
    }

    /// The key before this one; none before [`Key::MIN`].
    pub fn prev(self) -> Option<Key> {
        let mut bytes = self.0;
        for byte in bytes.iter_mut().rev() {
            let (difference, borrow) = byte.overflowing_sub(1);
            *byte = difference;
            if !borrow {
                return Some(Key(bytes));
            }
        }
        None
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not 40 hexadecimal digits.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a key is 40 hexadecimal digits")]
pub struct BadKey;

impl FromStr for Key {
    type Err = BadKey;
    fn from_str(text: &str) -> Result<Key, BadKey> {
        let text = text.as_bytes();
        if text.len() != 40 {
            return Err(BadKey);
        }
        let digit = |c: u8| (c as char).to_digit(16).ok_or(BadKey);
        let mut bytes = [0; 20];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Ok(Key(bytes))
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Key, D::Error> {
        struct Bytes20;
        impl<'de> serde::de::Visitor<'de> for Bytes20 {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("20 bytes")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Key, E> {
                bytes
                    .try_into()
                    .map(Key)
                    .map_err(|_| E::invalid_length(bytes.len(), &self))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Key, A::Error> {
                let mut key = [0; 20];
                for (at, byte) in key.iter_mut().enumerate() {
                    *byte = seq
                        .next_element()?
                        .ok_or_else(|| serde::de::Error::invalid_length(at, &self))?;
                }
                Ok(Key(key))
            }
        }
        deserializer.deserialize_bytes(Bytes20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors() {
        for (path, hex) in [
            ("/", "42099b4af021e53fd8fd4e056c2568d7c2e3ffa8"),
            ("/etc", "c0bc6f00fb44f015c1ed113e5bb202fd0597bec2"),
            ("/etc/hostname", "d9c5f609a163521eb09b8bce743db9459da8aa83"),
            ("/.dht", "a1402b54c45a528a94d0ca3419b991030fbd130b"),
        ] {
            assert_eq!(Key::of_path(path.as_bytes()).to_string(), hex);
            assert_eq!(hex.parse(), Ok(Key::of_path(path.as_bytes())));
        }
        assert_eq!(Key::of_path(b"/"), ROOT);
        assert_eq!(Key::of_path(b"/.dht"), DHT);
    }

    #[test]
    fn neighbours() {
        assert_eq!(Key::MAX.next(), None);
        assert_eq!(Key::MIN.prev(), None);
        let carry = Key::prefix_end(7);
        assert_eq!(carry.next(), Some(Key::from_prefix(8)));
        assert_eq!(Key::from_prefix(8).prev(), Some(carry));
        assert_eq!(ROOT.next().and_then(Key::prev), Some(ROOT));
    }

    #[test]
    fn refused_texts() {
        for text in ["", "42", "42099b4af021e53fd8fd4e056c2568d7c2e3ffag"] {
            assert_eq!(text.parse::<Key>(), Err(BadKey));
        }
    }
}
