//! `develop.watch`: files of this host that change, and what follows from that in the containers.
//!
//! [`source`] says which paths are not what they were, [`rules`] whom that concerns, [`machine`] what is to be done when, and
//! [`sync`] brings files into containers. The command (`cli::watch`) carries it out.

pub mod batch;
pub mod directories;
pub mod machine;
pub mod rules;
pub mod source;
pub mod sync;
pub mod tree;
pub mod words;
