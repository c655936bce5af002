//! Dependencies and health checks.

use super::{Findings, Subject, service};
use crate::compose::key::Key;
use crate::compose::model::{Condition, HealthTest, Healthcheck};

/// Whether a service has a health check, as far as that is known here.
enum Checked {
    Yes,
    No,
    /// Only its image can have one, and that is not here.
    Unknown,
}

fn checked(subject: &Subject<'_>, name: &str) -> Checked {
    let own = subject.project.services.get(name).and_then(|definition| definition.healthcheck.as_ref());
    match own.map(Healthcheck::check) {
        Some(Some(HealthTest::None)) => Checked::No,
        Some(Some(_)) => Checked::Yes,
        _ => match subject.images.get(name) {
            Some(image) if image.healthcheck => Checked::Yes,
            Some(_) => Checked::No,
            None => Checked::Unknown,
        },
    }
}

/// Finds services that wait for what can never become healthy.
pub(super) fn without_check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for (name, definition) in &subject.project.services {
        let waited = definition.depends_on.iter().filter(|(_, dependency)| dependency.condition == Condition::Healthy);
        for (dependency, _) in waited.filter(|(dependency, _)| subject.project.services.contains_key(*dependency)) {
            let message = match checked(subject, dependency) {
                Checked::Yes => continue,
                Checked::No => {
                    format!("{name} waits until {dependency} is healthy, and {dependency} has no health check")
                }
                Checked::Unknown => {
                    format!(
                        "{name} waits until {dependency} is healthy; only the image of {dependency}, which is not here, can have a health check"
                    )
                }
            };
            let help = format!("give {dependency} a `healthcheck`, or wait with `condition: service_started`");
            findings.add(&service(name, &["depends_on", dependency]), message, help);
        }
    }
}

/// Finds services that do not wait for a health check that is there.
pub(super) fn not_waited_for(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for (name, definition) in &subject.project.services {
        for (dependency, how) in &definition.depends_on {
            let path = service(name, &["depends_on", dependency]);
            // Who writes the condition means it.
            let condition = subject.resolved.span(&path.join(Key::from("condition")));
            let written = subject.resolved.sources.text(condition).is_some_and(|text| text.contains("service_started"));
            if how.condition == Condition::Started && !written && matches!(checked(subject, dependency), Checked::Yes) {
                findings.add(
                    &path,
                    format!("{name} starts as soon as {dependency} runs, and does not wait for its health check"),
                    format!("write `depends_on: {{{dependency}: {{condition: service_healthy}}}}`"),
                );
            }
        }
    }
}
