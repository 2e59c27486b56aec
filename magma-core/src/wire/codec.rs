//! MessagePack, named fields: a field that a receiver does not know is skipped, one that a
//! sender does not know takes its default, so that neighbours one version apart agree.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::FRAME_HEADER_MAX;

/// A message that could not be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Larger than a frame's header may be.
    #[error("a message of {0} bytes is over the limit of {FRAME_HEADER_MAX}")]
    TooLarge(usize),
    /// Not what was expected.
    #[error("cannot decode the message: {0}")]
    Decode(#[from] rmp_serde::decode::Error),
    /// Cannot be written.
    #[error("cannot encode the message: {0}")]
    Encode(#[from] rmp_serde::encode::Error),
}

/// Encodes a message.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    let bytes = rmp_serde::to_vec_named(message)?;
    if bytes.len() > FRAME_HEADER_MAX {
        return Err(CodecError::TooLarge(bytes.len()));
    }
    Ok(bytes)
}

/// How many bytes a message takes, encoded.
pub fn encoded_len<T: Serialize>(message: &T) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // What cannot be encoded is not sent either.
    let _ = rmp_serde::encode::write_named(&mut count, message);
    count.0
}

/// Decodes a message.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > FRAME_HEADER_MAX {
        return Err(CodecError::TooLarge(bytes.len()));
    }
    Ok(rmp_serde::from_slice(bytes)?)
}
