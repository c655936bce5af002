//! Images.

use super::{Findings, Subject, service};

/// Finds images whose version is whatever it is today.
pub(super) fn latest(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for (name, definition) in subject.project.services.iter().filter(|(_, definition)| definition.build.is_none()) {
        let Some(image) =
            definition.image.as_deref().filter(|image| !image.contains('@') && !image.starts_with("sha256:"))
        else {
            continue;
        };
        let last = image.rsplit('/').next().unwrap_or(image);
        if last.split_once(':').is_none_or(|(_, tag)| tag == "latest") {
            findings.add(
                &service(name, &["image"]),
                format!("{image} is another image tomorrow"),
                "name a version; `rcompose config --lock-image-digests` writes down the present ones",
            );
        }
    }
}

/// Finds services that are root, where that is known.
pub(super) fn root(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for (name, definition) in &subject.project.services {
        let own = definition.user.as_deref();
        let user = match (own, subject.images.get(name)) {
            (Some(user), _) => user,
            (None, Some(image)) => &image.user,
            (None, None) => continue,
        };
        if !matches!(user.split(':').next(), Some("" | "root" | "0")) {
            continue;
        }
        let path = if own.is_some() { service(name, &["user"]) } else { service(name, &["image"]) };
        let help = "set `user`, or `USER` in its Dockerfile; where it must start as root to become somebody else itself, ignore this check";
        findings.add(&path, format!("{name} runs as root"), help);
    }
}
