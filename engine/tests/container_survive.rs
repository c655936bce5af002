//! Nothing is lost when a shim or a supervisor is killed at any moment.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests")]

mod lab;

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use lab::{Container, Lab, exec, receive};
use nix::sys::signal::{Signal, kill};
use rcompose_engine::container::config::{ContainerConfig, LogConfig, LogFile};
use rcompose_engine::shim::client::Client;
use rcompose_engine::shim::protocol::{FromShim, Task, ToShim};

/// Kills the container's shim and starts another, as a supervisor does.
fn replace_shim(
    lab: &Lab,
    config: &ContainerConfig,
    container: &mut Container,
    shim: nix::unistd::Pid,
) -> nix::unistd::Pid {
    kill(shim, Signal::SIGKILL).unwrap();
    while receive(&container.client).is_some() {}
    // What a supervisor does as the reaper of its children.
    nix::sys::wait::waitpid(shim, Some(nix::sys::wait::WaitPidFlag::__WALL)).ok();
    adopt(lab, config, container);
    connected_to(container)
}

fn adopt(lab: &Lab, config: &ContainerConfig, container: &mut Container) {
    let fds: Vec<_> = container.fds.iter().map(AsFd::as_fd).collect();
    container.client = lab.spawn(config, Task::Adopt { pid: container.pid }, &fds);
    match receive(&container.client) {
        Some((FromShim::Started { pid }, fds)) => {
            assert_eq!(pid, container.pid);
            container.fds = fds;
        }
        other => panic!("unexpected answer {other:?}"),
    }
}

/// Returns the process at the other end of the container's socket.
fn connected_to(container: &Container) -> nix::unistd::Pid {
    let client = Client::connect(&container.run).unwrap();
    let credentials =
        nix::sys::socket::getsockopt(&client.as_fd(), nix::sys::socket::sockopt::PeerCredentials).unwrap();
    nix::unistd::Pid::from_raw(credentials.pid())
}

#[test]
fn no_line_is_lost_or_doubled_over_killed_shims() {
    let Some(lab) = Lab::new() else { return };
    for rotated in [false, true] {
        let total = 200_000;
        let mut config = lab.shell(&format!(
            "i=0; while [ $i -lt {total} ]; do i=$((i+1)); echo \"line $i of the standard output\"; done; echo done"
        ));
        if rotated {
            config.log = LogConfig::JsonFile(LogFile { max_size: Some(400_000), max_file: 100, ..LogFile::default() });
        }
        let mut container = lab.start(&config);
        let mut shim = container.shim_pid();
        let mut kills = 0;
        // All of the lines take an emulated processor minutes.
        let end = Instant::now() + 10 * lab::DEADLINE;
        while !rcompose_engine::sys::pidfd::has_ended(container.pidfd()).unwrap() {
            assert!(Instant::now() < end);
            // At any moment: right after the start, and at growing distances from it.
            std::thread::sleep(Duration::from_micros(kills * 37 % 2900));
            shim = replace_shim(&lab, &config, &mut container, shim);
            kills += 1;
        }
        // The container is this process's child since its first shim died.
        assert_eq!(rcompose_engine::sys::pidfd::exit_code(container.pidfd()), Some(0));
        container.wait();
        let output = container.output();
        let mut lines = output.lines();
        for number in 1..=total {
            assert_eq!(lines.next(), Some(format!("line {number} of the standard output").as_str()), "{kills} kills");
        }
        assert_eq!((lines.next(), lines.next()), (Some("done"), None));
        println!("{kills} shims were killed");
        assert!(kills > 20, "only {kills} shims were killed");
    }
}

#[test]
fn output_of_a_container_that_ends_without_a_shim_is_kept() {
    let Some(lab) = Lab::new() else { return };
    let config = lab.shell("echo first; read x < /wait; echo last; exit 4");
    std::fs::create_dir_all(lab.layer()).unwrap();
    nix::unistd::mkfifo(&lab.layer().join("wait"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut container = lab.start(&config);
    container.wait_output("first");
    let shim = container.shim_pid();
    kill(shim, Signal::SIGKILL).unwrap();
    while receive(&container.client).is_some() {}
    std::fs::write(format!("/proc/{}/root/wait", container.pid), "go\n").unwrap();
    lab::wait_readable(container.pidfd(), lab::DEADLINE);
    // The supervisor reaps what its dead shim left to it; from then on the kernel tells everybody.
    assert_eq!(rcompose_engine::sys::pidfd::exit_code(container.pidfd()), Some(4));
    adopt(&lab, &config, &mut container);
    let exit = container.wait();
    assert_eq!(container.output(), "first\nlast\n");
    if rcompose_engine::sys::pidfd::exit_code(container.pidfd()).is_some() {
        assert_eq!(exit.code, 4);
    } else {
        println!("this kernel does not tell the exit status of other processes' children");
    }
}

#[test]
fn an_adopted_container_can_be_entered() {
    let Some(lab) = Lab::new() else { return };
    let mut config = lab.shell("echo up; read line; echo \"<$line>\"");
    config.tty = true;
    let mut container = lab.start(&config);
    container.wait_output("up");
    let shim = container.shim_pid();
    replace_shim(&lab, &config, &mut container, shim);
    assert_eq!(container.exec(exec(&["echo", "inside"])), (0, "inside\n".into()));
    nix::unistd::write(&container.fds[2], b"typed\n").unwrap();
    container.wait_output("<typed>");
}

#[test]
fn a_new_supervisor_gets_everything_back() {
    let Some(lab) = Lab::new() else { return };
    let config = lab.shell("echo up; sleep 100");
    let mut shim_config = lab.bundle(&config);
    // The program that is started is the shim's own: this test binary, which then runs the helper below.
    let mark = lab.path().join("started");
    let name = "helper_that_plays_the_supervisor";
    shim_config.supervisor_command = ["supervisor", name, "--exact", "--skip"].map(str::to_owned).to_vec();
    shim_config.supervisor_command.push(mark.display().to_string());
    let mut container = lab.start_with(&config, &shim_config);
    let (kept, _other) = std::io::pipe().unwrap();
    container.client.send(&ToShim::Keep { names: vec!["dns".into()] }, &[kept.as_fd()]).unwrap();
    container.wait_output("up");
    // The supervisor goes away; its successor connects.
    drop(std::mem::replace(&mut container.client, Client::connect(&container.run).unwrap()));
    let end = Instant::now() + lab::DEADLINE;
    while !mark.exists() {
        assert!(Instant::now() < end, "no supervisor was started");
        std::thread::sleep(Duration::from_millis(5));
    }
    container.client.send(&ToShim::Adopt, &[]).unwrap();
    let (message, fds) = receive(&container.client).unwrap();
    assert!(matches!(message, FromShim::Started { pid } if pid == container.pid));
    assert_eq!(fds.len(), 4);
    match receive(&container.client).unwrap() {
        (FromShim::Kept { names }, fds) => assert_eq!((names, fds.len()), (vec!["dns".to_owned()], 1)),
        other => panic!("unexpected answer {other:?}"),
    }
    // An exit that nobody took note of is told to the next one.
    container.kill(libc::SIGKILL);
    assert_eq!(container.wait().code, 137);
    let third = Client::connect(&container.run).unwrap();
    third.send(&ToShim::Adopt, &[]).unwrap();
    container.client = third;
    assert_eq!(container.wait().code, 137);
}

/// Not a test of its own: what the shim starts as a supervisor in the test above. Its last argument is a file to make.
#[test]
fn helper_that_plays_the_supervisor() {
    let args: Vec<String> = std::env::args().collect();
    if args[0] == "supervisor" {
        std::fs::write(&args[4], "").unwrap();
    }
}
