//! The options of `magmad` from a file: TOML, one key an option, the long names of the command
//! line. Everything is checked while the file is read, so that what is wrong can be said with
//! the number of its line.

use std::fmt::Display;
use std::io::Read;
use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use magma_actors::config::secret::SecretText;
use magma_actors::config::{
    DEFAULT_PORT, DebugMask, HostPort, PORT_MAX, REDUNDANCY_MAX, check_fqdn, check_nick,
};
use magma_core::limits::CONFIG_FILE_MAX;
use serde::Deserialize;
use toml::Spanned;

use super::{GIGABYTE, MagmadFlags, check_address};
use crate::output::one_line;

/// The file that is read when none is named, and only if it is there.
pub const DEFAULT_FILE: &str = "/etc/magma/magmad.toml";

/// Why a file of options was refused: one line for a person.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It cannot be meant.
    #[error("{} is longer than {CONFIG_FILE_MAX} bytes", path.display())]
    TooLong {
        /// Which file.
        path: PathBuf,
    },
    /// A line of it is wrong.
    #[error("{}, line {line}: {reason}", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Its number, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
}

/// What may stand in the file. The same names as the long options: a test compares them.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Table {
    nick: Option<Spanned<String>>,
    fqdn: Option<Spanned<String>>,
    key: Option<Spanned<String>>,
    key_file: Option<Spanned<PathBuf>>,
    address: Option<Spanned<IpAddr>>,
    bootstrap: Option<Spanned<bool>>,
    join: Option<Spanned<String>>,
    dir: Option<Spanned<PathBuf>>,
    port: Option<Spanned<u16>>,
    bandwidth: Option<Spanned<u64>>,
    storage: Option<Spanned<u64>>,
    debug: Option<Spanned<String>>,
    debug_all: Option<Spanned<bool>>,
    redundancy: Option<Spanned<u8>>,
    arbiter: Option<Spanned<bool>>,
    rejoin: Option<Spanned<bool>>,
    evict_after: Option<Spanned<u64>>,
}

/// Reads a file of options.
pub fn read(path: &Path) -> Result<MagmadFlags, FileError> {
    let failed = |source| FileError::Read {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    let len = file
        .take(CONFIG_FILE_MAX + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if len as u64 > CONFIG_FILE_MAX {
        return Err(FileError::TooLong {
            path: path.to_owned(),
        });
    }
    parse(path, &text)
}

/// Reads the text of such a file.
pub fn parse(path: &Path, text: &str) -> Result<MagmadFlags, FileError> {
    let source = Source { path, text };
    let table: Table = toml::from_str(text).map_err(|error| {
        let span = error.span().unwrap_or_default();
        source.wrong(&span, &error.message())
    })?;
    let key = source.checked("key", table.key, |key| {
        SecretText::new(key.clone()).map(|_| key)
    })?;
    if let (Some(key_file), Some(_)) = (&table.key_file, &key) {
        let both = "give the secret key itself or a key file, not both";
        return Err(source.wrong(&key_file.span(), &both));
    }
    if let (Some(join), Some(bootstrap)) = (&table.join, &table.bootstrap)
        && *bootstrap.get_ref()
    {
        let both = "bootstrap begins a network and join joins one: give one of the two";
        let later = join.span().start.max(bootstrap.span().start);
        return Err(source.wrong(&(later..later), &both));
    }
    let within = |range: std::ops::RangeInclusive<u64>| {
        move |value: u64| match range.contains(&value) {
            true => Ok(value),
            false => Err(format!(
                "{value} is not from {} to {}",
                range.start(),
                range.end()
            )),
        }
    };
    let is_true = |flag: Option<Spanned<bool>>| flag.is_some_and(Spanned::into_inner);
    Ok(MagmadFlags {
        nick: source.checked("nick", table.nick, |nick| check_nick(&nick).map(|()| nick))?,
        fqdn: source.checked("fqdn", table.fqdn, |fqdn| check_fqdn(&fqdn).map(|()| fqdn))?,
        key,
        key_file: source.checked("key-file", table.key_file, absolute)?,
        address: source.checked("address", table.address, check_address)?,
        bootstrap: is_true(table.bootstrap),
        remote: source.checked("join", table.join, |join| {
            HostPort::parse(&join, DEFAULT_PORT).map(|_| join)
        })?,
        dir: source.checked("dir", table.dir, absolute)?,
        port: source.checked("port", table.port, |port| {
            within(1..=u64::from(PORT_MAX))(u64::from(port)).map(|_| port)
        })?,
        bandwidth: table.bandwidth.map(Spanned::into_inner),
        storage: source.checked("storage", table.storage, within(0..=u64::MAX / GIGABYTE))?,
        debug: source
            .checked("debug", table.debug, |letters| {
                DebugMask::parse(&letters).map(|_| letters)
            })?
            .into_iter()
            .collect(),
        debug_all: is_true(table.debug_all),
        redundancy: source.checked("redundancy", table.redundancy, |copies| {
            within(0..=u64::from(REDUNDANCY_MAX))(u64::from(copies)).map(|_| copies)
        })?,
        arbiter: is_true(table.arbiter),
        rejoin: is_true(table.rejoin),
        evict_after: source.checked(
            "evict-after",
            table.evict_after,
            within(0..=u64::from(u32::MAX)),
        )?,
        config: None,
        version: None,
    })
}

/// A service has no directory that a relative path could begin at.
fn absolute(path: PathBuf) -> Result<PathBuf, String> {
    match path.is_absolute() {
        true => Ok(path),
        false => Err(format!("{} is not an absolute path", path.display())),
    }
}

/// A file that is read, for what is said about its lines.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn wrong(&self, span: &Range<usize>, reason: &dyn Display) -> FileError {
        let before = self.text.as_bytes().iter().take(span.start);
        FileError::Line {
            path: self.path.to_owned(),
            line: 1 + before.filter(|&&byte| byte == b'\n').count(),
            reason: one_line(&reason.to_string()),
        }
    }

    fn checked<T, U, E: Display>(
        &self,
        name: &str,
        value: Option<Spanned<T>>,
        check: impl FnOnce(T) -> Result<U, E>,
    ) -> Result<Option<U>, FileError> {
        let Some(value) = value else {
            return Ok(None);
        };
        let span = value.span();
        let checked = check(value.into_inner());
        checked
            .map(Some)
            .map_err(|reason| self.wrong(&span, &format_args!("{name}: {reason}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use clap::CommandFactory;

    fn refusal(text: &str) -> String {
        let refused = parse(Path::new("/etc/x.toml"), text);
        refused.unwrap_err().to_string()
    }

    #[test]
    fn every_option_of_the_command_line() {
        // What serde expects, in its own words.
        let names = refusal("there-is-no-such-option = 1");
        let command = MagmadFlags::command();
        let mut options = 0;
        for option in command.get_arguments().filter_map(clap::Arg::get_long) {
            let is_there = names.contains(&format!("`{option}`"));
            let of_the_line = matches!(option, "config" | "version" | "help");
            assert_ne!(is_there, of_the_line, "{option}: {names}");
            options += usize::from(is_there);
        }
        // And nothing else: each name is in backquotes, beside the one that was refused.
        assert_eq!(names.matches('`').count() / 2, options + 1, "{names}");
    }

    #[test]
    fn values() {
        let text = "# a volcano\nnick = \"wallace\"\naddress = \"192.168.1.20\"\nport = 13000\n\
            join = \"h:7\"\ndir = \"/srv/magma\"\ndebug = \"fs\"\narbiter = true\nevict-after = 0\n";
        let flags = parse(Path::new("f"), text).unwrap();
        assert_eq!(flags.nick.as_deref(), Some("wallace"));
        assert_eq!(flags.address, Some([192, 168, 1, 20].into()));
        assert_eq!((flags.port, flags.evict_after), (Some(13_000), Some(0)));
        assert_eq!(flags.debug, ["fs"]);
        assert!(flags.arbiter && !flags.bootstrap);
        assert!(parse(Path::new("f"), "").unwrap().dir.is_none());
    }

    #[test]
    fn what_is_wrong_has_a_line() {
        for (text, line, about) in [
            ("nick = \"a\"\nnik = \"b\"\n", 2, "nik"),
            ("\n\nport = 70000\n", 3, "70000"),
            ("port = 65534", 1, "65534"),
            ("port = \"x\"", 1, "string"),
            ("\naddress = \"here\"", 2, "address"),
            ("address = \"0.0.0.0\"", 1, "0.0.0.0"),
            ("nick = \"a/b\"", 1, "nickname"),
            ("debug = \"q\"", 1, "channel q"),
            ("bootstrap = true\njoin = \"h\"", 2, "bootstrap"),
            ("key = \"k\"\n\nkey-file = \"/k\"", 3, "not both"),
            ("dir = \"srv\"", 1, "absolute"),
            ("redundancy = 9", 1, "9"),
            ("arbiter = 1", 1, "boolean"),
            ("nick = \"a\"\nnick = \"b\"", 2, "duplicate"),
            ("nick \"a\"", 1, ""),
            ("[volcano]\nnick = \"a\"", 1, "volcano"),
            ("key = \"\"", 1, "empty"),
        ] {
            let refusal = refusal(text);
            let place = format!("/etc/x.toml, line {line}: ");
            let reason = refusal.strip_prefix(&place);
            let reason = reason.unwrap_or_else(|| panic!("{text:?}: {refusal}"));
            assert!(reason.contains(about), "{text:?}: {refusal}");
            assert!(!refusal.contains('\n'), "{refusal}");
        }
    }

    #[test]
    fn files_that_cannot_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        assert!(matches!(read(&path), Err(FileError::Read { .. })));
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(matches!(read(&path), Err(FileError::Read { .. })));
        std::fs::write(&path, "#".repeat(CONFIG_FILE_MAX as usize + 1)).unwrap();
        assert!(matches!(read(&path), Err(FileError::TooLong { .. })));
        std::fs::write(&path, "#".repeat(CONFIG_FILE_MAX as usize)).unwrap();
        assert!(read(&path).is_ok());
    }
}
