//! Sends images to their registries.

use std::sync::Arc;

use rcompose_engine::image::{
    self, Digest, PullOptions, PushError, PushEvent, PushPhase, PushProgress, Reference, Store,
};

use crate::ui::progress::{Event, Progress, State};

/// Pushes one image and shows how that goes on, below `id`.
pub async fn push(
    store: &Arc<Store>,
    name: &Reference,
    options: &PullOptions,
    progress: &Progress,
    id: &str,
) -> Result<Digest, PushError> {
    progress.event(&Event { text: "Pushing", ..Event::new(id, State::Working, "") });
    let (shown, parent) = (progress.clone(), id.to_owned());
    let listener: PushProgress = Arc::new(move |event| blob(&shown, &parent, &event));
    let result = image::push(store, name, options, &listener).await;
    let (text, state) = if result.is_ok() { ("Pushed", State::Done) } else { ("Error", State::Error) };
    progress.event(&Event { text, ..Event::new(id, state, "") });
    result
}

/// Shows a step of one blob, in Docker's words.
fn blob(progress: &Progress, parent: &str, event: &PushEvent) {
    let Some(digest) = &event.blob else { return };
    let mounted;
    let (status, state) = match &event.phase {
        PushPhase::Exists => ("Layer already exists", State::Done),
        PushPhase::Mounted { from } => {
            mounted = format!("Mounted from {from}");
            (mounted.as_str(), State::Done)
        }
        PushPhase::Uploading => ("Pushing", State::Working),
        PushPhase::Complete => ("Pushed", State::Done),
        PushPhase::Done { .. } => return,
    };
    let goes = matches!(event.phase, PushPhase::Uploading | PushPhase::Complete);
    let amount = goes.then_some((event.current, Some(event.total)));
    progress.event(&Event { parent: Some(parent), amount, ..Event::new(&digest.short(), state, status) });
}
