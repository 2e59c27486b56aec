//! Both forms of the command become one [`MountRequest`].
//!
//! A person writes `mount.magma --host=H --key=K DIR`, the original's form. mount(8) runs
//! `mount.magma SPEC DIR [-sfnvrw] [-N ns] [-t type] [-o OPTIONS]`. It is the second form when
//! there are two operands and the first looks like a spec. Letters mean different things:
//!
//! | letter | person | mount(8) |
//! |---|---|---|
//! | `-s` | one thread takes requests from the kernel, as in the original | sloppy: unknown options are ignored |
//! | `-f` | stay in the foreground | fake: check everything, mount nothing |
//!
//! Answers do not depend on `-s`: they come from the client's own threads either way.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use magma_actors::config::{
    ConfigError, DEFAULT_PORT, DebugMask, HostPort, PORT_MAX, SecretText, all_channels,
};
use magma_core::flare::path::FlarePath;

use super::arguments::{Item, Shape, split};
use super::spec::{self, Spec};
use crate::mount::MountOptions;
use crate::mount::options::apply_flag;
use crate::mount::table::canonical_target;
use nix::mount::MsFlags;

/// How long an operation waits for a volcano that answers before it fails.
pub const DEFAULT_PATIENCE: Duration = Duration::from_secs(30);
/// Longest patience that may be asked for.
const PATIENCE_MAX_SECS: u64 = 86_400;

const SHAPE: Shape = Shape {
    letters: "oNtp",
    words: &[
        "host",
        "ip",
        "port",
        "debug",
        "key",
        "keyphrase",
        "key-file",
        "log",
        "patience",
    ],
};

/// Options of fstab that mean nothing to us, or are mount(8)'s own business.
const IGNORED: &[&str] = &[
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "_netdev",
    "nofail",
    "nonempty",
    "silent",
    "loud",
    "mand",
    "nomand",
    "iversion",
    "noiversion",
];
/// The same, with a value.
const IGNORED_WITH_VALUE: &[&str] = &[
    "comment", "user", "helper", "uhelper", "retry",
    // What the kernel shows of a mount, and mount(8) passes on to a remount.
    "user_id", "group_id", "max_read",
];

/// What a command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// A mount.
    Mount(Box<Parsed>),
    /// Other flags for one that is there.
    Remount {
        /// The mount point, as given.
        target: PathBuf,
        /// What it shall have, in full.
        flags: MsFlags,
    },
    /// The end of one.
    Unmount(PathBuf),
    /// The usage.
    Help,
    /// The version.
    Version,
}

/// A command line that cannot be meant: one line, and the exit code of its form.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}")]
pub struct UsageError {
    /// For a person.
    pub line: String,
    /// 2 for a person's form; 1 is what mount(8) expects.
    pub code: u8,
}

/// Where the log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error, where there is one.
    Stderr,
    /// Syslog.
    Syslog,
    /// A file.
    File(PathBuf),
}

/// A mount as asked for, before anything was looked up.
#[derive(Debug)]
pub struct Parsed {
    hosts: Vec<HostPort>,
    dir: FlarePath,
    source: String,
    target: PathBuf,
    settings: Settings,
    code: u8,
    /// Check everything and mount nothing.
    pub fake: bool,
}

/// A mount, ready to be made.
#[derive(Clone, Debug)]
pub struct MountRequest {
    /// Volcanos to contact, in this order.
    pub hosts: Vec<HostPort>,
    /// The directory of the network that becomes the root of the mount.
    pub dir: FlarePath,
    /// What the kernel is told.
    pub mount: MountOptions,
    /// The secret key.
    pub secret: SecretText,
    /// How long an operation waits for a volcano.
    pub patience: Duration,
    /// Debug channels.
    pub debug: DebugMask,
    /// Where the log goes.
    pub log: LogTarget,
    /// Do not go into the background.
    pub foreground: bool,
}

/// What can be set by an option of either form.
#[derive(Debug, Default)]
struct Settings {
    key: Option<String>,
    key_file: Option<PathBuf>,
    port: Option<u16>,
    patience: Option<Duration>,
    debug: DebugMask,
    log: Option<LogTarget>,
    allow_other: bool,
    flags: Vec<String>,
    single_threaded: bool,
    foreground: bool,
    sloppy: bool,
    remount: bool,
}

/// Reads the arguments after the program's name.
pub fn parse(arguments: &[OsString]) -> Result<Invocation, UsageError> {
    let items = split(arguments, &SHAPE).map_err(|line| UsageError { line, code: 2 })?;
    let operands: Vec<&OsString> = items
        .iter()
        .filter_map(|item| match item {
            Item::Operand(operand) => Some(operand),
            Item::Option(..) => None,
        })
        .collect();
    for item in &items {
        match item {
            Item::Option(name, _) if name == "-h" || name == "--help" => {
                return Ok(Invocation::Help);
            }
            Item::Option(name, _) if name == "-V" || name == "--version" => {
                return Ok(Invocation::Version);
            }
            _ => {}
        }
    }
    let options = items.iter().filter_map(|item| match item {
        Item::Option(name, value) => Some((name.as_str(), value.as_deref())),
        Item::Operand(_) => None,
    });
    match operands.as_slice() {
        [spec, target] if spec.to_str().is_some_and(spec::looks_like_one) => {
            let spec = spec.to_str().unwrap_or_default();
            by_mount8(options, spec, PathBuf::from(target))
                .map_err(|line| UsageError { line, code: 1 })
        }
        _ => by_person(options, &operands).map_err(|line| UsageError { line, code: 2 }),
    }
}

fn by_mount8<'a>(
    options: impl Iterator<Item = (&'a str, Option<&'a str>)>,
    spec: &str,
    target: PathBuf,
) -> Result<Invocation, String> {
    let mut settings = Settings::default();
    let mut fake = false;
    let mut lists = Vec::new();
    for (name, value) in options {
        match (name, value) {
            ("-s", _) => settings.sloppy = true,
            ("-f", _) => fake = true,
            // No mtab is kept; the namespace was entered by mount(8); the type is ours.
            ("-n" | "-v" | "-N" | "-t", _) => {}
            ("-r", _) => settings.flags.push("ro".to_owned()),
            ("-w", _) => settings.flags.push("rw".to_owned()),
            ("-o", Some(list)) => lists.push(list),
            _ => {
                return Err(format!(
                    "there is no option {name} (mount.magma -h lists them)"
                ));
            }
        }
    }
    for list in lists {
        settings.apply_list(list)?;
    }
    if settings.remount && !fake {
        let mut flags = MsFlags::empty();
        for option in &settings.flags {
            apply_flag(&mut flags, option);
        }
        return Ok(Invocation::Remount { target, flags });
    }
    let port = settings.port.unwrap_or(DEFAULT_PORT);
    let parsed = Spec::parse(spec, port).map_err(|bad| bad.to_string())?;
    Ok(Invocation::Mount(Box::new(Parsed {
        hosts: parsed.hosts,
        dir: parsed.dir,
        source: spec.to_owned(),
        target,
        settings,
        code: 1,
        fake,
    })))
}

fn by_person<'a>(
    options: impl Iterator<Item = (&'a str, Option<&'a str>)>,
    operands: &[&OsString],
) -> Result<Invocation, String> {
    let mut settings = Settings::default();
    let mut unmount = false;
    let mut hosts: Vec<&str> = Vec::new();
    for (name, value) in options {
        match (name, value) {
            ("--host" | "--ip", Some(host)) => hosts.push(host),
            ("-p", Some(port)) => settings.apply("port", Some(port))?,
            ("--keyphrase", Some(key)) => settings.apply("key", Some(key))?,
            ("--key" | "--key-file" | "--port" | "--patience" | "--log" | "--debug", value) => {
                settings.apply(&name[2..], value)?;
            }
            ("--debug-all", _) => settings.debug = all_channels(),
            ("-s", _) => settings.single_threaded = true,
            ("-f" | "--foreground", _) => settings.foreground = true,
            ("-o", Some(list)) => settings.apply_list(list)?,
            ("-u", _) => unmount = true,
            // Quiet and lazy, of the original's -u: it is both.
            ("-q" | "-z", _) => {}
            _ => {
                return Err(format!(
                    "there is no option {name} (mount.magma -h lists them)"
                ));
            }
        }
    }
    let target = match operands {
        [target] => PathBuf::from(target),
        [] => return Err("the directory to mount at is missing".to_owned()),
        [_, extra, ..] => return Err(format!("{extra:?} is one operand too many")),
    };
    if unmount {
        return Ok(Invocation::Unmount(target));
    }
    if hosts.is_empty() {
        return Err("no volcano to contact: give one with --host".to_owned());
    }
    let hosts = hosts.join(",");
    let port = settings.port.unwrap_or(DEFAULT_PORT);
    let parsed = spec::parse_hosts(&hosts, port).map_err(|bad| bad.to_string())?;
    Ok(Invocation::Mount(Box::new(Parsed {
        hosts: parsed,
        dir: FlarePath::root(),
        source: format!("{hosts}:/"),
        target,
        settings,
        code: 2,
        fake: false,
    })))
}

impl Settings {
    fn apply_list(&mut self, list: &str) -> Result<(), String> {
        for option in list.split(',').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some((name, value)) => self.apply(name, Some(value))?,
                None => self.apply(option, None)?,
            }
        }
        Ok(())
    }

    fn apply(&mut self, name: &str, value: Option<&str>) -> Result<(), String> {
        match (name, value) {
            ("key" | "keyphrase", Some(key)) => self.key = Some(key.to_owned()),
            ("key-file" | "key_file", Some(file)) => self.key_file = Some(PathBuf::from(file)),
            ("port", Some(port)) => {
                let port = port
                    .parse()
                    .ok()
                    .filter(|port| (1..=PORT_MAX).contains(port));
                self.port = Some(port.ok_or("a port is a number from 1 to 65533")?);
            }
            ("patience", Some(seconds)) => {
                let seconds = seconds.parse().ok();
                let seconds = seconds.filter(|s| (1..=PATIENCE_MAX_SECS).contains(s));
                let seconds = seconds.ok_or("patience is a number of seconds from 1 to 86400")?;
                self.patience = Some(Duration::from_secs(seconds));
            }
            ("debug", Some(letters)) => {
                let mask = DebugMask::parse(letters).map_err(|bad| bad.to_string())?;
                self.debug = self.debug.with(mask);
            }
            ("log", Some("syslog")) => self.log = Some(LogTarget::Syslog),
            ("log", Some("stderr")) => self.log = Some(LogTarget::Stderr),
            ("log", Some(file)) if !file.is_empty() => {
                self.log = Some(LogTarget::File(PathBuf::from(file)));
            }
            ("allow_other", None) => self.allow_other = true,
            // Always on: the owner of a flare checks as well, but later.
            ("default_permissions", None) => {}
            ("remount", None) => self.remount = true,
            (name, None) if IGNORED.contains(&name) => {}
            (name, Some(_)) if IGNORED_WITH_VALUE.contains(&name) => {}
            (name, _) if name.starts_with("x-") || name.starts_with("X-") => {}
            (name, None) if apply_flag(&mut MsFlags::empty(), name) => {
                self.flags.push(name.to_owned());
            }
            _ if self.sloppy => {}
            (name, Some(_)) => return Err(format!("there is no mount option {name}=")),
            (name, None) => return Err(format!("there is no mount option {name}")),
        }
        Ok(())
    }
}

impl Parsed {
    /// Where the mount was asked for, as given.
    pub fn target(&self) -> &std::path::Path {
        &self.target
    }

    /// Looks up what depends on the system: the mount point, the key, the directory that
    /// relative paths begin at. `variable` is the value of the key's environment variable.
    pub fn resolve(self, variable: Option<String>) -> Result<MountRequest, UsageError> {
        let code = self.code;
        let refused = |line: String| UsageError { line, code };
        let settings = self.settings;
        let secret = SecretText::choose(settings.key, settings.key_file.as_deref(), variable)
            .map_err(|error: ConfigError| refused(error.to_string()))?;
        let target = canonical_target(&self.target).map_err(|error| {
            refused(format!(
                "the mount point {}: {error}",
                self.target.display()
            ))
        })?;
        let mut mount = MountOptions::new(self.source, target);
        mount.allow_other |= settings.allow_other;
        for option in &settings.flags {
            apply_flag(&mut mount.flags, option);
        }
        if settings.single_threaded {
            mount.threads = 1;
        }
        let log = match settings.log {
            Some(LogTarget::File(file)) => {
                let file = std::path::absolute(&file)
                    .map_err(|error| refused(format!("log {}: {error}", file.display())))?;
                LogTarget::File(file)
            }
            Some(other) => other,
            None if settings.foreground => LogTarget::Stderr,
            None => LogTarget::Syslog,
        };
        Ok(MountRequest {
            hosts: self.hosts,
            dir: self.dir,
            mount,
            secret,
            patience: settings.patience.unwrap_or(DEFAULT_PATIENCE),
            debug: settings.debug,
            log,
            foreground: settings.foreground,
        })
    }
}

#[cfg(test)]
mod tests;
