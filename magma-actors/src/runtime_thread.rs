//! A thread with a runtime of its own: for what must not wait for anything else of its process.

use std::io;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// The thread. It ends, with all that runs on it, when this is dropped.
#[derive(Debug)]
pub struct RuntimeThread {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
}

impl RuntimeThread {
    /// Starts it, under a name of at most 15 bytes.
    pub fn start(name: &str) -> io::Result<RuntimeThread> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // Both a message and a dropped sender are the signal.
                let _ = runtime.block_on(stopped);
                runtime.shutdown_background();
            })?;
        Ok(RuntimeThread {
            handle,
            stop: Some(stop),
        })
    }

    /// Where to give it work.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for RuntimeThread {
    fn drop(&mut self) {
        // Not joined: the last owner may be dropped on that very thread.
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }
}
