//! Containers that are replaced while their service goes on (`deploy.update_config`).

use petgraph::graph::NodeIndex;

use super::super::update::{Order, Policy, Replacement, Update};
use super::super::{Action, Cause};
use super::divergence::shared_with;
use super::{Planner, UpError};
use crate::compose::model::{NetworkMode, Service, UpdateConfig};
use crate::project::container::InvalidAttribute;

impl Planner<'_> {
    /// Returns whether containers of a service that run are replaced as its `update_config` says. Without one, and where
    /// nothing is started, it is done as Docker Compose does it. So it is where others are in namespaces of its
    /// containers or have their volumes, and where something runs before its containers in volumes that are new.
    pub(super) fn rolls(&self, service: &Service) -> bool {
        let said = service.deploy.as_ref().is_some_and(|deploy| deploy.update_config.is_some());
        let mut services = self.wanted.project.services.values();
        said && !self.options.no_start
            && !services.any(|other| shared_with(other).contains(&service.name.as_str()))
            && (service.pre_start.is_empty() || !self.options.renew_anonymous_volumes)
    }

    /// Plans that containers of a service are replaced while it goes on.
    pub(super) fn update(
        &mut self,
        service: &Service,
        replacements: Vec<(Cause, Replacement)>,
        after: &[NodeIndex],
    ) -> Result<NodeIndex, UpError> {
        let deploy = service.deploy.clone().unwrap_or_default();
        let policy = |attribute, config: &UpdateConfig| {
            let invalid = |reason| InvalidAttribute { service: service.name.clone(), attribute, reason };
            Policy::of(config).map_err(invalid)
        };
        let mut update = policy("deploy.update_config", &deploy.update_config.unwrap_or_default())?;
        let mut rollback = match &deploy.rollback_config {
            Some(config) => policy("deploy.rollback_config", config)?,
            None => update.clone(),
        };
        if let Some(why) = never_beside(service) {
            if update.order == Order::StartFirst {
                self.plan.warnings.push(format!(
                    "service \"{}\": update_config.order: start-first is not possible, since {why}; \
                     each old container stops before the new one starts",
                    service.name
                ));
            }
            (update.order, rollback.order) = (Order::StopFirst, Order::StopFirst);
        }
        let (causes, replacements): (Vec<_>, Vec<_>) = replacements.into_iter().unzip();
        let cause = causes.into_iter().next().unwrap_or(Cause::Asked);
        let update = Update {
            service: service.name.clone(),
            replacements,
            policy: update,
            rollback,
            timeout: self.options.timeout,
        };
        Ok(self.plan.add(Action::Update(Box::new(update)), cause, after))
    }
}

/// Returns why no two containers of a service can run beside each other for one place.
fn never_beside(service: &Service) -> Option<&'static str> {
    match service.network_mode {
        Some(NetworkMode::Host) => return Some("both would be on the host's network"),
        Some(NetworkMode::Service(_) | NetworkMode::Container(_)) => {
            return Some("both would share the network of another container");
        }
        _ => {}
    }
    let mut networks = service.networks.values().flatten();
    let fixed = networks.any(|network| {
        network.ipv4_address.is_some() || network.ipv6_address.is_some() || network.mac_address.is_some()
    });
    (fixed || service.mac_address.is_some()).then_some("both would have the same address")
}
