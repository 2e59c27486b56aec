//! What the service manager hears of this volcano: sd_notify(3) of systemd.
//!
//! `READY=1` when the volcano serves, `STATUS=` whenever what it does or waits for changes,
//! `RELOADING=1` while it begins a new generation of the network in the same process,
//! `STOPPING=1` when it ends, and `WATCHDOG=1` as long as all of its parts live
//! ([`crate::liveness`]). Without a service manager, when the environment names no socket for
//! it, nothing happens.

use std::sync::Arc;
use std::time::Duration;

use magma_core::limits::LIVENESS_MS;
use sd_notify::NotifyState;

use crate::config::Start;
use crate::liveness::Vitals;
use crate::node::Node;
use crate::readiness::status_line;

/// Where systemd says that it listens.
pub const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";
/// How often the status is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Of the time that the watchdog gives us, each look at the tree gets this part: one that fails may
/// be followed by one that does not.
const LOOKS_PER_LIMIT: u32 = 3;
/// A service manager that takes no message for this long is not waited for at the end.
const GOODBYE: Duration = Duration::from_secs(1);

/// What has happened to the volcano.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// Nothing but its status.
    Status,
    /// It serves.
    Ready,
    /// It ends, and starts anew in the same process.
    Reloading,
    /// It ends.
    Stopping,
    /// All of its parts answer.
    Alive,
}

/// What a volcano does before it has a lava to wait for.
pub fn starting(start: &Start) -> String {
    match start {
        Start::Bootstrap { .. } => "begins a lava network".into(),
        Start::Join { contact, .. } => format!("joins the network of {contact}"),
        Start::Rejoin { .. } => "joins the network again, as empty".into(),
        Start::Restart { .. } => "loading".into(),
    }
}

/// Tells what the volcano does. Waits for the service manager to take it.
pub fn status(status: &str) {
    send(News::Status, Some(status));
}

/// The volcano ends, for good or to start anew at once.
pub async fn ending(begins_anew: bool) {
    let (news, status) = match begins_anew {
        true => (News::Reloading, "begins a new generation of the network"),
        false => (News::Stopping, "ending"),
    };
    let told = tell(news, Some(status.to_owned()));
    if tokio::time::timeout(GOODBYE, told).await.is_err() {
        tracing::warn!("the service manager does not take the message that the volcano ends");
    }
}

/// Tells how the volcano is, from its start until it ends.
pub async fn follow(node: Arc<Node>) {
    if !is_there() {
        return;
    }
    let mut said = String::new();
    let mut said_ready = false;
    while !node.is_stopping() {
        // In this order: a status of before is never told together with READY.
        let ready = node.is_ready();
        let status = status_line(&node);
        if status != said || ready != said_ready {
            let news = match ready && !said_ready {
                true => News::Ready,
                false => News::Status,
            };
            tell(news, Some(status.clone())).await;
            (said, said_ready) = (status, ready);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Feeds the watchdog, if there is one, as long as everything in the volcano lives. One that does
/// not is ended by the service manager, so that the others take over, and started again.
pub async fn feed_watchdog(node: Arc<Node>, vitals: Vitals) {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else {
        return;
    };
    let period = limit / LOOKS_PER_LIMIT;
    let patience = period.min(Duration::from_millis(LIVENESS_MS));
    while !node.is_stopping() {
        let silent = vitals.silent(patience).await;
        if silent.is_empty() {
            tell(News::Alive, None).await;
        } else if !node.is_stopping() {
            tracing::error!(
                "no answer within {patience:?} from {}: the watchdog is not fed",
                silent.join(", ")
            );
        }
        tokio::time::sleep(period).await;
    }
}

fn is_there() -> bool {
    std::env::var_os(SOCKET_VARIABLE).is_some()
}

/// Sends off the arbiter: a service manager that hangs must not stop the volcano.
async fn tell(news: News, status: Option<String>) {
    if is_there() {
        let sent = tokio::task::spawn_blocking(move || send(news, status.as_deref()));
        if let Err(error) = sent.await {
            tracing::warn!("the service manager was not told: {error}");
        }
    }
}

fn send(news: News, status: Option<&str>) {
    // One line: the protocol ends a value with its line.
    let status = status.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    let mut message = Vec::new();
    match news {
        News::Status => {}
        News::Ready => message.push(NotifyState::Ready),
        News::Reloading => {
            message.push(NotifyState::Reloading);
            // Which reload the next READY ends is known by the time.
            message.extend(NotifyState::monotonic_usec_now());
        }
        News::Stopping => message.push(NotifyState::Stopping),
        News::Alive => message.push(NotifyState::Watchdog),
    }
    message.extend(status.as_deref().map(NotifyState::Status));
    if let Err(error) = sd_notify::notify(&message) {
        tracing::warn!("the service manager was not told: {error}");
    }
}
