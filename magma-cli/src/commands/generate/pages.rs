//! The man pages: what `--help` says, and what stands only here.

use std::io;

use clap::{Arg, Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};
use magma_fuse::helper::help::{FORMS, MOUNT_OPTIONS};

use super::{mount_command, shown, tools};
use crate::flags::MagmadFlags;
use crate::flags::file::DEFAULT_FILE;

const MANUAL: &str = "Magma";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// All pages, by the names of their files.
pub fn all() -> io::Result<Vec<(&'static str, Vec<u8>)>> {
    Ok(vec![
        ("magmad.8", magmad()?),
        ("mount.magma.8", mount()?),
        ("magma.1", magma()?),
        ("magmad.toml.5", options_file()?),
    ])
}

fn page(command: Command, section: &str) -> Man {
    let source = format!("Magma {VERSION}");
    Man::new(command)
        .section(section)
        .source(source)
        .manual(MANUAL)
}

fn magmad() -> io::Result<Vec<u8>> {
    let man = page(MagmadFlags::command(), "8");
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    let mut roff = Roff::new();
    section(&mut roff, "DESCRIPTION");
    paragraph(
        &mut roff,
        "A volcano is one machine's part of a lava network, a distributed file system. magmad stays in \
         the foreground and logs to standard error. With -b it begins a network, with -r it joins one, \
         and with neither it comes back with what is in its directory; it serves when its log says \
         \"ready: this volcano serves\".",
    );
    paragraph(
        &mut roff,
        "Every option with a long name may also stand in a file, see magmad.toml(5). The command line \
         wins. The secret key is taken from the command line, else from the environment, else from the \
         file, else from systemd's credential \"key\".",
    );
    paragraph(
        &mut roff,
        "Under systemd it tells when it is ready, what it does or waits for, and, as long as all of its \
         parts answer, that it lives (Type=notify, WatchdogSec=).",
    );
    roff.to_writer(&mut out)?;
    man.render_options_section(&mut out)?;
    man.render_extra_section(&mut out)?;
    let mut roff = Roff::new();
    section(&mut roff, "SIGNALS");
    paragraph(
        &mut roff,
        "SIGTERM and SIGINT end the volcano in order, within seconds.",
    );
    section(&mut roff, "ENVIRONMENT");
    item(&mut roff, "MAGMA_KEY", "The secret key.");
    item(
        &mut roff,
        "STATE_DIRECTORY",
        "The directory of the store where none is given. Set by systemd.",
    );
    item(
        &mut roff,
        "CREDENTIALS_DIRECTORY",
        "A file \"key\" in it holds the secret key in its first line. Set by systemd.",
    );
    item(
        &mut roff,
        "NOTIFY_SOCKET, WATCHDOG_USEC",
        "Where, and how often, the service manager hears of the volcano. Set by systemd.",
    );
    section(&mut roff, "FILES");
    item(
        &mut roff,
        DEFAULT_FILE,
        "Options, if it is there and no other is named.",
    );
    item(
        &mut roff,
        "/etc/magma/NAME.toml",
        "Options of magmad@NAME.service.",
    );
    item(
        &mut roff,
        "/etc/magma/key",
        "The secret key, as the services of the package take it.",
    );
    item(
        &mut roff,
        "/var/lib/magma/magmad, /var/lib/magma/NAME",
        "The stores of the services of the package.",
    );
    section(&mut roff, "EXIT STATUS");
    item(&mut roff, "0", "It ended in order, or help was asked for.");
    item(
        &mut roff,
        "1",
        "It could not start, or ended because a part of it was lost; the last line of the log says why.",
    );
    item(
        &mut roff,
        "2",
        "The command line, or the file of options, is wrong.",
    );
    see_also(
        &mut roff,
        &[("magmad.toml", "5"), ("magma", "1"), ("mount.magma", "8")],
    );
    roff.to_writer(&mut out)?;
    Ok(out)
}

fn mount() -> io::Result<Vec<u8>> {
    let man = page(mount_command(), "8");
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    let mut roff = Roff::new();
    section(&mut roff, "SYNOPSIS");
    for (at, form) in FORMS.iter().enumerate() {
        if at > 0 {
            roff.control("br", []);
        }
        roff.text([roman(*form)]);
    }
    section(&mut roff, "DESCRIPTION");
    paragraph(
        &mut roff,
        "Mounts a lava network at a directory. Any volcano will do as the host, and several may be given: \
         the mount learns the whole network from the first that answers. The command returns when the \
         mount answers; it then goes on in the background, unless -f is given.",
    );
    paragraph(
        &mut roff,
        "mount(8) runs it in the second form, for file systems of type magma. There -s and -f are \
         mount(8)'s own: unknown options are ignored, and nothing is mounted.",
    );
    roff.to_writer(&mut out)?;
    man.render_options_section(&mut out)?;
    let mut roff = Roff::new();
    section(&mut roff, "MOUNT OPTIONS");
    for (name, help) in MOUNT_OPTIONS {
        item(&mut roff, name, help);
    }
    section(&mut roff, "EXAMPLES");
    paragraph(&mut roff, "In /etc/fstab:");
    roff.control("PP", []);
    roff.control("nf", []);
    roff.text([roman(
        "192.168.1.20,192.168.1.21:/  /mnt/magma  magma  key-file=/etc/magma/key,_netdev,nofail  0  0",
    )]);
    roff.control("fi", []);
    section(&mut roff, "ENVIRONMENT");
    item(&mut roff, "MAGMA_KEY", "The secret key.");
    section(&mut roff, "EXIT STATUS");
    item(&mut roff, "0", "Mounted and answering, or unmounted.");
    item(
        &mut roff,
        "1",
        "Could not unmount; called by mount(8): the command line is wrong.",
    );
    item(&mut roff, "2", "The command line is wrong.");
    item(
        &mut roff,
        "32",
        "The mount failed; one line on standard error says why.",
    );
    see_also(
        &mut roff,
        &[
            ("mount", "8"),
            ("fstab", "5"),
            ("magmad", "8"),
            ("magma", "1"),
        ],
    );
    roff.to_writer(&mut out)?;
    Ok(out)
}

fn magma() -> io::Result<Vec<u8>> {
    let mut command = shown(tools::command());
    command.build();
    let man = page(command.clone(), "1");
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    let mut roff = Roff::new();
    section(&mut roff, "DESCRIPTION");
    paragraph(
        &mut roff,
        "Tools for a lava network, a distributed file system. None of them needs a mount.",
    );
    roff.to_writer(&mut out)?;
    for tool in command.get_subcommands() {
        let mut roff = Roff::new();
        section(&mut roff, &format!("magma {}", tool.get_name()));
        let about = tool.get_long_about().or(tool.get_about());
        paragraph(
            &mut roff,
            &about.map(ToString::to_string).unwrap_or_default(),
        );
        for option in tool.get_arguments().filter(|option| !is_help(option)) {
            let explained = option.get_long_help().or(option.get_help());
            let explained = explained.map(ToString::to_string).unwrap_or_default();
            roff.control("TP", []);
            roff.text(name_of(option));
            roff.text([roman(explained)]);
        }
        if let Some(after) = tool.get_after_help() {
            paragraph(&mut roff, &after.to_string());
        }
        roff.to_writer(&mut out)?;
    }
    man.render_extra_section(&mut out)?;
    let mut roff = Roff::new();
    section(&mut roff, "ENVIRONMENT");
    item(&mut roff, "MAGMA_KEY", "The secret key.");
    see_also(&mut roff, &[("magmad", "8"), ("mount.magma", "8")]);
    roff.to_writer(&mut out)?;
    Ok(out)
}

fn options_file() -> io::Result<Vec<u8>> {
    let about = "options of a volcano of a lava network";
    let name = Command::new("magmad.toml").about(about);
    let man = page(name, "5");
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    let mut roff = Roff::new();
    section(&mut roff, "DESCRIPTION");
    paragraph(
        &mut roff,
        &format!(
            "magmad(8) reads the file that --config names, else {DEFAULT_FILE} if it is there. It is TOML: \
             one key a line, the long name of an option without its dashes. Texts, paths and addresses \
             stand in quotes, numbers without, and an option without a value is true or false. An \
             unknown key or a wrong value is refused with the number of its line, and magmad ends \
             with 2. What stands on the command line wins."
        ),
    );
    paragraph(
        &mut roff,
        "bootstrap and join say how the volcano came to be, with redundancy and arbiter: they count only \
         while its directory holds no volcano, so that the file need not be changed after the first \
         start. Take bootstrap out after it all the same: a volcano that finds its directory empty, as \
         when its disk is not mounted, would begin another network. Paths must be absolute.",
    );
    section(&mut roff, "KEYS");
    let command = MagmadFlags::command();
    for option in command.get_arguments() {
        let Some(long) = option.get_long() else {
            continue;
        };
        if matches!(long, "config" | "version" | "help") {
            continue;
        }
        let value = value_in_file(long);
        let explained = option.get_help().map(ToString::to_string);
        roff.control("TP", []);
        roff.text([bold(long), roman(" = "), italic(value)]);
        roff.text([roman(explained.unwrap_or_default())]);
    }
    section(&mut roff, "EXAMPLE");
    roff.control("nf", []);
    roff.text([roman(
        "nick = \"gromit\"\naddress = \"192.168.1.21\"\njoin = \"192.168.1.20\"\ndir = \"/srv/magma\"\n\
         key-file = \"/etc/magma/key\"",
    )]);
    roff.control("fi", []);
    see_also(&mut roff, &[("magmad", "8")]);
    roff.to_writer(&mut out)?;
    Ok(out)
}

/// What a value looks like in the file of options.
fn value_in_file(option: &str) -> &'static str {
    match option {
        "bootstrap" | "debug-all" | "arbiter" | "rejoin" => "true",
        "port" | "bandwidth" | "storage" | "redundancy" | "evict-after" => "NUMBER",
        "dir" | "key-file" => "\"PATH\"",
        "address" => "\"ADDRESS\"",
        "join" => "\"HOST\" or \"HOST:PORT\"",
        "debug" => "\"LETTERS\"",
        _ => "\"TEXT\"",
    }
}

fn is_help(option: &Arg) -> bool {
    matches!(option.get_id().as_str(), "help" | "version")
}

/// `-k, --key KEY`, or the name of an operand.
fn name_of(option: &Arg) -> Vec<Inline> {
    let letter = option.get_short().map(|letter| format!("-{letter}"));
    let word = option.get_long().map(|word| format!("--{word}"));
    let names: Vec<String> = letter.into_iter().chain(word).collect();
    let mut text = vec![bold(names.join(", "))];
    let takes_one = option.get_action().takes_values();
    if let Some(values) = option.get_value_names().filter(|_| takes_one) {
        let blank = if names.is_empty() { "" } else { " " };
        let values: Vec<&str> = values.iter().map(|value| value.as_str()).collect();
        text.push(roman(blank));
        text.push(italic(values.join(" ")));
    }
    text
}

fn section(roff: &mut Roff, title: &str) {
    roff.control("SH", [title]);
}

fn paragraph(roff: &mut Roff, text: &str) {
    roff.control("PP", []);
    roff.text([roman(text)]);
}

fn item(roff: &mut Roff, name: &str, help: &str) {
    roff.control("TP", []);
    roff.text([bold(name)]);
    roff.text([roman(help)]);
}

fn see_also(roff: &mut Roff, pages: &[(&str, &str)]) {
    section(roff, "SEE ALSO");
    let mut text = Vec::new();
    for (at, (name, section)) in pages.iter().enumerate() {
        if at > 0 {
            text.push(roman(", "));
        }
        text.push(bold(*name));
        text.push(roman(format!("({section})")));
    }
    roff.text(text);
}
