//! The mount: a FUSE adapter over Magma's client library.
//!
//! | module | what it holds |
//! |---|---|
//! | [`client`] | the client library: routing, sessions, retries; also for tools without a mount |
//! | [`filesystem`] | unpacks kernel calls and packs the answers; no logic |
//! | [`volume`] | what a mount shows: the client in terms of inodes and handles |
//! | [`inodes`] | what the kernel refers to by inode number |
//! | [`kernel_cache`] | what the kernel remembers, and how it is made to forget |
//! | [`pages`] | when the kernel may keep the pages of a file |
//! | [`handles`] | open files and directories |
//! | [`locking`] | locks, by the kernel's handles |
//! | [`signals`] | whether a process that waits for us has a signal |
//! | [`listing`] | readdir: cookies, batches, attributes |
//! | [`credentials`] | who asks: groups of the calling process |
//! | [`convert`] | between Magma's types and the kernel's |
//! | [`mount`] | mount(2), serving, unmounting |
//! | [`helper`] | `mount.magma` |
//! | [`dht`] | `/.dht`, the internal directory |

pub mod client;
pub mod convert;
pub mod credentials;
pub mod dht;
pub mod filesystem;
pub mod handles;
pub mod helper;
pub mod inodes;
pub mod kernel_cache;
pub mod listing;
pub mod locking;
pub mod mount;
pub mod pages;
pub mod signals;
pub mod volume;
