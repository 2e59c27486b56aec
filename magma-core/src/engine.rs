//! The owner of slices.
