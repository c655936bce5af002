//! What a command printed and how it ended.

use std::{fmt, time::Duration};

/// A finished command.
#[derive(Clone)]
pub struct Output {
    /// As typed, for messages.
    pub command: String,
    /// The exit code; 128 + n after signal n.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

#[expect(clippy::return_self_not_must_use, reason = "a check is often the last thing done with an output")]
impl Output {
    /// Returns itself if the command succeeded; panics with everything it printed if not.
    #[track_caller]
    pub fn ok(self) -> Output {
        assert!(self.code == 0, "expected success\n{self:?}");
        self
    }

    /// Returns itself if the command failed in an orderly way (neither success, nor a panic, nor a signal).
    #[track_caller]
    pub fn fails(self) -> Output {
        assert!(self.code != 0, "expected failure\n{self:?}");
        assert!(
            self.code < 128 && self.code != 101 && !self.stderr.contains("panicked at"),
            "expected an orderly failure\n{self:?}"
        );
        self
    }

    /// Panics unless standard error contains `text`.
    #[track_caller]
    pub fn complains(self, text: &str) -> Output {
        assert!(self.stderr.contains(text), "expected {text:?} on standard error\n{self:?}");
        self
    }

    /// Returns standard output without the white space around it.
    pub fn text(&self) -> &str {
        self.stdout.trim()
    }
}

/// One block with the command, both streams and the exit status, as a transcript would show it.
impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "$ {}", self.command)?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.is_empty() {
                writeln!(f, "--- {name}")?;
                f.write_str(text)?;
                if !text.ends_with('\n') {
                    f.write_str("⏎\n")?;
                }
            }
        }
        write!(f, "--- exit {} after {:.3} s", self.code, self.took.as_secs_f64())
    }
}
