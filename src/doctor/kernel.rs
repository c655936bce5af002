//! What the kernel is and has.

use std::fs;
use std::path::Path;

use super::Finding;

/// The first version with everything that a container is made with: `mount_setattr(2)` is the last of it.
const OLDEST: (u32, u32) = (5, 12);
/// How many files may be watched, for `watch` on a project of some size.
const WATCHES: u64 = 65_536;

pub(super) fn examine() -> Vec<Finding> {
    let mut findings = vec![release()];
    findings.push(filesystem());
    findings.push(seccomp());
    findings.extend(watches());
    findings
}

/// Reads a file of the kernel's, without the white space around it.
pub(super) fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn release() -> Finding {
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let says = format!("Linux {release}");
    if version(&release).is_some_and(|version| version >= OLDEST) {
        Finding::good("kernel", says)
    } else {
        Finding::bad("kernel", says, &format!("at least {}.{} is needed", OLDEST.0, OLDEST.1))
    }
}

/// Reads the first two numbers of a version.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn filesystem() -> Finding {
    let known = read("/proc/filesystems").unwrap_or_default();
    // A module is loaded when it is first asked for.
    let module = Path::new("/sys/module/overlay").exists();
    if module || known.lines().any(|line| line.split_whitespace().last() == Some("overlay")) {
        Finding::good("overlay", "images can be stacked")
    } else {
        Finding::bad("overlay", "the kernel does not know overlay file systems", "modprobe overlay")
    }
}

fn seccomp() -> Finding {
    match read("/proc/sys/kernel/seccomp/actions_avail") {
        Some(actions) if actions.contains("errno") => Finding::good("seccomp", "system calls can be filtered"),
        _ => Finding::doubtful(
            "seccomp",
            "the kernel filters no system calls",
            "use a kernel with CONFIG_SECCOMP_FILTER; without it services need `security_opt: [seccomp=unconfined]`",
        ),
    }
}

/// Looks at the limits of inotify, which `watch` and the supervisors use.
fn watches() -> Option<Finding> {
    let watches = read("/proc/sys/fs/inotify/max_user_watches")?.parse::<u64>().ok()?;
    let says = format!("{watches} files and directories can be watched");
    Some(if watches >= WATCHES {
        Finding::good("inotify", says)
    } else {
        Finding::doubtful("inotify", says, "sysctl fs.inotify.max_user_watches=524288")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (release, expected) in
            [("6.18.44", Some((6, 18))), ("5.10.0-21-amd64", Some((5, 10))), ("6.1-rc3", Some((6, 1))), ("", None)]
        {
            assert_eq!(version(release), expected, "{release}");
        }
    }
}
