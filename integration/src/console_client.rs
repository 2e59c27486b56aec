//! The console of a volcano, as telnet sees it. See [`ConsoleClient`].

pub use magma_cli::launch::console::ConsoleClient;
