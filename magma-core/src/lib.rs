//! Magma's rules: plain, deterministic state machines without clock, socket or async.
//!
//! The core decides, the actors do. A machine takes an event and the time, and returns
//! effects; the shells in `magma-actors` carry them out. Nothing here reads a clock or a
//! random source, and nothing depends on the iteration order of a hash map, so that a seed
//! replays a whole lava network.
//!
//! Where to look:
//!
//! | module | what it holds |
//! |---|---|
//! | [`key`], [`ids`] | the 160-bit key space, and a newtype for each identifier |
//! | [`flare`] | the stored object: attributes, names, paths, entries and links |
//! | [`lava`] | the ring as a value, and its legal transitions |
//! | [`agreement`] | who may change the lava, and the entries of that log |
//! | [`op`] | what a client may ask of a flare, one operation a file |
//! | [`effect`] | what an operation changes: the unit of journal, shipping and copying |
//! | [`locks`] | byte-range locks: who holds, who waits, and who waits for whom |
//! | [`engine`] | the owner of slices: orders operations, replicates, answers |
//! | [`fsck`] | what makes a tree whole: the rules of `magma fsck` |
//! | [`store`] | the only part that touches a disk |
//! | [`wire`] | the messages of both protocols and their codec |
//! | [`limits`] | every bound, in one file |
//! | [`error`] | the errors of an operation, and the one table to errno |

pub mod agreement;
pub mod effect;
pub mod engine;
pub mod error;
pub mod flare;
pub mod fsck;
pub mod ids;
pub mod key;
pub mod lava;
pub mod limits;
pub mod locks;
pub mod op;
pub mod store;
pub mod time;
pub mod wire;
