//! The language of Dockerfiles: what is written there, with the place of every word.
//!
//! This module reads; it looks at no file, asks no registry and expands no variable of an instruction before the stage that
//! it belongs to is known (see [`super::dispatch`]). A Dockerfile is hostile input: sizes, counts and nesting are bounded, and
//! the effort grows with the size.
//!
//! The words of the faults are BuildKit's.

mod fault;
mod flags;
pub(crate) mod go;
pub(crate) mod heredoc;
pub(crate) mod instruction;
mod lines;
pub(crate) mod mount;
mod parse;
pub(crate) mod shell;
mod wildcard;
mod words;

pub use fault::Fault;
pub(crate) use fault::closest;
pub use go::parse_bool;
pub use instruction::{Dockerfile, Stage, Word};
pub(crate) use parse::parse_trigger;
