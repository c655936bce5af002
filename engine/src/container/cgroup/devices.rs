//! Which devices a container may use: lines of `devices.allow` for version 1, a program for version 2.

use std::os::fd::BorrowedFd;

use nix::Result;
use serde::{Deserialize, Serialize};

use crate::sys::bpf::{self, Instruction};

/// Allows some use of some devices; everything without a rule is denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// `c`, `b`, or `a` for both.
    pub kind: char,
    /// `None`: every one.
    pub major: Option<u32>,
    /// `None`: every one.
    pub minor: Option<u32>,
    /// Letters of `rwm`.
    pub access: String,
}

impl Rule {
    /// Returns the line for `devices.allow`.
    pub fn line(&self) -> String {
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        format!("{} {}:{} {}", self.kind, number(self.major), number(self.minor), self.access)
    }

    /// Reads a rule such as `c 1:3 rwm`, the syntax of `devices.allow` and of Compose's `device_cgroup_rules`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split_whitespace();
        let (kind, numbers, access) = (fields.next()?, fields.next()?, fields.next()?);
        let mut letters = kind.chars();
        let kind = letters.next().filter(|kind| matches!(kind, 'a' | 'b' | 'c'))?;
        let (major, minor) = numbers.split_once(':')?;
        let number = |text: &str| if text == "*" { Some(None) } else { text.parse().ok().map(Some) };
        let valid = letters.next().is_none() && fields.next().is_none() && !access.is_empty();
        if !valid || !access.chars().all(|letter| "rwm".contains(letter)) {
            return None;
        }
        Some(Self { kind, major: number(major)?, minor: number(minor)?, access: access.to_owned() })
    }
}

/// Returns what every container may use: making any device node, and the harmless devices.
pub fn defaults() -> Vec<Rule> {
    let rule = |kind, major, minor, access: &str| Rule { kind, major, minor, access: access.to_owned() };
    let mut rules = vec![rule('c', None, None, "m"), rule('b', None, None, "m")];
    // null, zero, full, random, urandom, tty, console, ptmx, and every pseudo-terminal.
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(rule('c', Some(major), Some(minor), "rwm"));
    }
    rules.push(rule('c', Some(136), None, "rwm"));
    rules
}

/// Attaches a program that enforces the rules to a group of version 2.
pub fn attach(cgroup: BorrowedFd<'_>, rules: &[Rule]) -> Result<()> {
    bpf::attach_device_program(cgroup, &program(rules))
}

/// Compiles the rules (`BPF_PROG_TYPE_CGROUP_DEVICE`): the context has the type and access in one word, then major and
/// minor. The program returns 1 to allow.
fn program(rules: &[Rule]) -> Vec<Instruction> {
    const R0: u8 = 0;
    const CONTEXT: u8 = 1;
    const KIND: u8 = 2;
    const ACCESS: u8 = 3;
    const MAJOR: u8 = 4;
    const MINOR: u8 = 5;
    const SCRATCH: u8 = 6;
    let mut code = vec![
        Instruction::load_word(KIND, CONTEXT, 0),
        Instruction::move_register(ACCESS, KIND),
        Instruction::and(KIND, 0xFFFF),
        Instruction::shift_right(ACCESS, 16),
        Instruction::load_word(MAJOR, CONTEXT, 4),
        Instruction::load_word(MINOR, CONTEXT, 8),
    ];
    for rule in rules {
        let mut checks = Vec::new();
        match rule.kind {
            // BPF_DEVCG_DEV_BLOCK, BPF_DEVCG_DEV_CHAR
            'b' => checks.push((KIND, 1)),
            'c' => checks.push((KIND, 2)),
            _ => {}
        }
        checks.extend(rule.major.map(|major| (MAJOR, major)));
        checks.extend(rule.minor.map(|minor| (MINOR, minor)));
        // BPF_DEVCG_ACC_MKNOD, READ, WRITE
        let letters = [('m', 1), ('r', 2), ('w', 4)];
        let denied: u32 = letters.iter().filter(|(letter, _)| !rule.access.contains(*letter)).map(|(_, bit)| bit).sum();
        let mut block = Vec::new();
        for (index, (register, value)) in checks.iter().enumerate() {
            // Over the rest of the checks, the access check (3) and the two instructions that allow.
            let rest = checks.len() - index - 1 + 3 + 2;
            block.push(Instruction::jump_unless_equal(*register, *value, i16::try_from(rest).unwrap_or(i16::MAX)));
        }
        block.push(Instruction::move_register(SCRATCH, ACCESS));
        block.push(Instruction::and(SCRATCH, denied));
        block.push(Instruction::jump_unless_equal(SCRATCH, 0, 2));
        block.push(Instruction::move_immediate(R0, 1));
        block.push(Instruction::exit());
        code.extend(block);
    }
    code.push(Instruction::move_immediate(R0, 0));
    code.push(Instruction::exit());
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_and_written() {
        for text in ["c 1:3 rwm", "b *:* m", "a *:* rwm", "c 136:* rw"] {
            assert_eq!(Rule::parse(text).unwrap().line(), text);
        }
        for text in ["", "x 1:3 r", "c 1 r", "c 1:3 x", "c 1:3 rwm more", "cc 1:3 r", "c 1:a r"] {
            assert_eq!(Rule::parse(text), None, "{text}");
        }
    }
}
