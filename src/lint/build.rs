//! Build contexts.

use std::path::Path;

use super::{Findings, Subject, service};

/// What is large, secret or of another machine, and in no image on purpose.
const UNWANTED: [&str; 9] =
    [".git", ".env", ".venv", "venv", "node_modules", "__pycache__", ".terraform", "target", ".next"];

/// Finds contexts in which nothing is ignored, and something should be.
pub(super) fn contexts(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for (name, definition) in &subject.project.services {
        let Some(build) = &definition.build else { continue };
        let context = Path::new(&build.context);
        let own = context.join(format!("{}.dockerignore", build.dockerfile));
        // One that is a URL is no directory here.
        if !context.is_dir() || own.exists() || context.join(".dockerignore").exists() {
            continue;
        }
        let there = UNWANTED.into_iter().filter(|name| context.join(name).exists()).collect::<Vec<_>>();
        if !there.is_empty() {
            findings.add(
                &service(name, &["build", "context"]),
                format!("the build context of {name} has {}, and no .dockerignore", there.join(", ")),
                "list in .dockerignore what the image does not need: builds become faster, and secrets stay here",
            );
        }
    }
}
