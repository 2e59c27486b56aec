//! The secret key as a person gives it.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::ConfigError;

/// The environment variable that may hold the secret key.
pub const KEY_VARIABLE: &str = "MAGMA_KEY";
/// Longest secret key in bytes.
pub const SECRET_MAX: usize = 1024;

/// The text of a secret key: wiped when dropped, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Zeroizing<String>);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}

impl SecretText {
    /// Takes a text.
    pub fn new(text: String) -> Result<SecretText, ConfigError> {
        let text = Zeroizing::new(text);
        if text.is_empty() {
            return Err(ConfigError::Secret("the secret key is empty".to_owned()));
        }
        if text.len() > SECRET_MAX {
            return Err(ConfigError::Secret(format!(
                "the secret key is longer than {SECRET_MAX} bytes"
            )));
        }
        Ok(SecretText(text))
    }

    /// Reads the first line of a file.
    pub fn from_file(path: &Path) -> Result<SecretText, ConfigError> {
        let failed = |reason: String| {
            ConfigError::Secret(format!("the key file {}: {reason}", path.display()))
        };
        let file = File::open(path).map_err(|error| failed(error.to_string()))?;
        let mut text = Zeroizing::new(String::with_capacity(SECRET_MAX + 3));
        file.take(SECRET_MAX as u64 + 2)
            .read_to_string(&mut text)
            .map_err(|error| failed(error.to_string()))?;
        let line = text.lines().next().unwrap_or_default();
        SecretText::new(line.to_owned()).map_err(|_| {
            failed(format!(
                "its first line must hold the secret key, 1 to {SECRET_MAX} bytes"
            ))
        })
    }

    /// The one that was given: as text, else in a file, else in the environment (whose value
    /// the caller has read).
    pub fn choose(
        text: Option<String>,
        file: Option<&Path>,
        variable: Option<String>,
    ) -> Result<SecretText, ConfigError> {
        match (text, file) {
            (Some(_), Some(_)) => Err(ConfigError::Secret(
                "give the secret key itself or a key file, not both".to_owned(),
            )),
            (Some(text), None) => SecretText::new(text),
            (None, Some(file)) => SecretText::from_file(file),
            (None, None) => match variable {
                Some(text) => SecretText::new(text),
                None => Err(ConfigError::Secret(format!(
                    "the secret key is missing: give it as an option, in a key file, or in the \
                     environment variable {KEY_VARIABLE}"
                ))),
            },
        }
    }

    /// The text, for the one who derives the network's keys from it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// Whether others than its owner may read a key file.
pub fn is_exposed(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o077 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(secret: Result<SecretText, ConfigError>) -> String {
        secret.unwrap().reveal().to_owned()
    }

    #[test]
    fn chosen_in_order_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "from-file\nsecond line\n").unwrap();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(text(SecretText::choose(some("a"), None, some("c"))), "a");
        assert_eq!(
            text(SecretText::choose(None, Some(&path), some("c"))),
            "from-file"
        );
        assert_eq!(text(SecretText::choose(None, None, some("c"))), "c");
        assert!(SecretText::choose(None, None, None).is_err());
        assert!(SecretText::choose(some("a"), Some(&path), None).is_err());
        assert!(SecretText::choose(some(""), None, None).is_err());
        std::fs::write(&path, "\n").unwrap();
        assert!(SecretText::from_file(&path).is_err());
        std::fs::write(&path, "x".repeat(SECRET_MAX + 1)).unwrap();
        assert!(SecretText::from_file(&path).is_err());
        let secret = SecretText::new("m4gm4s3cr3t".to_owned()).unwrap();
        assert!(!format!("{secret:?}").contains("m4gm4"));
    }
}
