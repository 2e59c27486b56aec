//! `print acl`.

use super::{CommandError, Shell};
use crate::console::render;

/// `print acl`.
pub async fn print(shell: &mut Shell) -> Result<(), CommandError> {
    for rule in shell.backend.acl() {
        for line in render::wrapped(&render::text(&rule), "  ") {
            shell.output.line(line).await?;
        }
    }
    Ok(())
}
