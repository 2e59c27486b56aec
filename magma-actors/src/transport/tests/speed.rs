//! What messages cost: short, so that a change for the worse is noticed by whoever looks.
//! `cargo test -p magma-actors speed -- --nocapture` shows the numbers.

use futures::future::join_all;
use magma_core::limits::IO_MAX;
use std::time::{Duration, Instant};

use super::{LIMIT, Lane, Pair, TransportError, frame, pair, pattern, run, until};

/// Processor time of this thread, which is both sides here.
fn cpu() -> Duration {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    Duration::from(time)
}

async fn measure(what: &str, count: usize, work: impl AsyncFnOnce()) {
    let (start, cpu_start) = (Instant::now(), cpu());
    work().await;
    let per = |spent: Duration| spent.as_secs_f64() * 1e6 / count as f64;
    println!(
        "{what}: {:.1} us each, {:.1} us of processor for both sides",
        per(start.elapsed()),
        per(cpu() - cpu_start)
    );
}

async fn calls(pair: &Pair, at_once: usize, each: usize, payload: usize) {
    let question = frame("size", pattern(payload));
    join_all((0..at_once).map(|_| async {
        for _ in 0..each {
            pair.connection.call(question.clone(), LIMIT).await.unwrap();
        }
    }))
    .await;
}

#[test]
fn speed() {
    run(async {
        let pair = pair([127, 77, 3, 1]).await;
        // Lets QUIC find the packet size.
        calls(&pair, 1, 200, 100).await;
        measure("100 bytes alone", 1000, async || {
            calls(&pair, 1, 1000, 100).await
        })
        .await;
        for at_once in [4, 32, 128] {
            let what = format!("100 bytes, {at_once} at once");
            let each = 8192 / at_once;
            measure(&what, 8192, async || calls(&pair, at_once, each, 100).await).await;
        }
        measure("1 MiB calls, 1 at once", 50, async || {
            calls(&pair, 1, 50, IO_MAX).await
        })
        .await;
        measure("1 MiB calls, 8 at once", 200, async || {
            calls(&pair, 8, 25, IO_MAX).await
        })
        .await;
        measure("1 MiB pushes", 200, async || {
            let push = frame("weigh", pattern(IO_MAX));
            for _ in 0..200 {
                loop {
                    match pair.connection.push(Lane::Replication, push.clone()) {
                        Ok(()) => break,
                        Err(TransportError::Full { .. }) => {
                            tokio::time::sleep(Duration::from_millis(1)).await
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            until("all pushes", || pair.server.pushed() == 200).await;
        })
        .await;
    });
}
