//! Ctrl-C and its kin.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::error::Error;

/// SIGINT and SIGTERM, one by one.
#[derive(Debug)]
pub struct Interrupts {
    int: Signal,
    term: Signal,
}

impl Interrupts {
    /// Takes the signals over from now on.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { int: listen(SignalKind::interrupt())?, term: listen(SignalKind::terminate())? })
    }

    /// Waits for the next one. Cancel-safe: a signal that came is not lost.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}

/// Takes a kind of signals over from now on.
pub fn listen(kind: SignalKind) -> Result<Signal, Error> {
    signal(kind).map_err(|error| Error::new(format!("cannot listen for signals: {error}")))
}

/// Returns a token that the first interrupt cancels.
pub fn interrupt() -> Result<CancellationToken, Error> {
    let mut interrupts = Interrupts::new()?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        interrupts.next().await;
        cancelled.cancel();
    });
    Ok(token)
}
