//! Building images: Dockerfiles as a graph of steps, and the execution of such a graph.
//!
//! [`graph`] is where the two halves meet: the language half ([`dockerfile`], [`dispatch`], [`check`]) makes a graph and
//! never executes anything, the executing half ([`Builder`]) knows no Dockerfile.

mod aside;
mod attest;
mod cache;
mod cache_mount;
pub mod check;
mod copy;
pub mod dispatch;
pub mod dockerfile;
mod error;
mod event;
mod execute;
mod fetched;
mod files;
mod forward;
pub mod graph;
mod halt;
pub mod ignore;
mod key;
mod large;
mod layer;
mod mode;
mod output;
mod prune;
mod repository;
mod request;
mod run;
pub mod runner;
mod sbom;
mod seen;
mod step;
mod tree;
mod uplink;
mod web;
mod wildcard;

pub use aside::Aside;
pub use attest::{Predicate, Provenance};
pub use cache_mount::CacheMountError;
pub use copy::CopyError;
pub use error::{Before, BuildError, StepError};
pub use event::{Event, Phase, Progress};
pub use execute::{Builder, Solved, seconds};
pub use fetched::{Fetched, Received};
pub use files::FileSystem;
pub use layer::LayerError;
pub use output::{Built, Shape};
pub use prune::{PruneError, PruneOptions, Pruned, mounts, prune};
pub use request::{Files, Keyring, Request, Secret};
pub use run::RunError;
pub use tree::TreeError;
pub use uplink::UplinkError;
