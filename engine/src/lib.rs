//! The container engine inside rcompose.
