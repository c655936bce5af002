//! From a policy to the instructions of a filter (classic BPF over `struct seccomp_data`).

use super::{Comparison, Policy, Rule, Test};
use crate::sys::process::Instruction;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const JUMP_GREATER_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// `AUDIT_ARCH_X86_64`.
pub(super) const AUDIT_ARCH: u32 = 0xC000_003E;

/// `AUDIT_ARCH_I386`.
pub(super) const AUDIT_ARCH_COMPAT: u32 = 0x4000_0003;

/// Calls of the x32 interface have the architecture of all others, and this bit in their number (`__X32_SYSCALL_BIT`).
const X32: u32 = 0x4000_0000;

/// Compiles a policy.
pub(super) fn compile(policy: &Policy) -> Vec<Instruction> {
    let compat = match &policy.compat {
        Some(rules) => tree(&ranges(rules, policy)),
        None => vec![instruction(RETURN, 0, 0, policy.foreign)],
    };
    let over = u32::try_from(compat.len()).unwrap_or(u32::MAX).saturating_add(3);
    let mut code = vec![
        instruction(LOAD, 0, 0, ARCHITECTURE),
        instruction(JUMP_EQUAL, 0, 1, AUDIT_ARCH),
        instruction(JUMP, 0, 0, over),
        instruction(JUMP_EQUAL, 1, 0, AUDIT_ARCH_COMPAT),
        instruction(RETURN, 0, 0, policy.foreign),
        instruction(LOAD, 0, 0, NUMBER),
    ];
    code.extend(compat);
    code.push(instruction(LOAD, 0, 0, NUMBER));
    code.extend(tree(&ranges(&policy.rules, policy)));
    code
}

/// Returns the rules as ranges of numbers, each given by its first, in order.
fn ranges(rules: &[Rule], policy: &Policy) -> Vec<(u32, Rule)> {
    let mut ranges: Vec<(u32, Rule)> = Vec::new();
    let unknown = Rule::Always(policy.unknown);
    let numbered = rules.iter().chain([&unknown]).enumerate();
    let numbered = numbered.map(|(number, rule)| (u32::try_from(number).unwrap_or(u32::MAX), rule));
    let foreign = Rule::Always(policy.foreign);
    for (number, rule) in numbered.chain([(X32, &foreign)]) {
        if ranges.last().is_none_or(|(_, previous)| previous != rule) {
            ranges.push((number, rule.clone()));
        }
    }
    ranges
}

fn tree(ranges: &[(u32, Rule)]) -> Vec<Instruction> {
    if let [(_, rule)] = ranges {
        return leaf(rule);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let pivot = high.first().map_or(u32::MAX, |(first, _)| *first);
    let (low, high) = (tree(low), tree(high));
    let mut code = Vec::with_capacity(low.len() + high.len() + 2);
    if let Ok(over) = u8::try_from(low.len()) {
        code.push(instruction(JUMP_GREATER_EQUAL, over, 0, pivot));
        code.extend(low);
        code.extend(high);
    } else {
        // Conditional jumps reach 255 instructions: over a jump to the upper part, into the lower one.
        code.push(instruction(JUMP_GREATER_EQUAL, 0, 1, pivot));
        code.push(instruction(JUMP, 0, 0, u32::try_from(low.len()).unwrap_or(u32::MAX)));
        code.extend(low);
        code.extend(high);
    }
    code
}

fn leaf(rule: &Rule) -> Vec<Instruction> {
    let (lines, otherwise) = match rule {
        Rule::Always(action) => return vec![instruction(RETURN, 0, 0, *action)],
        Rule::When(lines, otherwise) => (lines, otherwise),
    };
    let mut code = Vec::new();
    for (tests, action) in lines {
        // From the end, so that each test knows how far it is to the next line.
        let mut line = vec![instruction(RETURN, 0, 0, *action)];
        for test in tests.iter().rev() {
            let mut checked = check(*test, u8::try_from(line.len()).unwrap_or(u8::MAX));
            checked.append(&mut line);
            line = checked;
        }
        code.extend(line);
    }
    code.push(instruction(RETURN, 0, 0, *otherwise));
    code
}

/// Returns a test of one argument that falls through where it holds and skips `rest` more instructions where not.
fn check(test: Test, rest: u8) -> Vec<Instruction> {
    let low = |value: u64| u32::try_from(value & 0xFFFF_FFFF).unwrap_or_default();
    let high = |value: u64| u32::try_from(value >> 32).unwrap_or_default();
    let at = ARGUMENTS + 8 * u32::from(test.argument);
    let (load_low, load_high) = (instruction(LOAD, 0, 0, at), instruction(LOAD, 0, 0, at + 4));
    let (want_low, want_high) = (low(test.value), high(test.value));
    // The two halves of a 64-bit argument are compared one after the other, the upper first.
    let ordered = |code: u16, holds: bool| {
        let (first, second, last) = if holds {
            // Upper greater: holds. Equal: the lower half decides. Less: does not hold.
            ((3, 0), (0, rest + 2), (0, rest))
        } else {
            ((rest + 3, 0), (0, 2), (rest, 0))
        };
        vec![
            load_high,
            instruction(JUMP_GREATER, first.0, first.1, want_high),
            instruction(JUMP_EQUAL, second.0, second.1, want_high),
            load_low,
            instruction(code, last.0, last.1, want_low),
        ]
    };
    match test.comparison {
        Comparison::Equal => vec![
            load_high,
            instruction(JUMP_EQUAL, 0, rest + 2, want_high),
            load_low,
            instruction(JUMP_EQUAL, 0, rest, want_low),
        ],
        Comparison::NotEqual => vec![
            load_high,
            instruction(JUMP_EQUAL, 0, 2, want_high),
            load_low,
            instruction(JUMP_EQUAL, rest, 0, want_low),
        ],
        Comparison::Masked(mask) => vec![
            load_high,
            instruction(AND, 0, 0, high(mask)),
            instruction(JUMP_EQUAL, 0, rest + 3, want_high),
            load_low,
            instruction(AND, 0, 0, low(mask)),
            instruction(JUMP_EQUAL, 0, rest, want_low),
        ],
        Comparison::Greater => ordered(JUMP_GREATER, true),
        Comparison::GreaterOrEqual => ordered(JUMP_GREATER_EQUAL, true),
        Comparison::LessOrEqual => ordered(JUMP_GREATER, false),
        Comparison::Less => ordered(JUMP_GREATER_EQUAL, false),
    }
}

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
    Instruction { code, jt, jf, k }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{ALLOW, default, errno, table};
    use super::*;
    use crate::sys::capabilities::Set;
    use proptest::prelude::*;

    /// Runs a filter as the kernel does.
    fn run(code: &[Instruction], number: u32, args: [u64; 6]) -> u32 {
        run_as(AUDIT_ARCH, code, number, args)
    }

    pub(in super::super) fn run_as(architecture: u32, code: &[Instruction], number: u32, args: [u64; 6]) -> u32 {
        let mut data = vec![number, architecture, 0, 0];
        for arg in args {
            data.push(u32::try_from(arg & 0xFFFF_FFFF).unwrap());
            data.push((arg >> 32) as u32);
        }
        let (mut at, mut accumulator) = (0, 0_u32);
        loop {
            let Instruction { code, jt, jf, k } = code[at];
            at += 1;
            let jump = |holds: bool| usize::from(if holds { jt } else { jf });
            match code {
                LOAD => accumulator = data[k as usize / 4],
                AND => accumulator &= k,
                JUMP => at += k as usize,
                JUMP_EQUAL => at += jump(accumulator == k),
                JUMP_GREATER => at += jump(accumulator > k),
                JUMP_GREATER_EQUAL => at += jump(accumulator >= k),
                RETURN => return k,
                _ => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    fn holds(comparison: Comparison, arg: u64, value: u64) -> bool {
        match comparison {
            Comparison::Equal => arg == value,
            Comparison::NotEqual => arg != value,
            Comparison::Less => arg < value,
            Comparison::LessOrEqual => arg <= value,
            Comparison::Greater => arg > value,
            Comparison::GreaterOrEqual => arg >= value,
            Comparison::Masked(mask) => arg & mask == value,
        }
    }

    #[test]
    fn the_tree_decides_as_the_policy_says() {
        for bits in [0, 0xa804_25fb, u64::MAX] {
            let policy = default::policy(Set(bits));
            let code = compile(&policy);
            assert!(code.len() < 600, "{} instructions", code.len());
            for (architecture, rules) in
                [(AUDIT_ARCH, &policy.rules), (AUDIT_ARCH_COMPAT, policy.compat.as_ref().unwrap())]
            {
                for (number, rule) in rules.iter().enumerate() {
                    if let Rule::Always(action) = rule {
                        let got = run_as(architecture, &code, u32::try_from(number).unwrap(), [0; 6]);
                        assert_eq!(got, *action, "{number}");
                    }
                }
                for number in [u32::try_from(table::LAST + 1).unwrap(), X32, X32 | 1, u32::MAX] {
                    assert_eq!(run_as(architecture, &code, number, [0; 6]), errno(libc::ENOSYS), "{number:#x}");
                }
            }
            // AArch64
            assert_eq!(run_as(0xC000_00B7, &code, 1, [0; 6]), errno(libc::ENOSYS));
        }
    }

    #[test]
    fn namespaces_and_odd_sockets_are_denied() {
        let code = compile(&default::policy(Set(0xa804_25fb)));
        let call = |number: libc::c_long, arg: u64| run(&code, u32::try_from(number).unwrap(), [arg, 0, 0, 0, 0, 0]);
        assert_eq!(call(libc::SYS_clone, libc::CLONE_VM as u64), ALLOW);
        assert_eq!(call(libc::SYS_clone, libc::CLONE_NEWUSER as u64), errno(libc::EPERM));
        assert_eq!(call(libc::SYS_clone3, 0), errno(libc::ENOSYS));
        assert_eq!(call(libc::SYS_socket, libc::AF_INET as u64), ALLOW);
        assert_eq!(call(libc::SYS_socket, libc::AF_VSOCK as u64), errno(libc::EPERM));
        assert_eq!(call(libc::SYS_personality, 0x2_0008), ALLOW);
        assert_eq!(call(libc::SYS_personality, 0x004_0000), errno(libc::EPERM));
    }

    proptest! {
        #[test]
        fn comparisons_are_those_of_64_bit_numbers(
            arg in prop_oneof![any::<u64>(), 0..4_u64, (0..4_u64).prop_map(|high| high << 32 | 1)],
            value in prop_oneof![any::<u64>(), 0..4_u64, (0..4_u64).prop_map(|high| high << 32 | 1)],
            mask in any::<u64>(),
        ) {
            use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, Masked, NotEqual};
            for comparison in [Equal, NotEqual, Less, LessOrEqual, Greater, GreaterOrEqual, Masked(mask)] {
                let test = Test { argument: 2, comparison, value };
                let always = Test { argument: 0, comparison: Equal, value: 0 };
                let code = leaf(&Rule::When(vec![(vec![test, always], 1), (vec![test], 2)], 3));
                let want = if holds(comparison, arg, value) { 1 } else { 3 };
                prop_assert_eq!(run(&code, 0, [0, 0, arg, 0, 0, 0]), want, "{:?}", comparison);
            }
        }
    }
}
