//! Profiles by others: the OCI form, and Docker's, which may depend on capabilities and kernel version.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
};
use serde::Deserialize;

use super::filter::compile;
use super::{Comparison, Policy, Rule, Test, errno, table};
use crate::container::capabilities;
use crate::sys::capabilities::Set;
use crate::sys::process::Instruction;

/// The most instructions that the kernel takes (`BPF_MAXINSNS`).
const LONGEST: usize = 4096;

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("cannot parse the seccomp profile")]
    Parse(#[source] serde_json::Error),
    #[error("the action {0:?} of the seccomp profile needs a helper program, which is not supported")]
    Action(LinuxSeccompAction),
    #[error("linux.seccomp.listenerPath is not supported: no call is handed to another program")]
    Listener,
    #[error("the seccomp flag {0} is not supported")]
    Flag(LinuxSeccompFilterFlag),
    #[error("the seccomp profile needs {0} instructions or more, and the kernel takes 4096")]
    Length(usize),
    #[error("argument {0} of a system call in the seccomp profile does not exist")]
    Argument(usize),
}

/// What a profile may decide.
pub const ACTIONS: [LinuxSeccompAction; 8] = [
    LinuxSeccompAction::ScmpActAllow,
    LinuxSeccompAction::ScmpActErrno,
    LinuxSeccompAction::ScmpActKill,
    LinuxSeccompAction::ScmpActKillProcess,
    LinuxSeccompAction::ScmpActKillThread,
    LinuxSeccompAction::ScmpActLog,
    LinuxSeccompAction::ScmpActTrace,
    LinuxSeccompAction::ScmpActTrap,
];

/// The architectures whose programs a profile may be for.
pub const ARCHITECTURES: [Arch; 2] = [Arch::ScmpArchX86, Arch::ScmpArchX86_64];

/// The flags that a profile may have, and their bits (`seccomp(2)`).
pub const FLAGS: [(LinuxSeccompFilterFlag, u32); 3] = [
    (LinuxSeccompFilterFlag::SeccompFilterFlagTsync, 1),
    (LinuxSeccompFilterFlag::SeccompFilterFlagLog, 2),
    (LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow, 4),
];

/// Returns the bits of a profile's flags.
pub fn flags(profile: &LinuxSeccomp) -> Result<u32, ProfileError> {
    profile.flags().iter().flatten().try_fold(0, |bits, flag| {
        let known = FLAGS.iter().find(|(known, _)| known == flag);
        known.map(|(_, bit)| bits | bit).ok_or(ProfileError::Flag(*flag))
    })
}

/// Compiles a profile in the OCI form. Names that this architecture does not have are passed over.
pub fn compile_profile(profile: &LinuxSeccomp) -> Result<Vec<Instruction>, ProfileError> {
    if profile.listener_path().is_some() {
        return Err(ProfileError::Listener);
    }
    let otherwise = action(profile.default_action(), profile.default_errno_ret())?;
    let mut rules = vec![Rule::Always(otherwise); table::LAST + 1];
    let mut compat = rules.clone();
    let mut conditions = 0;
    for line in profile.syscalls().iter().flatten() {
        let action = action(line.action(), line.errno_ret())?;
        let tests = tests(line)?;
        let rule = |known: &Rule| match (known, tests.is_empty()) {
            // Without conditions a line decides; a later one with conditions cannot take that back.
            (_, true) => Rule::Always(action),
            (Rule::Always(decided), false) if *decided != otherwise => Rule::Always(*decided),
            (Rule::Always(_), false) => Rule::When(alternatives(&tests, action), otherwise),
            (Rule::When(lines, _), false) => {
                let mut lines = lines.clone();
                lines.extend(alternatives(&tests, action));
                Rule::When(lines, otherwise)
            }
        };
        // Each becomes several instructions. Before they are compiled, since each is copied for every one that follows.
        conditions += line.names().len() * tests.len();
        if conditions > LONGEST {
            return Err(ProfileError::Length(conditions));
        }
        for name in line.names() {
            super::set(&mut rules, &mut compat, name, rule);
        }
    }
    // A filter that denies by default answers newer calls as an older kernel would, so that programs fall back.
    let denies = profile.default_action() == LinuxSeccompAction::ScmpActErrno;
    let unknown = if denies { errno(libc::ENOSYS) } else { otherwise };
    // The same call made as a 32-bit program makes it must not get past the rules, nor one of the x32 interface, whatever
    // the default is. Docker kills for an architecture that the profile does not name.
    let foreign = errno(libc::ENOSYS);
    let compat =
        Some(compat).filter(|_| profile.architectures().iter().flatten().any(|arch| *arch == Arch::ScmpArchX86));
    let code = compile(&Policy { rules, compat, unknown, foreign });
    if code.len() > LONGEST { Err(ProfileError::Length(code.len())) } else { Ok(code) }
}

/// Several tests of the same argument are alternatives, tests of different arguments must all hold, as libseccomp's users
/// (runc among them) have it.
fn alternatives(tests: &[Test], action: u32) -> Vec<(Vec<Test>, u32)> {
    let repeated = tests
        .iter()
        .enumerate()
        .any(|(index, test)| tests[..index].iter().any(|other| other.argument == test.argument));
    if repeated { tests.iter().map(|test| (vec![*test], action)).collect() } else { vec![(tests.to_vec(), action)] }
}

fn tests(line: &LinuxSyscall) -> Result<Vec<Test>, ProfileError> {
    let tests = line.args().iter().flatten().map(|arg| {
        let argument = u8::try_from(arg.index()).ok().filter(|index| *index < 6);
        let argument = argument.ok_or(ProfileError::Argument(arg.index()))?;
        let second = arg.value_two().unwrap_or_default();
        let (comparison, value) = match arg.op() {
            LinuxSeccompOperator::ScmpCmpNe => (Comparison::NotEqual, arg.value()),
            LinuxSeccompOperator::ScmpCmpLt => (Comparison::Less, arg.value()),
            LinuxSeccompOperator::ScmpCmpLe => (Comparison::LessOrEqual, arg.value()),
            LinuxSeccompOperator::ScmpCmpEq => (Comparison::Equal, arg.value()),
            LinuxSeccompOperator::ScmpCmpGe => (Comparison::GreaterOrEqual, arg.value()),
            LinuxSeccompOperator::ScmpCmpGt => (Comparison::Greater, arg.value()),
            LinuxSeccompOperator::ScmpCmpMaskedEq => (Comparison::Masked(arg.value()), second),
        };
        Ok(Test { argument, comparison, value })
    });
    tests.collect()
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, ProfileError> {
    match action {
        LinuxSeccompAction::ScmpActNotify => Err(ProfileError::Action(action)),
        _ => Ok(action.as_u32(errno)),
    }
}

/// What Docker's profiles have besides the OCI form.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Filter {
    caps: Vec<String>,
    arches: Vec<String>,
    #[serde(rename = "minKernel")]
    min_kernel: String,
}

/// An entry of `archMap`: an architecture, and those whose programs its kernels run too.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Architectures {
    architecture: String,
    #[serde(default)]
    sub_architectures: Vec<String>,
}

/// Converts a profile as `docker run --security-opt seccomp=FILE` takes it to the OCI form, for a container with these
/// capabilities.
pub fn from_docker(text: &str, bounding: Set) -> Result<LinuxSeccomp, ProfileError> {
    let mut value: serde_json::Value = serde_json::from_str(text).map_err(ProfileError::Parse)?;
    if let Some(profile) = value.as_object_mut() {
        if let Some(map) = profile.remove("archMap").filter(|map| !map.is_null()) {
            let map: Vec<Architectures> = serde_json::from_value(map).map_err(ProfileError::Parse)?;
            let own = map.into_iter().find(|entry| entry.architecture == "SCMP_ARCH_X86_64");
            let all = own.into_iter().flat_map(|entry| [vec![entry.architecture], entry.sub_architectures].concat());
            profile.insert("architectures".into(), all.collect());
        }
        if let Some(lines) = profile.get_mut("syscalls").and_then(serde_json::Value::as_array_mut) {
            let mut kept = Vec::new();
            for mut line in std::mem::take(lines) {
                if applies(&line, bounding)? {
                    tidy(&mut line);
                    kept.push(line);
                }
            }
            *lines = kept;
        }
    }
    serde_json::from_value(value).map_err(ProfileError::Parse)
}

fn applies(line: &serde_json::Value, bounding: Set) -> Result<bool, ProfileError> {
    let filter = |key: &str| match line.get(key) {
        Some(value) if !value.is_null() => serde_json::from_value(value.clone()).map_err(ProfileError::Parse),
        _ => Ok(Filter::default()),
    };
    let (includes, excludes) = (filter("includes")?, filter("excludes")?);
    let has = |name: &String| capabilities::number(name).is_some_and(|number| bounding.0 & (1 << number) != 0);
    let here = |arch: &String| matches!(arch.as_str(), "amd64" | "x86_64");
    Ok(includes.caps.iter().all(has)
        && !excludes.caps.iter().any(has)
        && (includes.arches.is_empty() || includes.arches.iter().any(here))
        && !excludes.arches.iter().any(here)
        && (includes.min_kernel.is_empty() || kernel_at_least(&includes.min_kernel))
        && (excludes.min_kernel.is_empty() || !kernel_at_least(&excludes.min_kernel)))
}

/// Brings a line to the OCI form: older profiles have `name`, and empty lists are written as null.
fn tidy(line: &mut serde_json::Value) {
    let Some(line) = line.as_object_mut() else { return };
    if let (Some(name), None) = (line.remove("name"), line.get("names")) {
        line.insert("names".into(), serde_json::Value::Array(vec![name]));
    }
    for key in ["includes", "excludes", "comment"] {
        line.remove(key);
    }
    line.retain(|_, value| !value.is_null());
}

/// Returns whether this kernel is of this version, such as `4.8`, or a later one.
fn kernel_at_least(wanted: &str) -> bool {
    let parse = |text: &str| -> Option<(u32, u32)> {
        let mut parts = text.split(|letter: char| !letter.is_ascii_digit());
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    let running = nix::sys::utsname::uname().ok().and_then(|name| parse(&name.release().to_string_lossy()));
    running >= parse(wanted)
}

#[cfg(test)]
mod tests {
    use super::super::ALLOW;
    use super::super::filter::tests::run_as;
    use super::super::filter::{AUDIT_ARCH, AUDIT_ARCH_COMPAT};
    use super::*;
    use proptest::prelude::*;

    const PROFILE: &str = r#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["read", "chown32"], "action": "SCMP_ACT_ALLOW", "args": null, "includes": {}, "excludes": {}},
            {"name": "write", "action": "SCMP_ACT_ALLOW"},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}}
        ]}"#;

    #[test]
    fn no_other_interface_gets_past_the_rules() {
        let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ERRNO"}],
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]}"#;
        let both = compile_profile(&from_docker(text, Set(0)).unwrap()).unwrap();
        let one = compile_profile(&from_docker(&text.replace(r#", "SCMP_ARCH_X86"]"#, "]"), Set(0)).unwrap()).unwrap();
        let (denied, foreign) = (errno(libc::EPERM), errno(libc::ENOSYS));
        for (code, mount_32, exit_32) in [(&both, denied, ALLOW), (&one, foreign, foreign)] {
            assert_eq!(run_as(AUDIT_ARCH, code, 165, [0; 6]), denied);
            assert_eq!(run_as(AUDIT_ARCH, code, 166, [0; 6]), ALLOW);
            assert_eq!(run_as(AUDIT_ARCH, code, 0x4000_00A5, [0; 6]), foreign);
            assert_eq!(run_as(AUDIT_ARCH_COMPAT, code, 21, [0; 6]), mount_32);
            assert_eq!(run_as(AUDIT_ARCH_COMPAT, code, 1, [0; 6]), exit_32);
            assert_eq!(run_as(0xC000_00B7, code, 1, [0; 6]), foreign);
        }
        let mapped = from_docker(PROFILE, Set(0)).unwrap();
        assert_eq!(mapped.architectures().as_deref(), Some(&[Arch::ScmpArchX86_64, Arch::ScmpArchX86][..]));
    }

    proptest! {
        /// Whatever a profile says, it is refused or becomes a filter that comes to an end for every call.
        #[test]
        fn any_profile_is_refused_or_becomes_a_filter(
            default in 0..3_usize,
            lines in proptest::collection::vec(
                (
                    0..8_usize,
                    0..4_usize,
                    proptest::collection::vec((0..8_u32, 0..8_usize, any::<u64>(), any::<u64>()), 0..7),
                    1..4_usize,
                ),
                0..20,
            ),
            number in any::<u32>(),
            argument in any::<u64>(),
        ) {
            const NAMES: [&str; 8] = ["read", "clone", "socket", "mount", "ipc", "no-such-call", "", "exit_group"];
            const ACTIONS: [&str; 4] = ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_LOG"];
            const OPERATORS: [&str; 8] = ["EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ", "NONE"];
            let lines = lines.into_iter().map(|(name, action, args, times)| {
                let args = args.into_iter().map(|(index, operator, value, second)| {
                    let operator = format!("SCMP_CMP_{}", OPERATORS[operator]);
                    serde_json::json!({"index": index, "value": value, "valueTwo": second, "op": operator})
                });
                let names = vec![NAMES[name]; times];
                serde_json::json!({"names": names, "action": ACTIONS[action], "args": args.collect::<Vec<_>>()})
            });
            let profile = serde_json::json!({
                "defaultAction": ACTIONS[default], "architectures": ["SCMP_ARCH_X86"], "syscalls": lines.collect::<Vec<_>>()
            });
            if let Ok(code) = from_docker(&profile.to_string(), Set(0)).and_then(|profile| compile_profile(&profile)) {
                prop_assert!(code.len() <= LONGEST);
                for number in [number, 0, 41, 56, 165, u32::MAX] {
                    for architecture in [AUDIT_ARCH, AUDIT_ARCH_COMPAT, number] {
                        run_as(architecture, &code, number, [argument; 6]);
                    }
                }
            }
        }

        #[test]
        fn any_text_is_no_profile_or_one(text in ".{0,200}") {
            let _ = from_docker(&text, Set(u64::MAX));
        }
    }

    #[test]
    fn what_needs_another_program_is_refused() {
        let refused = |json: &str| {
            let profile: LinuxSeccomp = serde_json::from_str(json).unwrap();
            compile_profile(&profile).unwrap_err().to_string()
        };
        let notify = refused(r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#);
        assert!(notify.contains("ScmpActNotify"), "{notify}");
        let listener = refused(r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/socket"}"#);
        assert!(listener.contains("linux.seccomp.listenerPath"), "{listener}");
    }

    #[test]
    fn lines_of_dockers_profiles_depend_on_capabilities_and_kernel() {
        let names = |bits| {
            let profile = from_docker(PROFILE, Set(bits)).unwrap();
            compile_profile(&profile).unwrap();
            let lines = profile.syscalls().clone().unwrap();
            lines.iter().map(|line| line.names()[0].clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(0), ["read", "write", "clone3", "ptrace"]);
        assert_eq!(names(1 << 21), ["read", "write", "mount", "ptrace"]);
        assert!(from_docker("{", Set(0)).is_err());
    }
}
