//! What runs in a container.

use super::{Findings, Subject, service};

/// Finds shells that stay PID 1: they get SIGTERM and do not pass it on, so that stopping takes as long as it may.
pub(super) fn shells(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for (name, definition) in &subject.project.services {
        if definition.init == Some(true) || definition.pid.is_some() {
            continue;
        }
        let image = subject.images.get(name);
        let entrypoint = definition.entrypoint.as_deref().or(image.map(|image| &image.entrypoint[..]));
        // Where the entrypoint is the service's own, the image's command does not count.
        let of_image = image.filter(|_| definition.entrypoint.is_none()).map(|image| &image.command[..]);
        let command = definition.command.as_deref().or(of_image);
        let (key, own, script) = match (entrypoint.and_then(script), command.and_then(script)) {
            (Some(script), _) => ("entrypoint", definition.entrypoint.is_some(), script),
            (None, Some(script)) => ("command", definition.command.is_some(), script),
            (None, None) => continue,
        };
        if stays(script) {
            findings.add(
                &service(name, &[if own { key } else { "image" }]),
                format!("the {key} of {name} is a shell that stays PID 1 and passes no SIGTERM on: stopping takes the whole stop_grace_period"),
                "begin its last command with `exec`, or set `init: true`",
            );
        }
    }
}

/// Returns the script of a shell's command line.
fn script(arguments: &[String]) -> Option<&str> {
    let [program, option, script, ..] = arguments else { return None };
    let program = program.rsplit('/').next()?;
    (matches!(program, "sh" | "ash" | "bash" | "dash" | "zsh") && option.starts_with('-') && option.ends_with('c'))
        .then_some(script)
}

/// Returns whether a shell is still there while what it was asked for runs: a single command takes its place.
fn stays(script: &str) -> bool {
    let script = script.trim();
    let words = || script.split(|c: char| c.is_whitespace() || matches!(c, ';' | '&' | '|' | '(' | ')'));
    let compound = script.contains([';', '&', '|', '\n']);
    compound && !words().any(|word| matches!(word, "exec" | "trap"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts() {
        for (script, expected) in [
            ("nginx -g 'daemon off'", false),
            ("migrate && gunicorn app", true),
            ("migrate && exec gunicorn app", false),
            ("trap 'exit 0' TERM; sleep 10 & wait", false),
            ("a\nb", true),
        ] {
            assert_eq!(stays(script), expected, "{script}");
        }
        let arguments = ["/bin/bash", "-ec", "a; b"].map(str::to_owned);
        assert_eq!(script(&arguments), Some("a; b"));
        assert_eq!(script(&arguments[..2]), None);
    }
}
