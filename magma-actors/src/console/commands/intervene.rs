//! `evict`, `forget`, `proceed`: said first, asked, then done.

use super::{CommandError, Flow, Shell};
use crate::console::backend::Intervention;
use crate::console::render;

/// Says what an intervention would do; or does it, when that is what the peer was told and has
/// confirmed. The network may have changed since: then it is told anew.
pub async fn intervene(
    shell: &mut Shell,
    what: Intervention,
    told: Option<Vec<String>>,
) -> Result<Flow, CommandError> {
    let says = match shell.backend.explain(&what) {
        Ok(says) => says,
        Err(why) => return refused(shell, why).await,
    };
    if told.as_ref() != Some(&says) {
        if told.is_some() {
            let changed = "the network has changed: this is what it would do now";
            shell.output.sentence(changed).await?;
        }
        for sentence in &says {
            shell.output.sentence(sentence).await?;
        }
        return Ok(Flow::Confirm(what, says));
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
