//! Which system calls a container may make: a policy compiled to a filter of the kernel (`seccomp(2)`).
//!
//! The filter is a binary tree over ranges of numbers, not a list: it is loaded in a tenth of the time, since the kernel
//! tries it for every number, and every system call of the workload pays less for it (`docs/floor.md`).

mod default;
mod filter;
mod profile;
mod table;

pub use default::{default_filter, default_profile};
pub use profile::{ACTIONS, ARCHITECTURES, FLAGS, ProfileError, compile_profile, from_docker};

use self::table::Architecture;
use crate::sys::process::Instruction;

/// A filter ready to be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    pub code: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
}

/// `SECCOMP_RET_ALLOW`.
const ALLOW: u32 = 0x7FFF_0000;

/// Returns the action that fails a call with this errno (`SECCOMP_RET_ERRNO`).
const fn errno(number: i32) -> u32 {
    0x0005_0000 | (number.cast_unsigned() & 0xFFFF)
}

/// What happens to each system call.
#[derive(Debug)]
struct Policy {
    /// By architecture and number; the last is the newest that the policy knows of. The first is this program's own.
    rules: Vec<(Architecture, Vec<Rule>)>,
    /// The action for calls that are newer than the policy.
    unknown: u32,
    /// The action for calls of other architectures.
    foreign: u32,
}

/// What happens to one system call.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    Always(u32),
    /// The action of the first line whose tests all hold, or the last value.
    When(Vec<(Vec<Test>, u32)>, u32),
}

/// A test of one argument of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Test {
    argument: u8,
    comparison: Comparison,
    value: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// The argument's bits within the mask equal the value.
    Masked(u64),
}
