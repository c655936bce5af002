//! Containers start, say something, end, and leave nothing behind.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests")]

mod lab;

use lab::Lab;
use rcompose_engine::container::config::NetworkMode;

#[test]
fn output_and_exit_code_arrive() {
    let Some(lab) = Lab::new() else { return };
    let (code, output) = lab.run(&lab.shell("echo out; echo err >&2; exit 7"));
    assert_eq!((code, output.as_str()), (7, "out\nerr\n"));
    let (code, _) = lab.run(&lab.shell("kill -9 $$; exit 0"));
    // PID 1 cannot be killed from inside, so the shell goes on.
    assert_eq!(code, 0);
    assert_eq!(lab.cgroups(), [] as [std::path::PathBuf; 0]);
}

#[test]
fn a_network_namespace_is_joined() {
    let Some(lab) = Lab::new() else { return };
    let mut config = lab.shell("ls /sys/class/net; cat /etc/hosts; hostname");
    config.network = NetworkMode::None;
    config.hostname = Some("named".into());
    let (code, output) = lab.run(&config);
    assert_eq!((code, output), (0, format!("lo\nhosts of {}\nnamed\n", config.name)));
}
