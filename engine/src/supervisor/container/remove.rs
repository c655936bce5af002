//! A container is removed, at once or when it has ended.

use super::stop::KILL;
use super::{Actor, Answer, conflict, reply};
use crate::container::config::MountSource;
use crate::container::state::Status;
use crate::container::{memory, store};
use crate::protocol::{Condition, EventKind, Failure};
use crate::supervisor::project::caused;
use crate::volume;

/// A removal that waits for the container's end.
pub(super) struct Removing {
    volumes: bool,
    answers: Vec<Answer<()>>,
}

impl Actor {
    pub(super) fn remove(&mut self, force: bool, volumes: bool, answer: Answer<()>) {
        if self.run.is_some() && !force {
            let failure = conflict(&self.config, "is running");
            return reply(
                answer,
                Err(Failure { hint: Some("stop it first, or remove it with force".to_owned()), ..failure }),
            );
        }
        if let Some(removing) = &mut self.removing {
            removing.answers.push(answer);
            return;
        }
        self.removing = Some(Removing { volumes, answers: vec![answer] });
        self.restart_at = None;
        self.state.stopped = true;
        if self.run.is_some() {
            self.signal(KILL);
            self.thaw_for_signal();
        }
    }

    /// Removes a container that has ended, if that was asked for when it was made.
    pub(super) fn remove_ended(&mut self) {
        if self.config.auto_remove {
            self.removing.get_or_insert(Removing { volumes: true, answers: Vec::new() });
            // Nobody may be waiting for it but the supervisor itself.
            self.project.note(&self.config.id, Status::Removing);
        }
    }

    /// Removes a container that does not run any more, and returns whether it is gone.
    pub(super) async fn end_removal(&mut self, removing: Removing) -> bool {
        let result = self.destroy(removing.volumes).await;
        for answer in removing.answers {
            reply(answer, result.clone());
        }
        if let Some((answer, failure)) = self.failed_start.take() {
            reply(answer, Err(failure));
        }
        if let Err(failure) = &result {
            tracing::warn!(container = %self.config.name, error = %failure, "cannot remove it");
            self.save();
            // It stays, and so nobody may wait for its removal, now or later.
            for (_, answer) in self.waiting.extract_if(.., |(condition, _)| *condition == Condition::Removed) {
                reply(answer, Err(failure.clone()));
            }
            self.unremoved = Some(failure.clone());
        }
        self.answer_waiting(result.is_ok());
        self.project.settle();
        result.is_ok()
    }

    /// Removes everything of a container that does not run.
    async fn destroy(&mut self, volumes: bool) -> Result<(), Failure> {
        let root = self.project.root.clone();
        let config = self.config.clone();
        // The writable layer may be large.
        let removed = tokio::task::spawn_blocking(move || -> Result<(), Failure> {
            memory::remove(&root, &config.id).map_err(caused)?;
            store::remove(&root, &config).map_err(caused)?;
            for mount in &config.mounts {
                if let MountSource::Volume { name, anonymous: true, .. } = &mount.source
                    && volumes
                {
                    volume::remove(&root, name).map_err(caused)?;
                }
            }
            Ok(())
        });
        let removed = removed.await.map_err(caused).flatten();
        let forgotten = self.project.networks.forget(&self.config.id).await.map_err(caused);
        if let Err(failure) = removed.and(forgotten) {
            self.project.untidy();
            return Err(failure);
        }
        self.project.forget(&self.config.id);
        self.event(EventKind::Destroy, []);
        Ok(())
    }
}
