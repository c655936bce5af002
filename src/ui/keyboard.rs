//! Single keys that are pressed while something else is shown. Signals (Control-C, Control-Z) stay what they are.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rcompose_engine::sys::readiness;
use tokio::io::unix::AsyncFd;

use super::terminal::{Before, is_ours};

/// The terminal of standard input, which gives every key at once and shows none. Becomes as it was when this is dropped.
#[derive(Debug)]
pub struct Keyboard {
    input: AsyncFd<OwnedFd>,
    before: Before,
}

impl Keyboard {
    /// Takes the terminal. It must be one, and this process must be in its foreground.
    pub fn take() -> io::Result<Self> {
        let input = readiness::watch_reading(io::stdin().as_fd().try_clone_to_owned()?)?;
        let before = Before::take()?;
        before.make_keys()?;
        Ok(Self { input, before })
    }

    /// Takes the terminal again, after others had it.
    pub fn take_again(&self) -> io::Result<()> {
        if is_ours() { self.before.make_keys() } else { Ok(()) }
    }

    /// Returns the next keys that were pressed, as they were typed. Waits for ever where no more can come. Cancel-safe: a key
    /// that was not returned is still there.
    pub async fn next(&self) -> String {
        let mut buffer = [0; 64];
        while let Ok(mut ready) = self.input.readable().await {
            if ready.ready().is_read_closed() {
                break;
            }
            // Whoever is in the background is stopped when it reads.
            let read = if is_ours() { nix::unistd::read(&self.input, &mut buffer) } else { Ok(0) };
            match read {
                // Others were faster, or it was the end.
                Ok(0) => ready.clear_ready(),
                Ok(count) => return String::from_utf8_lossy(&buffer[..count]).into_owned(),
                Err(_) => break,
            }
        }
        std::future::pending().await
    }
}
