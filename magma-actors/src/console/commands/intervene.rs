//! `evict`, `forget`, `proceed`: said first, asked, then done.

use super::{CommandError, Flow, Shell};
use crate::console::backend::Intervention;
use crate::console::render;

/// Says what an intervention would do; or does it, when the peer is sure.
pub async fn intervene(
    shell: &mut Shell,
    what: Intervention,
    sure: bool,
) -> Result<Flow, CommandError> {
    if !sure {
        return match shell.backend.explain(&what) {
            Ok(says) => {
                for sentence in says {
                    shell.output.sentence(sentence).await?;
                }
                Ok(Flow::Confirm(what))
            }
            Err(why) => refused(shell, why).await,
        };
    }
    let by = format!(
        "{} on the console of {}",
        shell.peer,
        shell.backend.me().nick
    );
    match shell.backend.intervene(what, by).await {
        Ok(done) => {
            shell.output.sentence(done).await?;
            Ok(Flow::GoOn)
        }
        Err(why) => refused(shell, why).await,
    }
}

async fn refused(shell: &mut Shell, why: String) -> Result<Flow, CommandError> {
    let why = format!("nothing was done: {}", render::text(&why));
    shell.output.sentence(why).await?;
    Ok(Flow::GoOn)
}
