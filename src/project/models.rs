//! `models` (Compose Specification): which model a service uses, and where it is served.
//!
//! No model is run here. Where something serves models by the API of OpenAI, its address is given to the services that use
//! one.

use crate::compose::Project;

use super::inject;

/// The variable that says where models are served.
pub const ENDPOINT: &str = "RCOMPOSE_MODELS_URL";

/// A model that nothing serves.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("service \"{service}\" uses model {model}, and nothing is known to serve it")]
pub struct Unserved {
    service: String,
    model: String,
}

impl Unserved {
    /// Returns what can be done about it.
    pub fn hint(&self) -> String {
        format!(
            "say with {ENDPOINT} (in the environment or `.env`) where it is served, such as http://172.17.0.1:8000/v1/"
        )
    }
}

/// Gives every service that uses a model the variables for its name and for the place where it is served.
pub fn provide(project: &mut Project) -> Result<(), Unserved> {
    let endpoint = project.environment.get(ENDPOINT).filter(|url| !url.is_empty()).cloned();
    let Project { services, models, .. } = project;
    for service in services.values_mut() {
        for (key, used) in service.models.clone() {
            let model = models.get(&key).map_or(key.as_str(), |model| &model.model);
            let Some(endpoint) = &endpoint else {
                return Err(Unserved { service: service.name.clone(), model: model.to_owned() });
            };
            let used = used.unwrap_or_default();
            let name = |given: Option<String>, suffix| {
                let prefix = key.to_uppercase().replace('-', "_");
                given.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("{prefix}_{suffix}"))
            };
            inject::variable(service, &name(used.model_var, "MODEL"), model);
            inject::variable(service, &name(used.endpoint_var, "URL"), endpoint);
        }
    }
    Ok(())
}
