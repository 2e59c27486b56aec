//! Options and operands of a command line, as getopt_long(3) reads them.
//!
//! The two forms of the command use the same letters for different things, but no letter takes
//! a value in one form and none in the other: so a line can be taken apart before its form is
//! known.

use std::ffi::OsString;

/// What stands on a command line, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// `-x` or `--word`, with its value.
    Option(String, Option<String>),
    /// Anything else.
    Operand(OsString),
}

/// Which options take a value.
pub struct Shape {
    /// Letters that take one.
    pub letters: &'static str,
    /// Words that take one.
    pub words: &'static [&'static str],
}

/// Takes a line apart. The error is one line for a person.
pub fn split(arguments: &[OsString], shape: &Shape) -> Result<Vec<Item>, String> {
    let mut items = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let Some(text) = argument.to_str() else {
            if argument.as_encoded_bytes().starts_with(b"-") {
                return Err(format!("the option {argument:?} is not UTF-8"));
            }
            items.push(Item::Operand(argument.clone()));
            continue;
        };
        let mut value = |option: &str| {
            let value = rest
                .next()
                .ok_or_else(|| format!("the option {option} needs a value"))?;
            let value = value.to_str();
            value
                .map(str::to_owned)
                .ok_or_else(|| format!("the value of {option} is not UTF-8"))
        };
        if text == "--" {
            items.extend(rest.by_ref().cloned().map(Item::Operand));
        } else if let Some(word) = text.strip_prefix("--") {
            let (word, given) = match word.split_once('=') {
                Some((word, given)) => (word, Some(given.to_owned())),
                None => (word, None),
            };
            let name = format!("--{word}");
            let given = match (shape.words.contains(&word), given) {
                (true, None) => Some(value(&name)?),
                (false, Some(_)) if is_plain_word(word) => {
                    return Err(format!("the option {name} takes no value"));
                }
                (_, given) => given,
            };
            items.push(Item::Option(name, given));
        } else if let Some(letters) = text.strip_prefix('-').filter(|l| !l.is_empty()) {
            let mut letters = letters.chars();
            while let Some(letter) = letters.next() {
                let name = format!("-{letter}");
                if shape.letters.contains(letter) {
                    let glued: String = letters.by_ref().collect();
                    let given = if glued.is_empty() {
                        value(&name)?
                    } else {
                        glued
                    };
                    items.push(Item::Option(name, Some(given)));
                } else {
                    items.push(Item::Option(name, None));
                }
            }
        } else {
            items.push(Item::Operand(argument.clone()));
        }
    }
    Ok(items)
}

/// A word that is known to take no value; unknown ones are reported as unknown instead.
fn is_plain_word(word: &str) -> bool {
    matches!(word, "debug-all" | "help" | "version" | "foreground")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        letters: "op",
        words: &["key"],
    };

    fn items(line: &str) -> Result<Vec<Item>, String> {
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        split(&arguments, &SHAPE)
    }

    fn option(name: &str, value: Option<&str>) -> Item {
        Item::Option(name.to_owned(), value.map(str::to_owned))
    }

    #[test]
    fn every_way_to_write_an_option() {
        let expected = [
            option("-s", None),
            option("-f", None),
            option("-o", Some("a,b")),
            option("-p", Some("7")),
            option("--key", Some("x=y")),
            option("--key", Some("z")),
            Item::Operand("-".into()),
            option("--help", None),
            Item::Operand("-x".into()),
        ];
        assert_eq!(
            items("-sfo a,b -p7 --key=x=y --key z - --help -- -x").unwrap(),
            expected
        );
        assert!(items("-o").is_err());
        assert!(items("--key").is_err());
        assert!(items("--help=1").is_err());
    }
}
