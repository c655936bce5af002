//! What a build does beside the steps of its graph: contexts and images are fetched before there is one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::event::{Event, Phase, Progress};
use super::execute::Builder;

/// Where the numbers of such things begin; no graph has as many vertices.
const FIRST: usize = usize::MAX / 2;

/// One such thing, which has begun.
pub struct Aside {
    progress: Progress,
    build: Arc<str>,
    number: usize,
    name: Arc<str>,
    begun: Instant,
}

impl std::fmt::Debug for Aside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aside").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Builder {
    /// Says that something begins, for the build of this name.
    pub fn aside(&self, build: &str, name: &str) -> Aside {
        static COUNT: AtomicUsize = AtomicUsize::new(FIRST);
        let progress = Arc::clone(&self.shop().progress);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let aside = Aside { progress, build: build.into(), number, name: name.into(), begun: Instant::now() };
        aside.event(Phase::Started);
        aside
    }
}

impl Aside {
    /// Says how many bytes have come, of how many if that is known.
    pub fn received(&self, received: u64, of: Option<u64>) {
        self.event(Phase::Received(received, of));
    }

    /// Says that it has ended, and why in vain if it was.
    pub fn end(&self, failure: Option<String>) {
        self.event(match failure {
            None => Phase::Done(self.begun.elapsed()),
            Some(why) => Phase::Failed(self.begun.elapsed(), why),
        });
    }

    fn event(&self, phase: Phase) {
        let (build, name) = (Arc::clone(&self.build), Arc::clone(&self.name));
        (self.progress)(Event { build, graph: 0, vertex: self.number, name, phase });
    }
}
