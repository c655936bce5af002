//! Black-box tests of rcompose: the image factory, the harness that drives the built binary, and the benches.
//!
//! Nothing in here links rcompose: everything goes through its command line, as a user would.

pub mod case;
pub mod census;
pub mod expect;
pub mod factory;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod fault;
pub mod help;
pub mod http;
pub mod lists;
pub mod markdown;
pub mod output;
pub mod process;
pub mod serve;
pub mod stack;
pub mod svg;
pub mod terminal;
pub mod tokens;
pub mod trials;
pub mod victim;
pub mod vm;
pub mod wait;
pub mod walk;
