//! Hooks that run in a container: after its start, and before its stop.

use rcompose_engine::container::state::Status;
use rcompose_engine::container::store;
use rcompose_engine::id::Id;
use rcompose_engine::shim::client::{Client, ClientError, capture};
use rcompose_engine::shim::protocol::Exec;
use tokio::sync::mpsc::UnboundedSender;

use super::super::engine::Engine;
use super::super::labels::Labelled as _;
use super::super::plan::Named;
use super::step::StepError;
use crate::compose::model::Hook;

/// How many lines are shown of a hook that failed.
const LINES: usize = 5;

pub(super) const POST_START: &str = "post_start";
pub(super) const PRE_STOP: &str = "pre_stop";

/// A line that a hook wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The container that it runs in.
    pub container: Id,
    pub line: String,
}

/// Who hears what hooks write; `None`: nobody.
pub type Audience = Option<UnboundedSender<Said>>;

/// A hook that did not end as it should, in Docker Compose's words.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    #[error("{service} hook exited with status {code}{}", last(lines))]
    Failed {
        /// [`POST_START`] or [`PRE_STOP`].
        hook: &'static str,
        service: String,
        code: i32,
        lines: Vec<String>,
    },
    #[error("cannot run a hook of {service}")]
    Run {
        service: String,
        #[source]
        source: ClientError,
    },
}

/// Returns what a hook wrote last, as far as it may tell what is wrong.
fn last(lines: &[String]) -> String {
    match &lines[lines.len().saturating_sub(LINES)..] {
        [] => String::new(),
        shown => format!("; the last it wrote:\n  {}", shown.join("\n  ")),
    }
}

/// Runs hooks in a container, one after the other, until one fails. In a container that does not run, or ends meanwhile, there
/// is nothing to do.
pub async fn run(
    engine: &Engine,
    container: &Named,
    (kind, hooks): (&'static str, Vec<Hook>),
    audience: &Audience,
) -> Result<(), StepError> {
    for hook in hooks {
        let known = store::load(&engine.root, &container.id)
            .map_err(|source| StepError::State { name: container.name.clone(), source })?;
        let Some(known) = known.filter(|known| known.state.status == Status::Running) else { return Ok(()) };
        let directory = engine.root.container_run(&container.id);
        let (id, audience) = (container.id.clone(), audience.clone());
        let ran = tokio::task::spawn_blocking(move || {
            let mut lines = Vec::new();
            let code = Client::connect(&directory).and_then(|mut client| {
                capture(&mut client, request(hook), &mut |line| {
                    if let Some(audience) = &audience {
                        // Whoever listened may be gone.
                        let _ = audience.send(Said { container: id.clone(), line: line.to_owned() });
                    }
                    lines.push(line.to_owned());
                })
            });
            (code, lines)
        });
        let (code, lines) = ran.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        let service = known.service().to_owned();
        match code {
            Ok(0) | Err(ClientError::NotRunning(_) | ClientError::Gone) => {}
            Ok(code) => return Err(HookError::Failed { hook: kind, service, code, lines }.into()),
            Err(source) => return Err(HookError::Run { service, source }.into()),
        }
    }
    Ok(())
}

fn request(hook: Hook) -> Exec {
    let variable = |(name, value): (String, Option<String>)| value.map(|value| format!("{name}={value}"));
    Exec {
        args: hook.command.unwrap_or_default(),
        env: hook.environment.into_iter().filter_map(variable).collect(),
        user: hook.user,
        cwd: hook.working_dir,
        privileged: hook.privileged,
        ..Exec::default()
    }
}
