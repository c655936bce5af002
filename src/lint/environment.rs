//! Variables.

use super::{Findings, Subject, service};
use crate::compose::key::Key;
use crate::compose::model::{HostPorts, NetworkMode, Service};

/// Parts of the names of variables that hold what nobody should read.
const SECRET: [&str; 8] = ["PASSWORD", "PASSWD", "SECRET", "TOKEN", "API_KEY", "APIKEY", "PRIVATE_KEY", "CREDENTIALS"];
/// Ends of names that say that it is no secret itself.
const NAMED: [&str; 5] = ["_FILE", "_PATH", "_NAME", "_URL", "_TTL"];
/// Parts of the names of variables whose URL is for a browser outside.
const OUTSIDE: [&str; 9] =
    ["VITE_", "REACT_APP_", "PUBLIC", "EXTERNAL", "CORS", "ORIGIN", "REDIRECT", "CALLBACK", "ALLOWED"];

/// Finds secrets that stand in the file.
pub(super) fn secrets(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for (name, definition) in &subject.project.services {
        for (variable, value) in &definition.environment {
            let upper = variable.to_ascii_uppercase();
            let secret =
                SECRET.iter().any(|part| upper.contains(part)) && !NAMED.iter().any(|end| upper.ends_with(end));
            let Some(value) = value.as_deref().filter(|value| secret && is_secret(value)) else { continue };
            let path = service(name, &["environment", variable]);
            // What comes from the environment or from a file beside it is not in the compose file.
            let span = subject.resolved.value_span(&path);
            let here = subject
                .resolved
                .sources
                .of(span)
                .is_some_and(|file| subject.project.compose_files.contains(&file.path));
            if here && subject.resolved.sources.text(span).is_some_and(|text| text.contains(value)) {
                findings.add(
                    &path,
                    format!("the value of {variable} stands in the file, and everybody who may inspect the container sees it"),
                    format!("use `secrets`, and {variable}_FILE where the image knows that; or `${{{variable}}}` from an `.env` that is not in the repository"),
                );
            }
        }
    }
}

/// Returns whether a value can be a secret: not empty, no switch, no path.
fn is_secret(value: &str) -> bool {
    !value.is_empty() && !value.starts_with('/') && !matches!(value, "true" | "false" | "yes" | "no" | "0" | "1")
}

/// Finds URLs that lead a container to itself where they mean another service.
pub(super) fn localhost(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for (name, definition) in &subject.project.services {
        if definition.network_mode.as_ref().is_some_and(|mode| *mode != NetworkMode::Bridge) {
            continue;
        }
        let variables = definition.environment.iter().filter_map(|(variable, value)| {
            let upper = variable.to_ascii_uppercase();
            let outside = OUTSIDE.iter().any(|part| upper.contains(part));
            (!outside).then(|| Some((service(name, &["environment", variable]), value.as_deref()?)))?
        });
        let arguments = definition.command.iter().flatten().enumerate();
        let path = service(name, &["command"]);
        let arguments = arguments.map(|(index, argument)| (path.join(Key::Index(index)), argument.as_str()));
        for (path, text) in variables.chain(arguments) {
            if let Some((url, sibling, port)) = leads_astray(subject, name, definition, text) {
                let message = format!(
                    "{url} leads to {name} itself: `localhost` is the container, and port {port} is that of {sibling}"
                );
                findings.add(
                    &path,
                    message,
                    format!("write {}", url.replacen(&host(url), &format!("{sibling}:{port}"), 1)),
                );
            }
        }
    }
}

/// Returns the first URL in `text` that names a sibling's port at `localhost`, the sibling, and its port.
fn leads_astray<'t>(
    subject: &Subject<'_>,
    name: &str,
    definition: &Service,
    text: &'t str,
) -> Option<(&'t str, String, u32)> {
    let word = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',');
    text.split(word).find_map(|url| {
        let port = local_port(url)?;
        if listens(definition, port) {
            return None;
        }
        let sibling =
            subject.project.services.iter().find(|(other, definition)| *other != name && listens(definition, port));
        let (sibling, definition) = sibling?;
        Some((url, sibling.clone(), target(definition, port)))
    })
}

/// Returns what stands between the scheme (and a user) and the path of a URL.
fn host(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').map_or(authority, |(_, host)| host).to_owned()
}

/// Returns the port of a URL that leads to this host.
fn local_port(url: &str) -> Option<u32> {
    let (scheme, _) = url.split_once("://")?;
    let host = host(url);
    let port = ["localhost", "127.0.0.1", "[::1]"].iter().find_map(|local| host.strip_prefix(local))?;
    match port.strip_prefix(':') {
        Some(port) => port.parse().ok(),
        None if port.is_empty() => Some(match scheme.split('+').next()? {
            "http" | "ws" => 80,
            "https" | "wss" => 443,
            "postgres" | "postgresql" => 5432,
            "mysql" | "mariadb" => 3306,
            "redis" => 6379,
            "mongodb" => 27017,
            "amqp" => 5672,
            _ => return None,
        }),
        None => None,
    }
}

/// Returns whether a service has a port, inside or on the host.
fn listens(definition: &Service, port: u32) -> bool {
    let exposed = |text: &String| text.split('/').next().is_some_and(|number| number.parse() == Ok(port));
    definition.expose.iter().any(exposed)
        || definition.ports.iter().any(|known| known.target == port || is_published_as(&known.published, port))
}

fn is_published_as(published: &HostPorts, port: u32) -> bool {
    matches!(published, HostPorts::Range(low, high) if (u32::from(*low)..=u32::from(*high)).contains(&port))
}

/// Returns what a service's port is inside.
fn target(definition: &Service, port: u32) -> u32 {
    if definition.ports.iter().any(|known| known.target == port) {
        return port;
    }
    let published = definition.ports.iter().find(|known| is_published_as(&known.published, port));
    published.map_or(port, |known| known.target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_urls() {
        for (url, port) in [
            ("http://localhost:8000/v1", Some(8000)),
            ("postgresql+asyncpg://ada:secret@localhost/shop", Some(5432)),
            ("redis://127.0.0.1:6379/0", Some(6379)),
            ("http://[::1]:80", Some(80)),
            ("http://localhost.example:80", None),
            ("http://api:80", None),
            ("localhost:80", None),
        ] {
            assert_eq!(local_port(url), port, "{url}");
        }
    }
}
