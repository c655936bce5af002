//! What a service asks for that is not done yet: said, and not dropped in silence.

use std::path::Path;

use rcompose_engine::network::options;

use super::{files, logging};
use crate::compose::model::{Placement, Project, Service};

/// Options of logs that are ignored where they are `true`: files are not compressed, and the log is kept in any case.
const UNHONOURED_OPTIONS: [&str; 3] = ["cache-compress", "cache-disabled", "compress"];

/// Returns a sentence for each attribute of the service that has no effect.
pub fn unhonoured(project: &Project, service: &Service) -> Vec<String> {
    let of_windows = service.isolation.as_deref().is_some_and(|isolation| !matches!(isolation, "" | "default"));
    let windows = [
        ("cpu_count", service.cpu_count != 0),
        ("cpu_percent", service.cpu_percent > 0.0),
        ("credential_spec", service.credential_spec.is_some()),
        ("isolation", of_windows),
    ];
    let linux = [
        ("use_api_socket (there is no Docker Engine whose socket a container could have)", service.use_api_socket),
        ("gpus: options", service.gpus.iter().any(|request| !request.options.is_empty())),
    ];
    let cluster = of_clusters(service);
    let names = |given: &[(&str, bool)]| {
        given.iter().filter(|(_, given)| *given).map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>()
    };
    let mut attributes = names(&linux);
    let host = |source: &str| {
        let config = project.configs.get(source).and_then(|config| config.file.as_deref());
        config.or_else(|| project.secrets.get(source).and_then(|secret| secret.file.as_deref()))
    };
    for (kind, mounts) in [("configs", &service.configs), ("secrets", &service.secrets)] {
        let owned = mounts.iter().filter(|mount| files::has_owner_or_mode(mount));
        let directories = owned.filter(|mount| host(&mount.source).is_some_and(|path| Path::new(path).is_dir()));
        attributes
            .extend(directories.map(|mount| format!("{kind} ({}): uid, gid and mode of a directory", mount.source)));
    }
    for (network, joined) in &service.networks {
        let given = joined.iter().flat_map(|joined| joined.driver_opts.keys());
        let options = options::unhonoured(given).into_iter();
        attributes.extend(options.map(|option| format!("networks.{network}.driver_opts.{option}")));
    }
    if let Some(logging) = &service.logging {
        let elsewhere = logging.driver.as_deref().filter(|driver| logging::ELSEWHERE.contains(driver));
        if let Some(driver) = elsewhere {
            attributes.push(format!("logging.driver ({driver}; the log is kept as by json-file)"));
        }
        let unknown = |(name, value): &(&String, &String)| {
            elsewhere.is_some() || (value.as_str() == "true" && UNHONOURED_OPTIONS.contains(&name.as_str()))
        };
        attributes.extend(logging.options.iter().filter(unknown).map(|(name, _)| format!("logging.options.{name}")));
    }
    let selinux = service.volumes.iter().filter_map(|mount| mount.bind.as_ref()).any(|bind| bind.selinux.is_some());
    if selinux && Path::new("/sys/fs/selinux/enforce").exists() {
        attributes.push("volumes: the SELinux label of a bind mount (`z`, `Z`)".to_owned());
    }
    let yet = attributes.into_iter().map(|attribute| format!("{attribute} has no effect yet"));
    let never = names(&windows).into_iter().map(|attribute| format!("{attribute} has an effect on Windows only"));
    let alone = cluster.into_iter().map(|attribute| format!("{attribute} has an effect in a cluster only"));
    yet.chain(alone).chain(never).map(|says| format!("service \"{}\": {says}", service.name)).collect()
}

/// Returns what of `deploy` only a cluster honours; Docker Compose says nothing of it.
fn of_clusters(service: &Service) -> Vec<String> {
    let Some(deploy) = &service.deploy else { return Vec::new() };
    let default = |text: &Option<String>, default| text.as_deref().is_none_or(|text| ["", default].contains(&text));
    let policy = deploy.restart_policy.as_ref();
    let reserved = deploy.resources.reservations.as_ref();
    let given = [
        ("endpoint_mode", !default(&deploy.endpoint_mode, "vip")),
        ("mode", !default(&deploy.mode, "replicated")),
        ("placement", deploy.placement != Placement::default()),
        ("resources.reservations.cpus", reserved.is_some_and(|reserved| reserved.cpus > 0.0)),
        ("resources.reservations.generic_resources", reserved.is_some_and(|r| !r.generic_resources.is_empty())),
        (
            "resources.reservations.devices: options",
            reserved.is_some_and(|reserved| reserved.devices.iter().any(|request| !request.options.is_empty())),
        ),
        ("restart_policy.delay", policy.is_some_and(|policy| policy.delay.is_some())),
        ("restart_policy.window", policy.is_some_and(|policy| policy.window.is_some())),
    ];
    given.into_iter().filter(|(_, given)| *given).map(|(name, _)| format!("deploy.{name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::model::Logging;

    #[test]
    fn a_plain_service_has_nothing_to_say() {
        let logging = Logging { driver: Some("local".into()), options: [("max-size".into(), "1m".into())].into() };
        let service = Service { runtime: Some("runc".into()), logging: Some(logging), ..Service::default() };
        assert!(unhonoured(&Project::default(), &service).is_empty());
    }

    #[test]
    fn each_attribute_is_named() {
        let service = Service {
            name: "web".into(),
            logging: Some(Logging { driver: Some("gelf".into()), options: [("tag".into(), "x".into())].into() }),
            ..Service::default()
        };
        let said = unhonoured(&Project::default(), &service).join("\n");
        assert_eq!(
            said,
            "service \"web\": logging.driver (gelf; the log is kept as by json-file) has no effect yet\n\
             service \"web\": logging.options.tag has no effect yet"
        );
    }
}
