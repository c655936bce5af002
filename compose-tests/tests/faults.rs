//! The n-th system call of the engine fails, and it says so, leaves nothing behind, and harms nobody.
//!
//! A sample of all places is tried, which [`Wanted`] describes; `compose-tests/faults` tries every place with every error.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![expect(clippy::print_stdout, reason = "says what was tried")]

use std::{
    collections::BTreeSet,
    env, fs,
    io::Write,
    thread,
    time::{Duration, Instant},
};

use compose_tests::{
    census,
    fault::{
        Fault, Role, Traced,
        message::says_what,
        tracer::{self, Targets},
        wanted::{FOUND, NOT_REACHED, Wanted, tried},
    },
    output::Output,
    process::{self, Process},
    stack::Stack,
};

/// How long a command may take whose processes are traced, on a busy machine.
const LIMIT: Duration = Duration::from_mins(1);

/// The project that faults are brought about in; the other one of the stack only runs.
const VICTIM: &str = "services:
  web:
    image: test/volume-copyup
    command: [sleep, '1000']
    hostname: victim
    init: true
    networks: {front: {aliases: [alias]}}
    ports: ['127.0.0.1:${PORT1}:80']
    volumes: ['seeded:/seed', {type: bind, source: ./made, target: /bound}]
    tmpfs: [/scratch]
    shm_size: 2m
    configs: [plain]
    environment: {A: '${FROM_FILE-}'}
    cap_drop: [NET_RAW]
    cap_add: [SYS_NICE]
    ulimits: {nofile: 1000}
    sysctls: {net.ipv4.ip_unprivileged_port_start: 0}
    extra_hosts: ['host.internal:host-gateway']
    mem_limit: 64m
    pids_limit: 50
    devices: ['/dev/zero:/dev/nothing']
    stop_grace_period: 20s
networks: {front: }
volumes: {seeded: }
configs: {plain: {content: text}}
";

/// A healthy service with a check, and a terminal instead of pipes.
const CHECKED: &str = "services:
  web:
    image: busybox
    command: [sleep, '1000']
    tty: true
    read_only: true
    security_opt: [no-new-privileges]
    healthcheck: {test: [CMD, 'true'], interval: 1s, retries: 20}
";

/// Shows that the container has everything that was asked for. A line is one command, since a shell does not end when the first
/// of several fails (`set -e`, `&&`).
const PROOF: &str = "set -e
[ \"$(cat /seed/one)\" = one ]
[ \"$(stat -c %u:%a /seed)\" = 1000:750 ]
[ \"$(cat /plain)\" = text ]
[ -d /bound ]
grep -q '[[:space:]]victim' /etc/hosts
grep -q host.internal /etc/hosts
grep -q '^nameserver 127.0.0.11' /etc/resolv.conf
[ \"$(hostname)\" = victim ]
grep -q ' /scratch tmpfs ' /proc/mounts
grep -q ' /dev/shm tmpfs ' /proc/mounts
[ \"$(ulimit -n)\" = 1000 ]
[ \"$(cat /proc/sys/net/ipv4/ip_unprivileged_port_start)\" = 0 ]
[ -c /dev/nothing ]
[ -e /sys/class/net/eth0 ]
[ \"$A\" = yes ]
limit() { cat /sys/fs/cgroup/$1 2>/dev/null || cat /sys/fs/cgroup/$2; }
[ \"$(limit memory/memory.limit_in_bytes memory.max)\" = 67108864 ]
[ \"$(limit pids/pids.max pids.max)\" = 50 ]
grep -q '^Seccomp:[[:space:]]2' /proc/self/status
nslookup alias 127.0.0.11 >/dev/null 2>&1 || nslookup alias >/dev/null";

/// Something that is done with a container, and made to fail at any place.
struct Scenario {
    name: &'static str,
    file: &'static str,
    /// What comes before it.
    before: &'static [&'static [&'static str]],
    command: &'static [&'static str],
    /// Whether the command is traced, and all that it starts; else the supervisor, its launcher and the shims.
    whole: bool,
    /// Whether nothing of a run may be left when it failed.
    starts: bool,
    /// What shows that it was done.
    proof: Proof,
}

enum Proof {
    /// The command's success.
    None,
    /// The container has everything.
    Runs,
    Healthy,
    Stopped,
    /// There is no container.
    Removed,
}

const UP: &[&str] = &["up", "-d", "-y"];

const SCENARIOS: &[Scenario] = &[
    Scenario { name: "up", file: VICTIM, before: &[], command: UP, whole: true, starts: true, proof: Proof::Runs },
    Scenario {
        name: "start",
        file: VICTIM,
        before: &[UP, &["stop", "-t", "0"]],
        command: &["start"],
        whole: true,
        starts: true,
        proof: Proof::Runs,
    },
    Scenario {
        name: "restart",
        file: VICTIM,
        before: &[UP],
        command: &["restart", "-t", "0"],
        whole: false,
        starts: true,
        proof: Proof::Runs,
    },
    Scenario {
        name: "exec",
        file: VICTIM,
        before: &[UP],
        command: &["exec", "-T", "-u", "nobody", "-w", "/seed/..", "-e", "X=y", "web", "true"],
        whole: false,
        starts: true,
        proof: Proof::None,
    },
    Scenario {
        name: "run",
        file: VICTIM,
        before: &[],
        command: &["run", "--rm", "-T", "web", "true"],
        whole: true,
        starts: true,
        proof: Proof::None,
    },
    Scenario {
        name: "healthcheck",
        file: CHECKED,
        before: &[],
        command: &["up", "-d", "--wait"],
        whole: true,
        starts: true,
        proof: Proof::Healthy,
    },
    Scenario {
        name: "stop",
        file: VICTIM,
        before: &[UP],
        command: &["stop"],
        whole: false,
        starts: false,
        proof: Proof::Stopped,
    },
    Scenario {
        name: "rm",
        file: VICTIM,
        before: &[UP],
        command: &["rm", "-fsv"],
        whole: false,
        starts: false,
        proof: Proof::Removed,
    },
    Scenario {
        name: "down",
        file: VICTIM,
        before: &[UP],
        command: &["down", "-v", "-t", "0"],
        whole: false,
        starts: false,
        proof: Proof::Removed,
    },
];

/// A project that runs beside, and the victim.
struct World {
    stack: Stack,
    scenario: &'static Scenario,
    /// The victim's name.
    project: String,
    /// What was there before the victim.
    before: BTreeSet<String>,
    bystander: Process,
}

impl World {
    fn new(scenario: &'static Scenario) -> World {
        let stack = Stack::new(&format!("faults-{}", scenario.name));
        stack.write(
            "compose.yaml",
            "services: {other: {image: busybox, command: sleep 10000, networks: [n]}}\nnetworks: {n: }\n",
        );
        stack.write("victim.yaml", scenario.file);
        stack.write(".env", "FROM_FILE=yes\n");
        stack.run(&["up", "-d"]).ok();
        let pid = stack.run(&["inspect", "--format", "{{.State.Pid}}", "other"]).ok();
        let bystander = process::read(pid.text().parse().expect("it is a number")).expect("it runs");
        let project = format!("{}v", stack.project);
        let mut world = World { stack, scenario, project, before: BTreeSet::new(), bystander };
        // What stays (images, the host's rules) is there from now on.
        world.prepare().expect("without a fault all is well");
        world.run(scenario.command).ok();
        world.run(&["down", "-v", "-t", "0"]).ok();
        world.before = settled("the supervisor has ended", || {
            let before = world.seen();
            let ends = before.iter().any(|item| item.contains(&world.project));
            if ends { Err(format!("{before:#?}")) } else { Ok(before) }
        })
        .expect("nothing is left");
        world
    }

    fn arguments<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
        ["-p", &self.project, "-f", "victim.yaml"].into_iter().chain(words.iter().copied()).collect()
    }

    fn run(&self, words: &[&str]) -> Output {
        self.stack.run(&self.arguments(words))
    }

    fn prepare(&self) -> Result<(), String> {
        // By then PID 1 has started its own child.
        let begun: &[&[&str]] = if self.scenario.name == "exec" { &[&["exec", "-T", "web", "true"]] } else { &[] };
        for words in self.scenario.before.iter().chain(begun) {
            let output = self.run(words);
            if output.code != 0 {
                return Err(format!("what comes before it failed: {output:?}"));
            }
        }
        Ok(())
    }

    /// What there is of the victim.
    fn seen(&self) -> BTreeSet<String> {
        let containers = census::container_ids(&self.stack.root());
        self.stack.census_of(&containers).items.difference(&self.before).cloned().collect()
    }

    fn traced(&self, fault: Option<Fault>) -> Traced {
        let command = self.stack.command(&self.arguments(self.scenario.command));
        let targets = if self.scenario.whole {
            Targets { command: true, running: Vec::new() }
        } else {
            let ours =
                self.stack.own_processes().into_iter().filter(|process| process.words.last() == Some(&self.project));
            let role = |process: &Process| match &*process.name {
                "rcompose-shim" => Some(Role::Shim),
                "rcompose-launch" => Some(Role::Launcher),
                "rcompose-init" => None,
                _ => Some(Role::Supervisor),
            };
            Targets {
                command: false,
                running: ours.filter_map(|process| role(&process).map(|role| (process, role))).collect(),
            }
        };
        tracer::run(command, targets, fault, LIMIT)
    }

    /// Tries one fault. Returns whether it came to that, or what is wrong with what came of it.
    fn attempt(&self, fault: Fault, log: &mut dyn Write) -> Result<bool, String> {
        let name = self.scenario.name;
        self.prepare().map_err(|wrong| format!("{name}: {fault}: {wrong}"))?;
        let quiet = self.running_things();
        let traced = self.traced(Some(fault));
        let about = traced.failed.as_ref().map(|seen| format!("{fault} ({})", seen.about));
        let output = &traced.output;
        let verdict = match (&about, output.code) {
            (None, _) => NOT_REACHED.to_owned(),
            (_, 0) => "tolerated".to_owned(),
            _ => errors(&output.stderr),
        };
        let reached = about.is_some();
        let about = about.unwrap_or_else(|| fault.to_string());
        drop(writeln!(log, "{name}: {about}: {verdict}"));
        let judged = self.judge(fault, &traced, &quiet);
        let again = self.recover(output.code);
        judged.and(again).map_err(|wrong| format!("{name}: {about}: {wrong}\n{output:?}"))?;
        Ok(reached)
    }

    /// What of the victim lives, besides its supervisor.
    fn running_things(&self) -> BTreeSet<String> {
        let root = self.stack.root().display().to_string();
        let mut parents = BTreeSet::new();
        let mut found = BTreeSet::new();
        let seen = self.seen();
        loop {
            let before = found.len();
            for item in &seen {
                let words: Vec<&str> = item.split(' ').collect();
                let kept = match words[0] {
                    "process" => {
                        let ours = item.contains(&root) && ["rcompose-shim", "rcompose-init"].contains(&words[2]);
                        let parent = item.split_once("(parent ").and_then(|(_, rest)| rest.split_once(')'));
                        let kept = ours || parent.is_some_and(|(parent, _)| parents.contains(parent));
                        if kept {
                            parents.insert(words[1].to_owned());
                        }
                        kept
                    }
                    "link" => !words[1].starts_with("rc"),
                    // Configs and secrets stay as long as their container does.
                    "mount" => !item.contains("/run/files/"),
                    "cgroup" => true,
                    _ => false,
                };
                if kept {
                    found.insert(item.clone());
                }
            }
            if found.len() == before {
                return found;
            }
        }
    }

    fn judge(&self, fault: Fault, traced: &Traced, quiet: &BTreeSet<String>) -> Result<(), String> {
        let output = &traced.output;
        if traced.hung {
            return Err("it hung".to_owned());
        }
        if !traced.panics.is_empty() && !is_of_the_signal_pipe(fault) {
            return Err(format!("a panic: {:?}", traced.panics));
        }
        if !self.bystander.is_alive() {
            return Err("the other project's container is gone".to_owned());
        }
        if output.code == 0 {
            return self.prove().map_err(|wrong| format!("it said that it had succeeded, and {wrong}"));
        }
        if output.code >= 128 || output.code == 101 {
            return Err(format!("it ended with {}", output.code));
        }
        says_what(&output.stderr, fault, traced.failed.as_ref())?;
        if self.scenario.starts {
            settled("nothing of the run is left", || {
                if self.scenario.name != "exec" && self.state()?.is_some_and(|state| state == "running") {
                    return Ok(());
                }
                let left: Vec<String> = self.running_things().difference(quiet).cloned().collect();
                if left.is_empty() { Ok(()) } else { Err(format!("it left {left:#?}")) }
            })?;
        }
        Ok(())
    }

    fn state(&self) -> Result<Option<String>, String> {
        let output = self.run(&["ps", "-a", "--format", "{{.State}}"]);
        if output.code != 0 {
            return Err(format!("the containers cannot be listed: {output:?}"));
        }
        Ok(output.stdout.lines().next().map(str::to_owned))
    }

    fn prove(&self) -> Result<(), String> {
        let expect = |wanted: Option<&str>| {
            settled("the state", || {
                let state = self.state()?;
                if state.as_deref() == wanted { Ok(()) } else { Err(format!("the container is {state:?}")) }
            })
        };
        match self.scenario.proof {
            Proof::None => Ok(()),
            Proof::Runs => {
                expect(Some("running"))?;
                let output = self.run(&["exec", "-T", "web", "sh", "-c", PROOF]);
                if output.code == 0 { Ok(()) } else { Err(format!("the container lacks something: {output:?}")) }
            }
            // Where it could not be written down, the next check does that.
            Proof::Healthy => settled("it is healthy", || {
                let output = self.run(&["ps", "--format", "{{.Health}}"]);
                if output.text() == "healthy" { Ok(()) } else { Err(format!("{output:?}")) }
            }),
            Proof::Stopped => expect(Some("exited")),
            Proof::Removed => expect(None),
        }
    }

    /// The same again must succeed, and then everything must go away.
    fn recover(&self, code: i32) -> Result<(), String> {
        if code != 0 {
            let output = self.run(self.scenario.command);
            if output.code != 0 {
                return Err(format!("it failed without a fault after this: {output:?}"));
            }
            self.prove().map_err(|wrong| format!("after it was repeated {wrong}"))?;
        }
        let output = self.run(&["down", "-v", "-t", "0", "--remove-orphans"]);
        if output.code != 0 {
            return Err(format!("down failed after this: {output:?}"));
        }
        settled("everything is gone", || {
            let left = self.seen();
            if left.is_empty() { Ok(()) } else { Err(format!("after down there is {left:#?}")) }
        })
    }
}

/// Brings about all faults that are wanted and not in the log yet; returns what was found.
fn try_all(scenario: &'static Scenario, wanted: &Wanted) -> Vec<String> {
    let mut world = World::new(scenario);
    world.prepare().expect("without a fault all is well");
    let plain = world.traced(None);
    assert_eq!(plain.output.code, 0, "{:?}", plain.output);
    world.prove().expect("without a fault all is well");
    world.recover(0).expect("without a fault all is well");
    assert!(!plain.seen.is_empty(), "nothing was seen");
    let mut faults = wanted.of(scenario.name, &plain.seen);
    let mut log: Box<dyn Write> = match env::var_os("RCOMPOSE_FAULTS_LOG") {
        Some(path) => {
            let told = tried(&fs::read_to_string(&path).unwrap_or_default(), scenario.name);
            faults.retain(|fault| !told.contains(&fault.to_string()));
            let file = fs::File::options().create(true).append(true).open(path);
            Box::new(file.expect("the log can be written"))
        }
        None => Box::new(std::io::sink()),
    };
    let (mut reached, mut found) = (0, Vec::new());
    for fault in &faults {
        match world.attempt(*fault, &mut log) {
            Ok(yes) => reached += usize::from(yes),
            Err(wrong) => {
                drop(writeln!(log, "{FOUND}{wrong}"));
                found.push(wrong);
                // What is left of it is to be in nobody's way.
                drop(world);
                world = World::new(scenario);
            }
        }
    }
    println!(
        "{}: {} calls can fail; of {} faults {reached} came about and were borne: {} findings",
        scenario.name,
        plain.seen.len(),
        faults.len(),
        found.len()
    );
    world.stack.finish();
    found
}

/// Whether it may be a read of the runtime's own signal pipe. If that fails otherwise than by the kernel's rules the runtime
/// panics, and another supervisor takes over.
fn is_of_the_signal_pipe(fault: Fault) -> bool {
    fault.place.role == Role::Supervisor && fault.place.call == "recvfrom"
}

/// Returns the errors that a command told.
fn errors(text: &str) -> String {
    text.lines().filter(|line| line.starts_with("error:")).collect::<Vec<_>>().join(" | ")
}

/// Looks again for a while where something is not so yet.
fn settled<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let started = Instant::now();
    loop {
        match look() {
            Ok(seen) => return Ok(seen),
            Err(wrong) if started.elapsed() > Duration::from_secs(10) => {
                return Err(format!("{wrong} (waiting until {what})"));
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn scenario(name: &str) {
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name).expect("it is in the table");
    let found = try_all(scenario, &Wanted::of_environment());
    assert!(found.is_empty(), "{} findings:\n{}", found.len(), found.join("\n\n"));
}

macro_rules! scenarios {
    ($($name:ident $scenario:literal;)*) => {
        $(#[test]
        fn $name() {
            scenario($scenario);
        })*
    };
}

scenarios! {
    faults_while_a_project_is_brought_up "up";
    faults_while_a_container_is_started "start";
    faults_while_a_container_is_restarted "restart";
    faults_while_a_process_is_started "exec";
    faults_while_a_one_off_container_runs "run";
    faults_while_health_is_checked "healthcheck";
    faults_while_a_container_is_stopped "stop";
    faults_while_a_container_is_removed "rm";
    faults_while_a_project_is_taken_down "down";
}
