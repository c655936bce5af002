//! Docker Compose without Docker: the program as a library, so that tests and fuzz targets can reach its parts.

pub mod cli;
pub mod compose;
pub mod diagram;
pub mod doctor;
pub mod lint;
pub mod oci;
pub mod project;
pub mod remote;
pub mod template;
pub mod ui;
pub mod watch;
pub mod whoami;
