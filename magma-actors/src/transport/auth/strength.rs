//! An estimate of how many bits a guesser must search to find a secret.
//!
//! Not a dictionary: it counts alphabets, and takes words, repetitions and rows of
//! neighbours (`abcd`, `9876`) for the little that they are worth. It errs towards warning.

/// Bits of one letter inside what looks like a word.
const WORD_LETTER_BITS: f64 = 2.0;
/// Bits of a character that the one before it foretells.
const FORETOLD_BITS: f64 = 1.0;
/// Fewer letters in a row than this are not taken for a word.
const WORD_MIN: usize = 4;
/// Natural words hardly ever have more consonants than this in a row.
const CONSONANTS_MAX: usize = 4;

/// The estimated bits of `secret`.
pub(super) fn bits(secret: &str) -> f64 {
    let chars: Vec<char> = secret.chars().collect();
    let per_char = alphabet(&chars).max(2.0).log2();
    let in_word = words(&chars);
    let mut total = 0.0;
    for (i, &c) in chars.iter().enumerate() {
        total += if foretold(&chars, i) {
            FORETOLD_BITS
        } else if in_word.get(i).copied().unwrap_or(false) && c.is_alphabetic() {
            WORD_LETTER_BITS.min(per_char)
        } else {
            per_char
        };
    }
    total / repeats(&chars)
}

/// Size of the alphabet that the characters seem to be drawn from.
fn alphabet(chars: &[char]) -> f64 {
    let any = |test: fn(&char) -> bool| chars.iter().any(test);
    let hex = |lower: bool| {
        chars.iter().all(|c| {
            c.is_ascii_hexdigit() && (!c.is_ascii_alphabetic() || c.is_ascii_lowercase() == lower)
        })
    };
    if hex(true) || hex(false) {
        return if any(|c| c.is_ascii_alphabetic()) {
            16.0
        } else {
            10.0
        };
    }
    let mut size = 0.0;
    for (there, of) in [
        (any(|c| c.is_ascii_lowercase()), 26.0),
        (any(|c| c.is_ascii_uppercase()), 26.0),
        (any(|c| c.is_ascii_digit()), 10.0),
        // Few secrets use more of the punctuation than this.
        (any(|c| c.is_ascii_punctuation() || *c == ' '), 16.0),
        (any(|c| !c.is_ascii()), 64.0),
    ] {
        if there {
            size += of;
        }
    }
    size
}

/// Whether a character repeats the one before it or goes on with a row of neighbours.
fn foretold(chars: &[char], i: usize) -> bool {
    let at = |back: usize| {
        i.checked_sub(back)
            .and_then(|j| chars.get(j))
            .map(|c| *c as i64)
    };
    match (at(2), at(1), at(0)) {
        (before, Some(last), Some(this)) => {
            let step = this - last;
            step == 0 || (step.abs() == 1 && before.is_some_and(|b| last - b == step))
        }
        _ => false,
    }
}

/// Marks the characters that stand in something pronounceable.
fn words(chars: &[char]) -> Vec<bool> {
    let mut marks = vec![false; chars.len()];
    let mut start = 0;
    while start < chars.len() {
        let mut end = start + 1;
        // A capital may only open a word; `McKay` is two.
        let letter = |c: char, first: bool, caps: bool| {
            c.is_alphabetic() && (first || c.is_lowercase() || (caps && c.is_uppercase()))
        };
        if letter(chars[start], true, false) {
            let caps = chars[start].is_uppercase()
                && chars.get(start + 1).is_some_and(|c| c.is_uppercase());
            while chars.get(end).is_some_and(|&c| letter(c, false, caps)) {
                end += 1;
            }
            if pronounceable(&chars[start..end]) {
                marks[start..end].fill(true);
            }
        }
        start = end;
    }
    marks
}

fn pronounceable(run: &[char]) -> bool {
    let vowel = |c: &char| "aeiouyäöüàéèåø".contains(c.to_ascii_lowercase());
    let vowels = run.iter().filter(|c| vowel(c)).count();
    let longest = run.split(vowel).map(<[char]>::len).max().unwrap_or(0);
    run.len() >= WORD_MIN
        && vowels * 5 >= run.len()
        && vowels * 3 <= run.len() * 2
        && longest <= CONSONANTS_MAX
}

/// How often the secret is one piece written again and again.
fn repeats(chars: &[char]) -> f64 {
    let n = chars.len();
    (1..=n / 2)
        .filter(|period| n.is_multiple_of(*period))
        .find(|&period| chars.iter().skip(period).eq(chars.iter().take(n - period)))
        .map_or(1.0, |period| n as f64 / period as f64)
}

#[cfg(test)]
mod tests {
    use super::super::NetworkSecret;
    use super::bits;

    #[test]
    fn what_people_type_is_weak() {
        for secret in [
            "",
            "a",
            "secret",
            "password1",
            "Tr0ub4dor&3",
            "correct horse battery",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "abcdefghijklmnopqrstuvwxyz0123456789",
            "x7#Qx7#Qx7#Qx7#Qx7#Qx7#Q",
            "0123456789012345678901",
        ] {
            assert!(NetworkSecret::is_weak(secret), "{secret}: {}", bits(secret));
        }
    }

    #[test]
    fn what_is_drawn_at_random_is_strong() {
        for secret in [
            "5f1d7a84be90c23341aa0f7be2d96c18",
            "q7Zr2mXvK9tLw4Hs",
            "kq3v-x8zt-m2fw-p9rd-h6js",
        ] {
            assert!(
                !NetworkSecret::is_weak(secret),
                "{secret}: {}",
                bits(secret)
            );
        }
    }
}
