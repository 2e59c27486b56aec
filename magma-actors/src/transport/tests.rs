//! The transport from outside: two endpoints on loopback, and peers that do not behave.

mod hostile;
mod speed;

use bytes::Bytes;
use magma_core::limits::{BULK_THRESHOLD, FRAME_PAYLOAD_MAX, SEND_QUEUE, SHIP_WINDOW_BYTES};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use super::{
    Connection, Endpoint, Frame, Lane, NetworkSecret, Protocol, Replier, Service, SharedService,
    TransportError,
};

const LIMIT: Duration = Duration::from_secs(20);

static SECRET: LazyLock<NetworkSecret> =
    LazyLock::new(|| NetworkSecret::derive("the key of the tests").unwrap());
static OTHER: LazyLock<NetworkSecret> =
    LazyLock::new(|| NetworkSecret::derive("another key").unwrap());

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), test)
            .await
            .unwrap()
    });
}

/// Waits for a condition, with a limit.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Does what the header of a question says, and notes what it sees.
#[derive(Default)]
struct Peer {
    pushes: Mutex<Vec<(Lane, Frame)>>,
    held: Mutex<Vec<(Frame, Replier)>>,
    up: Mutex<Vec<(Connection, Bytes)>>,
    down: Mutex<Vec<(u64, String)>>,
    calls: AtomicUsize,
}

impl Peer {
    fn new() -> Arc<Peer> {
        Arc::default()
    }
    fn pushed(&self) -> usize {
        self.pushes.lock().unwrap().len()
    }
    fn downs(&self) -> Vec<(u64, String)> {
        self.down.lock().unwrap().clone()
    }
    fn connection(&self, i: usize) -> Connection {
        self.up.lock().unwrap()[i].0.clone()
    }
    fn ups(&self) -> usize {
        self.up.lock().unwrap().len()
    }
}

impl Service for Peer {
    fn hello(&self, _from: SocketAddr, hello: Bytes) -> Result<Bytes, String> {
        if hello.starts_with(b"no ") {
            return Err(format!("not you, {}", String::from_utf8_lossy(&hello[3..])));
        }
        Ok([b"welcome ", hello.as_ref()].concat().into())
    }
    fn connected(&self, connection: &Connection, hello: Bytes) {
        self.up.lock().unwrap().push((connection.clone(), hello));
    }
    fn call(&self, _connection: &Connection, frame: Frame, replier: Replier) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match frame.header.split_first() {
            Some((b'e', _)) => replier.send(frame),
            Some((b'b', _)) => replier.send(Frame {
                header: frame.header,
                payload: pattern(BULK_THRESHOLD * 10),
            }),
            Some((b's', _)) => {
                let payload = Bytes::from(frame.payload.len().to_string());
                replier.send(Frame {
                    header: frame.header,
                    payload,
                });
            }
            Some((b'h', _)) => self.held.lock().unwrap().push((frame, replier)),
            Some((b't', _)) => {
                replier.send(Frame {
                    header: Bytes::new(),
                    payload: vec![0; FRAME_PAYLOAD_MAX + 1].into(),
                });
            }
            _ => drop(replier),
        }
    }
    fn push(&self, _connection: &Connection, lane: Lane, mut frame: Frame) {
        if frame.header == "weigh" {
            // Kept, it would measure the memory and not the transport.
            frame.payload = Bytes::from(frame.payload.len().to_string());
        }
        self.pushes.lock().unwrap().push((lane, frame));
    }
    fn closed(&self, connection: &Connection, reason: &str) {
        self.down
            .lock()
            .unwrap()
            .push((connection.id(), reason.to_owned()));
    }
}

fn frame(header: &str, payload: impl Into<Bytes>) -> Frame {
    Frame {
        header: Bytes::copy_from_slice(header.as_bytes()),
        payload: payload.into(),
    }
}

fn pattern(size: usize) -> Bytes {
    (0..size)
        .map(|i| (i * 31 + i / 251) as u8)
        .collect::<Vec<u8>>()
        .into()
}

fn serve(ip: [u8; 4], peer: &Arc<Peer>) -> (Endpoint, SocketAddr) {
    let service: SharedService = peer.clone();
    let endpoint = Endpoint::serve((ip, 0).into(), Protocol::Flare, &SECRET, service).unwrap();
    let addr = endpoint.local_addr().unwrap();
    (endpoint, addr)
}

/// A server and a client with one connection between them.
struct Pair {
    server: Arc<Peer>,
    client: Arc<Peer>,
    endpoint: Endpoint,
    dialler: Endpoint,
    connection: Connection,
}

async fn pair(ip: [u8; 4]) -> Pair {
    let (server, client) = (Peer::new(), Peer::new());
    let (endpoint, addr) = serve(ip, &server);
    let dialler = Endpoint::client(addr, Protocol::Flare, &SECRET).unwrap();
    let (connection, welcome) = dialler
        .connect(addr, Bytes::from_static(b"me"), client.clone())
        .await
        .unwrap();
    assert_eq!(welcome, "welcome me");
    assert_eq!(client.up.lock().unwrap()[0].1, "welcome me");
    until("the server's side", || server.ups() == 1).await;
    assert_eq!(server.up.lock().unwrap()[0].1, "me");
    Pair {
        server,
        client,
        endpoint,
        dialler,
        connection,
    }
}

#[test]
fn a_call_is_answered() {
    run(async {
        let pair = pair([127, 77, 1, 1]).await;
        let asked = frame("echo", pattern(100));
        assert_eq!(
            pair.connection.call(asked.clone(), LIMIT).await.unwrap(),
            asked
        );
        let nothing = Frame {
            header: Bytes::from_static(b"e"),
            payload: Bytes::new(),
        };
        assert_eq!(
            pair.connection.call(nothing.clone(), LIMIT).await.unwrap(),
            nothing
        );
        // And the other way round.
        let back = pair.server.connection(0);
        assert_eq!(back.call(asked.clone(), LIMIT).await.unwrap(), asked);
        assert_ne!(back.id(), pair.connection.id());
        assert_eq!(pair.endpoint.refusals() + pair.dialler.refusals(), 0);
    });
}

#[test]
fn answers_come_out_of_order_and_from_any_thread() {
    run(async {
        let pair = pair([127, 77, 1, 2]).await;
        let (sender, receiver) = std::sync::mpsc::channel();
        for i in 0..50u32 {
            let sender = sender.clone();
            let question = frame("hold", i.to_be_bytes().to_vec());
            let done = Box::new(move |result: Result<Frame, TransportError>| {
                sender.send((i, result.unwrap().payload)).unwrap();
            });
            pair.connection.call_with(question, LIMIT, done);
        }
        until("all questions", || {
            pair.server.held.lock().unwrap().len() == 50
        })
        .await;
        let held = std::mem::take(&mut *pair.server.held.lock().unwrap());
        std::thread::spawn(move || {
            for (question, replier) in held.into_iter().rev() {
                replier.send(question);
            }
        })
        .join()
        .unwrap();
        let mut order = Vec::new();
        until("all answers", || {
            order.extend(receiver.try_iter());
            order.len() == 50
        })
        .await;
        assert_eq!(order[0].0, 49);
        for (i, payload) in order {
            assert_eq!(payload.as_ref(), i.to_be_bytes());
        }
    });
}

#[test]
fn a_call_can_be_made_from_another_runtime_without_timers() {
    run(async {
        let pair = pair([127, 77, 1, 3]).await;
        let connection = pair.connection.clone();
        let (dialler, addr) = (pair.dialler.clone(), pair.endpoint.local_addr().unwrap());
        let service: SharedService = pair.client.clone();
        let thread = std::thread::spawn(move || {
            let bare = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            bare.block_on(async {
                connection
                    .call(frame("echo", pattern(BULK_THRESHOLD * 3)), LIMIT)
                    .await
                    .unwrap();
                let (second, _) = dialler.connect(addr, Bytes::new(), service).await.unwrap();
                second.call(frame("echo", ""), LIMIT).await.unwrap()
            })
        });
        until("the thread's end", || thread.is_finished()).await;
        assert_eq!(thread.join().unwrap(), frame("echo", ""));
    });
}

#[test]
fn bulk_travels_both_ways() {
    run(async {
        let pair = pair([127, 77, 1, 4]).await;
        let big = pattern(FRAME_PAYLOAD_MAX);
        let answer = pair
            .connection
            .call(frame("size", big.clone()), LIMIT)
            .await
            .unwrap();
        assert_eq!(answer.payload, FRAME_PAYLOAD_MAX.to_string());
        let answer = pair
            .connection
            .call(frame("echo", big.clone()), LIMIT)
            .await
            .unwrap();
        assert!(answer.payload == big);
        let answer = pair
            .connection
            .call(frame("bulk", ""), LIMIT)
            .await
            .unwrap();
        assert!(answer.payload == pattern(BULK_THRESHOLD * 10));
        let calls = (0..40).map(|_| pair.connection.call(frame("bulk", ""), LIMIT));
        for answer in futures::future::join_all(calls).await {
            assert!(answer.unwrap().payload == pattern(BULK_THRESHOLD * 10));
        }
        // A large header counts as bulk too.
        let header = format!("e{}", "x".repeat(300_000));
        let answer = pair
            .connection
            .call(frame(&header, ""), LIMIT)
            .await
            .unwrap();
        assert_eq!(answer.header.len(), 300_001);
        until("bulk to be off the books", || {
            [&pair.connection, &pair.server.connection(0)]
                .iter()
                .all(|c| c.bulk_bytes() == (0, 0))
        })
        .await;
        assert_eq!(pair.endpoint.refusals() + pair.dialler.refusals(), 0);
    });
}

/// The address of this host on some network, if it is on one. Sends nothing.
fn own_address() -> Option<SocketAddr> {
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    probe.connect("192.0.2.1:9").ok()?;
    probe
        .local_addr()
        .ok()
        .filter(|addr| !addr.ip().is_loopback())
}

#[test]
fn bulk_travels_with_the_settings_of_a_network() {
    // A host without a network has nothing to try it on.
    let Some(own) = own_address() else { return };
    run(async {
        let server = Peer::new();
        let any = "0.0.0.0:0".parse().unwrap();
        let endpoint = Endpoint::serve(any, Protocol::Flare, &SECRET, server.clone()).unwrap();
        let addr = SocketAddr::new(own.ip(), endpoint.local_addr().unwrap().port());
        let dialler = Endpoint::client(addr, Protocol::Flare, &SECRET).unwrap();
        let (connection, _) = dialler
            .connect(addr, Bytes::new(), Peer::new())
            .await
            .unwrap();
        let start = Instant::now();
        let big = pattern(FRAME_PAYLOAD_MAX);
        for _ in 0..8 {
            let answer = connection
                .call(frame("echo", big.clone()), LIMIT)
                .await
                .unwrap();
            assert!(answer.payload == big);
        }
        println!(
            "{} MiB echoed in {:?}",
            (8 * FRAME_PAYLOAD_MAX) >> 20,
            start.elapsed()
        );
        // One that listens on all addresses is reached through loopback as well.
        let near = SocketAddr::new([127, 0, 0, 1].into(), addr.port());
        let (near, _) = dialler
            .connect(near, Bytes::new(), Peer::new())
            .await
            .unwrap();
        assert!(
            near.call(frame("echo", big.clone()), LIMIT)
                .await
                .unwrap()
                .payload
                == big
        );
        assert_eq!(endpoint.refusals() + dialler.refusals(), 0);
    });
}

#[test]
fn pushes_of_a_lane_keep_their_order_whatever_their_size() {
    run(async {
        let pair = pair([127, 77, 1, 5]).await;
        let sizes = [
            0,
            1,
            50_000,
            7,
            1_000_000,
            17,
            BULK_THRESHOLD,
            BULK_THRESHOLD + 1,
            4096,
        ];
        let count = sizes.len() * 10;
        for i in 0..count {
            let push = frame(&i.to_string(), pattern(sizes[i % sizes.len()]));
            pair.connection
                .push(Lane::Replication, push.clone())
                .unwrap();
            pair.connection.push(Lane::Control, push).unwrap();
            let back = frame(&i.to_string(), "");
            pair.server
                .connection(0)
                .push(Lane::Replication, back)
                .unwrap();
        }
        until("all pushes", || pair.server.pushed() == 2 * count).await;
        until("all pushes back", || pair.client.pushed() == count).await;
        let pushes = pair.server.pushes.lock().unwrap();
        for lane in [Lane::Control, Lane::Replication] {
            let of_lane = pushes.iter().filter(|(l, _)| *l == lane);
            for (i, (_, push)) in of_lane.enumerate() {
                assert_eq!(push.header, i.to_string());
                assert!(push.payload == pattern(sizes[i % sizes.len()]));
            }
        }
        for (i, (_, push)) in pair.client.pushes.lock().unwrap().iter().enumerate() {
            assert_eq!(push.header, i.to_string());
        }
    });
}

#[test]
fn a_push_never_waits_but_says_full() {
    run(async {
        let pair = pair([127, 77, 1, 6]).await;
        // Nothing is sent while this task does not wait.
        let push = |size: usize| {
            pair.connection
                .push(Lane::Replication, frame("p", vec![0; size]))
        };
        for _ in 0..SEND_QUEUE {
            push(0).unwrap();
        }
        assert!(matches!(push(0), Err(TransportError::Full { .. })));
        until("room", || push(0).is_ok()).await;
        until("all", || pair.server.pushed() == SEND_QUEUE + 1).await;
        let mut taken = 0;
        while push(FRAME_PAYLOAD_MAX - 1).is_ok() {
            taken += 1;
        }
        assert_eq!(taken, 2 * SHIP_WINDOW_BYTES / FRAME_PAYLOAD_MAX);
    });
}

#[test]
fn what_is_too_large_is_not_sent() {
    run(async {
        let pair = pair([127, 77, 1, 7]).await;
        let large = || frame("echo", vec![0; FRAME_PAYLOAD_MAX + 1]);
        let too_large = |result| assert!(matches!(result, Err(TransportError::TooLarge { .. })));
        too_large(pair.connection.call(large(), LIMIT).await.map(drop));
        too_large(pair.connection.push(Lane::Control, large()));
        let (sender, receiver) = std::sync::mpsc::channel();
        let done = move |result: Result<Frame, _>| sender.send(result.map(drop)).unwrap();
        pair.connection.call_with(large(), LIMIT, Box::new(done));
        too_large(receiver.recv().unwrap());
        // An answer that is too large is no answer.
        let answer = pair.connection.call(frame("too large", ""), LIMIT).await;
        assert!(
            matches!(answer, Err(TransportError::NoAnswer { .. })),
            "{answer:?}"
        );
    });
}

#[test]
fn a_dropped_replier_and_the_limit_of_a_call() {
    run(async {
        let pair = pair([127, 77, 1, 8]).await;
        for payload in [Bytes::new(), pattern(BULK_THRESHOLD * 2)] {
            let start = Instant::now();
            let answer = pair
                .connection
                .call(frame("drop", payload.clone()), LIMIT)
                .await;
            assert!(
                matches!(answer, Err(TransportError::NoAnswer { .. })),
                "{answer:?}"
            );
            assert!(start.elapsed() < LIMIT / 2);
            let limit = Duration::from_millis(100);
            let answer = pair.connection.call(frame("hold", payload), limit).await;
            assert!(
                matches!(answer, Err(TransportError::Timeout { .. })),
                "{answer:?}"
            );
        }
        // Late answers and forgotten questions hurt nobody.
        for (question, replier) in std::mem::take(&mut *pair.server.held.lock().unwrap()) {
            replier.send(question);
        }
        let forgotten = pair.connection.call(frame("hold", ""), LIMIT);
        assert!(
            tokio::time::timeout(Duration::from_millis(20), forgotten)
                .await
                .is_err()
        );
        until("the question", || {
            pair.server.held.lock().unwrap().len() == 1
        })
        .await;
        for (_, replier) in std::mem::take(&mut *pair.server.held.lock().unwrap()) {
            replier.send(frame("late", pattern(BULK_THRESHOLD * 2)));
        }
        pair.connection
            .call(frame("echo", ""), LIMIT)
            .await
            .unwrap();
        assert!(pair.connection.is_open());
    });
}

#[test]
fn the_end_is_reported_once_on_each_side() {
    run(async {
        let pair = pair([127, 77, 1, 9]).await;
        let waiting = pair.connection.call(frame("hold", ""), LIMIT);
        let close = async {
            until("the question", || {
                pair.server.held.lock().unwrap().len() == 1
            })
            .await;
            pair.server.connection(0).close("enough of this");
        };
        let (answer, ()) = futures::join!(waiting, close);
        assert!(
            matches!(&answer, Err(TransportError::Closed { reason, .. })
            if reason == "enough of this"),
            "{answer:?}"
        );
        until("both ends", || {
            pair.server.downs().len() == 1 && pair.client.downs().len() == 1
        })
        .await;
        pair.connection.close("again");
        pair.endpoint.close("all").await;
        assert_eq!(
            pair.client.downs(),
            [(pair.connection.id(), "enough of this".to_owned())]
        );
        assert_eq!(pair.server.downs().len(), 1);
        assert!(!pair.connection.is_open());
        let after = pair.connection.call(frame("echo", ""), LIMIT).await;
        assert!(matches!(after, Err(TransportError::Closed { .. })));
        let after = pair.connection.push(Lane::Control, frame("", ""));
        assert!(matches!(after, Err(TransportError::Closed { .. })));
    });
}

#[test]
fn closing_an_endpoint_says_goodbye_to_all() {
    run(async {
        let pair = pair([127, 77, 1, 10]).await;
        let addr = pair.endpoint.local_addr().unwrap();
        pair.endpoint.close("going down").await;
        until("the goodbye", || !pair.client.downs().is_empty()).await;
        assert_eq!(pair.client.downs()[0].1, "going down");
        assert_eq!(pair.server.downs()[0].1, "closed by this side");
        // The port is free again once the endpoint and its connections are gone.
        drop(pair.endpoint);
        pair.server.up.lock().unwrap().clear();
        let again = Peer::new();
        let mut bound = None;
        until("the port", || {
            bound = Endpoint::serve(addr, Protocol::Flare, &SECRET, again.clone()).ok();
            bound.is_some()
        })
        .await;
    });
}

#[test]
fn connecting_to_nobody_takes_seconds_not_forever() {
    run(async {
        let silent = std::net::UdpSocket::bind("127.77.1.11:0").unwrap();
        let addr = silent.local_addr().unwrap();
        let dialler = Endpoint::client(addr, Protocol::Flare, &SECRET).unwrap();
        let start = Instant::now();
        let result = dialler.connect(addr, Bytes::new(), Peer::new()).await;
        assert!(
            matches!(result, Err(TransportError::NoAnswer { .. })),
            "{result:?}"
        );
        assert!(start.elapsed() < Duration::from_secs(6));
        let taken = Endpoint::serve(addr, Protocol::Flare, &SECRET, Peer::new());
        assert!(
            matches!(taken, Err(TransportError::Bind { .. })),
            "{taken:?}"
        );
    });
}
