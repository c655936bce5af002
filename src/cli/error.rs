//! How a command fails.

use std::error::Error as StdError;
use std::io;

use rcompose_engine::error::chain;
use rcompose_engine::image::{DEFAULT_REGISTRY, RegistryError};
use rcompose_engine::supervisor::client::ClientError;

use crate::compose::{Diagnostic, suggest};
use crate::project::apply::{ApplyError, StepError};

/// The exit code of what was interrupted (128 + SIGINT), as Docker Compose has it.
pub const INTERRUPTED: u8 = 130;

/// Why a command ends with another exit code than 0.
#[derive(Debug)]
pub enum Error {
    /// Something failed.
    Failed(Vec<Message>),
    /// The compose files have faults.
    Faults(Vec<Diagnostic>),
    /// Everything was said already; this is the exit code.
    Exit(u8),
}

/// What went wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub text: String,
    pub hint: Option<String>,
}

impl Error {
    pub fn new(text: impl Into<String>) -> Self {
        Self::Failed(vec![Message { text: text.into(), hint: None }])
    }

    pub fn with_hint(text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Failed(vec![Message { text: text.into(), hint: Some(hint.into()) }])
    }

    /// Says that there is no such service among those that are known.
    pub fn no_such_service<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let hint = match suggest::closest(name, known) {
            Some(like) => format!("did you mean {like}?"),
            None => "rcompose config --services lists what there is".to_owned(),
        };
        Self::with_hint(format!("no such service: {name}"), hint)
    }
}

impl<E: StdError + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        let any: &(dyn StdError + 'static) = &error;
        if let Some(error) = any.downcast_ref::<io::Error>()
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            // Whoever read our output has seen enough.
            return Self::Exit(0);
        }
        match any.downcast_ref::<ApplyError>() {
            Some(ApplyError::Interrupted) => Self::Exit(INTERRUPTED),
            Some(ApplyError::Several { first, others }) => {
                Self::Failed(std::iter::once(first).chain(others).map(|error| message(error)).collect())
            }
            _ => Self::Failed(vec![message(&error)]),
        }
    }
}

/// Returns an error with everything that caused it, and the advice of the one who knew some.
fn message(error: &(dyn StdError + 'static)) -> Message {
    let mut hint = None;
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(step) = step(error) {
            hint = step.hint();
        }
        if let Some(ClientError::Failed(failure)) = error.downcast_ref::<ClientError>() {
            hint.clone_from(&failure.hint);
        }
        match registry_error(error) {
            Some(RegistryError::Denied { registry, .. }) => {
                hint = Some(match registry.as_str() {
                    DEFAULT_REGISTRY => "rcompose login, if the image is not for everybody".to_owned(),
                    registry => format!("rcompose login {registry}"),
                });
            }
            Some(RegistryError::Unreachable { .. }) => {
                hint = Some("rcompose doctor looks at the network, the proxy and the registries".to_owned());
            }
            _ => {}
        }
        cause = error.source();
    }
    Message { text: chain(error), hint }
}

fn step<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a StepError> {
    match error.downcast_ref::<ApplyError>() {
        Some(ApplyError::Step(step)) => Some(step),
        _ => error.downcast_ref::<StepError>(),
    }
}

/// Sources come in boxes or without.
fn registry_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a RegistryError> {
    error.downcast_ref::<RegistryError>().or_else(|| error.downcast_ref::<Box<RegistryError>>().map(|error| &**error))
}

#[cfg(test)]
mod tests {
    use rcompose_engine::protocol::{Failure, FailureKind};

    use super::*;

    #[test]
    fn a_message_has_its_causes_and_their_advice() {
        let failure = Failure {
            kind: FailureKind::PortInUse,
            message: "port 8080 is in use by nginx (pid 7)".into(),
            hint: Some("publish another port".into()),
        };
        let source = ClientError::Failed(failure);
        let error = StepError::Engine { verb: "start", what: "container shop-web-1".into(), source };
        let Error::Failed(messages) = Error::from(ApplyError::from(error)) else { panic!("it failed") };
        assert_eq!(messages[0].text, "cannot start container shop-web-1: port 8080 is in use by nginx (pid 7)");
        assert_eq!(messages[0].hint.as_deref(), Some("publish another port"));
    }

    #[test]
    fn a_reader_who_went_away_is_no_failure() {
        assert!(matches!(Error::from(io::Error::from(io::ErrorKind::BrokenPipe)), Error::Exit(0)));
        assert!(matches!(Error::from(ApplyError::Interrupted), Error::Exit(INTERRUPTED)));
    }
}
