//! `magma keygen`: a secret key that nobody guesses.

use rand::TryRngCore;

use crate::output;

/// Bytes of a key: 256 bits.
const KEY_BYTES: usize = 32;

/// Prints a new secret key.
pub fn run() -> u8 {
    match generate() {
        Ok(key) => {
            output::result(key);
            0
        }
        Err(error) => {
            output::error("magma keygen", error);
            output::FAILED
        }
    }
}

/// A new secret key in hexadecimal digits, from the random source of the system.
pub fn generate() -> Result<String, rand::rand_core::OsError> {
    let mut bytes = zeroize::Zeroizing::new([0; KEY_BYTES]);
    rand::rngs::OsRng.try_fill_bytes(bytes.as_mut())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_long_and_new() {
        let key = generate().unwrap();
        assert_eq!(key.len(), 2 * KEY_BYTES);
        assert_ne!(key, generate().unwrap());
        assert!(!magma_actors::transport::NetworkSecret::is_weak(&key));
    }
}
