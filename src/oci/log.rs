//! Warnings and errors, in the form of runc: callers read the file and show what is in it.

use std::error::Error;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use rcompose_engine::error::chain;

/// Where warnings and errors go, besides standard error.
#[derive(Debug)]
pub(super) struct Log {
    path: Option<PathBuf>,
    json: bool,
}

impl Log {
    pub(super) fn new(path: Option<PathBuf>, json: bool) -> Self {
        Self { path, json }
    }

    /// Tells an error with everything that caused it.
    pub(super) fn error(&self, error: &dyn Error) {
        self.tell("error", &chain(error));
    }

    pub(super) fn warnings(&self, warnings: &[String]) {
        for warning in warnings {
            self.tell("warning", warning);
        }
    }

    fn tell(&self, level: &str, text: &str) {
        // Where a message cannot be written there is nobody to be told.
        let _ = writeln!(std::io::stderr(), "{text}");
        let Some(path) = &self.path else { return };
        let time = jiff::Timestamp::now();
        let line = if self.json {
            serde_json::json!({"level": level, "msg": text, "time": time.to_string()}).to_string()
        } else {
            format!("time=\"{time}\" level={level} msg={text:?}")
        };
        let written =
            File::options().create(true).append(true).open(path).and_then(|mut file| writeln!(file, "{line}"));
        if let Err(error) = written {
            let _ = writeln!(std::io::stderr(), "cannot write {}: {error}", path.display());
        }
    }
}
