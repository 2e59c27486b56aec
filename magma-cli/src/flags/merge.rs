//! Where the options of `magmad` come from: the command line, the environment, the file of
//! options, and systemd, in this order.

use std::path::{Path, PathBuf};

use super::MagmadFlags;

/// The credential of systemd that is the secret key (`LoadCredential=key:FILE`).
const KEY_CREDENTIAL: &str = "key";

/// What the surroundings of the process offer.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// The secret key from the environment.
    pub key_variable: Option<String>,
    /// Where systemd keeps what belongs to the service (`$STATE_DIRECTORY`).
    pub state_dir: Option<PathBuf>,
    /// Where systemd has put secrets (`$CREDENTIALS_DIRECTORY`).
    pub credentials: Option<PathBuf>,
}

impl Surroundings {
    /// Those of this process, with the key that was taken from them.
    pub fn of_process(key_variable: Option<String>) -> Surroundings {
        let path = |name| std::env::var_os(name).map(PathBuf::from);
        Surroundings {
            key_variable,
            state_dir: path("STATE_DIRECTORY"),
            credentials: path("CREDENTIALS_DIRECTORY"),
        }
    }
}

impl MagmadFlags {
    /// Where the store is, by the command line, the file, or systemd.
    pub fn dir_with(&self, file: &MagmadFlags, around: &Surroundings) -> Option<PathBuf> {
        let told = self.dir.as_ref().or(file.dir.as_ref());
        told.or(around.state_dir.as_ref()).cloned()
    }

    /// Completes what the command line says.
    ///
    /// In the file, `bootstrap` and `join` say how the volcano came to be: they mean something
    /// only while its directory is empty (`founded` is false), so that the same file serves the
    /// first start and all that follow. On the command line they are an order.
    pub fn complete(self, file: MagmadFlags, around: &Surroundings, founded: bool) -> MagmadFlags {
        let dir = self.dir_with(&file, around);
        let told_how = self.bootstrap || self.remote.is_some() || self.rejoin;
        let rejoin = self.rejoin || (file.rejoin && !told_how);
        let begins = !told_how && !founded && !rejoin;
        let bootstrap = self.bootstrap || (begins && file.bootstrap);
        // Whoever joins again may do so by way of the volcano that the file names.
        let contact = file
            .remote
            .filter(|_| begins || (rejoin && self.remote.is_none()));
        let remote = self.remote.or(contact);
        let joins = remote.is_some() && !rejoin;
        let (key, key_file) = if self.key.is_some() || self.key_file.is_some() {
            (self.key, self.key_file)
        } else if around.key_variable.is_some() {
            (None, None)
        } else if file.key.is_some() || file.key_file.is_some() {
            (file.key, file.key_file)
        } else {
            (None, around.credentials.as_deref().and_then(credential))
        };
        MagmadFlags {
            nick: self.nick.or(file.nick),
            fqdn: self.fqdn.or(file.fqdn),
            key,
            key_file,
            address: self.address.or(file.address),
            bootstrap,
            remote,
            dir,
            port: self.port.or(file.port),
            bandwidth: self.bandwidth.or(file.bandwidth),
            storage: self.storage.or(file.storage),
            debug: if self.debug.is_empty() {
                file.debug
            } else {
                self.debug
            },
            debug_all: self.debug_all || file.debug_all,
            redundancy: self.redundancy.or(file.redundancy.filter(|_| bootstrap)),
            arbiter: self.arbiter || (file.arbiter && joins),
            rejoin,
            evict_after: self.evict_after.or(file.evict_after),
            config: self.config,
            version: self.version,
        }
    }
}

/// The key among systemd's credentials, if it is there.
fn credential(dir: &Path) -> Option<PathBuf> {
    let path = dir.join(KEY_CREDENTIAL);
    path.exists().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::ffi::OsString;

    use crate::flags::file;

    fn line(text: &str) -> MagmadFlags {
        let arguments = text.split_whitespace().map(OsString::from);
        MagmadFlags::read(std::iter::once("magmad".into()).chain(arguments).collect()).unwrap()
    }

    fn merged(arguments: &str, text: &str, founded: bool) -> MagmadFlags {
        let file = file::parse(Path::new("f"), text).unwrap();
        line(arguments).complete(file, &Surroundings::default(), founded)
    }

    #[test]
    fn the_command_line_wins() {
        let file = "nick = \"a\"\nport = 1\ndir = \"/a\"\ndebug = \"f\"\nkey-file = \"/k\"";
        let flags = merged("-n b -d /b -k secret", file, false);
        assert_eq!(flags.nick.as_deref(), Some("b"));
        assert_eq!(flags.dir.as_deref(), Some(Path::new("/b")));
        assert_eq!((flags.port, flags.debug), (Some(1), vec!["f".to_owned()]));
        assert_eq!(
            (flags.key.as_deref(), flags.key_file),
            (Some("secret"), None)
        );
    }

    #[test]
    fn a_file_says_how_it_began_and_a_line_gives_an_order() {
        let join = "join = \"h\"\narbiter = true";
        let first = merged("", join, false);
        assert_eq!((first.remote.as_deref(), first.arbiter), (Some("h"), true));
        let later = merged("", join, true);
        assert_eq!((later.remote, later.arbiter), (None, false));
        let other = merged("-r i", join, true);
        assert_eq!(other.remote.as_deref(), Some("i"));
        let begins = merged("-b", join, false);
        assert!(begins.bootstrap && begins.remote.is_none() && !begins.arbiter);
        let again = merged("--rejoin", join, true);
        assert_eq!((again.remote.as_deref(), again.arbiter), (Some("h"), false));

        let bootstrap = "bootstrap = true\nredundancy = 2";
        let first = merged("", bootstrap, false);
        assert_eq!((first.bootstrap, first.redundancy), (true, Some(2)));
        let later = merged("", bootstrap, true);
        assert_eq!((later.bootstrap, later.redundancy), (false, None));
        let joins = merged("-r h", bootstrap, false);
        assert_eq!((joins.bootstrap, joins.redundancy), (false, None));
        assert!(!merged("--rejoin", bootstrap, true).bootstrap);
    }

    #[test]
    fn keys_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let credential = dir.path().join("key");
        std::fs::write(&credential, "secret\n").unwrap();
        let mut around = Surroundings {
            credentials: Some(dir.path().to_owned()),
            state_dir: Some("/var/lib/magma/x".into()),
            key_variable: None,
        };
        let empty = MagmadFlags::default;
        let flags = line("").complete(empty(), &around, false);
        assert_eq!(flags.key_file, Some(credential.clone()));
        assert_eq!(flags.dir.as_deref(), Some(Path::new("/var/lib/magma/x")));
        let file = || file::parse(Path::new("f"), "key-file = \"/k\"").unwrap();
        let flags = line("").complete(file(), &around, false);
        assert_eq!(flags.key_file.as_deref(), Some(Path::new("/k")));
        around.key_variable = Some("v".into());
        let flags = line("").complete(file(), &around, false);
        assert_eq!((flags.key, flags.key_file), (None, None));
        let flags = line("--key-file /l").complete(file(), &around, false);
        assert_eq!(flags.key_file.as_deref(), Some(Path::new("/l")));
        std::fs::remove_file(&credential).unwrap();
        around.key_variable = None;
        let flags = line("").complete(empty(), &around, false);
        assert_eq!(flags.key_file, None);
    }
}
