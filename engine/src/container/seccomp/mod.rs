//! Which system calls a container may make: a policy compiled to a filter of the kernel (`seccomp(2)`).
//!
//! The filter is a binary tree over ranges of numbers, not a list: it is loaded in a tenth of the time, since the kernel
//! tries it for every number, and every system call of the workload pays less for it (`docs/floor.md`).

mod default;
mod filter;
mod profile;
mod table;
mod table_i386;

pub use default::default_filter;
pub use profile::{ProfileError, compile_profile, from_docker};

/// `SECCOMP_RET_ALLOW`.
const ALLOW: u32 = 0x7FFF_0000;

/// Returns the action that fails a call with this errno (`SECCOMP_RET_ERRNO`).
const fn errno(number: i32) -> u32 {
    0x0005_0000 | (number.cast_unsigned() & 0xFFFF)
}

/// What happens to each system call.
#[derive(Debug)]
struct Policy {
    /// By number; the last is the newest that the policy knows of.
    rules: Vec<Rule>,
    /// The same for 32-bit programs, whose calls have other numbers. `None`: they are foreign.
    compat: Option<Vec<Rule>>,
    /// The action for calls that are newer than the policy.
    unknown: u32,
    /// The action for calls of any other architecture, the x32 interface among them: it must not allow what the rules do
    /// not.
    foreign: u32,
}

/// Sets the rule of a call, under the numbers that it has for programs of either kind.
fn set(rules: &mut [Rule], compat: &mut [Rule], name: &str, rule: impl Fn(&Rule) -> Rule) {
    if let Some(own) = table::number(name).and_then(|number| rules.get_mut(number)) {
        *own = rule(own);
    }
    if let Some(own) = table_i386::number(name).and_then(|number| compat.get_mut(number)) {
        *own = rule(own).narrow();
    }
}

/// What happens to one system call.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    Always(u32),
    /// The action of the first line whose tests all hold, or the last value.
    When(Vec<(Vec<Test>, u32)>, u32),
}

impl Rule {
    /// Returns the rule for a call whose arguments have 32 bits.
    fn narrow(self) -> Self {
        let Rule::When(mut lines, otherwise) = self else { return self };
        for test in lines.iter_mut().flat_map(|(tests, _)| tests) {
            test.value &= 0xFFFF_FFFF;
            if let Comparison::Masked(mask) = &mut test.comparison {
                *mask &= 0xFFFF_FFFF;
            }
        }
        Rule::When(lines, otherwise)
    }
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
