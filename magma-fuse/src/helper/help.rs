//! What `mount.magma` says of its options: one table for `-h`, the man page and the completions
//! of shells.

/// One option of the form for persons.
#[derive(Clone, Copy, Debug)]
pub struct OptionHelp {
    /// Its letter.
    pub letter: Option<char>,
    /// Its word.
    pub word: Option<&'static str>,
    /// What its value is, if it takes one.
    pub value: Option<&'static str>,
    /// What it does.
    pub help: &'static str,
}

const fn option(
    letter: Option<char>,
    word: Option<&'static str>,
    value: Option<&'static str>,
    help: &'static str,
) -> OptionHelp {
    OptionHelp {
        letter,
        word,
        value,
        help,
    }
}

/// The options, in the order of the usage.
pub const OPTIONS: [OptionHelp; 15] = [
    option(
        None,
        Some("host"),
        Some("HOST"),
        "a volcano of the network, or several, by name or address",
    ),
    option(None, Some("ip"), Some("ADDRESS"), "the same"),
    option(
        Some('p'),
        Some("port"),
        Some("PORT"),
        "flare port of hosts that name none (default 12000)",
    ),
    option(
        None,
        Some("key"),
        Some("KEY"),
        "secret key of the network (also --keyphrase)",
    ),
    option(
        None,
        Some("key-file"),
        Some("FILE"),
        "file whose first line is the key [or in the environment: MAGMA_KEY]",
    ),
    option(
        Some('s'),
        None,
        None,
        "one thread takes requests from the kernel",
    ),
    option(Some('f'), None, None, "stay in the foreground"),
    option(
        None,
        Some("patience"),
        Some("SECS"),
        "how long an operation waits for a volcano (default 30)",
    ),
    option(
        None,
        Some("log"),
        Some("FILE"),
        "log to a file, to syslog (the default in the background) or to stderr",
    ),
    option(
        None,
        Some("debug"),
        Some("MASK"),
        "debug channels, as letters (magmad -h lists them)",
    ),
    option(None, Some("debug-all"), None, "all debug channels"),
    option(
        Some('o'),
        None,
        Some("OPTION,..."),
        "ro, rw, allow_other, noatime, nosuid, nodev, noexec, key=, key-file=,\n\
         port=, patience=, log=, debug=, and what else fstab may hold",
    ),
    option(
        Some('u'),
        None,
        None,
        "unmount DIR; lazily: open files stay usable until they are closed",
    ),
    option(Some('h'), Some("help"), None, "this text"),
    option(None, Some("version"), None, "the version"),
];

/// What may stand in `-o`, and in the fourth column of `/etc/fstab`.
pub const MOUNT_OPTIONS: [(&str, &str); 14] = [
    ("ro, rw", "Nothing, or everything, may be written."),
    (
        "allow_other",
        "Others than the user who mounts may use the mount. Always so for root's mounts.",
    ),
    (
        "nosuid, nodev, noexec, noatime, nodiratime, relatime, strictatime, lazytime, sync, dirsync",
        "As in mount(8), like their opposites.",
    ),
    (
        "key=KEY",
        "The secret key. Anyone who reads fstab sees it: use key-file.",
    ),
    (
        "key-file=FILE",
        "The file whose first line is the secret key.",
    ),
    (
        "port=PORT",
        "The flare port of hosts that name none; 12000 if it is left out.",
    ),
    (
        "patience=SECS",
        "How long an operation waits for a volcano before it fails, from 1 to 86400 seconds; 30 if \
         it is left out. A mount waits as long for a first volcano.",
    ),
    (
        "log=FILE|syslog|stderr",
        "Where the log goes; to syslog if it is left out.",
    ),
    ("debug=MASK", "Debug channels, as letters."),
    (
        "remount",
        "With mount(8): gives the mount other flags, as in mount -o remount,ro DIR.",
    ),
    (
        "_netdev, nofail, noauto, user, x-*",
        "Are mount(8)'s and systemd's own business, and accepted.",
    ),
    (
        "default_permissions",
        "Is always on: the kernel checks permissions, and the volcanos do so as well.",
    ),
    ("defaults", "Changes nothing."),
    (
        "nonempty, silent, loud, mand, iversion, retry=N",
        "Are accepted, and change nothing.",
    ),
];

/// The forms of the command.
pub const FORMS: [&str; 3] = [
    "mount.magma --host=HOST[,HOST...] --key=KEY [OPTIONS] DIR",
    "mount.magma HOST[:PORT][,HOST...]:/[SUBDIR] DIR [-o OPTION,...]",
    "mount.magma -u DIR",
];

/// What it is for.
pub const ABOUT: &str = "Mounts a lava network";

/// Where the explanations begin.
const COLUMN: usize = 23;

/// The usage, for `-h`.
pub fn usage() -> String {
    let mut text = format!("{ABOUT}.\n");
    for (at, form) in FORMS.iter().enumerate() {
        let before = if at == 0 { "\nUsage:" } else { "      " };
        text.push_str(&format!("{before} {form}\n"));
    }
    for known in &OPTIONS {
        let letter = match (known.letter, known.word) {
            (Some(letter), Some(_)) => format!("-{letter}, "),
            (Some(letter), None) => format!("-{letter}"),
            (None, _) => "    ".to_owned(),
        };
        let word = known.word.map(|word| format!("--{word}"));
        let value = known.value.map(|value| match known.word {
            Some(_) => format!("={value}"),
            None => format!(" {value}"),
        });
        let name = format!(
            "  {letter}{}{}",
            word.unwrap_or_default(),
            value.unwrap_or_default()
        );
        let help = known.help.replace('\n', &format!("\n{:COLUMN$}", ""));
        text.push_str(&format!("\n{name:<COLUMN$}{help}"));
    }
    text
}
