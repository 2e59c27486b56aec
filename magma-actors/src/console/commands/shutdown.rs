//! `shutdown` and `shutdown node`.

use super::{CommandError, Flow, Shell};
use crate::console::render;

/// Ends the network or this volcano. The peer reads that it has begun, and then that the
/// connection is closed; where it is refused, why, and the session goes on.
pub async fn shutdown(shell: &mut Shell, whole_network: bool) -> Result<Flow, CommandError> {
    shell.output.raw("Shutting down magma... ").await?;
    // Before the order, which may end this session at any moment.
    shell.output.flush().await?;
    let by = format!(
        "{} on the console of {}",
        shell.peer,
        shell.backend.me().nick
    );
    tracing::info!(by, whole_network, "shutdown asked for");
    match shell.backend.shutdown(whole_network, by).await {
        Ok(()) => Ok(Flow::Shutdown),
        Err(reason) => {
            shell.output.line("refused").await?;
            shell
                .output
                .sentence(format!("shutdown: {}", render::text(&reason)))
                .await?;
            Ok(Flow::GoOn)
        }
    }
}
