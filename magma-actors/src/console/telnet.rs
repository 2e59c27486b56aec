//! Telnet, as far as a line-oriented server needs it (RFC 854, 855, 860).
//!
//! Every option is refused but the timing mark, on whose answer clients wait after an
//! interrupt. A client that speaks no telnet at all (`nc`) is served as well. Whatever a peer
//! sends, the decoder holds one line of at most [`CONSOLE_LINE_MAX`] bytes.

use bytes::{Buf, BytesMut};
use magma_core::limits::{CONSOLE_LINE_MAX, CONSOLE_WASTE_MAX};
use tokio_util::codec::Decoder;

const SE: u8 = 240;
const BRK: u8 = 243;
const IP: u8 = 244;
const AYT: u8 = 246;
const EC: u8 = 247;
const EL: u8 = 248;
const SB: u8 = 250;
const WILL: u8 = 251;
const WONT: u8 = 252;
const DO: u8 = 253;
const DONT: u8 = 254;
const IAC: u8 = 255;
/// RFC 1184: what a client in line mode sends for the end-of-file character.
const EOF: u8 = 236;
const ABORT: u8 = 238;
const TIMING_MARK: u8 = 6;

const CTRL_C: u8 = 0x03;
const CTRL_D: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const CTRL_U: u8 = 0x15;
const DELETE: u8 = 0x7f;

/// The answer to a timing mark. A client that has sent an interrupt drops whatever comes
/// before this.
pub const TIMING_MARK_ANSWER: [u8; 3] = [IAC, WILL, TIMING_MARK];

/// What a peer has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A whole line without its end.
    Line(Vec<u8>),
    /// A line longer than [`CONSOLE_LINE_MAX`]; its bytes are gone.
    TooLong,
    /// Ctrl-C, or the telnet signal for it.
    Interrupt,
    /// Ctrl-D on an empty line, or the telnet signal for it.
    EndOfFile,
    /// "Are you there?"
    AreYouThere,
    /// A request about an option; these bytes answer it.
    Negotiation([u8; 3]),
}

/// Why a peer is not listened to any longer.
#[derive(Debug, thiserror::Error)]
pub enum TelnetError {
    /// More than [`CONSOLE_WASTE_MAX`] bytes without the end of a line.
    #[error("it sends bytes without end and no line")]
    Flood,
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Data,
    /// After a carriage return, which has ended the line: LF or NUL belongs to it.
    Return,
    Command,
    Option(u8),
    Subnegotiation,
    SubnegotiationCommand,
}

/// Turns bytes into [`Input`].
#[derive(Debug, Default)]
pub struct TelnetDecoder {
    state: State,
    line: Vec<u8>,
    too_long: bool,
    waste: usize,
}

impl TelnetDecoder {
    fn step(&mut self, byte: u8) -> Option<Input> {
        match self.state {
            State::Data => self.data(byte),
            State::Return => {
                self.state = State::Data;
                match byte {
                    b'\n' | 0 => None,
                    _ => self.data(byte),
                }
            }
            State::Command => self.command(byte),
            State::Option(verb) => {
                self.state = State::Data;
                negotiate(verb, byte).map(Input::Negotiation)
            }
            State::Subnegotiation => {
                if byte == IAC {
                    self.state = State::SubnegotiationCommand;
                }
                None
            }
            State::SubnegotiationCommand => {
                self.state = if byte == SE {
                    State::Data
                } else {
                    State::Subnegotiation
                };
                None
            }
        }
    }

    fn data(&mut self, byte: u8) -> Option<Input> {
        match byte {
            IAC => {
                self.state = State::Command;
                None
            }
            b'\n' => Some(self.end_line()),
            b'\r' => {
                self.state = State::Return;
                Some(self.end_line())
            }
            CTRL_C => Some(self.interrupt()),
            CTRL_D => self.end_of_file(),
            BACKSPACE | DELETE => {
                self.erase_character();
                None
            }
            CTRL_U => {
                self.erase_line();
                None
            }
            0 => None,
            _ => {
                self.keep(byte);
                None
            }
        }
    }

    fn command(&mut self, byte: u8) -> Option<Input> {
        self.state = State::Data;
        match byte {
            IAC => {
                self.keep(IAC);
                None
            }
            IP | BRK | ABORT => Some(self.interrupt()),
            EOF => self.end_of_file(),
            AYT => Some(Input::AreYouThere),
            EC => {
                self.erase_character();
                None
            }
            EL => {
                self.erase_line();
                None
            }
            SB => {
                self.state = State::Subnegotiation;
                None
            }
            WILL | WONT | DO | DONT => {
                self.state = State::Option(byte);
                None
            }
            // No-operation, data mark, abort output, go ahead, and what is not known.
            _ => None,
        }
    }

    fn keep(&mut self, byte: u8) {
        if self.line.len() < CONSOLE_LINE_MAX {
            self.line.push(byte);
        } else {
            self.too_long = true;
        }
    }

    fn end_line(&mut self) -> Input {
        self.waste = 0;
        let line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.too_long) {
            Input::TooLong
        } else {
            Input::Line(line)
        }
    }

    fn interrupt(&mut self) -> Input {
        self.erase_line();
        Input::Interrupt
    }

    fn end_of_file(&mut self) -> Option<Input> {
        self.line.is_empty().then_some(Input::EndOfFile)
    }

    /// Drops the last character, with all bytes that UTF-8 gives it.
    fn erase_character(&mut self) {
        while self.line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
    }

    fn erase_line(&mut self) {
        self.line = Vec::new();
        self.too_long = false;
    }
}

/// The answer to a request about an option, where one is due: a refusal of what we do not do
/// already needs none, so two peers cannot refuse each other for ever (RFC 854).
fn negotiate(verb: u8, option: u8) -> Option<[u8; 3]> {
    match (verb, option) {
        (DO, TIMING_MARK) => Some(TIMING_MARK_ANSWER),
        (DO, _) => Some([IAC, WONT, option]),
        (WILL, _) => Some([IAC, DONT, option]),
        _ => None,
    }
}

impl Decoder for TelnetDecoder {
    type Item = Input;
    type Error = TelnetError;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Input>, TelnetError> {
        while bytes.has_remaining() {
            let byte = bytes.get_u8();
            self.waste += 1;
            if self.waste > CONSOLE_WASTE_MAX {
                return Err(TelnetError::Flood);
            }
            if let Some(input) = self.step(byte) {
                return Ok(Some(input));
            }
        }
        Ok(None)
    }

    /// A line that the end of the connection has cut off is dropped: it may be the beginning
    /// of another one, and `erase /a` is not `erase /a.old`.
    fn decode_eof(&mut self, bytes: &mut BytesMut) -> Result<Option<Input>, TelnetError> {
        self.decode(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop, proptest};

    fn feed(decoder: &mut TelnetDecoder, bytes: &[u8]) -> Vec<Input> {
        let mut bytes = BytesMut::from(bytes);
        let mut inputs = Vec::new();
        while let Some(input) = decoder.decode(&mut bytes).expect("no flood") {
            inputs.push(input);
        }
        inputs
    }

    fn decoded(bytes: &[u8]) -> Vec<Input> {
        feed(&mut TelnetDecoder::default(), bytes)
    }

    fn line(text: &str) -> Input {
        Input::Line(text.as_bytes().to_vec())
    }

    #[test]
    fn line_ends() {
        assert_eq!(
            decoded(b"a\r\nb\nc\r\0d"),
            [line("a"), line("b"), line("c")]
        );
        assert_eq!(
            decoded(b"\r\r\n\n"),
            [line(""), line(""), line("")],
            "each return ends a line, and takes the newline that belongs to it"
        );
    }

    #[test]
    fn what_linux_telnet_sends() {
        // WILL SGA, DO ECHO; a subnegotiation of the window size with an escaped 255 in it.
        assert_eq!(
            decoded(b"\xff\xfb\x03la\xff\xfd\x01v\xff\xfa\x1f\x00\xff\xff\x00\x18\xff\xf0a\r\n"),
            [
                Input::Negotiation([IAC, DONT, 3]),
                Input::Negotiation([IAC, WONT, 1]),
                line("lava")
            ]
        );
        // Ctrl-C: interrupt process, then the timing mark whose answer ends the flush.
        assert_eq!(
            decoded(b"half\xff\xf4\xff\xfd\x06ls\r\n"),
            [
                Input::Interrupt,
                Input::Negotiation([IAC, WILL, 6]),
                line("ls")
            ]
        );
        assert_eq!(decoded(b"\xff\xec"), [Input::EndOfFile]);
        assert_eq!(decoded(b"\xff\xf6"), [Input::AreYouThere]);
        assert_eq!(decoded(b"\xff\xfc\x01\xff\xfe\x01"), []);
    }

    #[test]
    fn editing() {
        assert_eq!(decoded("laß\x7fva\n".as_bytes()), [line("lava")]);
        assert_eq!(decoded(b"\x08\x08ls\n"), [line("ls")]);
        assert_eq!(decoded(b"wrong\x15ls\n"), [line("ls")]);
        assert_eq!(decoded(b"wrong\x03"), [Input::Interrupt]);
        assert_eq!(decoded(b"x\x04\n\x04"), [line("x"), Input::EndOfFile]);
    }

    #[test]
    fn long_lines() {
        let mut bytes = vec![b'a'; CONSOLE_LINE_MAX];
        bytes.push(b'\n');
        assert!(matches!(&decoded(&bytes)[..], [Input::Line(_)]));
        bytes.insert(0, b'a');
        bytes.extend_from_slice(b"ls\n");
        assert_eq!(decoded(&bytes), [Input::TooLong, line("ls")]);
    }

    #[test]
    fn endless_bytes_end() {
        for byte in [b'a', IAC, SB, 0] {
            let mut decoder = TelnetDecoder::default();
            let mut sent = 0;
            loop {
                let mut chunk = BytesMut::from(&[byte; 4096][..]);
                sent += chunk.len();
                if decoder.decode(&mut chunk).is_err() {
                    break;
                }
                assert!(decoder.line.capacity() <= 2 * CONSOLE_LINE_MAX);
                assert!(sent <= 2 * CONSOLE_WASTE_MAX);
            }
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..40),
        ) {
            let mut decoder = TelnetDecoder::default();
            for chunk in &chunks {
                let mut bytes = BytesMut::from(&chunk[..]);
                let mut inputs = 0;
                while let Ok(Some(input)) = decoder.decode(&mut bytes) {
                    inputs += 1;
                    if let Input::Line(line) = input {
                        assert!(line.len() <= CONSOLE_LINE_MAX);
                    }
                }
                assert!(inputs <= chunk.len());
                assert!(decoder.line.len() <= CONSOLE_LINE_MAX);
            }
        }

        #[test]
        fn chunks_do_not_matter(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            cut in 0_usize..300,
        ) {
            let cut = cut.min(bytes.len());
            let mut decoder = TelnetDecoder::default();
            let mut parts = feed(&mut decoder, &bytes[..cut]);
            parts.extend(feed(&mut decoder, &bytes[cut..]));
            assert_eq!(parts, decoded(&bytes));
        }
    }
}
