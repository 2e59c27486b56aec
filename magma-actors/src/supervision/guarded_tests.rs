use super::*;
use crate::supervision::fault::{FaultsOff, Panic, faults_allowed};
use actix::MailboxError;
use magma_core::limits::RESTARTS_MAX;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counts what it is told; each life begins at a hundred times its number.
struct Counter {
    count: u32,
}

impl Inner for Counter {
    const NAME: &'static str = "counter";
}

#[derive(Message)]
#[rtype(result = "u32")]
struct Add(u32);

impl Handle<Add> for Counter {
    fn handle(&mut self, message: Add, _: &mut GuardedContext<Self>) -> u32 {
        assert!(message.0 != 13, "thirteen");
        self.count += message.0;
        self.count
    }
}

#[derive(Message)]
#[rtype(result = "()")]
enum Order {
    PanicInFuture,
    PanicOutsideTheGuard,
    Every(Arc<AtomicU32>),
    AddLater(u32),
}

impl Handle<Order> for Counter {
    fn handle(&mut self, order: Order, ctx: &mut GuardedContext<Self>) {
        match order {
            Order::PanicInFuture => Guarded::spawn(
                ctx,
                async { std::panic::resume_unwind(Box::new("in a future")) },
                |_: &mut Counter, (), _| {},
            ),
            Order::PanicOutsideTheGuard => {
                ctx.spawn(fut::wrap_future(async {
                    std::panic::resume_unwind(Box::new("unguarded"))
                }));
            }
            Order::Every(ticks) => {
                Guarded::every(ctx, Duration::from_millis(1), move |_: &mut Counter, _| {
                    let tick = ticks.fetch_add(1, Ordering::Relaxed);
                    assert!(tick != 1, "second tick");
                });
            }
            Order::AddLater(more) => {
                Guarded::spawn(ctx, async move { more }, |inner: &mut Counter, more, _| {
                    inner.count += more
                })
            }
        }
    }
}

#[derive(Message)]
#[rtype(result = "u32")]
struct Peek;

impl Handle<Peek> for Counter {
    fn handle(&mut self, _: Peek, _: &mut GuardedContext<Self>) -> u32 {
        self.count
    }
}

fn start() -> (Watch, actix::Addr<Guarded<Counter>>) {
    let watch = Watch::new();
    let mut lives = 0;
    let actor = Guarded::new(watch.clone(), move || {
        lives += 1;
        Counter { count: lives * 100 }
    });
    (watch, actor.start())
}

async fn settled(mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
    waited.expect("the condition comes true");
}

#[actix::test]
async fn a_panic_costs_the_state_and_nothing_else() {
    let (watch, addr) = start();
    assert_eq!(addr.send(Add(1)).await, Ok(101));
    let before = [addr.send(Add(13)), addr.send(Add(2))];
    let [panicked, queued] = before;
    assert_eq!(panicked.await, Err(MailboxError::Closed));
    assert_eq!(queued.await, Ok(202), "the mailbox has survived");
    assert!(addr.connected());
    assert_eq!(addr.send(Add(1)).await, Ok(203));
    assert_eq!(watch.restarts(), [("counter", 1)]);
}

#[actix::test]
async fn too_many_panics_are_reported() {
    let (watch, addr) = start();
    for _ in 0..RESTARTS_MAX {
        assert_eq!(addr.send(Add(13)).await, Err(MailboxError::Closed));
    }
    let failure = watch.failure().await;
    assert!(
        matches!(&failure, Failure::TooManyRestarts { actor: "counter", panic, .. } if panic == "thirteen"),
        "{failure}"
    );
    assert_eq!(addr.send(Add(1)).await, Err(MailboxError::Closed));
}

#[actix::test]
async fn a_factory_that_panics_spends_the_budget_too() {
    let watch = Watch::new();
    let mut lives = 0;
    let actor = Guarded::new(watch.clone(), move || {
        lives += 1;
        assert!(lives == 1, "the store is gone");
        Counter { count: 0 }
    });
    let addr = actor.start();
    assert_eq!(addr.send(Add(13)).await, Err(MailboxError::Closed));
    let failure = watch.failure().await.to_string();
    assert!(failure.contains("the store is gone"), "{failure}");
}

#[actix::test]
async fn futures_and_timers_are_guarded() {
    let (watch, addr) = start();
    let ticks = Arc::new(AtomicU32::new(0));
    addr.send(Order::Every(ticks.clone())).await.expect("alive");
    settled(|| ticks.load(Ordering::Relaxed) > 3).await;
    assert_eq!(watch.restarts(), [("counter", 1)], "the timer goes on");
    addr.send(Order::PanicInFuture).await.expect("alive");
    settled(|| watch.restarts() == [("counter", 2)]).await;
    assert_eq!(addr.send(Peek).await, Ok(300));
    addr.send(Order::AddLater(7)).await.expect("alive");
    assert_eq!(addr.send(Peek).await, Ok(307));
}

#[actix::test]
async fn a_panic_outside_the_guard_is_reported() {
    let (watch, addr) = start();
    addr.send(Order::PanicOutsideTheGuard).await.expect("alive");
    let lost = Failure::Lost {
        actor: "counter",
        panicked: true,
    };
    assert_eq!(watch.failure().await, lost);
    assert!(!addr.connected());
}

#[actix::test]
async fn an_actor_that_nobody_needs_ends_in_order() {
    let watch = Watch::new();
    let alive = Rc::new(());
    let gone = Rc::downgrade(&alive);
    let actor = Guarded::new(watch.clone(), move || Counter {
        count: Rc::strong_count(&alive) as u32,
    });
    let addr = actor.start();
    assert_eq!(addr.send(Peek).await, Ok(1));
    drop(addr);
    settled(|| gone.strong_count() == 0).await;
    assert_eq!(watch.failure().now_or_never(), None);
}

#[actix::test]
async fn faults_are_refused_without_leave() {
    let (_watch, addr) = start();
    let answer = addr.send(Panic).await;
    if faults_allowed() {
        assert_eq!(answer, Err(MailboxError::Closed));
    } else {
        assert_eq!(answer, Ok(Err(FaultsOff)));
    }
}
