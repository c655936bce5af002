//! Which devices a container may use: lines of `devices.allow` for version 1, a program for version 2.

use std::os::fd::BorrowedFd;

use nix::Result;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use serde::{Deserialize, Serialize};

use crate::sys::bpf::{self, Instruction};

/// Allows or denies some use of some devices. The last rule that speaks of a use decides; without any it is denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    #[serde(default = "allowed")]
    pub allow: bool,
    /// `c`, `b`, or `a` for both.
    pub kind: char,
    /// `None`: every one.
    pub major: Option<u32>,
    /// `None`: every one.
    pub minor: Option<u32>,
    /// Letters of `rwm`.
    pub access: String,
}

fn allowed() -> bool {
    true
}

impl Rule {
    /// Returns the file of version 1 that takes this rule's line.
    pub fn file(&self) -> &'static str {
        if self.allow { "devices.allow" } else { "devices.deny" }
    }

    /// Returns whether the rule is about every use of every device.
    pub fn is_universal(&self) -> bool {
        let every = |number: Option<u32>| number.is_none();
        let all = "rwm".chars().all(|letter| self.access.contains(letter));
        self.kind == 'a' && every(self.major) && every(self.minor) && all
    }

    /// Reads a rule of an OCI configuration. Without a type it is about both, without letters about no use.
    pub fn from_oci(rule: &LinuxDeviceCgroup) -> Option<Self> {
        let kind = match rule.typ() {
            Some(LinuxDeviceType::B) => 'b',
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => 'c',
            Some(LinuxDeviceType::A) | None => 'a',
            Some(LinuxDeviceType::P) => return None,
        };
        // Negative is every number, as the kernel's own wildcard in runc's configurations.
        let number = |number: Option<i64>| match number {
            Some(number) if number >= 0 => u32::try_from(number).ok().map(Some),
            _ => Some(None),
        };
        let access = rule.access().clone().unwrap_or_default();
        if access.is_empty() || !access.chars().all(|letter| "rwm".contains(letter)) {
            return None;
        }
        Some(Self { allow: rule.allow(), kind, major: number(rule.major())?, minor: number(rule.minor())?, access })
    }

    /// Returns the rule in the form of an OCI configuration.
    pub fn to_oci(&self) -> LinuxDeviceCgroup {
        let kind = match self.kind {
            'b' => LinuxDeviceType::B,
            'c' => LinuxDeviceType::C,
            _ => LinuxDeviceType::A,
        };
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(self.allow).set_typ(Some(kind)).set_access(Some(self.access.clone()));
        rule.set_major(self.major.map(i64::from)).set_minor(self.minor.map(i64::from));
        rule
    }

    /// Returns the line for `devices.allow` and `devices.deny`.
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
        Some(Self { allow: true, kind, major: number(major)?, minor: number(minor)?, access: access.to_owned() })
    }
}

/// Returns the rule that denies every use of every device.
pub fn nothing() -> Rule {
    Rule { allow: false, kind: 'a', major: None, minor: None, access: "rwm".into() }
}

/// Returns what every container may use: making any device node, and the harmless devices.
pub fn defaults() -> Vec<Rule> {
    let rule = |kind, major, minor, access: &str| Rule { allow: true, kind, major, minor, access: access.to_owned() };
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
    // The last rule that speaks of a use decides, so that is asked first.
    for rule in rules.iter().rev() {
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
        let bits = |listed: bool| -> u32 {
            let letters = [('m', 1), ('r', 2), ('w', 4)].into_iter();
            letters.filter(|(letter, _)| rule.access.contains(*letter) == listed).map(|(_, bit)| bit).sum()
        };
        let mut block = Vec::new();
        for (index, (register, value)) in checks.iter().enumerate() {
            // Over the rest of the checks, the access check (3) and the two instructions that decide.
            let rest = checks.len() - index - 1 + 3 + 2;
            block.push(Instruction::jump_unless_equal(*register, *value, i16::try_from(rest).unwrap_or(i16::MAX)));
        }
        block.push(Instruction::move_register(SCRATCH, ACCESS));
        // What is allowed must be allowed as a whole; what is denied is denied in any part.
        block.push(Instruction::and(SCRATCH, bits(!rule.allow)));
        if rule.allow {
            block.push(Instruction::jump_unless_equal(SCRATCH, 0, 2));
        } else {
            block.push(Instruction::jump_if_equal(SCRATCH, 0, 2));
        }
        block.push(Instruction::move_immediate(R0, u32::from(rule.allow)));
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
            let rule = Rule::parse(text).unwrap();
            assert_eq!(rule.line(), text);
            assert_eq!(Rule::from_oci(&rule.to_oci()), Some(rule));
        }
        for text in ["", "x 1:3 r", "c 1 r", "c 1:3 x", "c 1:3 rwm more", "cc 1:3 r", "c 1:a r"] {
            assert_eq!(Rule::parse(text), None, "{text}");
        }
    }
}
