//! The allocator of the programs.
//!
//! Content travels in pieces of 64 KiB to 1 MiB. The C library gives such pieces back to the
//! kernel as soon as they are freed and takes them anew, page fault by page fault; mimalloc keeps
//! them for a moment (measured in docs/performance.md).

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
