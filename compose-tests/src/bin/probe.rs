//! A program that looks around in a container and prints one line for everything it finds, to compare Docker's containers
//! with ours (`compose-tests/isolation`), and to see that nothing of the host shows.
//!
//! Which system calls the container's filter lets pass is not tried by making them: the probe adds a filter of its own that
//! hands every call to a tracer, itself. The container's filter decides first; a call that it lets pass reaches the tracer,
//! which skips it.

#![allow(unsafe_code, reason = "it makes system calls that no library makes, to see which are refused")]
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::{
    collections::BTreeSet,
    ffi::CString,
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, MetadataExt as _},
        process::CommandExt as _,
    },
    path::Path,
    process::{Command, Stdio},
};

use nix::sys::{
    ptrace,
    signal::Signal,
    wait::{WaitStatus, waitpid},
};

/// The last argument of a call that is only tried.
const TRIED: u64 = 0x7269_6564;
/// What such a call returns if the container's filter lets it pass.
const PASSED: u64 = 0x7061_7373;
/// The highest number of a system call that is tried.
const LAST: u64 = 520;
/// Numbers of the x32 interface have this bit.
const X32: u64 = 0x4000_0000;

/// Calls whose arguments matter, by number, with a name for the line.
const WITH_ARGUMENTS: [(&str, u64, &[u64]); 3] = [
    (
        "clone",
        56,
        &[0, 0x11, 0x80, 0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000],
    ),
    ("personality", 135, &[0, 8, 4, 0x2_0000, 0x2_0008, 0x4_0000, 0x40_0000, 0xFFFF_FFFF]),
    ("socket", 41, &[1, 2, 10, 16, 17, 29, 38, 40, 44]),
];

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("tried") => tried(std::env::args().nth(2).as_deref() == Some("i386")),
        _ => look(),
    }
}

fn look() {
    status();
    limits();
    for (name, value) in std::env::vars_os() {
        println!("env {}={}", name.display(), value.display());
    }
    streams();
    mounts();
    paths();
    devices();
    cgroups();
    for path in [
        "/proc/self/oom_score_adj",
        "/proc/self/coredump_filter",
        "/proc/self/loginuid",
        "/proc/self/timerslack_ns",
        "/proc/self/attr/current",
        "/proc/sys/kernel/domainname",
        "/proc/sys/kernel/shmmax",
        "/proc/sys/kernel/msgmni",
        "/proc/sys/fs/mqueue/queues_max",
        "/proc/sys/net/ipv4/ip_unprivileged_port_start",
        "/proc/sys/net/ipv4/ping_group_range",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/net/ipv6/conf/all/disable_ipv6",
        "/proc/sys/net/ipv6/conf/lo/disable_ipv6",
    ] {
        let content = fs::read_to_string(path).map(|text| text.trim_end_matches(['\n', '\0']).replace('\t', " "));
        println!("value {path} {}", content.unwrap_or_else(|error| error.to_string()));
    }
    directory();
    neighbours();
    decisions("x86_64");
    decisions("i386");
}

fn status() {
    const FIELDS: [&str; 20] = [
        "Umask",
        "Uid",
        "Gid",
        "Groups",
        "NStgid",
        "NSpid",
        "NSpgid",
        "NSsid",
        "SigBlk",
        "SigIgn",
        "SigCgt",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Speculation_Store_Bypass",
        "SpeculationIndirectBranch",
    ];
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in text.lines() {
        if let Some((name, value)) = line.split_once(':')
            && FIELDS.contains(&name)
        {
            println!("status {name} {}", value.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
}

fn limits() {
    let text = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    for line in text.lines().skip(1) {
        println!("limit {}", line.split_whitespace().collect::<Vec<_>>().join(" "));
    }
}

fn streams() {
    let mut numbers: Vec<_> = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, fs::read_link(entry.path()).ok()?)))
        .collect();
    numbers.sort();
    for (number, target) in numbers {
        println!("fd {number} {}", target.display());
    }
}

fn mounts() {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in text.lines() {
        let Some((mount, filesystem)) = line.split_once(" - ") else { continue };
        let mount: Vec<&str> = mount.split(' ').collect();
        let filesystem: Vec<&str> = filesystem.split(' ').collect();
        let [_, _, _, root, target, options, propagation @ ..] = &mount[..] else { continue };
        let [kind, source, of_filesystem, ..] = &filesystem[..] else { continue };
        println!(
            "mount {target} {kind} source={source} root={root} {options} filesystem={of_filesystem} {}",
            propagation.join(" ")
        );
    }
}

/// What runtimes hide or make read-only, and what looks like it.
const PATHS: [&str; 30] = [
    "/proc",
    "/proc/acpi",
    "/proc/asound",
    "/proc/bus",
    "/proc/fs",
    "/proc/interrupts",
    "/proc/irq",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/key-users",
    "/proc/kmsg",
    "/proc/latency_stats",
    "/proc/mtrr",
    "/proc/pressure",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/slabinfo",
    "/proc/softirqs",
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/vmallocinfo",
    "/sys",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/cgroup",
    "/sys/kernel",
    "/sys/devices/system/cpu/cpu0/thermal_throttle",
];

fn paths() {
    for path in PATHS {
        let said = match fs::symlink_metadata(path) {
            Err(_) => "absent".to_owned(),
            Ok(found) => {
                let kind = if found.file_type().is_char_device() {
                    format!("device {}:{}", libc::major(found.rdev()), libc::minor(found.rdev()))
                } else if found.is_dir() {
                    let count = fs::read_dir(path).map_or(0, Iterator::count);
                    if count == 0 { "empty directory".to_owned() } else { "directory".to_owned() }
                } else {
                    "file".to_owned()
                };
                let name = CString::new(path).unwrap_or_default();
                // SAFETY: an all-zero `statvfs` is a valid value to be filled.
                let mut of_mount: libc::statvfs = unsafe { std::mem::zeroed() };
                // SAFETY: the path is terminated and the structure valid for writes.
                let read_only = unsafe { libc::statvfs(name.as_ptr(), &raw mut of_mount) } == 0
                    && of_mount.f_flag & libc::ST_RDONLY != 0;
                let readable = fs::File::open(path).map_or_else(|error| error.to_string(), |_| "readable".to_owned());
                format!("{kind} {} {readable}", if read_only { "read-only" } else { "read-write" })
            }
        };
        println!("path {path} {said}");
    }
}

fn devices() {
    let mut found = Vec::new();
    let mut directories = vec![Path::new("/dev").to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            let kind = metadata.file_type();
            let what = if kind.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap_or_default().display())
            } else if kind.is_dir() {
                directories.push(path.clone());
                "directory".to_owned()
            } else if kind.is_char_device() || kind.is_block_device() {
                let letter = if kind.is_block_device() { 'b' } else { 'c' };
                format!("{letter} {}:{}", libc::major(metadata.rdev()), libc::minor(metadata.rdev()))
            } else {
                "file".to_owned()
            };
            found.push(format!(
                "{} {what} {:o} {}:{}",
                path.display(),
                metadata.mode() & 0o7777,
                metadata.uid(),
                metadata.gid()
            ));
        }
    }
    found.sort();
    for line in found {
        println!("dev {line}");
    }
}

fn cgroups() {
    for line in fs::read_to_string("/proc/self/cgroup").unwrap_or_default().lines() {
        println!("cgroup {}", line.split_once(':').map_or(line, |(_, rest)| rest));
    }
    let mut names: Vec<_> =
        fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    for name in names {
        println!("cgroup-mount {}", name.display());
    }
}

/// Working directory, root's entries, host names.
fn directory() {
    println!("cwd {}", std::env::current_dir().unwrap_or_default().display());
    let root =
        fs::symlink_metadata("/").map(|root| format!("{:o} {}:{}", root.mode() & 0o7777, root.uid(), root.gid()));
    println!("root {}", root.unwrap_or_default());
    for name in ["hosts", "hostname", "resolv.conf", "mtab"] {
        let path = Path::new("/etc").join(name);
        let said = fs::symlink_metadata(&path).map_or_else(
            |error| error.to_string(),
            |found| {
                format!(
                    "{:o} {}:{} {}",
                    found.mode(),
                    found.uid(),
                    found.gid(),
                    fs::read_link(&path).unwrap_or_default().display()
                )
            },
        );
        println!("etc {name} {said}");
    }
}

/// What shows of others: processes, sockets, System V IPC, keys, the kernel's log.
fn neighbours() {
    let entries = |path: &str| -> BTreeSet<String> {
        let names = fs::read_dir(path).into_iter().flatten().flatten();
        names.map(|entry| String::from_utf8_lossy(entry.file_name().as_bytes()).into_owned()).collect()
    };
    for name in entries("/proc") {
        if name.parse::<u32>().is_err() {
            println!("proc {name}");
        }
    }
    for directory in ["/sys", "/sys/kernel", "/sys/fs", "/sys/class", "/sys/class/net"] {
        for name in entries(directory) {
            println!("sys {directory}/{name}");
        }
    }
    let processes = entries("/proc").into_iter().filter(|name| name.parse::<u32>().is_ok()).count();
    println!("processes {processes}");
    for (name, file) in [
        ("unix", "/proc/net/unix"),
        ("shm", "/proc/sysvipc/shm"),
        ("msg", "/proc/sysvipc/msg"),
        ("sem", "/proc/sysvipc/sem"),
    ] {
        let text = fs::read_to_string(file).unwrap_or_default();
        for line in text.lines().skip(1) {
            println!("{name} {line}");
        }
    }
    for name in entries("/dev/mqueue").iter().chain(&entries("/dev/shm")) {
        println!("posix-ipc {name}");
    }
    let errno =
        |result: i64| if result < 0 { std::io::Error::last_os_error().to_string() } else { "permitted".to_owned() };
    // SAFETY: asks for the size of the kernel's log (SYSLOG_ACTION_SIZE_BUFFER); nothing is written.
    println!("try syslog-size {}", errno(unsafe { libc::syscall(libc::SYS_syslog, 10, 0, 0) }));
    // SAFETY: SYSLOG_ACTION_READ_ALL into no buffer.
    println!("try syslog-read {}", errno(unsafe { libc::syscall(libc::SYS_syslog, 3, 0, 0) }));
    // SAFETY: KEYCTL_GET_KEYRING_ID of the session keyring; plain numbers.
    println!("try keyctl {}", errno(unsafe { libc::syscall(libc::SYS_keyctl, 0, -3, 0) }));
    // SAFETY: PTRACE_ATTACH to a process that does not exist.
    println!("try ptrace {}", errno(unsafe { libc::ptrace(libc::PTRACE_ATTACH, 999_999, 0, 0) }));
}

/// Prints what the container's filter decides about every call.
fn decisions(machine: &str) {
    let me = std::env::current_exe().unwrap_or_default();
    let mut command = Command::new(me);
    command.args(["tried", machine]).stdout(Stdio::piped());
    // SAFETY: between fork and exec only a system call is made.
    unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) };
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return println!("syscall {machine} not tried: {error}"),
    };
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap_or_default());
    let mut output = child.stdout.take();
    // More lines than a pipe holds.
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        if let Some(output) = &mut output {
            std::io::Read::read_to_string(output, &mut text).ok();
        }
        text
    });
    let options = ptrace::Options::PTRACE_O_TRACESECCOMP | ptrace::Options::PTRACE_O_EXITKILL;
    let mut begun = false;
    let end = loop {
        let status = match waitpid(pid, None) {
            Ok(status) => status,
            Err(error) => break error.to_string(),
        };
        let pass_on = match status {
            WaitStatus::Exited(_, code) => break if code == 0 { String::new() } else { format!("ended with {code}") },
            WaitStatus::Signaled(_, signal, _) => break format!("killed by {signal}"),
            WaitStatus::Stopped(_, Signal::SIGTRAP) if !begun => {
                begun = true;
                ptrace::setoptions(pid, options).ok();
                None
            }
            WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_SECCOMP) => {
                skip(pid);
                None
            }
            WaitStatus::Stopped(_, signal) => Some(signal),
            _ => None,
        };
        if ptrace::cont(pid, pass_on).is_err() {
            break "lost".to_owned();
        }
    };
    print!("{}", reader.join().unwrap_or_default());
    if !end.is_empty() {
        println!("syscall {machine} {end}");
    }
}

/// Skips the call that the tracee is about to make, if it is one that is only tried.
fn skip(pid: nix::unistd::Pid) {
    let Ok(mut registers) = ptrace::getregs(pid) else { return };
    if registers.r9 == TRIED || registers.rdi == TRIED {
        registers.orig_rax = u64::MAX;
        registers.rax = PASSED;
        ptrace::setregs(pid, registers).ok();
    }
}

/// The traced process: tries every call and prints what came of it.
fn tried(i386: bool) {
    hand_calls_to_the_tracer();
    if i386 {
        let numbers = (0..=LAST).map(|number| (number, call_i386(u32::try_from(number).unwrap_or(u32::MAX))));
        return print("i386", numbers);
    }
    // uretprobe and uprobe are not for programs to call, and the kernel kills who does.
    let numbers = (0..=LAST).filter(|number| !matches!(number, 335 | 336));
    let numbers = numbers.chain([1000, X32, X32 + 1, X32 + 165, X32 + 512, X32 + 520]);
    print("x86_64", numbers.map(|number| (number, call(number, 0))));
    for (name, number, values) in WITH_ARGUMENTS {
        for value in values {
            println!("syscall x86_64 {name}({value:#x}) {}", decision(call(number, *value)));
        }
    }
}

/// Prints what came of calls, those with the same outcome that follow each other as a range.
fn print(machine: &str, results: impl Iterator<Item = (u64, u64)>) {
    let mut ranges: Vec<(u64, u64, String)> = Vec::new();
    for (number, result) in results {
        let said = decision(result);
        match ranges.last_mut() {
            Some((_, last, same)) if *same == said && number - *last <= 3 => *last = number,
            _ => ranges.push((number, number, said)),
        }
    }
    for (first, last, said) in ranges {
        println!("syscall {machine} {first}-{last} {said}");
    }
}

fn decision(result: u64) -> String {
    match i64::from_ne_bytes(result.to_ne_bytes()) {
        _ if result == PASSED => "allowed".to_owned(),
        errno @ -4095..0 => format!("{:?}", nix::errno::Errno::from_raw(i32::try_from(-errno).unwrap_or_default())),
        other => format!("returned {other}"),
    }
}

fn hand_calls_to_the_tracer() {
    const RETURN_TRACE: [libc::sock_filter; 1] =
        [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_TRACE }];
    let program = libc::sock_fprog { len: 1, filter: RETURN_TRACE.as_ptr().cast_mut() };
    // SAFETY: a plain number.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: the program and what it points to outlive the call, which copies them.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    assert_eq!(result, 0, "the probe's filter cannot be installed: {}", std::io::Error::last_os_error());
}

/// Makes a system call that the tracer skips.
fn call(number: u64, first: u64) -> u64 {
    let result;
    // SAFETY: by its last argument the tracer knows the call and skips it, so that nothing happens.
    unsafe {
        std::arch::asm!(
            "syscall", inlateout("rax") number => result, in("rdi") first, in("rsi") 0, in("rdx") 0, in("r10") 0, in("r8") 0,
            in("r9") TRIED, lateout("rcx") _, lateout("r11") _, options(nostack)
        );
    }
    result
}

/// Makes a system call of a 32-bit program.
fn call_i386(number: u32) -> u64 {
    let result: u64;
    // SAFETY: as above. `rbx`, which the compiler keeps for itself, is put back.
    unsafe {
        std::arch::asm!(
            "push rbx", "xor ebx, ebx", "int 0x80", "pop rbx",
            inlateout("rax") u64::from(number) => result, in("rcx") 0, in("rdx") 0, in("rsi") 0, in("rdi") TRIED,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _
        );
    }
    if result == PASSED { result } else { i64::from(result as u32 as i32).cast_unsigned() }
}
