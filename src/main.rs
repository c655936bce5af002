//! Chooses the front door; nothing else.
fn main() {}
