//! Peers that are slow, broken, or mean no good.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use futures::future::join_all;
use magma_actors::console::session::{self, SessionEnd};
use magma_core::flare::Kind;
use magma_core::limits::{
    CONSOLE_LINE_MAX, CONSOLE_SESSIONS, CONSOLE_TYPE_AHEAD, CONSOLE_WASTE_MAX, CONSOLE_YIELD_MS,
};
use tokio::time::Instant;

use crate::fake::Fake;
use crate::furnished;
use crate::peer::{Peer, start};

#[actix::test]
async fn a_script_on_standard_input_is_done_to_its_end() {
    let (address, _console) = start(&furnished());
    let mut peer = Peer::silent(address).await;
    let mut script = "pwd\n".repeat(3 * CONSOLE_TYPE_AHEAD);
    script += "cat /etc/hostname\nerase /etc/host";
    peer.send(script.as_bytes()).await;
    peer.finish().await;
    let said = peer.rest().await;
    assert_eq!(said.matches("/> /\r\n").count(), 3 * CONSOLE_TYPE_AHEAD);
    // The half line at the end is not taken for a whole one.
    assert!(
        said.ends_with("/> wallace\r\nMAGMA [wallace]:/> "),
        "{said:?}"
    );
}

#[actix::test]
async fn telnet_clients_are_understood() {
    let (address, _console) = start(&furnished());
    let mut peer = Peer::connect(address).await;
    peer.send(b"\xff\xfd\x03\xff\xfb\x18\xff\xfa\x18\x00xterm\xff\xf0pw\xff\xf1d\r\0")
        .await;
    let said = peer.until_prompt().await;
    // Each 255 of the answers is one byte that is no UTF-8.
    assert!(
        said.starts_with("\u{fffd}\u{fffd}\u{3}\u{fffd}\u{fffd}\u{18}/\r\n"),
        "{said:?}"
    );
    peer.send(b"\xff\xf6").await;
    assert!(peer.until_prompt().await.starts_with("[yes]"));
}

#[actix::test]
async fn an_interrupt_ends_a_command_that_hangs() {
    let fake = furnished();
    let (address, _console) = start(&fake);
    let mut peer = Peer::connect(address).await;
    fake.hangs.set(true);
    for interrupt in [&b"\x03"[..], b"\xff\xf4\xff\xfd\x06"] {
        let before = fake.requests.get();
        peer.send(b"ls\r\npwd\r\n").await;
        while fake.requests.get() == before {
            tokio::task::yield_now().await;
        }
        peer.send(interrupt).await;
        let said = peer.until_prompt().await;
        // The mark comes first: a client drops what comes before it.
        assert!(said.ends_with("^C\r\nMAGMA [wallace]:/> "), "{said:?}");
    }
    fake.hangs.set(false);
    assert!(peer.ask("cat /etc/hostname").await.ends_with("wallace\n"));
}

#[actix::test]
async fn a_panic_ends_one_session() {
    let fake = furnished();
    fake.acl_panics.set(true);
    let (address, _console) = start(&fake);
    let mut other = Peer::connect(address).await;
    let mut peer = Peer::connect(address).await;
    peer.send(b"print acl\r\n").await;
    let said = peer.rest().await;
    assert!(said.starts_with("internal error"), "{said:?}");
    assert_eq!(other.ask("pwd").await, "/\n");
    fake.acl_panics.set(false);
    assert!(
        Peer::connect(address)
            .await
            .ask("print acl")
            .await
            .contains("secret key")
    );
}

#[actix::test]
async fn long_lines_and_binary() {
    let (address, _console) = start(&furnished());
    let mut peer = Peer::connect(address).await;
    assert_eq!(
        peer.ask(&"a".repeat(CONSOLE_LINE_MAX + 1)).await,
        format!("the line was longer than {CONSOLE_LINE_MAX} bytes: nothing was done\n")
    );
    // All bytes but those that end or interrupt a line or begin a telnet command.
    let bytes: Vec<u8> = (0..=254)
        .filter(|b| !matches!(b, 3 | 4 | b'\r' | b'\n'))
        .collect();
    peer.send(&bytes).await;
    peer.send(b"\r\n").await;
    peer.until_prompt().await;
    assert_eq!(peer.ask("pwd").await, "/\n");

    // No line ever: it ends, however it comes.
    let flood = vec![b'x'; CONSOLE_WASTE_MAX + 1];
    peer.send(&flood).await;
    assert!(
        peer.rest().await.contains("bytes without end"),
        "it says why"
    );
}

#[actix::test]
async fn one_byte_at_a_time() {
    let (address, _console) = start(&furnished());
    let mut peer = Peer::connect(address).await;
    for byte in b"cat /etc/hostname\r\n" {
        peer.send(&[*byte]).await;
        tokio::task::yield_now().await;
    }
    assert!(peer.until_prompt().await.starts_with("wallace\r\n"));
}

#[actix::test]
async fn who_does_not_read_waits_alone() {
    let fake = Fake::new();
    // Escapes make four characters of each byte: 4 MiB, more than the kernel keeps for it.
    fake.put(b"/noise", Kind::File, &vec![1; 1024 * 1024]);
    let (address, _console) = start(&fake);
    let mut deaf = Peer::with_small_window(address).await;
    deaf.send("cat /noise\r\n".repeat(8).as_bytes()).await;
    let mut peer = Peer::connect(address).await;
    // The console has stopped asking for content when the requests no longer grow.
    let mut before = 0;
    let mut still = 0;
    while still < 20 {
        assert_eq!(peer.ask("pwd").await, "/\n");
        still = if fake.requests.get() == before {
            still + 1
        } else {
            0
        };
        before = fake.requests.get();
    }
    let pages_of_all = 8 * 64;
    assert!(
        before < pages_of_all,
        "{before} requests for a peer that reads nothing"
    );
    // It gets everything as soon as it reads.
    deaf.send(b"quit\r\n").await;
    assert_eq!(deaf.rest().await.matches("\\x01").count(), 8 * 1024 * 1024);
}

#[actix::test]
async fn sessions_are_bounded() {
    let (address, _console) = start(&furnished());
    let peers = join_all((0..CONSOLE_SESSIONS).map(|_| Peer::connect(address))).await;
    let mut late = Peer::silent(address).await;
    assert!(
        late.rest()
            .await
            .starts_with("All 32 console sessions are in use")
    );

    // A place that is given up can be taken.
    let mut peers = peers.into_iter();
    let mut first = peers.next().expect("one of them");
    first.send(b"quit\r\n").await;
    first.rest().await;
    drop(first);
    let mut newcomer = loop {
        let mut newcomer = Peer::silent(address).await;
        let refused = |text: &str| text.starts_with("All 32");
        let said = newcomer
            .until(|text| text.ends_with("> ") || refused(text) && text.ends_with("\r\n"))
            .await;
        if !refused(&said) {
            break newcomer;
        }
    };

    // And so can that of a session that has been silent for long.
    tokio::time::pause();
    tokio::time::advance(Duration::from_millis(CONSOLE_YIELD_MS)).await;
    tokio::time::resume();
    assert_eq!(newcomer.ask("pwd").await, "/\n");
    let mut second = peers.next().expect("one of them");
    assert_eq!(second.ask("pwd").await, "/\n");
    let mut guest = Peer::connect(address).await;
    assert_eq!(guest.ask("pwd").await, "/\n");
    assert_eq!(second.ask("pwd").await, "/\n", "it was active");
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_session() {
    let (ours, theirs) = tokio::io::duplex(4096);
    let (reader, writer) = tokio::io::split(theirs);
    let begin = Instant::now();
    let last_line = Rc::new(Cell::new(begin));
    let end = session::serve(reader, writer, "test".to_owned(), Fake::new(), last_line).await;
    assert!(matches!(end, SessionEnd::Idle), "{end:?}");
    let minutes = begin.elapsed().as_secs() / 60;
    assert_eq!(minutes, 30);
    drop(ours);
}

#[tokio::test(start_paused = true)]
async fn deafness_ends_a_session() {
    let (ours, theirs) = tokio::io::duplex(16);
    let (reader, writer) = tokio::io::split(theirs);
    let last_line = Rc::new(Cell::new(Instant::now()));
    let end = session::serve(reader, writer, "test".to_owned(), Fake::new(), last_line).await;
    assert!(matches!(end, SessionEnd::Output(_)), "{end:?}");
    drop(ours);
}
