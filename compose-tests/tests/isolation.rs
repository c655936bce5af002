//! What a container sees and may do, beside Docker's (`compose-tests/isolation`), and what it must not see of the host.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use compose_tests::{stack, stack::Stack};

/// The same as in the file `variants`, in the words of a compose file.
const VARIANTS: [(&str, &str); 8] = [
    ("default", ""),
    ("privileged", "privileged: true"),
    ("cap-add-all", "cap_add: [ALL]"),
    ("cap-drop-all", "cap_drop: [ALL]"),
    ("seccomp-unconfined", "security_opt: [\"seccomp:unconfined\"]"),
    ("no-new-privileges", "security_opt: [no-new-privileges]"),
    ("read-only", "read_only: true"),
    ("user", "user: 1000:1000"),
];

/// Kernel parameters, and files of /proc, that an engine sets in every container.
const SET: [&str; 3] = [
    "/proc/self/oom_score_adj",
    "/proc/sys/net/ipv4/ip_unprivileged_port_start",
    "/proc/sys/net/ipv4/ping_group_range",
];

/// Directories that are hidden; whether others are empty is the kernel's business.
const MASKED_DIRECTORIES: [&str; 6] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/scsi",
    "/sys/devices/system/cpu/cpu0/thermal_throttle",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("isolation")
}

/// Returns a stack with a service of each variant that runs the probe, once with `init: true` besides.
fn stack(name: &str) -> Stack {
    let stack = Stack::new(name);
    let probe = stack::binary().with_file_name("probe");
    fs::copy(&probe, stack.project_folder().join("probe")).unwrap_or_else(|error| {
        panic!("cannot copy {}, which `cargo build --workspace --bins` makes: {error}", probe.display())
    });
    let service = |(name, attributes): (&str, &str)| {
        format!(
            "  {name}:\n    image: busybox\n    hostname: host\n    command: /probe\n    volumes: [./probe:/probe:ro]\n{}",
            if attributes.is_empty() { String::new() } else { format!("    {attributes}\n") }
        )
    };
    let services = VARIANTS.into_iter().chain([("with-init", "init: true")]).map(service).collect::<String>();
    let file = format!("services:\n{services}");
    stack.write("compose.yaml", &file);
    stack
}

/// Returns what the probe says of our container.
fn probe(stack: &Stack, service: &str) -> String {
    stack.run(&["run", "--rm", "-T", service]).ok().stdout
}

/// Brings a line to what both engines can have in common on any host; `None`: it says something about the host only.
fn comparable(line: &str, privileged: bool) -> Option<String> {
    let words: Vec<&str> = line.split(' ').collect();
    match words[0] {
        // Streams have names of their own, limits come from whoever started the engine, and the kernel decides what there is
        // in /proc and /sys, and who may read its log. What shows of others is looked at below.
        "fd" | "limit" | "proc" | "sys" | "unix" | "shm" | "msg" | "sem" | "posix-ipc" | "processes" | "try" => None,
        "dev" if privileged => None,
        // Signals that the test runner ignores are ignored here as well; the others are the processor's.
        "status" if words[1].starts_with("Sig") || words[1].starts_with("Speculation") => None,
        // Inherited from the host, or from whoever started the engine, or a matter of what the kernel has.
        "value" if !SET.contains(&words[1]) => None,
        "path" => {
            let kind =
                words[2..].iter().take_while(|word| !word.starts_with("read-")).copied().collect::<Vec<_>>().join(" ");
            let kind = if MASKED_DIRECTORIES.contains(&words[1]) { kind } else { kind.replace("empty ", "") };
            let access = words.iter().find(|word| word.starts_with("read-")).unwrap_or(&"");
            Some(format!("path {} {kind} {access}", words[1]).trim_end().to_owned())
        }
        "mount" => {
            let (target, kind) = (words[1], words[2]);
            // Of these only that they are there is the engines' doing.
            let own = ["/probe", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"].contains(&target);
            if own {
                return Some(format!("mount {target}"));
            }
            let options = words[5];
            let of_filesystem = if ["tmpfs", "devpts"].contains(&kind) { words[6] } else { "" };
            // Added by kernels that have 64-bit inode numbers there, or SELinux.
            let of_filesystem = of_filesystem.replace(",inode64", "").replace(",seclabel", "");
            Some(format!("mount {target} {kind} {options} {of_filesystem}").trim_end().to_owned())
        }
        _ => Some(line.to_owned()),
    }
}

/// Turns the ranges of system calls into a line for each.
fn expand(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let range = words.get(2).and_then(|range| range.split_once('-'));
        let range = range.and_then(|(first, last)| Some(first.parse::<u64>().ok()?..=last.parse::<u64>().ok()?));
        match (words[0], range) {
            ("syscall", Some(range)) => {
                lines.extend(range.map(|number| format!("syscall {} {number} {}", words[1], words[3..].join(" "))));
            }
            _ => lines.push(line.to_owned()),
        }
    }
    lines
}

/// A known difference: the variants it is in (a pattern), which side has the line (`-` Docker's, `+` ours), and the line (a
/// pattern).
struct Difference {
    variants: String,
    side: char,
    line: String,
}

fn differences() -> Vec<Difference> {
    let text = fs::read_to_string(folder().join("differences")).expect("the file of differences is there");
    let entries = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    entries
        .map(|line| {
            let mut words = line.splitn(3, ' ');
            let mut next = || words.next().unwrap_or_else(|| panic!("incomplete: {line}")).to_owned();
            Difference { side: next().chars().next().unwrap_or('?'), variants: next(), line: next() }
        })
        .collect()
}

/// Matches a text with a pattern in which `*` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty()
}

#[test]
fn containers_are_like_dockers_but_for_what_is_written_down() {
    let stack = stack("isolation");
    let differences = differences();
    let mut faults = Vec::new();
    for (variant, _) in VARIANTS {
        let recorded = folder().join("docker").join(variant);
        let docker = fs::read_to_string(&recorded).unwrap_or_else(|error| panic!("{}: {error}", recorded.display()));
        let ours = probe(&stack, variant);
        let privileged = variant == "privileged";
        let lines = |text: &str| -> BTreeSet<String> {
            expand(text).iter().filter_map(|line| comparable(line, privileged)).collect()
        };
        let (docker, ours) = (lines(&docker), lines(&ours));
        assert!(ours.len() > 100, "{variant}: the probe says little: {ours:?}");
        // What one kernel does not have the other cannot hide; and a kernel without 32-bit programs decides nothing there.
        let absent = |all: &BTreeSet<String>, line: &str| {
            let path = line.strip_prefix("path ").and_then(|rest| rest.split(' ').next());
            let mount = line.strip_prefix("mount ").and_then(|rest| rest.split(' ').next());
            let value = line.strip_prefix("value ").and_then(|rest| rest.split(' ').next());
            path.or(mount.filter(|target| target.starts_with("/proc/") || target.starts_with("/sys/")))
                .is_some_and(|path| all.contains(&format!("path {path} absent")))
                || value
                    .is_some_and(|path| all.contains(&format!("value {path} No such file or directory (os error 2)")))
                || line.starts_with("syscall i386 ") && !all.iter().any(|line| line.starts_with("syscall i386 3 "))
                || line.starts_with("path ") && line.ends_with(" absent")
        };
        let known = |side: char, line: &str| {
            differences
                .iter()
                .any(|known| known.side == side && matches(&known.variants, variant) && matches(&known.line, line))
        };
        for (side, one, other) in [('-', &docker, &ours), ('+', &ours, &docker)] {
            for line in one.difference(other) {
                if !known(side, line) && !absent(other, line) && !absent(one, line) {
                    faults.push(format!("{side} {variant} {line}"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "not written down in compose-tests/isolation/differences:\n{}", faults.join("\n"));
    stack.finish();
}

/// Everything that a container can see of its host, with an allow-list of what it may.
#[test]
fn a_container_sees_of_the_host_what_is_on_the_list() {
    let mut stack = stack("sight");
    stack.set("SECRET_OF_THE_HOST", "hunter2");
    let listed = fs::read_to_string(folder().join("visible")).expect("the list is there");
    let listed: Vec<&str> = listed.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let mut faults = BTreeMap::new();
    for service in ["default", "with-init", "user", "read-only"] {
        let said = probe(&stack, service);
        assert!(!said.contains("hunter2") && !said.contains("SECRET_OF_THE_HOST"), "{said}");
        let looked_at = [
            "fd",
            "env",
            "mount",
            "dev",
            "cgroup",
            "unix",
            "shm",
            "msg",
            "sem",
            "posix-ipc",
            "processes",
            "try",
            "etc",
            "cwd",
        ];
        for line in said.lines().filter(|line| looked_at.contains(&line.split(' ').next().unwrap_or_default())) {
            let line = line.replace(&stack.root().display().to_string(), "{root}");
            let line = line.replace(&stack.project_folder().display().to_string(), "{folder}");
            if !listed.iter().any(|pattern| matches(pattern, &line)) {
                faults.insert(line, service);
            }
        }
        // Interfaces of the network namespace, not of the host.
        for line in said.lines().filter(|line| line.starts_with("sys /sys/class/net/")) {
            if !["sys /sys/class/net/lo", "sys /sys/class/net/eth0"].contains(&line)
                // Made by the kernel in every namespace, where the modules are there.
                && !["tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6tnl0", "ip6gre0"].iter().any(|name| line.ends_with(name))
            {
                faults.insert(line.to_owned(), service);
            }
        }
    }
    assert!(faults.is_empty(), "not on the list compose-tests/isolation/visible: {faults:#?}");
    stack.finish();
}

/// Files that are the streams of `exec` are read and written, but not had.
#[test]
fn a_process_gets_the_content_of_files_and_not_the_files() {
    let stack = Stack::new("lent");
    stack.write(
        "compose.yaml",
        "services: {web: {image: busybox, command: [sleep, '100000'], stop_grace_period: 0s}}\n",
    );
    stack.write("given", "of the host\n");
    stack.write("taken", "before\n");
    stack.run(&["up", "-d"]).ok();
    let open = |name: &str| fs::File::open(stack.project_folder().join(name)).expect("it is there");
    let append =
        |name: &str| fs::File::options().append(true).open(stack.project_folder().join(name)).expect("it is there");
    let exec = |script: &str, stdin: fs::File| {
        let mut command = stack.command(&["exec", "-T", "web", "sh", "-c", script]);
        let status = command.stdin(stdin).stdout(append("taken")).stderr(append("taken")).status();
        status.expect("the binary under test runs").success()
    };
    assert!(exec("cat; echo end >&2", open("given")));
    assert_eq!(fs::read_to_string(stack.project_folder().join("taken")).expect("a text"), "before\nof the host\nend\n");
    // Opened anew by their names in /proc, they would be the files.
    exec(
        "echo evil > /proc/self/fd/0; chmod 777 /proc/self/fd/0; : > /proc/self/fd/1; timeout 1 head -c 6 /proc/self/fd/2 | grep before && echo read > /proc/self/fd/2",
        open("given"),
    );
    assert_eq!(fs::read_to_string(stack.project_folder().join("given")).expect("a text"), "of the host\n");
    let taken = fs::read_to_string(stack.project_folder().join("taken")).expect("a text");
    assert!(taken.starts_with("before\nof the host\nend\n") && !taken.contains("read"), "{taken}");
    // A directory, through which everything else is reached.
    assert!(!exec("ls /proc/self/fd/0/.. && cd /proc/self/fd/0", fs::File::open("/").expect("it is there")));
    stack.finish();
}
