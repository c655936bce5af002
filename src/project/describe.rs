//! What a container is, as Docker's documents say it.

use std::collections::BTreeMap;

use rcompose_engine::container::config::{ContainerConfig, HealthTest, Healthcheck, MountSource};
use rcompose_engine::image::{self, DockerConfig, ImportedConfig};
use serde_json::{Map, Value, json};

/// Returns the configuration that a container has of itself and of its image, `image` being the image's.
pub fn configuration(container: &ContainerConfig, image: &Value) -> ImportedConfig {
    let image = &image["config"];
    let text = |key: &str| image[key].as_str().unwrap_or_default().to_owned();
    let map = |key: &str| image[key].as_object().cloned().unwrap_or_default();
    let list = |key: &str| {
        let items = image[key].as_array()?;
        Some(items.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>())
    };
    let mut volumes = map("Volumes");
    for mount in &container.mounts {
        if matches!(mount.source, MountSource::Volume { anonymous: true, .. }) {
            volumes.insert(mount.target.clone(), json!({}));
        }
    }
    let mut exposed_ports = map("ExposedPorts");
    let published = container.ports.iter().map(|port| format!("{}/{}", port.container_port, port.protocol.as_str()));
    for port in container.expose.iter().cloned().chain(published) {
        exposed_ports.insert(port, json!({}));
    }
    let mut labels = map("Labels");
    labels.extend(container.labels.iter().map(|(name, value)| (name.clone(), value.clone().into())));
    let some = |list: Option<Vec<String>>| list.filter(|list| !list.is_empty());
    ImportedConfig {
        cmd: some(container.command.clone().or_else(|| list("Cmd"))),
        entrypoint: some(container.entrypoint.clone().or_else(|| list("Entrypoint"))),
        env: environment(&container.environment, list("Env").unwrap_or_default()),
        exposed_ports,
        volumes,
        labels,
        user: container.user.clone().unwrap_or_else(|| text("User")),
        working_dir: container.working_dir.clone().unwrap_or_else(|| text("WorkingDir")),
        stop_signal: container.stop_signal.clone().unwrap_or_else(|| text("StopSignal")),
        docker: DockerConfig {
            healthcheck: container.healthcheck.as_ref().and_then(healthcheck),
            shell: list("Shell"),
            on_build: list("OnBuild"),
        },
    }
}

/// Returns the container's variables, and then those of the image that it does not set or take away.
fn environment(own: &BTreeMap<String, Option<String>>, image: Vec<String>) -> Vec<String> {
    let set = own.iter().filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?)));
    let rest = image.into_iter().filter(|variable| {
        let name = variable.split_once('=').map_or(variable.as_str(), |(name, _)| name);
        !own.contains_key(name)
    });
    set.chain(rest).collect()
}

fn healthcheck(check: &Healthcheck) -> Option<image::Healthcheck> {
    let nanoseconds = |duration: Option<std::time::Duration>| {
        duration.map_or(0, |duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
    };
    let test = match &check.test {
        HealthTest::Inherit => return None,
        HealthTest::None => vec!["NONE".to_owned()],
        HealthTest::Command(words) => std::iter::once("CMD".to_owned()).chain(words.iter().cloned()).collect(),
        HealthTest::Shell(line) => vec!["CMD-SHELL".to_owned(), line.clone()],
    };
    Some(image::Healthcheck {
        test: Some(test),
        interval: nanoseconds(check.interval),
        timeout: nanoseconds(check.timeout),
        start_period: nanoseconds(check.start_period),
        start_interval: nanoseconds(check.start_interval),
        retries: check.retries.unwrap_or(0).into(),
    })
}

/// Returns a map of texts as a document, or null where there is none.
pub fn texts(map: &BTreeMap<String, String>) -> Value {
    let entries = map.iter().map(|(name, value)| (name.clone(), value.clone().into()));
    Value::Object(entries.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_container_says_counts_more_than_what_the_image_says() {
        let own = [("A", Some("own")), ("GONE", None)];
        let own = own.map(|(name, value)| (name.to_owned(), value.map(str::to_owned))).into();
        let image = ["PATH=/bin", "A=image", "GONE=1"].map(str::to_owned).to_vec();
        assert_eq!(environment(&own, image), ["A=own", "PATH=/bin"]);
    }
}
