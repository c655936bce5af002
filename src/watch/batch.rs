//! What belongs together: changes that follow each other within a moment are one.
//!
//! A single saved file is passed on at once. The longer changes keep coming, the longer the silence has to be that ends them,
//! so that the checkout of another branch is one change and not a hundred, on a slow disk as well. A file that is still being written, or that is gone
//! and may be about to come back (editors save so), is waited for a little.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a file that was closed is kept, in case another one follows.
const SHORT: Duration = Duration::from_millis(4);
/// How long one is waited for that is being written, or that is gone.
const UNSETTLED: Duration = Duration::from_millis(50);
/// The longest silence that is waited for.
const LONG: Duration = Duration::from_millis(100);
/// How long changes are kept that never pause.
const LIMIT: Duration = Duration::from_secs(10);

/// Paths that are not what they were, or may not be.
#[derive(Debug, Default)]
pub struct Batch {
    /// Whether nothing more is expected of it soon.
    paths: BTreeMap<PathBuf, bool>,
    /// Of how many of them more is expected.
    unsettled: usize,
    /// When the first and the latest of them came.
    span: Option<(Instant, Instant)>,
    /// When changes began to come, some of which may have been passed on since, and when the latest came.
    run: Option<(Instant, Instant)>,
}

impl Batch {
    /// Notes that something happened to a path; `settled`: nothing more is expected of it soon.
    pub fn note(&mut self, path: PathBuf, settled: bool, now: Instant) {
        let known = self.paths.insert(path, settled);
        self.unsettled += usize::from(!settled);
        self.unsettled -= usize::from(known == Some(false));
        // A file that is written without end does not keep the others.
        if known != Some(settled) {
            let goes_on = |(_, latest): &(Instant, Instant)| self.span.is_some() || now - *latest < LONG;
            let began = self.run.filter(goes_on).map_or(now, |(began, _)| began);
            self.run = Some((began, now));
            let first = self.span.map_or(now, |(first, _)| first);
            self.span = Some((first, now));
        }
    }

    pub fn has(&self, path: &Path) -> bool {
        self.paths.contains_key(path)
    }

    /// Returns when it is to be passed on; `None`: it is empty.
    pub fn due(&self) -> Option<Instant> {
        let (first, latest) = self.span?;
        let least = if self.unsettled == 0 { SHORT } else { UNSETTLED };
        let lasted = self.run.map_or(Duration::ZERO, |(began, latest)| latest - began);
        let silence = (lasted / 2).clamp(least, LONG);
        Some((latest + silence).min(first + LIMIT))
    }

    /// Returns the paths, and begins anew.
    pub fn take(&mut self) -> BTreeSet<PathBuf> {
        let batch = std::mem::take(self);
        self.run = batch.run;
        batch.paths.into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, milliseconds: u64) -> Instant {
        start + Duration::from_millis(milliseconds)
    }

    #[test]
    fn one_file_is_passed_on_at_once() {
        let (mut batch, start) = (Batch::default(), Instant::now());
        assert_eq!(batch.due(), None);
        batch.note("a".into(), false, start);
        batch.note("a".into(), false, start);
        assert_eq!(batch.due(), Some(start + UNSETTLED));
        batch.note("a".into(), true, after(start, 1));
        assert_eq!(batch.due(), Some(after(start, 1) + SHORT));
        assert_eq!(batch.take(), [PathBuf::from("a")].into());
        assert_eq!(batch.due(), None);
    }

    #[test]
    fn a_burst_needs_a_longer_silence() {
        let (mut batch, start) = (Batch::default(), Instant::now());
        for number in 0..100 {
            batch.note(number.to_string().into(), true, after(start, number));
        }
        assert_eq!(batch.due(), Some(after(start, 99) + Duration::from_micros(49_500)));
        batch.note("late".into(), true, after(start, 5_000));
        assert_eq!(batch.due(), Some(after(start, 5_000) + LONG));
        batch.note("latest".into(), true, after(start, 9_990));
        assert_eq!(batch.due(), Some(start + LIMIT));
    }

    #[test]
    fn what_comes_slowly_is_not_a_hundred_changes() {
        let (mut batch, start) = (Batch::default(), Instant::now());
        let mut passed_on = Vec::new();
        for time in (0..2_000).step_by(7) {
            if batch.due().is_some_and(|due| due <= after(start, time)) {
                passed_on.push(batch.take().len());
            }
            batch.note(time.to_string().into(), true, after(start, time));
        }
        assert_eq!(passed_on, [1, 1, 1], "the first ones, as single files are");
        assert_eq!(batch.due(), Some(after(start, 1_995) + LONG));
        batch.take();
        // After a while another file is one by itself again.
        batch.note("later".into(), true, after(start, 2_500));
        assert_eq!(batch.due(), Some(after(start, 2_500) + SHORT));
    }

    #[test]
    fn a_log_does_not_keep_the_others() {
        let (mut batch, start) = (Batch::default(), Instant::now());
        for time in 0..40 {
            batch.note("log".into(), false, after(start, time));
        }
        assert_eq!(batch.due(), Some(start + UNSETTLED));
    }
}
