//! A generated corpus of hostile layers, images and archives. Each is refused or contained: a tree of sentinels around
//! the store stays as it was, nothing is left behind, and memory stays bounded.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::large_stack_arrays,
    clippy::needless_pass_by_value,
    clippy::format_push_string,
    reason = "helpers of tests fail by panicking, and say on the terminal what they skip"
)]

#[path = "../image_support/mod.rs"]
mod image_support;

mod archives;
mod confined;
mod images;
mod layers;
mod world;

/// What must become of an attack.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
enum Fate {
    /// It is an error.
    Refused,
    /// It is no error, and stays within the layer.
    Contained,
    /// Either will do.
    Harmless,
}

impl Fate {
    /// Tells whether an attack had the fate that it should have.
    fn is(self, refused: bool) -> bool {
        match self {
            Self::Refused => refused,
            Self::Contained => !refused,
            Self::Harmless => true,
        }
    }
}
