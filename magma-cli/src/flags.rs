//! The options of `magmad`, with the original's letters, and what they become.
//!
//! | file | what |
//! |---|---|
//! | [`file`] | the same options from a file |
//! | [`merge`] | what the command line does not say comes from the file, or from systemd |

pub mod file;
pub mod merge;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use magma_actors::config::secret::{KEY_VARIABLE, SecretText};
use magma_actors::config::{
    ConfigError, DEFAULT_BANDWIDTH_KBIT, DEFAULT_EVICT_AFTER, DEFAULT_PORT, DebugMask, HostPort,
    InfoChanges, PORT_MAX, REDUNDANCY_MAX, Start, VolcanoConfig, all_channels, check_fqdn,
    check_nick, default_address,
};
use magma_actors::debug::CHANNELS;
use magma_core::lava::VolcanoInfo;

use crate::output::clap_line;

/// Bytes of the unit of `-S`.
const GIGABYTE: u64 = 1_000_000_000;

const RESTART_HELP: &str = "\
Neither -b nor -r restarts a volcano from what is in its directory: -d and the key are enough
then, everything else comes from the disk unless it is given.";

/// What stands below the options: the channels, and what a restart needs.
fn after_help() -> String {
    let channels = CHANNELS.iter();
    let channels = channels.map(|channel| format!("  {}  {}\n", channel.letter, channel.meaning));
    format!(
        "Debug channels:\n{}\n{RESTART_HELP}",
        channels.collect::<String>()
    )
}

/// Runs a volcano of a lava network.
#[derive(Parser, Debug, Default)]
#[command(name = "magmad", version, disable_version_flag = true, after_help = after_help())]
pub struct MagmadFlags {
    /// Nickname, unique in the network [default: the short host name]
    #[arg(short = 'n', long = "nick", value_name = "NICK")]
    nick: Option<String>,
    /// Fully qualified name [default: the nickname]
    #[arg(short = 's', long = "fqdn", value_name = "FQDN")]
    fqdn: Option<String>,
    /// Secret key of the network
    #[arg(short = 'k', long = "key", value_name = "KEY")]
    key: Option<String>,
    /// File whose first line is the secret key [or in the environment: MAGMA_KEY, or systemd's credential "key"]
    #[arg(long = "key-file", value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Address of all ports [default: the one that reaches HOST, else the host's first]
    #[arg(short = 'i', long = "address", value_name = "ADDRESS")]
    address: Option<IpAddr>,
    /// Bootstrap a new lava network
    #[arg(short = 'b', long = "bootstrap")]
    bootstrap: bool,
    /// Join a network after the volcano at this host (its flare port, default 12000)
    #[arg(short = 'r', long = "join", value_name = "HOST[:PORT]")]
    remote: Option<String>,
    /// Directory of the store [default: systemd's state directory, in a service]
    #[arg(short = 'd', long = "dir", value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Flare port; node is one above, console two above [default: 12000]
    #[arg(short = 'p', long = "port", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..=PORT_MAX as i64))]
    port: Option<u16>,
    /// Declared bandwidth in Kbit/s [default: 1000000]
    #[arg(short = 'w', long = "bandwidth", value_name = "KBITS")]
    bandwidth: Option<u64>,
    /// Declared storage in GB [default: what the disk has]
    #[arg(short = 'S', long = "storage", value_name = "GB", value_parser = clap::value_parser!(u64).range(..=u64::MAX / GIGABYTE))]
    storage: Option<u64>,
    /// Debug channels, as letters
    #[arg(short = 'D', long = "debug", value_name = "MASK")]
    debug: Vec<String>,
    /// All debug channels
    #[arg(short = 'A', long = "debug-all")]
    debug_all: bool,
    /// With -b: copies of each slice beside its owner [default: 1]
    #[arg(long = "redundancy", value_name = "N", value_parser = clap::value_parser!(u8).range(..=REDUNDANCY_MAX as i64))]
    redundancy: Option<u8>,
    /// With -r: vote only, and hold no keys: the third of two volcanos, so that either can fail
    #[arg(long = "arbiter")]
    arbiter: bool,
    /// The network has gone on without this volcano (a takeover): join it as empty; what is in DIR is kept aside
    #[arg(long = "rejoin")]
    rejoin: bool,
    /// Seconds after which a dead volcano is evicted: its copies are made anew on others; 0: never [default: 600]
    #[arg(long = "evict-after", value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=u64::from(u32::MAX)))]
    evict_after: Option<u64>,
    /// File of options: long names without the dashes, in TOML; the command line wins [default: /etc/magma/magmad.toml, if it is there]
    #[arg(long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the version
    #[arg(long = "version", action = clap::ArgAction::Version)]
    version: Option<bool>,
}

/// Why the options were refused, or what was asked instead.
#[derive(Debug)]
pub enum Refused {
    /// Help or version: print it, all is well.
    Show(String),
    /// One line about what is wrong.
    Usage(String),
}

impl From<ConfigError> for Refused {
    fn from(error: ConfigError) -> Refused {
        Refused::Usage(error.to_string())
    }
}

impl From<clap::Error> for Refused {
    fn from(error: clap::Error) -> Refused {
        if error.use_stderr() {
            Refused::Usage(clap_line(&error))
        } else {
            Refused::Show(error.render().to_string())
        }
    }
}

impl MagmadFlags {
    /// Reads the arguments, the program's name first.
    pub fn read(arguments: Vec<OsString>) -> Result<MagmadFlags, Refused> {
        Ok(MagmadFlags::try_parse_from(arguments)?)
    }

    /// The key file, when one was given.
    pub fn key_file(&self) -> Option<&std::path::Path> {
        self.key_file.as_deref()
    }

    /// Whether the secret key itself was given.
    pub fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// The file of options, when one was given.
    pub fn config_file(&self) -> Option<&std::path::Path> {
        self.config.as_deref()
    }

    /// Checks everything and asks the system for what was left out. `variable` is the value
    /// of the environment variable of the secret key.
    pub fn into_config(self, variable: Option<String>) -> Result<VolcanoConfig, Refused> {
        let usage = |line: &str| Err(Refused::Usage(line.to_owned()));
        if self.bootstrap && self.remote.is_some() {
            return usage("-b begins a network and -r joins one: give one of the two");
        }
        if self.redundancy.is_some() && !self.bootstrap {
            return usage("--redundancy is decided when the network begins, with -b");
        }
        if self.arbiter && self.remote.is_none() {
            return usage("--arbiter is decided when a volcano joins a network, with -r");
        }
        if self.rejoin && self.bootstrap {
            return usage("-b begins a network and --rejoin joins one: give one of the two");
        }
        let Some(dir) = self.dir else {
            return usage(
                "the directory of the store is missing: give it with -d, or as dir in the file of --config",
            );
        };
        let dir = std::path::absolute(&dir)
            .map_err(|error| Refused::Usage(format!("-d {}: {error}", dir.display())))?;
        if let Some(nick) = &self.nick {
            check_nick(nick)?;
        }
        if let Some(fqdn) = &self.fqdn {
            check_fqdn(fqdn)?;
        }
        let mut debug = DebugMask::NONE;
        for letters in &self.debug {
            debug = debug.with(DebugMask::parse(letters).map_err(ConfigError::from)?);
        }
        if self.debug_all {
            debug = all_channels();
        }
        let secret = SecretText::choose(self.key, self.key_file.as_deref(), variable)?;
        let told = InfoChanges {
            nick: self.nick,
            fqdn: self.fqdn,
            addr: self.address,
            port: self.port,
            bandwidth_kbit: self.bandwidth,
            storage_bytes: self.storage.map(|gb| gb * GIGABYTE),
        };
        let contact = match &self.remote {
            Some(remote) => Some(HostPort::parse(remote, DEFAULT_PORT)?),
            None => None,
        };
        let evict_after = self.evict_after.unwrap_or(DEFAULT_EVICT_AFTER);
        let start = match contact {
            contact if self.rejoin => Start::Rejoin {
                changes: told,
                contact,
            },
            Some(contact) => Start::Join {
                me: VolcanoInfo {
                    arbiter: self.arbiter,
                    ..complete(told, Some(&contact))?
                },
                contact,
            },
            None if self.bootstrap => Start::Bootstrap {
                me: complete(told, None)?,
                redundancy: self.redundancy.unwrap_or(1),
            },
            None => Start::Restart { changes: told },
        };
        Ok(VolcanoConfig {
            dir,
            secret,
            start,
            debug,
            evict_after: (evict_after > 0).then(|| Duration::from_secs(evict_after)),
        })
    }
}

/// The value of the environment variable of the secret key.
pub fn key_variable() -> Result<Option<String>, Refused> {
    match std::env::var(KEY_VARIABLE) {
        Ok(key) => Ok(Some(key)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(Refused::Usage(format!(
            "the environment variable {KEY_VARIABLE} is not UTF-8"
        ))),
    }
}

/// What a volcano says of itself that has no earlier life.
fn complete(told: InfoChanges, contact: Option<&HostPort>) -> Result<VolcanoInfo, Refused> {
    let nick = match told.nick {
        Some(nick) => nick,
        None => {
            let nick = short_host_name()?;
            check_nick(&nick)?;
            nick
        }
    };
    let addr = match told.addr {
        Some(addr) => check_address(addr).map_err(|bad| Refused::Usage(format!("-i {bad}")))?,
        None => default_address(contact)?,
    };
    Ok(VolcanoInfo {
        fqdn: told.fqdn.unwrap_or_else(|| nick.clone()),
        nick,
        addr,
        port: told.port.unwrap_or(DEFAULT_PORT),
        bandwidth_kbit: told.bandwidth_kbit.unwrap_or(DEFAULT_BANDWIDTH_KBIT),
        storage_bytes: told.storage_bytes.unwrap_or(0),
        arbiter: false,
    })
}

fn check_address(addr: IpAddr) -> Result<IpAddr, String> {
    if addr.is_unspecified() || addr.is_multicast() {
        return Err(format!(
            "{addr} is not an address that others could send to"
        ));
    }
    Ok(addr)
}

fn short_host_name() -> Result<String, Refused> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").map_err(|error| {
        Refused::Usage(format!(
            "the host has no name ({error}): give a nickname with -n"
        ))
    })?;
    Ok(name.trim().split('.').next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(line: &str) -> Result<VolcanoConfig, Refused> {
        let arguments = line.split(' ').map(OsString::from).collect();
        MagmadFlags::read(arguments)?.into_config(None)
    }

    fn refusal(line: &str) -> String {
        match config(line) {
            Err(Refused::Usage(line)) => line,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_command_lines_of_the_original() {
        let wallace = config(
            "magmad -n wallace -s wallace.intranet -k m4gm4s3cr3t -i 192.168.1.20 -b \
             -d /srv/magma -Dfs",
        )
        .unwrap();
        assert_eq!(wallace.debug.letters(), "fs");
        assert_eq!(wallace.secret.reveal(), "m4gm4s3cr3t");
        let Start::Bootstrap { me, redundancy: 1 } = wallace.start else {
            panic!("{:?}", wallace.start);
        };
        assert_eq!((me.nick.as_str(), me.port), ("wallace", 12_000));
        assert_eq!(me.fqdn, "wallace.intranet");

        let gromit = config(
            "magmad -n gromit -s gromit.intranet -k m4gm4s3cr3t -i 192.168.1.21 -d /srv/magma \
             -r 192.168.1.20 -DV",
        )
        .unwrap();
        let Start::Join { me, contact } = gromit.start else {
            panic!("{:?}", gromit.start);
        };
        assert_eq!((me.nick.as_str(), contact.port), ("gromit", 12_000));

        let again = config("magmad -k m4gm4s3cr3t -d /srv/magma").unwrap();
        let changes = InfoChanges::default();
        assert_eq!(again.start, Start::Restart { changes });
    }

    #[test]
    fn defaults() {
        let config = config("magmad -k k -i 10.0.0.1 -b -d rel -S 5").unwrap();
        assert!(config.dir.is_absolute());
        let Start::Bootstrap { me, .. } = config.start else {
            panic!("{:?}", config.start);
        };
        assert_eq!(me.nick, me.fqdn);
        assert_eq!(me.storage_bytes, 5 * GIGABYTE);
    }

    #[test]
    fn one_line_about_each_mistake() {
        for (line, about) in [
            ("magmad", "-d"),
            ("magmad -d /x", "secret key"),
            ("magmad -d /x -k k -b -r h", "-b begins"),
            ("magmad -d /x -k k --key-file f -b", "not both"),
            ("magmad -d /x -k k --redundancy 2", "--redundancy"),
            ("magmad -d /x -k k -b --rejoin", "--rejoin"),
            ("magmad -d /x -k k -b --arbiter", "--arbiter"),
            ("magmad -d /x -k k --arbiter", "--arbiter"),
            ("magmad -d /x -k k -b -i here", "here"),
            ("magmad -d /x -k k -b -i 0.0.0.0", "0.0.0.0"),
            ("magmad -d /x -k k -b -n a/b", "nickname"),
            ("magmad -d /x -k k -b -p 65534", "65534"),
            ("magmad -d /x -k k -b -Dq", "channel q"),
            ("magmad -d /x -k k -r h:x", "port"),
            ("magmad -d /x -k", "-k"),
            ("magmad --frob", "--frob"),
            ("magmad -d /x -k k extra", "extra"),
        ] {
            let refusal = refusal(line);
            assert!(refusal.contains(about), "{line}: {refusal}");
            assert!(!refusal.contains('\n'), "{line}: {refusal}");
        }
        assert!(matches!(config("magmad -h"), Err(Refused::Show(_))));
        assert!(matches!(config("magmad --version"), Err(Refused::Show(_))));
    }
}
