//! `print debug`, `debug on`, `debug off`; and `fault`, for tests.

use super::{CommandError, Shell};
use crate::console::render;
use crate::debug::{CHANNELS, Mask};

/// `print debug`.
pub async fn print(shell: &mut Shell) -> Result<(), CommandError> {
    let mask = shell.backend.debug_switch().mask();
    for channel in CHANNELS {
        let mark = if mask.shows(channel.letter) { '*' } else { ' ' };
        let line = format!("{mark} {}  {}", channel.letter, channel.meaning);
        shell.output.line(line).await?;
    }
    Ok(())
}

/// `debug on` and `debug off`.
pub async fn turn(shell: &mut Shell, open: bool, channels: Mask) -> Result<(), CommandError> {
    let switch = shell.backend.debug_switch();
    if open {
        switch.open(channels);
    } else {
        switch.close(channels);
    }
    let letters = switch.mask().letters();
    tracing::info!(
        peer = shell.peer,
        channels = letters,
        "debug channels turned"
    );
    let line = match letters.as_str() {
        "" => "debug channels open: none".to_owned(),
        letters => format!("debug channels open: {letters}"),
    };
    Ok(shell.output.line(line).await?)
}

/// `fault`: makes an actor panic in a volcano that was started for tests.
pub async fn fault(shell: &mut Shell, actor: &str) -> Result<(), CommandError> {
    let actor_text = render::text(actor);
    match shell.backend.fault(actor) {
        Ok(()) => Ok(shell
            .output
            .line(format!("fault sent to {actor_text}"))
            .await?),
        Err(reason) => Err(CommandError::Unfit {
            object: actor_text,
            reason,
        }),
    }
}
