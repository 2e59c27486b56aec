//! Where a join cuts a slice.
