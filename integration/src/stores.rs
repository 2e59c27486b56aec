//! The stores of volcanos that do not run, looked at without a volcano's help.

use std::path::{Path, PathBuf};

use magma_core::effect::Effect;
use magma_core::ids::VolcanoId;
use magma_core::key::Key;
use magma_core::lava::Lava;
use magma_core::store::View;
use magma_core::store::agreement_log::AgreementLog;
use magma_core::store::lock::DirLock;
use magma_core::store::sqlite::SqliteStore;

use crate::volcano_process::programs;
use magma_cli::program::Program;

/// A store.
#[derive(Debug)]
pub struct LookedAt {
    /// Whose it is.
    pub volcano: VolcanoId,
    /// The lava as it knows it.
    pub lava: Lava,
    /// Rows and content.
    pub store: SqliteStore,
    _lock: DirLock,
}

impl LookedAt {
    /// Opens the store of a volcano that has ended.
    ///
    /// # Panics
    ///
    /// When it cannot be read, or its volcano runs.
    #[track_caller]
    pub fn open(dir: &Path) -> LookedAt {
        let open = || -> Result<_, magma_core::store::StoreError> {
            let lock = DirLock::take(dir)?;
            let log = AgreementLog::peek(dir)?;
            Ok((log.load_self()?, log.load()?, SqliteStore::peek(dir)?, lock))
        };
        match open() {
            Ok((Some((volcano, _)), Some(lava), store, _lock)) => LookedAt {
                volcano,
                lava,
                store,
                _lock,
            },
            Ok(_) => panic!("{} holds no volcano", dir.display()),
            Err(error) => panic!("{error}"),
        }
    }

    /// Every key that has rows here, with all of them.
    ///
    /// # Panics
    ///
    /// When the store is damaged.
    pub fn keys(&self) -> Vec<(Key, Vec<Effect>)> {
        let mut keys: Vec<(Key, Vec<Effect>)> = Vec::new();
        loop {
            let after = keys.last().map(|(key, _)| *key);
            match self.store.rows_of_next_key(after, Key::MAX) {
                Ok(Some(next)) => keys.push(next),
                Ok(None) => return keys,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Runs `magma verify` on stores. Returns its table.
///
/// # Panics
///
/// When it does not find all copies equal.
#[track_caller]
pub fn verify(dirs: &[PathBuf]) -> String {
    let mut command = programs().command(Program::Tools);
    let output = command
        .arg("verify")
        .args(dirs)
        .output()
        .unwrap_or_else(|error| panic!("cannot start magma verify: {error}"));
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "magma verify:\n{said}");
    assert!(said.contains("All copies are equal."), "{said}");
    said
}
