//! A generated corpus of hostile layers, images and archives. Each is refused or contained: a tree of sentinels around
//! the store stays as it was, nothing is left behind, and memory stays bounded.

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
