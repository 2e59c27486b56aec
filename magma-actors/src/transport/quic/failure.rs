//! What QUIC says when a connection fails, in the words of the transport.

use quinn::{ConnectionError, TransportErrorCode, VarInt};
use std::net::SocketAddr;

use super::super::TransportError;

/// TLS alert `access_denied`: how either side says that the other's key is not the network's.
const ALERT_WRONG_KEY: u8 = 49;
/// TLS alert `no_application_protocol`.
const ALERT_PROTOCOL: u8 = 120;
/// TLS alerts of a peer that has no key of our kind at all.
const ALERTS_NO_KEY: [u8; 3] = [42, 43, 116];
/// A reason must fit into the one packet that carries the end of a connection.
const REASON_MAX: usize = 900;

/// Why a connection or a stream was ended, on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(in super::super) enum Code {
    /// Closed in order.
    Goodbye = 0,
    /// The hello was refused; the text says why.
    Refused = 1,
    /// The other side broke the rules of the wire.
    BadFrame = 2,
    /// A question was dropped unanswered (of a stream).
    NoAnswer = 3,
    /// Too much is under way (of a stream).
    Busy = 4,
    /// A message is no longer wanted, or was not finished (of a stream).
    GivenUp = 5,
}

impl From<Code> for VarInt {
    fn from(code: Code) -> VarInt {
        VarInt::from_u32(code as u32)
    }
}

/// The address of the other side, IPv4 as such on any socket.
pub(in super::super) fn peer(quic: &quinn::Connection) -> SocketAddr {
    canonical(quic.remote_address())
}

/// IPv4 as such, not as an IPv6 address that stands for it.
pub(super) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// As much of a reason as fits into a packet.
pub(in super::super) fn fit(reason: &str) -> &[u8] {
    &reason.as_bytes()[..reason.floor_char_boundary(REASON_MAX)]
}

/// Why a connection ended, for people.
pub(in super::super) fn reason(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(close) => text(&close.reason),
        ConnectionError::TimedOut => "it has gone silent".to_owned(),
        ConnectionError::Reset => "it has forgotten the connection (restarted)".to_owned(),
        ConnectionError::LocallyClosed => "closed by this side".to_owned(),
        error => match alert(error) {
            Some(ALERT_WRONG_KEY) => "another secret key".to_owned(),
            Some(ALERT_PROTOCOL) => "another protocol or version".to_owned(),
            Some(alert) if ALERTS_NO_KEY.contains(&alert) => "no secret key".to_owned(),
            _ => error.to_string(),
        },
    }
}

/// What a failed attempt to connect to `addr` is to the one who dialled.
pub(super) fn dialled(addr: SocketAddr, error: &ConnectionError) -> TransportError {
    let reason = reason(error);
    match (error, alert(error)) {
        (_, Some(ALERT_WRONG_KEY)) => TransportError::WrongKey { addr },
        (_, Some(_)) => TransportError::Refused { addr, reason },
        (ConnectionError::ApplicationClosed(close), _)
            if close.error_code != VarInt::from(Code::Goodbye) =>
        {
            TransportError::Refused { addr, reason }
        }
        (ConnectionError::ConnectionClosed(close), _)
            if close.error_code == TransportErrorCode::CONNECTION_REFUSED =>
        {
            TransportError::Refused {
                addr,
                reason: "it has too many connections".to_owned(),
            }
        }
        _ => TransportError::NoAnswer { addr, reason },
    }
}

/// The TLS alert that either side ended the handshake with.
fn alert(error: &ConnectionError) -> Option<u8> {
    let code = match error {
        ConnectionError::TransportError(error) => error.code,
        ConnectionError::ConnectionClosed(close) => close.error_code,
        _ => return None,
    };
    // RFC 9001, 4.8: 0x0100 plus the alert.
    u64::from(code)
        .checked_sub(0x100)
        .and_then(|alert| u8::try_from(alert).ok())
}

fn text(bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(bytes)
        .chars()
        // It ends in logs and on terminals.
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.is_empty() {
        "closed without a reason".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{REASON_MAX, fit, text};

    #[test]
    fn reasons_are_cut_between_characters() {
        assert_eq!(fit("short"), b"short");
        let long = "é".repeat(REASON_MAX);
        assert!(std::str::from_utf8(fit(&long)).is_ok());
        assert_eq!(text(b"a\x1b[1mb"), "a [1mb");
    }
}
