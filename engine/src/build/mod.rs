//! Building images: Dockerfiles as a graph of steps, and the execution of such a graph.
//!
//! [`graph`] is where the two halves meet: the language half makes a graph and never executes anything, the executing
//! half knows no Dockerfile.

pub mod check;
pub mod dispatch;
pub mod dockerfile;
pub mod graph;
pub mod ignore;
