//! Whether this kernel has what networks need: tried out, in a network namespace that nobody else sees.

use std::thread;

use nix::sched::{CloneFlags, unshare};

use super::link::Links;
use super::nft::Filter;
use crate::error::chain;

/// Something that was tried, and why it failed, if it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    pub what: &'static str,
    pub failure: Option<String>,
}

impl Trial {
    fn of<T, E: std::error::Error + 'static>(what: &'static str, result: Result<T, E>) -> Self {
        Self { what, failure: result.err().map(|error| chain(&error)) }
    }
}

/// Makes a bridge and our whole packet filter, and forgets them again.
pub fn trials() -> Vec<Trial> {
    let inside = || {
        let namespace = Trial::of("network namespaces", unshare(CloneFlags::CLONE_NEWNET));
        if namespace.failure.is_some() {
            return vec![namespace];
        }
        let bridge = Links::open().and_then(|mut links| links.bridge("rctrial", [2, 0, 0, 0, 0, 1], None));
        let filter = Filter::open().and_then(|mut filter| filter.ensure(&[], &[]));
        vec![namespace, Trial::of("bridges", bridge), Trial::of("packet filter (nf_tables)", filter)]
    };
    // The namespace is that of a thread, and goes with it.
    thread::spawn(inside).join().unwrap_or_default()
}
