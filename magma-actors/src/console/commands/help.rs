//! `help`.

use super::{CommandError, Shell};
use crate::console::render;

/// A command as `help` shows it.
struct Entry {
    name: &'static str,
    usage: &'static str,
    summary: &'static str,
    more: &'static str,
}

struct Group {
    title: &'static str,
    entries: &'static [Entry],
}

const fn entry(
    name: &'static str,
    usage: &'static str,
    summary: &'static str,
    more: &'static str,
) -> Entry {
    Entry {
        name,
        usage,
        summary,
        more,
    }
}

/// `fault` is left out: it is for tests and refused elsewhere.
const GROUPS: [Group; 4] = [
    Group {
        title: "The network",
        entries: &[
            entry(
                "lava",
                "lava",
                "the volcanos: slices, keys, bandwidth, storage",
                "For each volcano: whether it is alive, the first and last key of each slice that \
                 it owns, how many keys it holds there, its declared bandwidth, and the free and \
                 whole storage in MByte (of 1048576 bytes). Keys and storage are those of its \
                 last heartbeat.",
            ),
            entry(
                "status",
                "status",
                "phase, epoch, copies, who is awaited",
                "The phase of this volcano, the epoch of the lava, who coordinates, who \
                 leads the agreement, which volcanos are not alive, and for each slice who owns \
                 it, for whom it stands in, and whether its copies are in sync, being filled or \
                 down.",
            ),
            entry(
                "evict",
                "evict NICK",
                "counts no longer on a dead volcano",
                "The copies that NICK held are made anew on the next volcanos of the ring, and it \
                 votes no longer. The network does so by itself with a volcano that stays dead \
                 (see --evict-after of magmad). When it comes back it is filled, and gets its \
                 slices back. Refused while NICK is alive, or if nobody else has what it owns.",
            ),
            entry(
                "forget",
                "forget NICK",
                "an evicted volcano is no member any more",
                "What NICK owned belongs to those who hold it now. With its old directory it is \
                 refused from then on; with an empty one it can join again.",
            ),
            entry(
                "proceed",
                "proceed",
                "starts without those who are not there",
                "After a restart nothing is served before the whole network is there. When some \
                 never come, those present go on without them, if they are a majority of those \
                 who vote and have all slices. Nothing acknowledged is lost by it.",
            ),
            entry(
                "takeover",
                "takeover",
                "goes on without those who are lost for good",
                "When nobody leads the agreement, because too many of those who vote are lost (of \
                 two volcanos, the coordinator), the others stand still until they are back. If \
                 they never will be, those who are there begin a new generation of the network, \
                 with what they have. What the lost ones alone had is lost. Whoever belonged to \
                 the generation before is refused from then on, and can come back only as empty \
                 (magmad --rejoin).",
            ),
            entry(
                "shutdown",
                "shutdown",
                "ends the whole network in order",
                "Ends every volcano of the network. Nothing acknowledged is lost. To restart, \
                 run each magmad without -b and -r.",
            ),
            entry(
                "shutdown node",
                "shutdown node",
                "ends this volcano only",
                "Ends this volcano in order; the others go on. Keys without another copy in sync \
                 cannot be reached until it is back.",
            ),
        ],
    },
    Group {
        title: "Files",
        entries: &[
            entry(
                "ls",
                "ls [PATH]",
                "lists a directory, or one file",
                "Type and permissions, links, user, group, size, last change (UTC) and name. \
                 Names with spaces are typed as \"a name\" or a\\ name; escapes like \\x1b are \
                 typed as they are shown. /.dht is listed only when named: one file a volcano.",
            ),
            entry(
                "cd",
                "cd [PATH]",
                "goes to a directory (to / without one)",
                "The prompt shows the current directory. Paths that do not begin with / are \
                 relative to it; .. goes up.",
            ),
            entry("pwd", "pwd", "says which directory this is", ""),
            entry(
                "cat",
                "cat PATH",
                "shows a file",
                "Shows at most the first 1 MiB. Control characters are escaped.",
            ),
            entry(
                "inspect",
                "inspect PATH|KEY",
                "all that is known of a flare",
                "Key, incarnation, owner, copies, attributes, names, and where its content lies. \
                 A symbolic link stands for itself. A key of 40 hexadecimal digits is taken as \
                 such: write ./ before it for a file of that name.",
            ),
            entry(
                "erase",
                "erase PATH",
                "removes a file (not a directory)",
                "Removes the name, and the flare with its last name. A symbolic link stands for \
                 itself. There is no way back.",
            ),
        ],
    },
    Group {
        title: "This volcano",
        entries: &[
            entry(
                "cache load",
                "cache load",
                "how many flares are in memory",
                "",
            ),
            entry(
                "print cache",
                "print cache",
                "the flares in memory, as a tree",
                "Flares whose parent is not in memory come after the tree, with their key.",
            ),
            entry(
                "scrub",
                "scrub [now|stop]",
                "damaged content, and looking for it",
                "Every week a volcano compares all content that it holds with its checksums, \
                 slowly: `now` begins at once and goes faster, `stop` gives up until the next \
                 time. What is damaged comes from another volcano by itself; blocks that no \
                 volcano has right are listed, as found since this volcano was started.",
            ),
            entry(
                "print debug",
                "print debug",
                "the debug channels, with a mark if open",
                "",
            ),
            entry(
                "debug on",
                "debug on CHANNELS",
                "logs more: opens debug channels",
                "CHANNELS are letters without spaces, as after the option -D: `debug on fs`. \
                 `print debug` lists them; V stands for all.",
            ),
            entry(
                "debug off",
                "debug off CHANNELS",
                "logs less: closes debug channels",
                "While V is open, it shows all channels whatever else is closed.",
            ),
            entry("print acl", "print acl", "the access rules in force", ""),
        ],
    },
    Group {
        title: "This session",
        entries: &[
            entry(
                "help",
                "help [COMMAND]",
                "this list, or more about a command",
                "",
            ),
            entry(
                "quit",
                "quit, exit",
                "ends this session",
                "So does Ctrl-D. Ctrl-C ends a command that runs.",
            ),
        ],
    },
];

/// `help` and `help COMMAND`.
pub async fn help(shell: &mut Shell, topic: &str) -> Result<(), CommandError> {
    if topic.is_empty() {
        return list(shell).await;
    }
    let topic = if topic == "exit" { "quit" } else { topic };
    let mut found = false;
    for entry in GROUPS.iter().flat_map(|group| group.entries) {
        // `help print` is about everything that can be printed.
        let family = entry.name.strip_prefix(topic);
        if family.is_some_and(|rest| rest.is_empty() || rest.starts_with(' ')) {
            found = true;
            let line = format!("{:<18} {}", entry.usage, entry.summary);
            shell.output.line(line).await?;
            if !entry.more.is_empty() {
                let more = format!("    {}", entry.more);
                for line in render::wrapped(&more, "    ") {
                    shell.output.line(line).await?;
                }
            }
        }
    }
    if found {
        return Ok(());
    }
    Err(CommandError::Unfit {
        object: render::text(topic),
        reason: "there is no such command: `help` lists them all".to_owned(),
    })
}

async fn list(shell: &mut Shell) -> Result<(), CommandError> {
    for group in &GROUPS {
        shell.output.line(format!("{}:", group.title)).await?;
        for entry in group.entries {
            let line = format!("  {:<18} {}", entry.usage, entry.summary);
            shell.output.line(line).await?;
        }
    }
    let more = "`help COMMAND` says more about one of them.";
    Ok(shell.output.line(more).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::parser::{ParseError, parse};

    #[test]
    fn every_command_is_known_to_the_parser_and_fits() {
        for entry in GROUPS.iter().flat_map(|group| group.entries) {
            let parsed = parse(entry.name.as_bytes());
            let known = matches!(parsed, Ok(Some(_)) | Err(ParseError::Usage(..)));
            assert!(known, "{}: {parsed:?}", entry.name);
            assert!(entry.usage.len() <= 18, "{}", entry.usage);
            assert!(2 + 18 + 1 + entry.summary.len() <= render::WIDTH);
        }
    }
}
