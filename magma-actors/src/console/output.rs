//! What a session sends, at the pace at which its peer takes it.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use magma_core::limits::{CONSOLE_OUTPUT_BYTES, CONSOLE_WRITE_MS};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::render;

/// Why nothing more can be sent.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The connection is gone.
    #[error("the connection failed: {0}")]
    Closed(#[from] io::Error),
    /// The peer took nothing for [`CONSOLE_WRITE_MS`].
    #[error("the peer takes nothing of what waits for it")]
    Stalled,
}

/// The way to the peer. Gathers up to [`CONSOLE_OUTPUT_BYTES`] and one piece, then waits until
/// they are taken. May be dropped in the middle of a wait: what was not sent stays.
pub struct Output {
    writer: Box<dyn AsyncWrite + Unpin>,
    waiting: BytesMut,
}

impl Output {
    /// Output to this writer.
    pub fn new(writer: impl AsyncWrite + Unpin + 'static) -> Output {
        Output {
            writer: Box::new(writer),
            waiting: BytesMut::new(),
        }
    }

    /// Text as it is; its line ends are CRLF already.
    pub async fn raw(&mut self, text: impl AsRef<[u8]>) -> Result<(), OutputError> {
        self.waiting.extend_from_slice(text.as_ref());
        if self.waiting.len() >= CONSOLE_OUTPUT_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// One line.
    pub async fn line(&mut self, text: impl AsRef<str>) -> Result<(), OutputError> {
        self.waiting.extend_from_slice(text.as_ref().as_bytes());
        self.raw("\r\n").await
    }

    /// A sentence, broken at spaces where it is wider than the screen.
    pub async fn sentence(&mut self, text: impl AsRef<str>) -> Result<(), OutputError> {
        for line in render::wrapped(text.as_ref(), "") {
            self.line(line).await?;
        }
        Ok(())
    }

    /// Sends what was gathered.
    pub async fn flush(&mut self) -> Result<(), OutputError> {
        let patience = Duration::from_millis(CONSOLE_WRITE_MS);
        while !self.waiting.is_empty() {
            // Each step that gets anywhere starts the patience anew. A write that is dropped
            // in a timeout has taken nothing out of the buffer.
            let taken = timeout(patience, self.writer.write_buf(&mut self.waiting)).await;
            if taken.map_err(|_| OutputError::Stalled)?? == 0 {
                return Err(OutputError::Closed(io::ErrorKind::WriteZero.into()));
            }
        }
        self.waiting = BytesMut::new();
        let flushed = timeout(patience, self.writer.flush()).await;
        Ok(flushed.map_err(|_| OutputError::Stalled)??)
    }

    /// Sends what was gathered, and that nothing comes after it.
    pub async fn close(&mut self) -> Result<(), OutputError> {
        self.flush().await?;
        Ok(self.writer.shutdown().await?)
    }

    /// Drops what was gathered and not sent: the peer has interrupted it.
    pub fn discard(&mut self) {
        self.waiting = BytesMut::new();
    }
}
