//! Somebody at a terminal.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use actix::{Actor, Addr};
use magma_actors::console::ConsoleActor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::fake::Fake;

const PATIENCE: Duration = Duration::from_secs(20);

/// A console on a port of its own.
pub fn start(fake: &Rc<Fake>) -> (SocketAddr, Addr<ConsoleActor>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    (address, ConsoleActor::new(listener, fake.clone()).start())
}

pub struct Peer {
    stream: TcpStream,
    seen: Vec<u8>,
}

impl Peer {
    pub async fn silent(address: SocketAddr) -> Peer {
        let stream = TcpStream::connect(address).await.expect("it listens");
        Peer {
            stream,
            seen: Vec::new(),
        }
    }

    /// Connects and reads up to the first prompt.
    pub async fn connect(address: SocketAddr) -> Peer {
        let mut peer = Peer::silent(address).await;
        let greeting = peer.until_prompt().await;
        assert!(greeting.contains("Welcome to MAGMA"), "{greeting:?}");
        peer
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("it reads");
    }

    /// Everything up to a prompt and with it.
    pub async fn until_prompt(&mut self) -> String {
        self.until(|text| {
            let last = text.rsplit('\n').next().unwrap_or_default();
            last.starts_with("MAGMA [wallace]:") && last.ends_with("> ")
        })
        .await
    }

    pub async fn until(&mut self, enough: impl Fn(&str) -> bool) -> String {
        loop {
            let text = String::from_utf8_lossy(&self.seen).into_owned();
            if enough(&text) {
                self.seen.clear();
                return text;
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.seen)).await;
            let read = read.unwrap_or_else(|_| panic!("nothing after {text:?}"));
            assert!(read.expect("not reset") > 0, "closed after {text:?}");
        }
    }

    /// Sends a line; returns what is said up to the next prompt, without that.
    pub async fn ask(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes()).await;
        let said = self.until_prompt().await;
        let prompt = said.rfind("MAGMA [").expect("a prompt");
        assert!(
            !said.replace("\r\n", "").contains('\n'),
            "bare newline: {said:?}"
        );
        said[..prompt].replace("\r\n", "\n")
    }

    /// Everything up to the end of the connection.
    pub async fn rest(&mut self) -> String {
        let mut seen = std::mem::take(&mut self.seen);
        let read = timeout(PATIENCE, self.stream.read_to_end(&mut seen)).await;
        read.expect("it closes").expect("it closes in order");
        String::from_utf8_lossy(&seen).into_owned()
    }

    /// Says that nothing more comes.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.expect("open until now");
    }

    /// Makes the kernel keep little of what is sent to a peer that does not read.
    pub async fn with_small_window(address: SocketAddr) -> Peer {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a size");
        let stream = socket.connect(address).await.expect("it listens");
        Peer {
            stream,
            seen: Vec::new(),
        }
    }
}
