//! A step that fails is named, and leaves nothing behind.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests")]

mod lab;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use lab::Lab;
use rcompose_engine::container::config::{ContainerConfig, Mount, MountSource, NetworkMode};

fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

/// Starts a container that cannot start, and looks for what is left of it.
fn check(lab: &Lab, config: &ContainerConfig, code: i32, words: &str) {
    let before = mounts().lines().count();
    let failure = match lab.try_start(config) {
        Err(failure) => failure,
        Ok(container) => panic!("it started: {}", container.output()),
    };
    assert_eq!(failure.code, code, "{failure}");
    assert!(failure.to_string().contains(words), "`{failure}` does not say `{words}`");
    assert_eq!(lab.cgroups(), [] as [PathBuf; 0], "{failure}");
    let mine = lab.path().to_string_lossy().into_owned();
    assert!(!mounts().contains(&mine), "{failure}");
    assert!(mounts().lines().count() <= before + 3, "{failure}");
}

#[test]
fn programs_that_cannot_run_have_dockers_words_and_codes() {
    let Some(lab) = Lab::new() else { return };
    fs::write(lab.layer().join("script"), "#!/no/such/interpreter\n").unwrap();
    fs::write(lab.layer().join("garbage"), "\x7fELF but not really").unwrap();
    for name in ["script", "garbage"] {
        fs::set_permissions(lab.layer().join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    for (command, code, words) in [
        ("nonsense", 127, "exec: \"nonsense\": executable file not found in $PATH"),
        ("/nonsense", 127, "exec: \"/nonsense\": stat /nonsense: no such file or directory"),
        ("/noexec", 126, "exec: \"/noexec\": permission denied"),
        ("/etc", 126, "exec: \"/etc\": is a directory"),
        ("/script", 127, "exec /script: no such file or directory"),
        ("/garbage", 126, "exec /garbage: exec format error"),
    ] {
        for init in [false, true] {
            let mut config = lab.config(&[command]);
            config.init = init;
            check(&lab, &config, code, words);
        }
    }
}

#[test]
fn each_step_that_fails_is_named() {
    let Some(lab) = Lab::new() else { return };
    let bind = |source: PathBuf, target: &str| Mount {
        target: target.into(),
        read_only: false,
        source: MountSource::Bind { source, create_host_path: false, propagation: None, recursive: true },
    };
    let mut config = lab.shell("true");
    config.mounts = vec![bind(lab.path().join("none"), "/x")];
    check(&lab, &config, 125, "none, the source of /x");
    // A directory over a file of the image.
    config.mounts = vec![bind(lab.path().to_owned(), "/etc/passwd")];
    check(&lab, &config, 125, "at /etc/passwd: Not a directory");
    config.mounts = vec![bind(lab.path().to_owned(), "/etc/passwd/below")];
    check(&lab, &config, 125, "at /etc/passwd/below");

    let mut config = lab.shell("true");
    config.network = NetworkMode::None;
    config.sysctls.insert("net.ipv4.no_such_thing".into(), "1".into());
    check(&lab, &config, 125, "set sysctl net.ipv4.no_such_thing to 1: No such file or directory");

    let mut config = lab.shell("true");
    config.resources.cpuset_cpus = Some("5000".into());
    check(&lab, &config, 125, "cpuset.cpus");

    let config = lab.shell("true");
    let mut shim = lab.bundle(&config);
    shim.rootfs.layers = vec![lab.path().join("no layer")];
    lab.write_shim(&config, &shim);
    let failure = lab.start_again(&config).err().unwrap();
    assert!(failure.step.contains("add layer") && failure.step.contains("no layer"), "{failure}");
    fs::write(lab.root.container(&config.id).join("config.json"), "{").unwrap();
    let failure = lab.start_again(&config).err().unwrap();
    assert!(failure.step.contains("config.json"), "{failure}");
    fs::remove_file(lab.root.container(&config.id).join("shim.json")).unwrap();
    let failure = lab.start_again(&config).err().unwrap();
    assert!(failure.step.contains("shim.json"), "{failure}");
    assert_eq!(lab.cgroups(), [] as [PathBuf; 0]);
}

#[test]
fn a_supervisor_that_dies_before_the_network_is_there_leaves_nothing() {
    let Some(lab) = Lab::new() else { return };
    let mut config = lab.shell("sleep 100");
    config.network = NetworkMode::None;
    lab.bundle(&config);
    let client = lab.spawn(&config, rcompose_engine::shim::protocol::Task::Create, &[]);
    // The cgroups are there when init is about to be cloned.
    let end = std::time::Instant::now() + lab::DEADLINE;
    while lab.cgroups().is_empty() {
        assert!(std::time::Instant::now() < end, "no cgroup was made");
        std::thread::yield_now();
    }
    drop(client);
    while !lab.cgroups().is_empty() {
        assert!(std::time::Instant::now() < end, "left: {:?}", lab.cgroups());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
