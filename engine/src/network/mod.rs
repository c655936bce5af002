//! Networks: addresses, bridges, packet filter, published ports, names.

pub mod config;
