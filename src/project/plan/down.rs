//! `down`: everything of a project goes, found by its labels and not by what the compose file says now.

use std::collections::BTreeSet;
use std::time::Duration;

use petgraph::graph::NodeIndex;
use rcompose_engine::container::store::Container;

use super::lifecycle::{self, Direction};
use super::{Action, Cause, Named, Plan};

/// What goes.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub timeout: Option<Duration>,
    /// Volumes go as well.
    pub volumes: bool,
}

/// What there is to go.
#[derive(Debug, Clone, Default)]
pub struct Resources {
    pub networks: Vec<String>,
    pub volumes: Vec<String>,
    /// Volumes that nobody named.
    pub anonymous_volumes: Vec<String>,
    pub images: BTreeSet<String>,
}

/// Returns the plan that removes these containers, and then these resources.
pub fn down(containers: &[&Container], resources: &Resources, options: &Options) -> Plan {
    let mut plan = Plan::default();
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for container in containers {
        let named = Named::from(*container);
        let stop = lifecycle::is_active(container)
            .then(|| plan.add(lifecycle::stop_step(container, options.timeout), Cause::Asked, &[]));
        let action = Action::Remove { container: named, volumes: options.volumes, force: true };
        let remove = plan.add(action, Cause::Asked, stop.as_slice());
        first.push(stop.unwrap_or(remove));
        last.push(remove);
    }
    lifecycle::order(&mut plan, containers, &first, &last, Direction::DependentsFirst);
    let gone = match last.len() {
        0 => Vec::<NodeIndex>::new(),
        _ => vec![plan.add(Action::Barrier, Cause::Asked, &last)],
    };
    for name in &resources.networks {
        plan.add(Action::RemoveNetwork { name: name.clone(), unless_used: true }, Cause::Asked, &gone);
    }
    for (names, anonymous) in [(&resources.volumes, false), (&resources.anonymous_volumes, true)] {
        for name in names {
            plan.add(Action::RemoveVolume { name: name.clone(), anonymous }, Cause::Asked, &gone);
        }
    }
    for reference in &resources.images {
        plan.add(Action::RemoveImage { reference: reference.clone() }, Cause::Asked, &gone);
    }
    plan
}

#[cfg(test)]
mod tests {
    use rcompose_engine::container::state::Status;

    use super::super::testing::{container, edges};
    use super::*;

    #[test]
    fn dependents_go_first_and_networks_last() {
        let db = container("shop-db-1", "db", 1, "", Status::Running);
        let web = container("shop-web-1", "web", 1, "db:service_healthy:false", Status::Exited);
        let resources = Resources { networks: vec!["shop_default".into()], ..Resources::default() };
        assert_eq!(
            edges(&down(&[&db, &web], &resources, &Options::default())),
            [
                "stop shop-db-1 → remove shop-db-1",
                "remove shop-web-1 → stop shop-db-1",
                "remove shop-db-1 → barrier",
                "remove shop-web-1 → barrier",
                "barrier → remove network shop_default",
            ]
        );
    }

    #[test]
    fn nothing_there_is_nothing_to_do() {
        assert!(down(&[], &Resources::default(), &Options::default()).is_empty());
    }
}
