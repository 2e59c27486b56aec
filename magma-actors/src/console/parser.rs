//! A line becomes a command, once, at the edge.

use super::backend::Intervention;
use crate::debug::{BadChannel, Mask};

/// What somebody has asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The list of commands, or more about some.
    Help(String),
    /// The volcanos, their slices and their state.
    Lava,
    /// Phase, epoch, copies, who is awaited.
    Status,
    /// Lists a directory, the current one if none is named.
    Ls(Option<Vec<u8>>),
    /// Goes to a directory, the root if none is named.
    Cd(Option<Vec<u8>>),
    /// Says where we are.
    Pwd,
    /// Shows a file.
    Cat(Vec<u8>),
    /// Shows all that is known of a flare.
    Inspect(Vec<u8>),
    /// Removes a name that is not a directory's.
    Erase(Vec<u8>),
    /// How many flares are in memory.
    CacheLoad,
    /// The flares in memory, as a tree.
    PrintCache,
    /// The debug channels.
    PrintDebug,
    /// The access rules.
    PrintAcl,
    /// Opens or closes debug channels.
    Debug {
        /// Opens them.
        open: bool,
        /// Which.
        channels: Mask,
    },
    /// Ends the network, or this volcano only.
    Shutdown {
        /// The whole network.
        whole_network: bool,
    },
    /// Changes who belongs to the network; asked back for before it is done.
    Intervene {
        /// What.
        what: Intervention,
        /// What the peer was told that it would do, and has confirmed.
        told: Option<Vec<String>>,
    },
    /// The comparison of all content with its checksums.
    Scrub(ScrubOrder),
    /// Ends the session.
    Quit,
    /// Makes an actor panic (tests).
    Fault(String),
}

/// What the scrub is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubOrder {
    /// Nothing: it is only shown.
    Show,
    /// To begin, or to hurry.
    Now,
    /// To give up.
    Stop,
}

/// Why a line is no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A quotation mark without its partner.
    #[error("a quotation mark is missing its partner: write \\\" for one in a name")]
    OpenQuote,
    /// A backslash at the end of the line.
    #[error("the line ends in a backslash: write \\\\ for one in a name")]
    OpenEscape,
    /// Something like `\xZZ`.
    #[error("an escape is written \\x and two hexadecimal digits, or \\u{{...}}")]
    BadEscape,
    /// No such command.
    #[error("there is no command {0}: `help` lists them all")]
    Unknown(String),
    /// The command takes other arguments.
    #[error("usage: {0} (`help {1}` says more)")]
    Usage(&'static str, &'static str),
    /// No such debug channel.
    #[error("{0}: `print debug` lists them all")]
    Channel(#[from] BadChannel),
}

/// Splits a line into words at spaces and tabs. Inside `"..."` they belong to the word. A
/// backslash takes the next character as it is, but for what [`super::render::escaped`]
/// writes: `\n`, `\r`, `\t`, `\xHH` and `\u{...}`.
pub fn split(line: &[u8]) -> Result<Vec<Vec<u8>>, ParseError> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quoted = false;
    let mut rest = line;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            b'\\' => rest = unescape(rest, word.get_or_insert_default())?,
            b' ' | b'\t' if !quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(byte),
        }
    }
    if quoted {
        return Err(ParseError::OpenQuote);
    }
    words.extend(word);
    Ok(words)
}

/// Reads what follows a backslash; returns what follows that.
fn unescape<'a>(rest: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], ParseError> {
    let (&escape, rest) = rest.split_first().ok_or(ParseError::OpenEscape)?;
    match escape {
        b'n' => word.push(b'\n'),
        b'r' => word.push(b'\r'),
        b't' => word.push(b'\t'),
        b'x' => {
            let (digits, rest) = rest.split_at_checked(2).ok_or(ParseError::BadEscape)?;
            let byte = hex(digits).and_then(|value| u8::try_from(value).ok());
            word.push(byte.ok_or(ParseError::BadEscape)?);
            return Ok(rest);
        }
        b'u' if rest.first() == Some(&b'{') => {
            let end = rest.iter().position(|&b| b == b'}');
            let (digits, rest) = end
                .and_then(|end| Some((rest.get(1..end)?, rest.get(end + 1..)?)))
                .ok_or(ParseError::BadEscape)?;
            let c = hex(digits).and_then(char::from_u32);
            let c = c.ok_or(ParseError::BadEscape)?;
            word.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            return Ok(rest);
        }
        _ => word.push(escape),
    }
    Ok(rest)
}

fn hex(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits.len() > 6 {
        return None;
    }
    digits.iter().try_fold(0, |value, digit| {
        Some(value * 16 + char::from(*digit).to_digit(16)?)
    })
}

/// Reads a line; none when there is nothing on it.
pub fn parse(line: &[u8]) -> Result<Option<Command>, ParseError> {
    let words = split(line)?;
    let Some((name, arguments)) = words.split_first() else {
        return Ok(None);
    };
    let text = |word: &Vec<u8>| String::from_utf8_lossy(word).into_owned();
    let name = text(name);
    let intervene = |what| Command::Intervene { what, told: None };
    let usage = |form: &'static str, topic| Err(ParseError::Usage(form, topic));
    let command = match (name.as_str(), arguments) {
        ("help" | "?", topic) => {
            let topic: Vec<String> = topic.iter().map(text).collect();
            Command::Help(topic.join(" "))
        }
        ("lava", []) => Command::Lava,
        ("lava", _) => return usage("lava", "lava"),
        ("status", []) => Command::Status,
        ("status", _) => return usage("status", "status"),
        ("ls", []) => Command::Ls(None),
        ("ls", [path]) => Command::Ls(Some(path.clone())),
        ("ls", _) => return usage("ls [PATH]", "ls"),
        ("cd", []) => Command::Cd(None),
        ("cd", [path]) => Command::Cd(Some(path.clone())),
        ("cd", _) => return usage("cd [PATH]", "cd"),
        ("pwd", []) => Command::Pwd,
        ("pwd", _) => return usage("pwd", "pwd"),
        ("cat", [path]) => Command::Cat(path.clone()),
        ("cat", _) => return usage("cat PATH", "cat"),
        ("inspect", [path]) => Command::Inspect(path.clone()),
        ("inspect", _) => return usage("inspect PATH|KEY", "inspect"),
        ("erase", [path]) => Command::Erase(path.clone()),
        ("erase", _) => return usage("erase PATH", "erase"),
        ("cache", [what]) if what == b"load" => Command::CacheLoad,
        ("cache", _) => return usage("cache load", "cache load"),
        ("print", [what]) if what == b"cache" => Command::PrintCache,
        ("print", [what]) if what == b"debug" => Command::PrintDebug,
        ("print", [what]) if what == b"acl" => Command::PrintAcl,
        ("print", _) => return usage("print cache|debug|acl", "print"),
        ("debug", [state, channels]) if state == b"on" || state == b"off" => Command::Debug {
            open: state == b"on",
            channels: Mask::parse(&text(channels))?,
        },
        ("debug", _) => return usage("debug on|off CHANNELS", "debug"),
        ("shutdown", []) => Command::Shutdown {
            whole_network: true,
        },
        ("shutdown", [what]) if what == b"node" => Command::Shutdown {
            whole_network: false,
        },
        ("shutdown", _) => return usage("shutdown [node]", "shutdown"),
        ("evict", [nick]) => intervene(Intervention::Evict(text(nick))),
        ("evict", _) => return usage("evict NICK", "evict"),
        ("forget", [nick]) => intervene(Intervention::Forget(text(nick))),
        ("forget", _) => return usage("forget NICK", "forget"),
        ("proceed", []) => intervene(Intervention::Proceed),
        ("proceed", _) => return usage("proceed", "proceed"),
        ("takeover", []) => intervene(Intervention::TakeOver),
        ("takeover", _) => return usage("takeover", "takeover"),
        ("scrub", []) => Command::Scrub(ScrubOrder::Show),
        ("scrub", [order]) if order == b"now" => Command::Scrub(ScrubOrder::Now),
        ("scrub", [order]) if order == b"stop" => Command::Scrub(ScrubOrder::Stop),
        ("scrub", _) => return usage("scrub [now|stop]", "scrub"),
        ("quit" | "exit", []) => Command::Quit,
        ("quit" | "exit", _) => return usage("quit", "quit"),
        ("fault", [actor]) => Command::Fault(text(actor)),
        _ => return Err(ParseError::Unknown(super::render::text(&name))),
    };
    Ok(Some(command))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop, proptest};

    #[test]
    fn words() {
        let table: [(&str, &[&str]); 12] = [
            ("", &[]),
            ("  \t ", &[]),
            ("ls", &["ls"]),
            ("  cat   a\tb ", &["cat", "a", "b"]),
            (r#"cat "a b""#, &["cat", "a b"]),
            (r"cat a\ b", &["cat", "a b"]),
            (r#"a" b "c"#, &["a b c"]),
            (r#""" x"#, &["", "x"]),
            (r#"\"a\\b\""#, &[r#""a\b""#]),
            (r"a\nb\tc\rd", &["a\nb\tc\rd"]),
            (r"\x41\u{20ac}\u{9b}", &["A€\u{9b}"]),
            ("don't", &["don't"]),
        ];
        for (line, words) in table {
            let found = split(line.as_bytes()).expect("well formed");
            let words: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
            assert_eq!(found, words, "{line}");
        }
        assert_eq!(split(br"\xff"), Ok(vec![vec![0xff]]));
    }

    #[test]
    fn broken_words() {
        for (line, error) in [
            (r#"cat "a"#, ParseError::OpenQuote),
            (r"cat a\", ParseError::OpenEscape),
            (r"\x4", ParseError::BadEscape),
            (r"\x4g", ParseError::BadEscape),
            (r"\x+4", ParseError::BadEscape),
            (r"\u{}", ParseError::BadEscape),
            (r"\u{d800}", ParseError::BadEscape),
            (r"\u{1234567}", ParseError::BadEscape),
            (r"\u{41", ParseError::BadEscape),
        ] {
            assert_eq!(split(line.as_bytes()), Err(error), "{line}");
        }
    }

    #[test]
    fn commands() {
        let path = |text: &str| text.as_bytes().to_vec();
        let channels = |text| Mask::parse(text).expect("channels");
        for (line, command) in [
            ("help", Command::Help(String::new())),
            ("help print cache", Command::Help("print cache".to_owned())),
            ("lava", Command::Lava),
            ("status", Command::Status),
            ("ls", Command::Ls(None)),
            ("ls ..", Command::Ls(Some(path("..")))),
            ("cd", Command::Cd(None)),
            (r#"cd "/a b""#, Command::Cd(Some(path("/a b")))),
            ("pwd", Command::Pwd),
            ("cat /x", Command::Cat(path("/x"))),
            ("inspect x", Command::Inspect(path("x"))),
            ("erase x", Command::Erase(path("x"))),
            ("cache load", Command::CacheLoad),
            ("print cache", Command::PrintCache),
            ("print debug", Command::PrintDebug),
            ("print acl", Command::PrintAcl),
            (
                "debug on fs",
                Command::Debug {
                    open: true,
                    channels: channels("fs"),
                },
            ),
            (
                "debug off V",
                Command::Debug {
                    open: false,
                    channels: channels("V"),
                },
            ),
            (
                "shutdown",
                Command::Shutdown {
                    whole_network: true,
                },
            ),
            (
                " shutdown  node ",
                Command::Shutdown {
                    whole_network: false,
                },
            ),
            ("quit", Command::Quit),
            ("exit", Command::Quit),
            ("fault flare", Command::Fault("flare".to_owned())),
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(Some(command)), "{line}");
        }
        assert_eq!(parse(b"   "), Ok(None));
    }

    #[test]
    fn refusals() {
        for (line, message) in [
            (
                "frobnicate",
                "there is no command frobnicate: `help` lists them all",
            ),
            ("LAVA", "there is no command LAVA: `help` lists them all"),
            (
                "\x1b[A",
                "there is no command \\x1b[A: `help` lists them all",
            ),
            (
                "shutdown nod",
                "usage: shutdown [node] (`help shutdown` says more)",
            ),
            (
                "shutdown node now",
                "usage: shutdown [node] (`help shutdown` says more)",
            ),
            ("cat", "usage: cat PATH (`help cat` says more)"),
            ("cat a b", "usage: cat PATH (`help cat` says more)"),
            (
                "print",
                "usage: print cache|debug|acl (`help print` says more)",
            ),
            (
                "debug X on",
                "usage: debug on|off CHANNELS (`help debug` says more)",
            ),
            (
                "debug on q",
                "there is no debug channel q: choose from BbcdFfgmnrsuVvxz: `print debug` lists them all",
            ),
        ] {
            let error = parse(line.as_bytes()).expect_err(line);
            assert_eq!(error.to_string(), message);
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&line);
        }
    }
}
