//! The size of a terminal (`TIOCGWINSZ`, `TIOCSWINSZ`; `ioctl_tty(2)`).

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

use nix::errno::Errno;

/// Rows and columns of characters, and of pixels where the terminal says so.
#[derive(Debug, Clone, Copy)]
pub struct Size(libc::winsize);

impl Size {
    /// Returns how many rows and columns of characters there are.
    pub fn rows_and_columns(self) -> (u16, u16) {
        (self.0.ws_row, self.0.ws_col)
    }

    /// Returns a size of this many rows and columns more.
    #[must_use]
    pub fn grown(mut self, more: u16) -> Self {
        self.0.ws_row = self.0.ws_row.saturating_add(more);
        self.0.ws_col = self.0.ws_col.saturating_add(more);
        self
    }
}

/// Returns the size of a terminal.
pub fn window_size(terminal: impl AsFd) -> io::Result<Size> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one `winsize`, which `size` is and which outlives the call.
    let result = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    Errno::result(result)?;
    Ok(Size(size))
}

/// Gives a terminal a size; whoever runs in its foreground is told (`SIGWINCH`).
pub fn set_window_size(terminal: impl AsFd, size: Size) -> io::Result<()> {
    // SAFETY: TIOCSWINSZ reads one `winsize`, which `size.0` is and which outlives the call.
    let result = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size.0) };
    Errno::result(result)?;
    Ok(())
}
