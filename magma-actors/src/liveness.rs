//! Whether the volcano lives: each actor, the engine and the agreement answer within a bound.
//!
//! A process that runs is no proof. What counts is that every part takes its turn: an actor
//! answers a message from its mailbox, the engine's thread looks at its queue, the thread of
//! the agreement runs a task. All are asked at the same time, and nothing waits behind the
//! question.

use std::sync::Arc;
use std::time::Duration;

use actix::{Context, Handler, Message, Recipient};
use futures::future::join_all;

use crate::agreement::Group;
use crate::console::ConsoleActor;
use crate::engine::EngineHandle;
use crate::supervision::{GuardedContext, Handle, Inner};

/// How often the engine is looked at while it has not moved.
const LOOK: Duration = Duration::from_millis(20);

/// Asks an actor whether it takes messages.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Ping;

impl<S: Inner> Handle<Ping> for S {
    fn handle(&mut self, _: Ping, _: &mut GuardedContext<S>) {}
}

impl Handler<Ping> for ConsoleActor {
    type Result = ();

    fn handle(&mut self, _: Ping, _: &mut Context<ConsoleActor>) {}
}

/// The parts of a volcano that must all live.
pub struct Vitals {
    /// The supervised actors, by name.
    pub actors: Vec<(&'static str, Recipient<Ping>)>,
    /// The engine's thread.
    pub engine: EngineHandle,
    /// The agreement and its thread.
    pub group: Arc<Group>,
}

impl Vitals {
    /// The names of those who do not answer in time; nobody, if all is well.
    pub async fn silent(&self, patience: Duration) -> Vec<&'static str> {
        let actors = silent_actors(&self.actors, patience);
        let engine = engine_turns(&self.engine, patience);
        let group = tokio::time::timeout(patience, self.group.turns());
        let (mut silent, engine, group) = futures::join!(actors, engine, group);
        if !engine {
            silent.push("Engine");
        }
        if group != Ok(true) {
            silent.push("Agreement");
        }
        silent
    }
}

async fn silent_actors(
    actors: &[(&'static str, Recipient<Ping>)],
    patience: Duration,
) -> Vec<&'static str> {
    let asked = actors.iter().map(|(name, actor)| async move {
        match tokio::time::timeout(patience, actor.send(Ping)).await {
            Ok(Ok(())) => None,
            // Late, or the actor is gone.
            Ok(Err(_)) | Err(_) => Some(*name),
        }
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// Whether the engine's thread takes its turn.
async fn engine_turns(engine: &EngineHandle, patience: Duration) -> bool {
    let before = engine.turns();
    let moved = async {
        while engine.turns() == before {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(patience, moved).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    use actix::{Actor, AsyncContext, fut};
    use magma_core::agreement::Change;
    use magma_core::ids::{NetworkId, VolcanoId};
    use magma_core::lava::{Lava, VolcanoInfo};

    use crate::engine::{self, EngineSeed};
    use crate::supervision::{Guarded, Watch};

    /// An actor that waits for ever as soon as it starts.
    struct Stuck;

    impl Inner for Stuck {
        const NAME: &'static str = "Stuck";
        fn started(&mut self, ctx: &mut GuardedContext<Stuck>) {
            ctx.wait(fut::wrap_future(std::future::pending::<()>()));
        }
    }

    struct Well;

    impl Inner for Well {
        const NAME: &'static str = "Well";
    }

    #[actix::test]
    async fn an_actor_that_takes_no_messages_is_named() {
        let watch = Watch::new();
        let well = Guarded::new(watch.clone(), || Well).start();
        let stuck = Guarded::new(watch.clone(), || Stuck).start();
        let actors = [("Well", well.recipient()), ("Stuck", stuck.recipient())];
        let silent = silent_actors(&actors, Duration::from_millis(100)).await;
        assert_eq!(silent, ["Stuck"]);
        let patience = Duration::from_secs(10);
        assert!(silent_actors(&actors[..1], patience).await.is_empty());
        watch.close();
    }

    #[actix::test]
    async fn an_engine_that_hangs_takes_no_turns() {
        let dir = tempfile::tempdir().unwrap();
        let me = VolcanoInfo {
            nick: "wallace".into(),
            fqdn: "wallace".into(),
            addr: [127, 0, 0, 1].into(),
            port: 12_000,
            bandwidth_kbit: 1,
            storage_bytes: 0,
            arbiter: false,
        };
        let change = Change::Bootstrap {
            network: NetworkId(7),
            volcano: Box::new(me),
            redundancy: 1,
        };
        let lava = Lava::default().apply(&change).unwrap();
        let seed = EngineSeed {
            dir: dir.path().to_owned(),
            me: VolcanoId(1),
            lava,
        };
        let (output, _outputs) = tokio::sync::mpsc::unbounded_channel();
        let (engine, _) = engine::start(seed, Watch::new(), output).unwrap();
        assert!(engine_turns(&engine, Duration::from_secs(10)).await);
        let (let_go, held) = std::sync::mpsc::channel::<()>();
        let hang = engine.clone();
        let hanging = tokio::spawn(async move {
            hang.ask(move |_| {
                let _ = held.recv();
            })
            .await
        });
        let hangs = async { while engine_turns(&engine, Duration::from_millis(1500)).await {} };
        tokio::time::timeout(Duration::from_secs(20), hangs)
            .await
            .unwrap();
        drop(let_go);
        hanging.await.unwrap();
        assert!(engine_turns(&engine, Duration::from_secs(10)).await);
        engine.stop();
    }
}
