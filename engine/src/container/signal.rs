//! Signals by name, and whether a process can get one at all.

use std::path::Path;

use nix::unistd::Pid;

const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

/// The first and the last real-time signal, as the C library numbers them for programs.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// Returns the number of a signal given as `SIGINT`, `INT`, `2`, `RTMIN+3` or `SIGRTMAX-1`, in any case.
pub fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(index) = NAMES.iter().position(|known| *known == name) {
        return i32::try_from(index + 1).ok();
    }
    let offset = |rest: &str, sign: char| match rest {
        "" => Some(0),
        _ => rest.strip_prefix(sign)?.parse::<i32>().ok(),
    };
    let number = match name {
        "CLD" => libc::SIGCHLD,
        "IOT" => libc::SIGABRT,
        "POLL" => libc::SIGIO,
        _ => match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
            (Some(rest), _) => REAL_TIME.start() + offset(rest, '+')?,
            (_, Some(rest)) => REAL_TIME.end() - offset(rest, '-')?,
            _ => return None,
        },
    };
    (name.len() < 5 || REAL_TIME.contains(&number)).then_some(number)
}

/// Returns the name of a signal, such as `SIGTERM`.
pub fn name(signal: i32) -> String {
    let known = usize::try_from(signal - 1).ok().and_then(|index| NAMES.get(index));
    known.map_or_else(|| format!("signal {signal}"), |name| format!("SIG{name}"))
}

/// Returns whether a signal sent to this process can have any effect.
///
/// PID 1 of a PID namespace has no default actions: a signal that none of its threads catches, blocks or waits for is
/// dropped by the kernel (`pid_namespaces(7)`), so there is no point in waiting for it to be obeyed. A signal that is
/// ignored has no effect on any process. SIGKILL and SIGSTOP from outside always work.
pub fn can_receive(pid: Pid, signal: i32) -> bool {
    if signal == libc::SIGKILL || signal == libc::SIGSTOP {
        return true;
    }
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    let mut any = false;
    for task in tasks.flatten() {
        let task = task.path();
        // A thread that has just ended says nothing.
        let Some(receives) = task_receives(&task, signal) else { continue };
        // Asked on both sides, since a thread may have left or entered its wait meanwhile.
        if receives || waits_for_signals(&task) || task_receives(&task, signal) == Some(true) {
            return true;
        }
        any = true;
    }
    // Where nothing could be read, it is better to send and wait.
    !any
}

/// Returns whether a thread is in `sigwaitinfo(2)` or `sigtimedwait(2)`, as inits such as tini are nearly always. Meanwhile
/// the signals that it waits for do not count as blocked in `status`.
fn waits_for_signals(task: &Path) -> bool {
    let call = std::fs::read_to_string(task.join("syscall")).unwrap_or_default();
    call.split(' ').next() == Some(&libc::SYS_rt_sigtimedwait.to_string())
}

fn task_receives(task: &Path, signal: i32) -> Option<bool> {
    let status = std::fs::read_to_string(task.join("status")).ok()?;
    let bit = 1_u64 << u32::try_from(signal - 1).ok()?;
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    let caught = mask("SigCgt:")? & bit != 0;
    let ignored = mask("SigIgn:")? & bit != 0;
    // Blocked signals wait for `sigwait`, a signalfd, or to be unblocked.
    let blocked = mask("SigBlk:")? & bit != 0;
    if caught || (blocked && !ignored) {
        return Some(true);
    }
    // Only the first process of a PID namespace is spared the default action.
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    let innermost = numbers.split_whitespace().next_back()?;
    Some(!ignored && innermost != "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_many_names() {
        for (text, number) in [
            ("SIGINT", 2),
            ("int", 2),
            ("2", 2),
            ("SIGTERM", 15),
            ("SYS", 31),
            ("IOT", 6),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("rtmax-1", 63),
        ] {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for text in ["", "SIG", "NONE", "0", "65", "-1", "RTMIN-1", "RTMIN+99", "RTMIN+", "SIGSIGINT"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_process_that_is_not_the_first_gets_every_signal_that_it_does_not_ignore() {
        let own = nix::unistd::getpid();
        assert!(can_receive(own, libc::SIGTERM));
        // Rust's runtime ignores SIGPIPE.
        assert!(!can_receive(own, libc::SIGPIPE));
        assert!(can_receive(own, libc::SIGKILL));
    }
}
