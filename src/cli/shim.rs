//! Reaching the shim of a container. One that was killed is replaced by the supervisor, and so is a supervisor that was
//! killed too, by the one that is started here: that takes a moment.

use std::io;
use std::time::Duration;

use rcompose_engine::id::Id;
use rcompose_engine::protocol::FailureKind;
use rcompose_engine::shim::arrival::Arrival;
use rcompose_engine::supervisor::client::ClientError;
use tokio::time::{Instant, timeout_at};

use super::error::Error;
use crate::project::engine::Engine;

/// How long a container that runs may be without a shim.
const PATIENCE: Duration = Duration::from_secs(3);

/// Repeats `attempt` until it reaches the shim (`Ok(None)`: nobody is there now). Returns `None` where the container does
/// not run any more.
pub async fn reach<T, E>(
    engine: &Engine,
    id: &Id,
    mut attempt: impl FnMut() -> Result<Option<T>, E>,
) -> Result<Option<T>, Error>
where
    Error: From<E>,
{
    let run = engine.root.container_run(id);
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(reached) = attempt()? {
            return Ok(Some(reached));
        }
        let arrival = match Arrival::watch(&run) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            watched => Some(watched?),
        };
        // One that came before it was watched for.
        if let Some(reached) = attempt()? {
            return Ok(Some(reached));
        }
        if !runs(engine, id).await? {
            return Ok(None);
        }
        let Some(arrival) = arrival else { continue };
        match timeout_at(deadline, arrival.seen()).await {
            Ok(seen) => seen?,
            Err(_) => {
                return Err(Error::with_hint(
                    format!("nobody attends to container {}: its shim was killed, and no other has come", id.short()),
                    "restart the container",
                ));
            }
        }
    }
}

/// Asks the supervisor, which is started where there is none, whether a container runs.
async fn runs(engine: &Engine, id: &Id) -> Result<bool, Error> {
    loop {
        let client = engine.client().await?;
        match client.inspect(id).await {
            Ok(state) => return Ok(state.status.is_running()),
            Err(ClientError::Failed(failure)) if failure.kind == FailureKind::NoSuchContainer => return Ok(false),
            Err(ClientError::Ended) => engine.give_up(&client).await,
            Err(error) => return Err(error.into()),
        }
    }
}
