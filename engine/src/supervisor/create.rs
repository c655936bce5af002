//! Making a container: what was asked and what the image says become an OCI bundle on disk.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use oci_spec::runtime::Spec;

use super::container::name_failure;
use super::project::{caused, other};
use crate::container::cgroup::support::Asked;
use crate::container::config::{ContainerConfig, HealthTest, Healthcheck, NamespaceMode};
use crate::container::state::{ContainerState, Health, HealthStatus, Status};
use crate::container::{signal, spec, store, user};
use crate::error::chain;
use crate::host::Host;
use crate::id::Id;
use crate::image::{self, Image, Reference, Store};
use crate::protocol::{Failure, FailureKind};
use crate::root::Root;
use crate::shim;
use crate::shim::protocol::Failure as ShimFailure;

/// Files of the bundle that the container has in `/etc`.
const ETC: [&str; 3] = ["hostname", "hosts", "resolv.conf"];

/// A process that is never the first one of a container.
const NOBODY: i32 = i32::MAX;

/// Makes the bundle of a container.
pub(super) fn create(
    root: &Root,
    host: &Host,
    images: &Store,
    mut config: ContainerConfig,
) -> Result<store::Container, Failure> {
    // From before the image is found until it can be seen that the container needs its layers.
    let _hold = images.hold().map_err(caused)?;
    let image = find_image(images, &config)?;
    config.healthcheck = healthcheck(config.healthcheck, image.docker.healthcheck.as_ref());
    match &config.stop_signal {
        Some(name) if signal::parse(name).is_none() => {
            return Err(other(format!("cannot make container {}: `{name}` is not a signal", config.name)));
        }
        Some(_) => {}
        // What an image says that is none counts for nothing, as with Docker.
        None => {
            let of_image = image.config.config().as_ref().and_then(|config| config.stop_signal().clone());
            config.stop_signal = of_image.filter(|name| signal::parse(name).is_some());
        }
    }
    discard_limits(&mut config, host);
    // Other containers' namespaces are looked up when it is started; now it is only checked that all else is right.
    let (spec, shim) = generate(root, host, images, &config, &image, &|_| Some(NOBODY))?;
    let checked = config.healthcheck.as_ref().and_then(super::health::Plan::new).is_some();
    let health = checked.then(|| Health { status: HealthStatus::Starting, failing_streak: 0, log: Vec::new() });
    let state = ContainerState { health, ..ContainerState::new(Status::Created) };
    let files = encode(&spec, &shim)?;
    // Bound into the container, so they exist before they are known; the network fills them in.
    let files = files.into_iter().chain(ETC.map(|name| (name, Vec::new()))).collect::<Vec<_>>();
    store::create(root, &config, &state, &files).map_err(name_failure)?;
    Ok(store::Container { config, state })
}

/// Takes away the limits that this kernel cannot keep, which the command has named.
fn discard_limits(config: &mut ContainerConfig, host: &Host) {
    let mut asked = Asked { resources: config.resources.clone(), oom_kill_disable: config.oom_kill_disable };
    asked.discard(&host.cgroups);
    (config.resources, config.oom_kill_disable) = (asked.resources, asked.oom_kill_disable);
}

/// Unpacks those layers of a container again that a power cut may have damaged.
pub(super) fn restore_layers(root: &Root, images: &Store, id: &Id) -> Result<(), Failure> {
    let mut doubtful = images.doubtful_layers().map_err(caused)?;
    // As good as always.
    if doubtful.is_empty() {
        return Ok(());
    }
    let own = store::layers_of(root, id)?.into_iter().collect::<HashSet<_>>();
    doubtful.retain(|layer| own.contains(layer));
    images
        .restore_layers(&doubtful)
        .map_err(|error| Failure { hint: Some("pull the image again".to_owned()), ..caused(error) })
}

/// Writes `config.json` and `shim.json` anew where they depend on containers that may have been restarted since, where the
/// kernel's profiles of AppArmor are others than they were, or where a power cut took them.
pub(super) fn refresh(root: &Root, host: &Host, images: &Store, config: &ContainerConfig) -> Result<(), Failure> {
    let joins = |mode: &NamespaceMode| matches!(mode, NamespaceMode::Container(_));
    let bundle = root.container(&config.id);
    let lost = |name| std::fs::metadata(bundle.join(name)).map_or(true, |file| file.len() == 0);
    let profile = spec::apparmor_profile(config)
        .map_err(|error| other(format!("cannot start container {}: {}", config.name, chain(&error))))?;
    if ![&config.pid, &config.ipc, &config.uts].into_iter().any(joins)
        && !["config.json", shim::config::FILE].into_iter().any(lost)
        && shim::apparmor_profile(&bundle).is_ok_and(|written| written == profile)
    {
        return Ok(());
    }
    let image = find_image(images, config)?;
    let pid_of = |id: &Id| {
        let container = store::load(root, id).ok().flatten()?;
        container.state.pid.filter(|_| container.state.status.is_running())
    };
    let (spec, shim) = generate(root, host, images, config, &image, &pid_of)?;
    for (name, content) in encode(&spec, &shim)? {
        store::write(&bundle.join(name), &content)?;
    }
    Ok(())
}

fn encode(spec: &Spec, shim: &shim::config::ShimConfig) -> Result<[(&'static str, Vec<u8>); 2], Failure> {
    let spec = serde_json::to_vec(spec).map_err(caused)?;
    let shim = serde_json::to_vec(shim).map_err(caused)?;
    Ok([("config.json", spec), (shim::config::FILE, shim)])
}

/// Makes `config.json` and `shim.json`.
fn generate(
    root: &Root,
    host: &Host,
    images: &Store,
    config: &ContainerConfig,
    image: &Image,
    pid_of: &dyn Fn(&Id) -> Option<i32>,
) -> Result<(Spec, shim::config::ShimConfig), Failure> {
    let layers = images.layer_paths(image);
    let asked = config.user.clone().or_else(|| image.config.config().as_ref().and_then(|config| config.user().clone()));
    // What the container itself has changed of its user database counts as well.
    let upper = root.container(&config.id).join("upper");
    let changed = upper.try_exists().map_err(|error| other(format!("cannot look for {}: {error}", upper.display())))?;
    let directories: Vec<PathBuf> = changed.then_some(upper).into_iter().chain(layers.iter().cloned()).collect();
    let user = user::resolve_in_layers(&directories, &asked.unwrap_or_default(), &config.group_add).map_err(caused)?;
    let mut command = vec!["rcompose".to_owned()];
    command.extend(super::spawn::arguments(root, &config.project));
    spec::generate(&spec::Inputs {
        config,
        image: &image.config,
        user: &user,
        host,
        root,
        layers: &layers,
        volatile: false,
        etc: &ETC,
        pid_of,
        layers_of: &|id| images.find(id).ok().flatten().map(|image| images.layer_paths(&image)),
        supervisor_command: &command,
    })
    .map_err(|error| other(format!("cannot make container {}: {}", config.name, chain(&error))))
}

/// Returns the image that was asked for: by its name if that still has it, else by its id.
fn find_image(images: &Store, config: &ContainerConfig) -> Result<Image, Failure> {
    let by_name = match config.image.parse::<Reference>() {
        Ok(reference) => images.get(&reference).map_err(caused)?,
        Err(_) => None,
    };
    let image = match by_name.filter(|image| image.id.to_string() == config.image_id) {
        Some(image) => Some(image),
        None => images.find(&config.image_id).map_err(caused)?,
    };
    image.ok_or_else(|| Failure {
        kind: FailureKind::NoSuchImage,
        message: format!("no such image: {}", config.image),
        hint: Some("pull it first".to_owned()),
    })
}

/// Fills what the container does not say of its health check from what the image says.
fn healthcheck(asked: Option<Healthcheck>, image: Option<&image::Healthcheck>) -> Option<Healthcheck> {
    let image = image.and_then(of_image);
    let (Some(asked), Some(image)) = (&asked, &image) else {
        return asked.or(image).filter(|check| check.test != HealthTest::Inherit);
    };
    // Field by field, as Docker does, even where the test is another.
    Some(Healthcheck {
        test: if asked.test == HealthTest::Inherit { image.test.clone() } else { asked.test.clone() },
        interval: asked.interval.or(image.interval),
        timeout: asked.timeout.or(image.timeout),
        retries: asked.retries.or(image.retries),
        start_period: asked.start_period.or(image.start_period),
        start_interval: asked.start_interval.or(image.start_interval),
    })
}

fn of_image(check: &image::Healthcheck) -> Option<Healthcheck> {
    let mut words = check.test.clone().unwrap_or_default().into_iter();
    let test = match words.next()?.as_str() {
        "CMD" => HealthTest::Command(words.collect()),
        "CMD-SHELL" => HealthTest::Shell(words.next()?),
        _ => HealthTest::None,
    };
    let duration = |nanoseconds: i64| u64::try_from(nanoseconds).ok().filter(|n| *n > 0).map(Duration::from_nanos);
    Some(Healthcheck {
        test,
        interval: duration(check.interval),
        timeout: duration(check.timeout),
        retries: u32::try_from(check.retries).ok().filter(|n| *n > 0),
        start_period: duration(check.start_period),
        start_interval: duration(check.start_interval),
    })
}

/// Says why a container could not be started.
pub(super) fn start_failure(config: &ContainerConfig, failure: &ShimFailure) -> Failure {
    let hint = match failure.code {
        127 => Some("check `command` and `entrypoint`, and that the image has this program".to_owned()),
        126 => Some("check that the file is a program for this machine, and is executable".to_owned()),
        _ => None,
    };
    Failure {
        kind: FailureKind::Start { code: failure.code },
        message: format!("cannot start container {}: {failure}", config.name),
        hint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn image() -> image::Healthcheck {
        image::Healthcheck {
            test: Some(vec!["CMD-SHELL".into(), "pg_isready".into()]),
            interval: 5_000_000_000,
            retries: 7,
            ..image::Healthcheck::default()
        }
    }

    fn asked(test: HealthTest) -> Healthcheck {
        Healthcheck {
            test,
            interval: Some(seconds(1)),
            timeout: None,
            retries: None,
            start_period: None,
            start_interval: None,
        }
    }

    #[test]
    fn what_is_not_said_is_as_the_image_says() {
        let resolved = healthcheck(None, Some(&image())).unwrap();
        assert_eq!(resolved.test, HealthTest::Shell("pg_isready".into()));
        assert_eq!((resolved.interval, resolved.retries, resolved.timeout), (Some(seconds(5)), Some(7), None));
        let resolved = healthcheck(Some(asked(HealthTest::Inherit)), Some(&image())).unwrap();
        assert_eq!(resolved.test, HealthTest::Shell("pg_isready".into()));
        assert_eq!((resolved.interval, resolved.retries), (Some(seconds(1)), Some(7)));
    }

    #[test]
    fn a_check_of_its_own_replaces_the_image_s() {
        let own = asked(HealthTest::Command(vec!["true".into()]));
        let resolved = healthcheck(Some(own.clone()), Some(&image())).unwrap();
        assert_eq!((resolved.test, resolved.retries), (own.test, Some(7)));
        let none = asked(HealthTest::None);
        assert_eq!(healthcheck(Some(none.clone()), Some(&image())).unwrap().test, none.test);
        assert_eq!(healthcheck(Some(none.clone()), None), Some(none));
        assert_eq!(healthcheck(Some(asked(HealthTest::Inherit)), None), None);
    }
}
