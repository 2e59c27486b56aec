//! The first words on a connection. TLS has proved that both know the secret; now they say who
//! they are, and only then the connection is up.

use bytes::Bytes;
use std::time::Duration;

use super::super::mux::frame::{BadFrame, Inbox, Kind, Prefix};
use super::super::mux::{Connection, Control, Side, next_frame, write_frame};
use super::super::{Frame, SharedService, TransportError};
use super::Shared;
use super::failure::{self, Code};
use magma_core::limits::HELLO_MAX;

/// A hello comes within this time after the handshake.
const HELLO_LIMIT: Duration = Duration::from_secs(3);

/// Says hello and waits for the welcome.
pub(super) async fn say(
    shared: &Shared,
    quic: quinn::Connection,
    hello: Bytes,
    service: SharedService,
) -> Result<(Connection, Bytes), TransportError> {
    let addr = failure::peer(&quic);
    if hello.len() > HELLO_MAX {
        return Err(TransportError::TooLarge {
            size: hello.len(),
            limit: HELLO_MAX,
        });
    }
    let lost = || match quic.close_reason() {
        Some(error) => failure::dialled(addr, &error),
        None => TransportError::NoAnswer {
            addr,
            reason: "it broke off the hello".to_owned(),
        },
    };
    let (mut send, mut recv) = quic.open_bi().await.map_err(|_| lost())?;
    let frame = Frame {
        header: hello,
        payload: Bytes::new(),
    };
    write_frame(&mut send, Prefix::new(Kind::Hello, 0, &frame), frame)
        .await
        .map_err(|_| lost())?;
    let mut inbox = Inbox::default();
    let (prefix, frame) = next_frame(&mut recv, &mut inbox)
        .await
        .map_err(|_| lost())?;
    if prefix.kind != Kind::Welcome {
        let error = BadFrame::OutOfPlace(prefix.kind);
        shared
            .refusals
            .add(addr, &format!("a bad welcome: {error}"));
        quic.close(Code::BadFrame.into(), failure::fit(&error.to_string()));
        return Err(TransportError::NoAnswer {
            addr,
            reason: error.to_string(),
        });
    }
    let welcome = frame.header;
    let connection = Connection::start(
        Side::Dialler,
        quic,
        Control { send, recv, inbox },
        welcome.clone(),
        service,
        shared.refusals.clone(),
    );
    Ok((connection, welcome))
}

/// Takes the hello of a peer and lets the service decide.
pub(super) async fn hear(shared: &Shared, quic: quinn::Connection, service: SharedService) {
    let refusal = match tokio::time::timeout(HELLO_LIMIT, decide(&quic, &service)).await {
        Ok(Ok((control, hello))) => {
            let refusals = shared.refusals.clone();
            Connection::start(Side::Acceptor, quic, control, hello, service, refusals);
            return;
        }
        Ok(Err(refusal)) => refusal,
        Err(_) => "no hello came".to_owned(),
    };
    shared.refusals.add(failure::peer(&quic), &refusal);
    quic.close(Code::Refused.into(), failure::fit(&refusal));
}

/// The Control lane and the hello of a peer that is welcome, or why it is not.
async fn decide(
    quic: &quinn::Connection,
    service: &SharedService,
) -> Result<(Control, Bytes), String> {
    let lost = || match quic.close_reason() {
        Some(error) => format!("it left before its hello: {}", failure::reason(&error)),
        None => "a bad hello".to_owned(),
    };
    let (mut send, mut recv) = quic.accept_bi().await.map_err(|_| lost())?;
    let mut inbox = Inbox::default();
    let (prefix, frame) = next_frame(&mut recv, &mut inbox)
        .await
        .map_err(|_| lost())?;
    if prefix.kind != Kind::Hello {
        return Err(format!(
            "a bad hello: {}",
            BadFrame::OutOfPlace(prefix.kind)
        ));
    }
    let hello = frame.header;
    let welcome = service.hello(failure::peer(quic), hello.clone())?;
    if welcome.len() > HELLO_MAX {
        return Err(format!(
            "our welcome of {} bytes is too long",
            welcome.len()
        ));
    }
    let frame = Frame {
        header: welcome,
        payload: Bytes::new(),
    };
    write_frame(&mut send, Prefix::new(Kind::Welcome, 0, &frame), frame)
        .await
        .map_err(|_| lost())?;
    Ok((Control { send, recv, inbox }, hello))
}
