//! From a project as it is written to one that runs: observe → plan → apply.

pub mod apart;
pub mod apply;
pub mod container;
pub mod copy;
pub mod describe;
pub mod disk;
pub mod engine;
pub mod graph;
pub mod hooks;
pub mod image;
pub mod images;
pub mod inject;
pub mod inspect;
pub mod labels;
pub mod models;
pub mod names;
pub mod network;
pub mod observe;
pub mod oneoff;
pub mod pin;
pub mod place;
pub mod plan;
pub mod provider;
pub mod pull;
pub mod push;
pub mod timeline;
