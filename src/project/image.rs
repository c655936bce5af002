//! What a project needs to know about an image.

use rcompose_engine::image::Platform;

/// The facts about an image that decide what a container of it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// As it was asked for, such as `postgres:16`.
    pub reference: String,
    /// The digest of its configuration, `sha256:…`.
    pub id: String,
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    /// Paths that get a volume even where nobody asks for one.
    pub volumes: Vec<String>,
    /// Ports such as `80/tcp`.
    pub expose: Vec<String>,
    /// Variables, `NAME=value`.
    pub environment: Vec<String>,
    /// Who its programs run as; empty: root.
    pub user: String,
    /// Whether it brings a health check.
    pub healthcheck: bool,
    /// What its programs are made for, as far as that is known.
    pub platform: Option<Platform>,
}
