//! Keeps the secret key out of `ps`: what `/proc/PID/cmdline` and `/proc/PID/environ` show is
//! memory of this process, so its values can be overwritten in place.
//!
//! Between exec and this call the key can be seen for a moment; a key file or the environment
//! (which only the same user can read) avoid even that.

use std::fs;
use std::io;
use std::ops::Range;

use magma_actors::config::secret::KEY_VARIABLE;

/// Overwrites the secret in the arguments and in the environment as others see them.
///
/// The environment variable is removed as well, so that no child inherits it by accident.
/// Call it once, first thing, while the process has one thread, and after the arguments were
/// copied ([`std::env::args_os`] shows them overwritten afterwards).
pub fn scrub() {
    // Without /proc nothing can be seen there either.
    if let Ok((arguments, environment)) = own_memory() {
        // SAFETY: the kernel put both ranges on the stack of this process before main began;
        // they stay mapped and writable for its whole life. Only one thread runs, and no
        // reference into them is held: std copies arguments and variables when asked.
        let (arguments, environment) = unsafe {
            (
                std::slice::from_raw_parts_mut(arguments.start as *mut u8, arguments.len()),
                std::slice::from_raw_parts_mut(environment.start as *mut u8, environment.len()),
            )
        };
        scrub_arguments(arguments);
        scrub_environment(environment);
    }
    // SAFETY: one thread runs.
    unsafe { std::env::remove_var(KEY_VARIABLE) };
}

/// Where the arguments and the environment of this process lie: fields 48 to 51 of
/// `/proc/self/stat` (proc_pid_stat(5)).
fn own_memory() -> io::Result<(Range<usize>, Range<usize>)> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The second field, in parentheses, may itself hold blanks and parentheses.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<usize> = after_name
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    let range = |start: usize| {
        // The first field after the name is number 3.
        match (fields.get(start - 3), fields.get(start - 2)) {
            (Some(&from), Some(&to)) if from != 0 && from <= to => Ok(from..to),
            _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
        }
    };
    Ok((range(48)?, range(50)?))
}

/// How an argument announces that the next one is the secret, or that it follows at once.
enum Secret {
    /// From this byte of the same argument.
    From(usize),
    /// The whole next argument.
    Next,
    /// Mount options: `key=` somewhere in the list, at once or in the next argument.
    Options(Option<usize>),
    /// Nothing secret.
    Nothing,
}

fn secret_in(argument: &[u8]) -> Secret {
    for long in [&b"--key"[..], b"--keyphrase"] {
        match argument.strip_prefix(long) {
            Some([]) => return Secret::Next,
            Some([b'=', ..]) => return Secret::From(long.len() + 1),
            _ => {}
        }
    }
    match argument {
        // A bundle of options without values may end in one with: `-bk KEY`, `-fvo LIST`.
        [b'-', letters @ ..] => {
            let flags = letters.iter().take_while(|c| b"bAsfnv".contains(c)).count();
            match letters.get(flags) {
                Some(b'k') if flags + 1 == letters.len() => Secret::Next,
                Some(b'k') => Secret::From(flags + 2),
                Some(b'o') if flags + 1 == letters.len() => Secret::Options(None),
                Some(b'o') => Secret::Options(Some(flags + 2)),
                _ => Secret::Nothing,
            }
        }
        _ => Secret::Nothing,
    }
}

fn scrub_arguments(memory: &mut [u8]) {
    let mut whole = false;
    let mut options = false;
    for argument in memory.split_mut(|&byte| byte == 0) {
        if whole {
            argument.fill(b'x');
            whole = false;
            continue;
        }
        if options {
            scrub_options(argument);
            options = false;
            continue;
        }
        match secret_in(argument) {
            Secret::From(at) => argument[at..].fill(b'x'),
            Secret::Next => whole = true,
            Secret::Options(None) => options = true,
            Secret::Options(Some(at)) => scrub_options(&mut argument[at..]),
            Secret::Nothing => {}
        }
    }
}

fn scrub_options(list: &mut [u8]) {
    for option in list.split_mut(|&byte| byte == b',') {
        for name in [&b"key="[..], b"keyphrase="] {
            if option.starts_with(name) {
                option[name.len()..].fill(b'x');
            }
        }
    }
}

fn scrub_environment(memory: &mut [u8]) {
    for variable in memory.split_mut(|&byte| byte == 0) {
        let value = KEY_VARIABLE.len() + 1;
        if variable.len() >= value
            && variable.starts_with(KEY_VARIABLE.as_bytes())
            && variable[value - 1] == b'='
        {
            variable[value..].fill(b'x');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrubbed(line: &str) -> String {
        let mut memory = line.replace(' ', "\0").into_bytes();
        scrub_arguments(&mut memory);
        String::from_utf8(memory).unwrap().replace('\0', " ")
    }

    #[test]
    fn every_form_of_the_secret() {
        for (line, left) in [
            ("magmad -n w -k secret -b", "magmad -n w -k xxxxxx -b"),
            ("magmad -ksecret -b", "magmad -kxxxxxx -b"),
            ("magmad -bk secret -d /k", "magmad -bk xxxxxx -d /k"),
            ("magmad -bAksecret", "magmad -bAkxxxxxx"),
            (
                "magmad --key secret --key-file k",
                "magmad --key xxxxxx --key-file k",
            ),
            (
                "mount.magma --host=k --key=secret d",
                "mount.magma --host=k --key=xxxxxx d",
            ),
            (
                "mount.magma --keyphrase=secret d",
                "mount.magma --keyphrase=xxxxxx d",
            ),
            (
                "mount.magma h:/ d -o rw,key=secret,port=1",
                "mount.magma h:/ d -o rw,key=xxxxxx,port=1",
            ),
            (
                "mount.magma h:/ d -orw,key=secret",
                "mount.magma h:/ d -orw,key=xxxxxx",
            ),
            (
                "mount.magma h:/ d -fvo key=secret",
                "mount.magma h:/ d -fvo key=xxxxxx",
            ),
            (
                "mount.magma h:/ d -o key-file=/k",
                "mount.magma h:/ d -o key-file=/k",
            ),
            ("magmad -r k -Dk", "magmad -r k -Dk"),
        ] {
            assert_eq!(scrubbed(line), left);
        }
    }

    #[test]
    fn the_variable_too() {
        let mut memory = b"A=1\0MAGMA_KEY=secret\0MAGMA_KEYS=2\0".to_vec();
        scrub_environment(&mut memory);
        assert_eq!(memory, b"A=1\0MAGMA_KEY=xxxxxx\0MAGMA_KEYS=2\0");
    }

    #[test]
    fn own_memory_is_found() {
        let (arguments, environment) = own_memory().unwrap();
        assert!(!arguments.is_empty() && arguments.end <= environment.start);
    }
}
