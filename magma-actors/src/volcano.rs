//! VolcanoActor: starts, watches and ends the others; says when the volcano is ready.

use std::process::ExitCode;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::{Actor, Addr, Context};
use magma_core::engine::Event;
use magma_core::ids::Epoch;
use magma_core::lava::Lava;
use magma_core::store::lock::DirLock;
use magma_core::time::Moment;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};

use crate::agreement::{Group, NodeLink};
use crate::backend::ConsoleBackend;
use crate::balancer::Balancer;
use crate::config::{InfoChanges, READY_LINE, Start, VolcanoConfig};
use crate::console::ConsoleActor;
use crate::engine::{EngineSeed, Output};
use crate::flare::{Flare, FlareService, FromEngine};
use crate::generation::Afterwards;
use crate::keyspace::{Keyspace, LearnLava};
use crate::links::Dialler;
use crate::liveness::Vitals;
use crate::node::{Node, NodeSeed};
use crate::node_proto::{NodeProto, NodeService};
use crate::readiness::waiting;
use crate::replica::Replica;
use crate::scrub::Scrub;
use crate::service_manager;
use crate::start::{Founded, StartError, found};
use crate::supervision::{Failure, Guarded, Inner, Watch, install_panic_hook};
use crate::transport::{Endpoint, NetworkSecret, Protocol};

/// How often readiness is looked at while a volcano is loading.
const LOOK: Duration = Duration::from_millis(20);
/// Patience for what is under way when a volcano ends.
const GOODBYE: Duration = Duration::from_secs(5);

/// Exit code of a volcano that could not start.
const FAILED: u8 = 1;

/// Runs a volcano until it is told to end. The exit code is that of the process.
pub fn run(config: VolcanoConfig) -> ExitCode {
    if let Err(error) = crate::debug::install(config.debug) {
        tracing::warn!("the log was set up before: {error}");
    }
    install_panic_hook();
    let mut config = config;
    loop {
        service_manager::status(&service_manager::starting(&config.start));
        let system = actix_rt::System::new();
        let outcome = system.block_on(live(config.clone()));
        drop(system);
        match outcome {
            Ok(Afterwards::Nothing) => return ExitCode::SUCCESS,
            Ok(Afterwards::NextGeneration) => {
                let changes = InfoChanges::default();
                config.start = Start::Restart { changes };
            }
            Ok(Afterwards::Outlived(why)) => {
                tracing::error!("{why}");
                service_manager::status(&why);
                return ExitCode::from(FAILED);
            }
            Err(error) => {
                tracing::error!("{error}");
                service_manager::status(&error.to_string());
                return ExitCode::from(FAILED);
            }
        }
    }
}

/// Why a volcano ended otherwise than in order.
#[derive(Debug, thiserror::Error)]
enum LifeError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("an actor is lost, the volcano ends: {0}")]
    Lost(Failure),
    #[error("cannot listen to signals: {0}")]
    Signals(std::io::Error),
}

/// The root of the tree: it holds the addresses, so that the others live as long as it does.
struct VolcanoActor {
    node: Arc<Node>,
    tree: Tree,
}

/// The supervised actors.
struct Tree {
    keyspace: Addr<Guarded<Keyspace>>,
    flare: Addr<Guarded<Flare>>,
    node_proto: Addr<Guarded<NodeProto>>,
    replica: Addr<Guarded<Replica>>,
    balancer: Addr<Guarded<Balancer>>,
    console: Addr<ConsoleActor>,
}

impl Tree {
    /// What must answer as long as the volcano lives.
    fn vitals(&self, node: &Node) -> Vitals {
        let actors = vec![
            (Keyspace::NAME, self.keyspace.clone().recipient()),
            (Flare::NAME, self.flare.clone().recipient()),
            (NodeProto::NAME, self.node_proto.clone().recipient()),
            (Replica::NAME, self.replica.clone().recipient()),
            (Balancer::NAME, self.balancer.clone().recipient()),
            ("ConsoleActor", self.console.clone().recipient()),
        ];
        Vitals {
            actors,
            engine: node.engine.clone(),
            group: node.group.clone(),
        }
    }
}

impl Actor for VolcanoActor {
    type Context = Context<VolcanoActor>;

    fn started(&mut self, _: &mut Self::Context) {
        let node = self.node.clone();
        actix_rt::spawn(async move { become_ready(&node).await });
        actix_rt::spawn(service_manager::follow(self.node.clone()));
        let vitals = self.tree.vitals(&self.node);
        actix_rt::spawn(service_manager::feed_watchdog(self.node.clone(), vitals));
    }
}

/// Waits for the network, then serves.
async fn become_ready(node: &Node) {
    let mut said = None;
    loop {
        let reason = waiting(node);
        match reason {
            None => break,
            Some(reason) => {
                if said.as_ref() != Some(&reason) {
                    tracing::info!("{reason}");
                    said = Some(reason);
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    node.set_ready();
    // Nobody is answered before whoever leads has said that our slices are ours.
    let (epoch, until) = (Epoch(0), Moment(0));
    node.engine
        .post_surely(Event::VolcanoLease { epoch, until });
    node.engine.post_surely(Event::Serve);
    let lava = node.lava();
    tracing::info!(
        "{READY_LINE} ({}, {} volcanos, epoch {})",
        node.info.nick,
        lava.volcanos.len(),
        lava.epoch
    );
}

async fn live(config: VolcanoConfig) -> Result<Afterwards, LifeError> {
    let secret = NetworkSecret::derive(config.secret.reveal()).map_err(StartError::from)?;
    if NetworkSecret::is_weak(config.secret.reveal()) {
        tracing::warn!(
            "the secret key is weak: anyone who reaches a port can guess it offline; `magma keygen` prints a strong one"
        );
    }
    let mut terminate = signal(SignalKind::terminate()).map_err(LifeError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(LifeError::Signals)?;
    let watch = Watch::new();
    let founded = found(&config, &secret).await?;
    let stopped = Arc::new(Notify::new());
    let (node, endpoints) = start_tree(founded, config.evict_after, secret, &watch, &stopped)?;
    let outcome = tokio::select! {
        _ = terminate.recv() => { tracing::info!("SIGTERM: ending in order"); Ok(()) }
        _ = interrupt.recv() => { tracing::info!("SIGINT: ending in order"); Ok(()) }
        () = node.to_end() => Ok(()),
        failure = watch.failure() => Err(LifeError::Lost(failure)),
    };
    watch.close();
    let begins_anew = outcome.is_ok() && node.afterwards() == Afterwards::NextGeneration;
    node.set_stopping();
    service_manager::ending(begins_anew).await;
    end_in_order(&node, &endpoints, &stopped).await;
    outcome.map(|()| node.afterwards())
}

/// Both endpoints, and the lock of the directory: what is held until the end.
struct Endpoints {
    flare: Endpoint,
    node: Endpoint,
    _lock: DirLock,
}

fn start_tree(
    founded: Founded,
    evict_after: Option<Duration>,
    secret: NetworkSecret,
    watch: &Watch,
    stopped: &Arc<Notify>,
) -> Result<(Arc<Node>, Endpoints), StartError> {
    let Founded {
        dir,
        _lock: lock,
        id,
        info,
        own_starts,
        starts,
        lava,
        log,
        console,
    } = founded;
    let (output, outputs) = mpsc::unbounded_channel();
    let seed = EngineSeed {
        dir: dir.clone(),
        me: id,
        lava: lava.clone(),
    };
    let (engine, content) = crate::engine::start(seed, watch.clone(), output)?;
    let link = NodeLink::default();
    let scrub = Scrub::start(&dir, content.clone()).map_err(StartError::Thread)?;
    let group = Group::start(&dir, id, &lava, link.clone())?;
    let node = Arc::new(Node::new(NodeSeed {
        id,
        info: info.clone(),
        own_starts,
        starts,
        dir: dir.clone(),
        secret: secret.clone(),
        watch: watch.clone(),
        engine,
        group: group.clone(),
        scrub,
        evict_after,
        lava,
    }));
    // Set once: nobody else has the link.
    let _ = link.set(Arc::downgrade(&node));
    let flare_service = Arc::new(FlareService::new(node.clone()));
    let flare_endpoint = Endpoint::serve(
        info.flare_addr(),
        Protocol::Flare,
        &secret,
        flare_service.clone(),
    )?;
    let node_service = Arc::new(NodeService::new(node.clone()));
    let node_endpoint = Endpoint::serve(
        info.node_addr(),
        Protocol::Node,
        &secret,
        node_service.clone(),
    )?;
    let flare_dialler = Dialler::new(
        node.clone(),
        Protocol::Flare,
        flare_endpoint.clone(),
        flare_service,
    );
    let node_dialler = Dialler::new(
        node.clone(),
        Protocol::Node,
        node_endpoint.clone(),
        node_service,
    );

    let keyspace = {
        let (node, log) = (node.clone(), Arc::new(Mutex::new(log)));
        Guarded::new(watch.clone(), move || {
            Keyspace::new(node.clone(), log.clone())
        })
        .start()
    };
    let flare = {
        let (node, stopped) = (node.clone(), stopped.clone());
        let make = move || Flare::new(node.clone(), content.clone(), stopped.clone());
        Guarded::new(watch.clone(), make).start()
    };
    let node_proto = {
        let node = node.clone();
        let make = move || NodeProto::new(node.clone(), node_dialler.clone());
        Guarded::new(watch.clone(), make).start()
    };
    let replica = {
        let node = node.clone();
        let make = move || Replica::new(node.clone(), flare_dialler.clone());
        Guarded::new(watch.clone(), make).start()
    };
    let balancer = {
        let node = node.clone();
        Guarded::new(watch.clone(), move || Balancer::new(node.clone())).start()
    };
    // Set once: nobody else has the node yet.
    let _ = node.actors.keyspace.set(keyspace.clone());
    let _ = node.actors.flare.set(flare.clone());
    let _ = node.actors.node_proto.set(node_proto.clone());
    let _ = node.actors.replica.set(replica.clone());
    let _ = node.actors.balancer.set(balancer.clone());
    let backend = Rc::new(ConsoleBackend::new(node.clone()));
    let console = ConsoleActor::new(console, backend).start();
    actix_rt::spawn(feed(outputs, flare.clone()));
    actix_rt::spawn(feed_lavas(group.lavas(), keyspace.clone()));
    let volcano = VolcanoActor {
        node: node.clone(),
        tree: Tree {
            keyspace,
            flare,
            node_proto,
            replica,
            balancer,
            console,
        },
    };
    volcano.start();
    let endpoints = Endpoints {
        flare: flare_endpoint,
        node: node_endpoint,
        _lock: lock,
    };
    Ok((node, endpoints))
}

/// Passes what the engine wants done to the FlareActor, which takes it as fast as it can: a
/// batch waits until the one before it is carried out.
async fn feed(mut outputs: mpsc::UnboundedReceiver<Output>, flare: Addr<Guarded<Flare>>) {
    while let Some(output) = outputs.recv().await {
        if flare.send(FromEngine(output)).await.is_err() {
            // The actor panicked over it; it goes on with the next.
            tracing::debug!(target: "magma::f", "actions of the engine were lost");
        }
    }
}

/// Passes on what the agreement has decided, the newest that there is.
async fn feed_lavas(mut lavas: watch::Receiver<Arc<Lava>>, keyspace: Addr<Guarded<Keyspace>>) {
    while lavas.changed().await.is_ok() {
        let lava = Box::new((**lavas.borrow_and_update()).clone());
        if keyspace.send(LearnLava(lava)).await.is_err() {
            // The actor panicked over it; a heartbeat of another volcano names the epoch.
            tracing::debug!(target: "magma::n", "a lava was lost");
        }
    }
}

/// Ends in order: no new requests, what is decided gets its acknowledgements, the store is
/// closed, and the peers hear that it was on purpose.
async fn end_in_order(node: &Node, endpoints: &Endpoints, stopped: &Notify) {
    node.set_stopping();
    node.scrub.stop();
    let quiet = async {
        // Requests under way wait for their copies: a moment is enough while those live.
        for _ in 0..50 {
            let busy = node
                .engine
                .ask(|engine| {
                    let statistics = engine.statistics();
                    statistics.transactions > 0 || !engine.is_quiet()
                })
                .await;
            if busy != Some(true) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        node.engine.stop();
        stopped.notified().await;
    };
    if tokio::time::timeout(GOODBYE, quiet).await.is_err() {
        tracing::warn!(
            "the engine did not come to rest in time: what is not acknowledged is settled at the next start"
        );
    }
    node.group.stop().await;
    endpoints.flare.close("the volcano ends").await;
    endpoints.node.close("the volcano ends").await;
    tracing::info!("ended in order");
}
