//! Runs a command with the engine's processes under `ptrace(2)`.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::FileExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::{
    Fault, Place, Role, Seen, Traced,
    calls::{self, Call, Shape},
};
use crate::{output::Output, process::Process};

/// `PTRACE_SYSCALL_INFO_ENTRY`, `PTRACE_SYSCALL_INFO_EXIT`.
const ENTRY: u8 = 1;
const EXIT: u8 = 2;

/// What is traced.
#[derive(Debug, Default)]
pub struct Targets {
    /// Whether the command itself and all that it starts are.
    pub command: bool,
    /// Processes that run already.
    pub running: Vec<(Process, Role)>,
}

/// Runs a command to its end, or until `limit`, and brings about a fault on the way.
///
/// The tracing ends with the command.
pub fn run(command: Command, targets: Targets, fault: Option<Fault>, limit: Duration) -> Traced {
    // What a thread traces goes on untraced when the thread ends.
    let traced = thread::Builder::new()
        .name("tracer".to_owned())
        .spawn(move || Tracer::default().run(&command, &targets, fault, limit))
        .expect("a thread can be made");
    traced.join().expect("the tracer does not panic")
}

/// A traced thread.
#[derive(Debug, Clone, Copy)]
struct Thread {
    role: Role,
    process: Pid,
    /// What its call is to return that was not made.
    pending: Option<Errno>,
}

#[derive(Debug, Default)]
struct Tracer {
    threads: HashMap<Pid, Thread>,
    counts: HashMap<(Role, &'static str), usize>,
    seen: Vec<Seen>,
    failed: Option<Seen>,
    panics: Vec<String>,
    /// Whether the shell that waits has become the command.
    begun: bool,
}

impl Tracer {
    fn run(mut self, command: &Command, targets: &Targets, fault: Option<Fault>, limit: Duration) -> Traced {
        for (process, role) in &targets.running {
            self.seize(Pid::from_raw(process.pid), *role);
        }
        let text = words(command);
        let (mut child, streams) = start(command);
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid fits"));
        if targets.command {
            self.seize(pid, Role::Command);
        }
        let started = Instant::now();
        let hung = Arc::new(AtomicBool::new(false));
        let (done, ended) = mpsc::channel::<()>();
        let watchdog = {
            let hung = Arc::clone(&hung);
            thread::spawn(move || {
                if ended.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                    hung.store(true, Ordering::Relaxed);
                    // It is not reaped before this thread has ended.
                    let _ = kill(pid, Signal::SIGKILL);
                }
            })
        };
        child.stdin.take().expect("it is a pipe").write_all(b"\n").expect("the shell waits for a line");
        let code = self.follow(pid, fault);
        drop(done);
        watchdog.join().expect("it does not panic");
        drop(child);
        let [stdout, stderr] = streams.map(|file| {
            let mut bytes = Vec::new();
            let mut file = file.try_clone().expect("a file can be cloned");
            std::io::Seek::rewind(&mut file).and_then(|()| file.read_to_end(&mut bytes)).expect("a file can be read");
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Traced {
            output: Output { command: text, code, stdout, stderr, took: started.elapsed() },
            seen: self.seen,
            failed: self.failed,
            hung: hung.load(Ordering::Relaxed),
            panics: self.panics,
        }
    }

    /// Begins to trace all threads of a process.
    fn seize(&mut self, process: Pid, role: Role) {
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACEEXEC;
        loop {
            let mut more = false;
            for entry in fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
                let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
                let thread = Pid::from_raw(id);
                if self.threads.contains_key(&thread) {
                    continue;
                }
                // A thread that has ended meanwhile, or that a traced one has made, needs nothing.
                if ptrace::seize(thread, options).is_ok() {
                    let _ = ptrace::interrupt(thread);
                    self.threads.insert(thread, Thread { role, process, pending: None });
                    more = true;
                }
            }
            if !more {
                return;
            }
        }
    }

    /// Lets everything go on until the command has ended; returns its exit code.
    fn follow(&mut self, command: Pid, fault: Option<Fault>) -> i32 {
        loop {
            // Only what this thread has started or traces.
            let status = match waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)) {
                Ok(status) => status,
                Err(Errno::EINTR | Errno::EINVAL) => continue,
                Err(error) => panic!("cannot wait for traced processes: {error}"),
            };
            let (thread, signal) = match status {
                WaitStatus::Exited(pid, code) if pid == command => return code,
                WaitStatus::Signaled(pid, signal, _) if pid == command => return 128 + signal as i32,
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _) => {
                    self.threads.remove(&pid);
                    continue;
                }
                WaitStatus::PtraceSyscall(thread) => {
                    self.stopped_at_call(thread, fault);
                    (thread, None)
                }
                WaitStatus::PtraceEvent(thread, _, event) => {
                    if self.happened(thread, event) {
                        continue;
                    }
                    (thread, None)
                }
                WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
                _ => continue,
            };
            match ptrace::syscall(thread, signal) {
                // It was killed meanwhile.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => panic!("cannot let {thread} go on: {error}"),
            }
        }
    }

    /// Takes note of a new process and of an execution. Returns whether the thread is not traced any more.
    fn happened(&mut self, thread: Pid, event: i32) -> bool {
        let role = self.role_of(thread);
        if event == libc::PTRACE_EVENT_EXEC {
            let ours = fs::read(format!("/proc/{thread}/cmdline")).unwrap_or_default();
            let supervisor = ours.split(|byte| *byte == 0).nth(1) == Some(b"__supervisor");
            self.begun = true;
            if supervisor && role != Role::Init {
                self.threads.insert(thread, Thread { role: Role::Supervisor, process: thread, pending: None });
            } else if role == Role::Init {
                self.threads.remove(&thread);
                let _ = ptrace::detach(thread, None);
                return true;
            }
        }
        if [libc::PTRACE_EVENT_CLONE, libc::PTRACE_EVENT_FORK, libc::PTRACE_EVENT_VFORK].contains(&event)
            && let Ok(new) = ptrace::getevent(thread)
        {
            let new = Pid::from_raw(i32::try_from(new).expect("a pid fits"));
            let process = group_of(new).unwrap_or(new);
            let own = self.threads.get(&thread).map_or(thread, |thread| thread.process);
            let role = if process == own { role } else { child_of(role) };
            // It may have made a call before its parent told of it.
            let pending = self.threads.get(&new).and_then(|thread| thread.pending);
            self.threads.insert(new, Thread { role, process, pending });
        }
        false
    }

    fn role_of(&self, thread: Pid) -> Role {
        // A child may stop for the first time before its parent has told of it.
        self.threads.get(&thread).map_or_else(
            || {
                let parent = parent_of(thread).and_then(|parent| self.threads.get(&parent));
                parent.map_or(Role::Init, |parent| child_of(parent.role))
            },
            |thread| thread.role,
        )
    }

    fn stopped_at_call(&mut self, thread: Pid, fault: Option<Fault>) {
        let (Ok(info), Ok(mut registers)) = (ptrace::syscall_info(thread), ptrace::getregs(thread)) else { return };
        if info.op == EXIT {
            if let Some(error) = self.threads.get_mut(&thread).and_then(|thread| thread.pending.take()) {
                registers.rax = (-i64::from(error as i32)).cast_unsigned();
                let _ = ptrace::setregs(thread, registers);
            }
            return;
        }
        if info.op != ENTRY {
            return;
        }
        let role = self.role_of(thread);
        if role == Role::Command && !self.begun {
            return;
        }
        let Some(call) = calls::find(registers.orig_rax.cast_signed()) else { return };
        let memory = Memory { thread };
        if call.name == "write" && registers.rdi == 2 {
            let said = memory.bytes(registers.rsi, registers.rdx.min(4096));
            let said = String::from_utf8_lossy(&said).into_owned();
            if said.contains("panicked at") {
                self.panics.push(format!("{role:?}: {said}"));
            }
        }
        if self.failed.is_some() || !can_fail(call, &registers, thread) {
            return;
        }
        let number = self.counts.entry((role, call.name)).or_default();
        let place = Place { role, call: call.name, number: *number };
        *number += 1;
        // To look at what a call is about takes longer than the call.
        if fault.is_some_and(|fault| fault.place != place) {
            return;
        }
        let about = about(call, &registers, memory);
        // What never waits is never interrupted: files, and sockets that do not block.
        let waits = !about.starts_with('/') && !about.starts_with("socket:");
        // What goes through a pipe goes to no device.
        let fails = !about.starts_with("pipe:");
        let possible = |error: &Errno| if *error == Errno::EINTR { waits } else { fails };
        let errors = call.errors.iter().copied().filter(possible).collect();
        let seen = Seen { place, about, errors };
        if let Some(fault) = fault {
            self.failed = Some(seen);
            registers.orig_rax = u64::MAX;
            let _ = ptrace::setregs(thread, registers);
            let process = group_of(thread).unwrap_or(thread);
            let known = self.threads.entry(thread).or_insert(Thread { role, process, pending: None });
            known.pending = Some(fault.error);
        } else {
            self.seen.push(seen);
        }
    }
}

fn child_of(role: Role) -> Role {
    match role {
        Role::Command => Role::Supervisor,
        Role::Supervisor => Role::Launcher,
        Role::Launcher => Role::Shim,
        Role::Shim | Role::Init => Role::Init,
    }
}

/// Returns where a descriptor of a thread leads to.
fn leads_to(thread: Pid, descriptor: u64) -> String {
    let number = i32::try_from(descriptor.cast_signed()).unwrap_or(-1);
    fs::read_link(format!("/proc/{thread}/fd/{number}")).map_or_else(
        |_| if number == libc::AT_FDCWD { ".".to_owned() } else { number.to_string() },
        |path| path.to_string_lossy().into_owned(),
    )
}

/// Returns what a call is about.
fn about(call: &Call, registers: &libc::user_regs_struct, memory: Memory) -> String {
    let leads_to = |descriptor| leads_to(memory.thread, descriptor);
    match call.shape {
        Shape::Path => memory.string(registers.rdi),
        Shape::Paths => format!("{} {}", memory.string(registers.rdi), memory.string(registers.rsi)),
        Shape::At => format!("{} {}", leads_to(registers.rdi), memory.string(registers.rsi)),
        Shape::Descriptor => leads_to(registers.rdi),
        Shape::Other => format!("{:#x} {:#x}", registers.rdi, registers.rsi),
    }
}

/// Whether a call, as it is made here, can fail for reasons that are not the caller's.
fn can_fail(call: &Call, registers: &libc::user_regs_struct, thread: Pid) -> bool {
    match call.name {
        // Of a terminal or log that is gone nobody can be told; the runtime's own wake-ups cannot fail.
        "read" | "write" | "writev" => {
            registers.rdi > 2 && !leads_to(thread, registers.rdi).starts_with("anon_inode:[eventfd]")
        }
        // Memory without a file behind it is the allocator's.
        "mmap" => registers.r8 <= 1 << 20,
        // The ones that ask can only fail by mistake.
        "prlimit64" => registers.rdx != 0,
        "prctl" => registers.rdi != u64::from(libc::PR_SET_NAME.cast_unsigned()),
        "ioctl" => ![libc::TCGETS, libc::TIOCGWINSZ].contains(&registers.rsi),
        _ => true,
    }
}

/// The memory of a stopped thread.
#[derive(Debug, Clone, Copy)]
struct Memory {
    thread: Pid,
}

impl Memory {
    fn bytes(self, address: u64, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        let read = File::open(format!("/proc/{}/mem", self.thread)).and_then(|file| file.read_at(&mut bytes, address));
        bytes.truncate(read.unwrap_or_default());
        bytes
    }

    /// Returns the string at an address, at most 200 bytes of it.
    fn string(self, address: u64) -> String {
        // No more than the rest of the page, behind which there may be nothing.
        let rest = 4096 - address % 4096;
        let mut bytes = self.bytes(address, rest.min(200));
        if !bytes.contains(&0) && rest < 200 {
            bytes.extend(self.bytes(address + rest, 200 - rest));
        }
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }
}

/// Starts a shell that waits for a line and then becomes the command, with its output in files.
fn start(command: &Command) -> (Child, [File; 2]) {
    let streams = [(); 2].map(|()| tempfile::tempfile().expect("a temporary file can be made"));
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "read -r line && exec \"$@\" </dev/null", "sh"]).arg(command.get_program());
    shell.args(command.get_args()).env_clear();
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.current_dir(command.get_current_dir().unwrap_or(Path::new("/")));
    let [stdout, stderr] = streams.each_ref().map(|file| file.try_clone().expect("a file can be cloned"));
    let child = shell.stdin(Stdio::piped()).stdout(stdout).stderr(stderr).spawn().expect("there is a shell");
    (child, streams)
}

fn words(command: &Command) -> String {
    command.get_args().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Returns the process that a thread is of.
fn group_of(thread: Pid) -> Option<Pid> {
    status(thread, "Tgid:")
}

fn parent_of(process: Pid) -> Option<Pid> {
    status(process, "PPid:")
}

fn status(thread: Pid, field: &str) -> Option<Pid> {
    let text = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    text.lines().find_map(|line| line.strip_prefix(field))?.trim().parse().ok().map(Pid::from_raw)
}
