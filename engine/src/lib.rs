//! The container engine inside rcompose: images, containers, networks and volumes.
//!
//! It never heard of `compose.yaml`; what it knows is a *project*, a name that a set of containers, networks and
//! volumes belong to, and that one supervisor process looks after (`docs/architecture.md`).

pub mod build;
pub mod container;
pub mod error;
pub mod git;
pub mod host;
pub mod id;
pub mod image;
pub mod network;
pub mod oci;
pub mod protocol;
pub mod resolve;
pub mod root;
pub mod shim;
pub mod supervisor;
pub mod sys;
pub mod volume;
