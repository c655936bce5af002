//! PID 1 of a container with `init: true`: starts the program, reaps what is left behind, forwards signals.
//!
//! It never executes anything, so it needs nothing in the image. It runs with the program's user, capabilities and filter,
//! and is not dumpable: nothing in the container can trace it or read its memory, and the file behind `/proc/1/exe` cannot
//! be written (`shim::sealed`).

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::channel;
use super::init::Init;
use crate::container::process::Program;
use crate::sys::clone;
use crate::sys::process;

/// Runs until the program ends, then ends with its exit code; the kernel kills what is left of the container.
pub(super) fn run(program: &Program, init: Init<'_>) -> ! {
    nix::sys::prctl::set_name(c"rcompose-init").ok();
    // Blocked before the clone, so that none is missed; the program gets a clean mask (`Program::exec`).
    SigSet::all().thread_set_mask().ok();
    process::reset_signal_actions();
    // Not by clone3: the container's filter is in force already.
    let child = match clone::fork() {
        Ok(Some(pid)) => pid,
        Ok(None) => {
            // A process group of its own, in the foreground of the terminal where there is one, as tini does it.
            nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0)).ok();
            if nix::unistd::isatty(std::io::stdin()).unwrap_or(false) {
                process::ignore_signal(Signal::SIGTTOU);
                nix::unistd::tcsetpgrp(std::io::stdin(), nix::unistd::getpgrp()).ok();
            }
            channel::execute(&init.channel, program)
        }
        Err(errno) => {
            let failure = super::protocol::Failure {
                step: "clone the container's program".into(),
                errno: errno as i32,
                code: crate::container::step::ENGINE,
            };
            channel::send_failure(&init.channel, &failure);
            clone::exit(failure.code)
        }
    };
    // It served until here: from now on the container outlives its shim.
    nix::sys::prctl::set_pdeathsig(None).ok();
    drop(init);
    process::close_all_but(&[]).ok();
    loop {
        match process::wait_signal() {
            Ok(signal) if signal == Signal::SIGCHLD as i32 => {
                if let Some(code) = reap(child) {
                    clone::exit(code);
                }
            }
            Ok(signal) => process::kill(child, signal),
            Err(_) => {}
        }
    }
}

/// Reaps every child that has ended and returns the program's exit code if it is among them.
fn reap(program: Pid) -> Option<i32> {
    let mut code = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == program => code = Some(status),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == program => code = Some(128 + signal as i32),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return code,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return code,
        }
    }
}
