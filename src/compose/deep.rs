//! Room for recursion over deeply nested input.
//!
//! Trees may be nested 1,000 levels deep; the passes over them are recursive, and the main thread's stack would not do.

use super::node::{Node, Value};

/// Nesting up to here needs no special care.
pub const SHALLOW: usize = 100;
/// Address space for the stack; only what is touched becomes memory.
const STACK: usize = 64 << 20;

/// Runs a function with a large stack and returns its result.
pub fn run<T: Send>(function: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("deep".into()).stack_size(STACK).spawn_scoped(scope, function);
        match thread.expect("a thread can be started").join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// A tree that is taken apart without recursion.
#[derive(Debug, Clone)]
pub struct Tree(pub Node);

impl Drop for Tree {
    fn drop(&mut self) {
        let mut open = vec![std::mem::take(&mut self.0.value)];
        while let Some(value) = open.pop() {
            match value {
                Value::List(items) => open.extend(items.into_iter().map(|node| node.value)),
                Value::Map(entries) => open.extend(entries.into_iter().map(|(_, node)| node.value)),
                _ => {}
            }
        }
    }
}
