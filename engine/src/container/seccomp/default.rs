//! The filter that containers get unless told: what Docker's default profile allows, which images are made to live with.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
};

use super::filter::compile;
use super::{ALLOW, Comparison, Policy, Rule, Test, errno, table, table_i386};
use crate::container::capabilities;
use crate::sys::capabilities::Set;
use crate::sys::process::Instruction;

/// Compiles the filter for a container with these capabilities: some calls are harmless without, and needed with, one.
pub fn default_filter(bounding: Set) -> Vec<Instruction> {
    compile(&policy(bounding))
}

/// Returns the same policy in the form of an OCI configuration, for other runtimes.
pub fn default_profile(bounding: Set) -> LinuxSeccomp {
    let policy = policy(bounding);
    let denied = errno(libc::EPERM);
    let mut lines: Vec<LinuxSyscall> = Vec::new();
    let mut add = |name: &str, action: u32, tests: &[Test]| {
        let mut line = LinuxSyscall::default();
        line.set_names(vec![name.to_owned()]);
        line.set_action(LinuxSeccompAction::ScmpActAllow);
        if action != ALLOW {
            line.set_action(LinuxSeccompAction::ScmpActErrno).set_errno_ret(Some(action & 0xFFFF));
        }
        line.set_args(Some(tests.iter().map(argument).collect::<Vec<_>>()).filter(|args| !args.is_empty()));
        let same = |known: &&mut LinuxSyscall| {
            (known.action(), known.errno_ret(), known.args()) == (line.action(), line.errno_ret(), line.args())
        };
        match lines.iter_mut().find(same) {
            Some(known) if known.names().iter().any(|other| other == name) => {}
            Some(known) => {
                let mut names = known.names().clone();
                names.push(name.to_owned());
                known.set_names(names);
            }
            None => lines.push(line),
        }
    };
    let compat = policy.compat.as_deref().unwrap_or_default();
    let own = table::names().map(|name| (name, table::number(name).and_then(|number| policy.rules.get(number))));
    // What only 32-bit programs have.
    let others = table_i386::names().filter(|name| table::number(name).is_none());
    let others = others.map(|name| (name, table_i386::number(name).and_then(|number| compat.get(number))));
    for (name, rule) in own.chain(others) {
        match rule {
            Some(Rule::Always(action)) if *action != denied => add(name, *action, &[]),
            Some(Rule::When(alternatives, _)) => {
                for (tests, action) in alternatives {
                    add(name, *action, tests);
                }
            }
            _ => {}
        }
    }
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(LinuxSeccompAction::ScmpActErrno);
    profile.set_default_errno_ret(Some(libc::EPERM.cast_unsigned()));
    profile.set_architectures(Some(vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86]));
    profile.set_syscalls(Some(lines));
    profile
}

fn argument(test: &Test) -> LinuxSeccompArg {
    let (operator, value, second) = match test.comparison {
        Comparison::Equal => (LinuxSeccompOperator::ScmpCmpEq, test.value, None),
        Comparison::NotEqual => (LinuxSeccompOperator::ScmpCmpNe, test.value, None),
        Comparison::Less => (LinuxSeccompOperator::ScmpCmpLt, test.value, None),
        Comparison::LessOrEqual => (LinuxSeccompOperator::ScmpCmpLe, test.value, None),
        Comparison::Greater => (LinuxSeccompOperator::ScmpCmpGt, test.value, None),
        Comparison::GreaterOrEqual => (LinuxSeccompOperator::ScmpCmpGe, test.value, None),
        Comparison::Masked(mask) => (LinuxSeccompOperator::ScmpCmpMaskedEq, mask, Some(test.value)),
    };
    let mut builder = LinuxSeccompArgBuilder::default().index(usize::from(test.argument)).value(value).op(operator);
    if let Some(second) = second {
        builder = builder.value_two(second);
    }
    builder.build().expect("every field that has no default is given")
}

pub(super) fn policy(bounding: Set) -> Policy {
    let denied = errno(libc::EPERM);
    let mut rules = vec![Rule::Always(denied); NEWEST + 1];
    let mut compat = rules.clone();
    let mut set = |names: &str, rule: &Rule| {
        for name in names.split_whitespace() {
            super::set(&mut rules, &mut compat, name, |_| rule.clone());
        }
    };
    set(ALLOWED, &Rule::Always(ALLOW));
    set(ALLOWED_I386, &Rule::Always(ALLOW));

    let test = |argument, comparison, value| vec![Test { argument, comparison, value }];
    // The host's side of a virtual machine's sockets is no business of a container's.
    let not_vsock = test(0, Comparison::NotEqual, libc::AF_VSOCK as u64);
    set("socket", &Rule::When(vec![(not_vsock, ALLOW)], denied));
    // Execution domains that turn off no protection: PER_LINUX, PER_LINUX32, both with UNAME26, and the question which.
    let domains = [0, 0x8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF];
    let domains = domains.map(|domain| (test(0, Comparison::Equal, domain), ALLOW));
    set("personality", &Rule::When(domains.to_vec(), denied));

    if !has(bounding, "SYS_ADMIN") {
        // CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
        let no_namespace = test(0, Comparison::Masked(0x7E02_0000), 0);
        set("clone", &Rule::When(vec![(no_namespace, ALLOW)], denied));
        // Its flags are in memory, where a filter cannot see them. C libraries fall back to clone.
        set("clone3", &Rule::Always(errno(libc::ENOSYS)));
    }
    for (capability, names) in WITH_CAPABILITY {
        if has(bounding, capability) {
            set(names, &Rule::Always(ALLOW));
        }
    }
    Policy { rules, compat: Some(compat), unknown: errno(libc::ENOSYS), foreign: errno(libc::ENOSYS) }
}

fn has(set: Set, capability: &str) -> bool {
    capabilities::number(capability).is_some_and(|number| set.0 & (1 << number) != 0)
}

/// The newest call that Docker's filter decides about. What came later is answered as a kernel without it would, so that
/// programs fall back.
const NEWEST: usize = 466;

/// What only 32-bit programs have.
const ALLOWED_I386: &str = "
    _llseek _newselect chown32 clock_adjtime64 clock_getres_time64 clock_gettime64 clock_nanosleep_time64 fadvise64_64
    fchown32 fcntl64 fstat64 fstatat64 fstatfs64 ftruncate64 futex_time64 getegid32 geteuid32 getgid32 getgroups32
    getresgid32 getresuid32 getuid32 io_pgetevents_time64 ipc lchown32 lstat64 mmap2 mq_timedreceive_time64
    mq_timedsend_time64 ppoll_time64 pselect6_time64 recvmmsg_time64 rt_sigtimedwait_time64
    sched_rr_get_interval_time64 semtimedop_time64 sendfile64 setfsgid32 setfsuid32 setgid32 setgroups32 setregid32
    setresgid32 setresuid32 setreuid32 setuid32 sigprocmask sigreturn socketcall stat64 statfs64 timer_gettime64
    timer_settime64 timerfd_gettime64 timerfd_settime64 truncate64 ugetrlimit utimensat_time64 waitpid";

/// What needs no capability, or what the kernel itself guards well enough.
const ALLOWED: &str = "
    accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown clock_adjtime
    clock_getres clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
    eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fallocate fanotify_mark fchdir fchmod
    fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat
    fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv futex_wake futimesat get_robust_list
    get_thread_area getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid
    getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid getsockname getsockopt
    gettid gettimeofday getuid getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch
    io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit ioctl ioprio_get ioprio_set kill
    landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen listmount
    listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack membarrier
    memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap modify_ldt mprotect
    mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv msgsnd
    msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_open
    pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64
    process_mrelease process_vm_readv process_vm_writev pselect6 ptrace pwrite64 pwritev pwritev2 read readahead
    readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr removexattrat rename renameat
    renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
    rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity
    sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr
    sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop sendfile sendmmsg
    sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid
    setpriority setregid setresgid setresuid setreuid setrlimit setsid setsockopt setuid setxattr setxattrat shmat
    shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 socketpair splice stat statfs statmount statx symlink
    symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun
    timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname unlink
    unlinkat uretprobe utime utimensat utimes vfork vmsplice wait4 waitid write writev";

/// What is allowed together with a capability.
const WITH_CAPABILITY: [(&str, &str); 14] = [
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount
         open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("SYS_BOOT", "reboot"),
    ("SYS_CHROOT", "chroot"),
    ("SYS_MODULE", "delete_module init_module finit_module"),
    ("SYS_PACCT", "acct"),
    ("SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("SYS_RAWIO", "iopl ioperm"),
    ("SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("SYS_TTY_CONFIG", "vhangup"),
    ("SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("SYSLOG", "syslog"),
    ("BPF", "bpf"),
    ("PERFMON", "perf_event_open"),
];

#[cfg(test)]
mod tests {
    use super::super::{table, table_i386};
    use super::*;

    #[test]
    fn the_form_for_others_means_the_same() {
        use super::super::filter::{AUDIT_ARCH, AUDIT_ARCH_COMPAT, tests::run_as};
        for bits in [0, 0xa804_25fb, u64::MAX] {
            let again = super::super::compile_profile(&default_profile(Set(bits))).unwrap();
            let own = default_filter(Set(bits));
            for number in 0..=u32::try_from(NEWEST).unwrap() {
                for architecture in [AUDIT_ARCH, AUDIT_ARCH_COMPAT] {
                    for argument in [0, 40, 0x1000_0000, 0xFFFF_FFFF] {
                        let arguments = [argument, 0, 0, 0, 0, 0];
                        let run = |code: &[Instruction]| run_as(architecture, code, number, arguments);
                        assert_eq!(run(&again), run(&own), "{bits:#x} {architecture:#x} {number} {argument:#x}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_name_of_the_profile_exists() {
        let conditional = WITH_CAPABILITY.iter().map(|(_, names)| *names);
        for name in [ALLOWED, ALLOWED_I386].into_iter().chain(conditional).flat_map(str::split_whitespace) {
            assert!(table::number(name).or(table_i386::number(name)).is_some(), "{name}");
        }
        for (capability, _) in WITH_CAPABILITY {
            assert!(capabilities::number(capability).is_some(), "{capability}");
        }
    }
}
