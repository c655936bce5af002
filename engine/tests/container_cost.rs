//! What containers cost: time to start, to run a further process, memory of the shim, speed of the log.
//!
//! Numbers depend on the machine, so these only print, but for what is promised by a wide margin. Run with
//! `cargo test --test container_cost -- --ignored --nocapture --test-threads 1`, optimised.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests")]

mod lab;

use std::fs;
use std::time::{Duration, Instant};

use lab::{Lab, exec, receive};
use rcompose_engine::container::log;
use rcompose_engine::shim::protocol::{FromShim, Task};

fn median(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() / 10])
}

#[test]
#[ignore = "prints measurements"]
fn time_to_start() {
    let Some(lab) = Lab::new() else { return };
    for (what, pause) in [("idle", 50), ("busy", 0)] {
        let mut times = Vec::new();
        for _ in 0..40 {
            let config = lab.config(&["sleep", "100"]);
            lab.bundle(&config);
            std::thread::sleep(Duration::from_millis(pause));
            let begin = Instant::now();
            let client = lab.spawn(&config, Task::Create, &[]);
            let Some((FromShim::Started { .. }, fds)) = receive(&client) else { panic!("it did not start") };
            times.push(begin.elapsed());
            lab.forget(&config, client, fds);
        }
        let (middle, best) = median(times);
        println!("{what}: spawn to executed, host network: p50 {middle:?}, p10 {best:?}");
    }
}

/// Time on a processor, whatever else the machine is doing, and the wall clock for many at once.
#[test]
#[ignore = "prints measurements"]
fn work_of_a_start() {
    let Some(lab) = Lab::new() else { return };
    let on_cpu = |pid: i32| -> u64 {
        let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    };
    let configs: Vec<_> = (0..50).map(|_| lab.config(&["sleep", "100"])).collect();
    for config in &configs {
        lab.bundle(config);
    }
    let begin = Instant::now();
    let clients: Vec<_> = configs.iter().map(|config| lab.spawn(config, Task::Create, &[])).collect();
    let (mut init, mut shim) = (0, 0);
    let mut started = Vec::new();
    for client in &clients {
        let Some((FromShim::Started { pid }, fds)) = receive(client) else { panic!("it did not start") };
        started.push((pid, fds));
    }
    let wall = begin.elapsed();
    for (pid, _) in &started {
        init += on_cpu(*pid);
        shim += on_cpu(lab::parent(*pid).as_raw());
    }
    println!("50 at once: {wall:?}; on CPU each: init {} us, shim {} us", init / 50_000, shim / 50_000);
    for ((config, client), (_, fds)) in configs.iter().zip(clients).zip(started) {
        lab.forget(config, client, fds);
    }
}

#[test]
#[ignore = "prints measurements"]
fn time_to_exec() {
    let Some(lab) = Lab::new() else { return };
    let container = lab.start(&lab.shell("sleep 100"));
    for (what, pause) in [("idle", 50), ("busy", 0)] {
        let mut times = Vec::new();
        for _ in 0..40 {
            std::thread::sleep(Duration::from_millis(pause));
            let begin = Instant::now();
            assert_eq!(container.exec(exec(&["true"])).0, 0);
            times.push(begin.elapsed());
        }
        let (middle, best) = median(times);
        println!("{what}: exec true: p50 {middle:?}, p10 {best:?}");
    }
}

#[test]
#[ignore = "prints measurements"]
fn memory_of_shims() {
    let Some(lab) = Lab::new() else { return };
    let containers: Vec<_> = (0..20).map(|_| lab.start(&lab.shell("echo one line; sleep 100"))).collect();
    for container in &containers {
        container.wait_output("one line");
    }
    let mut total = [0; 3];
    for container in &containers {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", container.shim_pid())).unwrap();
        let field = |name: &str| {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        total[0] += field("Pss:");
        total[1] += field("Private_Dirty:");
        total[2] += field("Rss:");
    }
    let [pss, private, rss] = total.map(|kilobytes| kilobytes / 20);
    println!("shim, mean of 20: PSS {pss} KiB, private {private} KiB, RSS {rss} KiB");
}

#[test]
#[ignore = "prints measurements"]
fn speed_of_the_log() {
    let Some(lab) = Lab::new() else { return };
    for script in ["seq 1 1000000", "i=0; while [ $i -lt 1000000 ]; do i=$((i+1)); echo line $i; done"] {
        let begin = Instant::now();
        let mut null = lab.shell(&format!("({script}) > /dev/null"));
        null.init = false;
        lab.run(&null);
        let floor = begin.elapsed();
        let begin = Instant::now();
        let mut container = lab.start(&lab.shell(script));
        container.wait();
        let written = begin.elapsed();
        let begin = Instant::now();
        let (mut lines, mut bytes) = (0, 0);
        let mut emit = |entry: log::reader::Entry<'_>| {
            lines += 1;
            bytes += entry.text.len();
            Ok(())
        };
        log::read(&log::path(&container.bundle, &container.id), &log::Options::default(), &mut emit).unwrap();
        println!(
            "{script}: to /dev/null {floor:?}, to the log {written:?}; read back {:?}, {bytes} bytes",
            begin.elapsed()
        );
        assert_eq!(lines, 1_000_000);
    }
}
