//! One container takes another one's place while both run (zero-downtime replacement).

use super::{Actor, conflict, name_failure};
use crate::container::config::ContainerConfig;
use crate::container::store;
use crate::id::Id;
use crate::protocol::{EventKind, Failure};
use crate::supervisor::project::caused;
use crate::supervisor::run::Audience;

impl Actor {
    pub(super) async fn start_beside(&mut self, other: Id) -> Result<(), Failure> {
        // Asked again after the supervisor before this one was killed.
        if self.run.is_some() {
            return Ok(());
        }
        let before = self.state.beside.replace(other);
        let started = self.start_by_hand(Audience::None).await;
        if started.is_err() {
            self.state.beside = before;
            self.save();
        }
        started
    }

    pub(super) async fn take_over(&mut self, from: &ContainerConfig) -> Result<(), Failure> {
        let Some(run) = &mut self.run else { return Err(conflict(&self.config, "is not running")) };
        run.take_over(&self.config, from).await?;
        self.state.beside = None;
        self.state.stopped = false;
        self.note_ports();
        Ok(())
    }

    /// Does without what another container has now. It is on its way out: its restart policy leaves it alone.
    pub(super) fn give_way(&mut self) {
        if let Some(run) = &mut self.run {
            run.give_way(&self.config);
            self.state.stopped = true;
            self.note_ports();
        }
    }

    fn note_ports(&mut self) {
        if let Some(run) = &self.run {
            self.state.endpoints.clone_from(&run.endpoints);
            self.state.ports.clone_from(&run.ports);
        }
        self.save();
    }

    /// Gives it another name, by which others find it at once.
    pub(super) async fn rename(&mut self, name: &str) -> Result<(), Failure> {
        let config = store::rename(&self.project.root, &self.config, name).map_err(name_failure)?;
        let before = std::mem::replace(&mut self.config, config).name;
        if self.run.is_some() {
            self.project.networks.rename(&self.config.id, name).await.map_err(caused)?;
            for known in self.state.endpoints.iter_mut().flat_map(|endpoint| &mut endpoint.names) {
                if *known == before {
                    name.clone_into(known);
                }
            }
            self.save();
        }
        self.event(EventKind::Rename, [("oldName", format!("/{before}"))]);
        Ok(())
    }
}
