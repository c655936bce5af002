//! Random histories of a project: commands of two shells, deaths of any of our processes, full disks. After every step what
//! runs is what a simple model says, nothing ever started before what it depends on, and `down` leaves nothing.
//!
//! `RCOMPOSE_MODEL=SEED:COUNT` says which histories are run: those of COUNT seeds from SEED on. One that fails is made
//! shorter as long as it fails, and shown with its seed: `RCOMPOSE_MODEL=SEED:1` runs it again.

use std::{collections::BTreeSet, env, fmt, fs, path::PathBuf, thread, time::Duration};

use compose_tests::{census, census::Census, output::Output, stack::Stack, wait};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::signal::Signal,
};
use proptest::{
    prelude::{Just, Strategy, prop_oneof},
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::Value;

/// What every change runs.
const SEED: u64 = 9;
const COUNT: u64 = 3;
/// The longest history.
const STEPS: usize = 12;
/// How often a history that failed is tried to be shortened.
const SHORTEN: u32 = 40;
/// The disk that everything of the project is on.
const DISK: &str = "size=64m";

/// `web` starts when `db` is healthy and `job` has ended well, or leaves a trace of what went wrong. What `db` and `job` did
/// for it stays until the volume goes.
const PROJECT: &str = "services:
  db:
    image: busybox
    command: [sh, -c, 'touch /shared/db || exit 1; exec sleep 1000']
    volumes: ['shared:/shared']
    healthcheck: {test: test -e /shared/db, interval: 1s}
    stop_grace_period: 0s
  job:
    image: busybox
    command: touch /shared/job
    volumes: ['shared:/shared']
  web:
    image: busybox
    command: [sh, -c, 'test -e /shared/db -a -e /shared/job || touch /shared/early; exec sleep 1000']
    volumes: ['shared:/shared']
    depends_on: {db: {condition: service_healthy}, job: {condition: service_completed_successfully}}
    stop_grace_period: 0s
volumes: {shared: }
";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Command {
    Up,
    Scale(u8),
    Stop,
    Start,
    RestartWeb,
    KillWeb,
    Down,
}

impl Command {
    fn arguments(self) -> Vec<String> {
        let words = match self {
            Self::Up => "up -d",
            Self::Scale(count) => return vec!["scale".to_owned(), format!("web={count}")],
            Self::Stop => "stop",
            Self::Start => "start",
            Self::RestartWeb => "restart web",
            Self::KillWeb => "kill web",
            Self::Down => "down -v",
        };
        words.split(' ').map(str::to_owned).collect()
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.arguments().join(" "))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Supervisor,
    /// That of the first container that runs.
    Shim,
    /// All processes of ours.
    All,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Run(Command),
    /// `kill -9` of the command after so many milliseconds.
    CutShort(Command, u64),
    /// From two shells at once.
    Both(Command, Command),
    Kill(Victim),
    /// While the disk is full.
    Full(Command),
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        4 => Just(Command::Up),
        2 => (0_u8..4).prop_map(Command::Scale),
        1 => Just(Command::Stop),
        1 => Just(Command::Start),
        1 => Just(Command::RestartWeb),
        1 => Just(Command::KillWeb),
        2 => Just(Command::Down),
    ]
}

fn history() -> impl Strategy<Value = Vec<Step>> {
    let victim = prop_oneof![Just(Victim::Supervisor), Just(Victim::Shim), Just(Victim::All)];
    let step = prop_oneof![
        6 => command().prop_map(Step::Run),
        2 => (command(), 0_u64..80).prop_map(|(command, pause)| Step::CutShort(command, pause)),
        2 => (command(), command()).prop_map(|(one, other)| Step::Both(one, other)),
        3 => victim.prop_map(Step::Kill),
        1 => command().prop_map(Step::Full),
    ];
    proptest::collection::vec(step, 3..=STEPS)
}

/// What there should be of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Group {
    count: usize,
    running: bool,
}

/// What there should be; `None`: several things are right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Model {
    known: Option<(Group, Group)>,
    /// Whether `web` may have started without what it depends on, as after `restart`, which does not look.
    loose: bool,
}

impl Model {
    const NOTHING: Self =
        Self { known: Some((Group { count: 0, running: false }, Group { count: 0, running: false })), loose: false };

    /// Returns what there is after a command that came to its end.
    fn after(self, command: Command) -> Self {
        let up = |web| Some((Group { count: 1, running: true }, Group { count: web, running: true }));
        let known = match command {
            Command::Up => up(1),
            Command::Scale(count) => up(usize::from(count)),
            Command::Down => return Self::NOTHING,
            Command::Stop => {
                self.known.map(|(db, web)| (Group { running: false, ..db }, Group { running: false, ..web }))
            }
            Command::Start => {
                self.known.map(|(db, web)| (Group { running: true, ..db }, Group { running: true, ..web }))
            }
            Command::RestartWeb => self.known.map(|(db, web)| (db, Group { running: true, ..web })),
            Command::KillWeb => self.known.map(|(db, web)| (db, Group { running: false, ..web })),
        };
        Self { known, loose: self.loose || (command == Command::RestartWeb && self.known.is_none()) }
    }

    /// Returns what there is after commands of which nobody knows how far they came.
    fn disturbed(self, commands: &[Command]) -> Self {
        let careless = |command: &Command| matches!(command, Command::RestartWeb | Command::Down);
        Self { known: None, loose: self.loose || commands.iter().any(careless) }
    }
}

/// Takes the disk away with everything that is on it, last.
struct Disk(PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        // A test that failed may have left something that uses it.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

struct Bench {
    stack: Stack,
    disk: Disk,
    before: Census,
    model: Model,
    /// Every container that was seen.
    containers: BTreeSet<String>,
}

impl Bench {
    fn new() -> Self {
        let stack = Stack::new("model");
        stack.write("compose.yaml", PROJECT);
        fs::create_dir_all(stack.root()).expect("folders can be made");
        // Of this thread and what it starts, so that the disk goes away with them even if they are killed.
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace can be made (tests run as root)");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .expect("mounts can be made private");
        mount(Some("rcompose-model"), &stack.root(), Some("tmpfs"), MsFlags::empty(), Some(DISK))
            .expect("a tmpfs can be mounted");
        let disk = Disk(stack.root());
        stack.run(&["pull", "-q"]).ok();
        let before = stack.census();
        Self { stack, disk, before, model: Model::NOTHING, containers: BTreeSet::new() }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Run(command) => self.run(command),
            Step::CutShort(command, pause) => {
                let running = self.stack.spawn(&command.arguments());
                // Not always at the same point of its work.
                thread::sleep(Duration::from_millis(pause));
                running.signal(Signal::SIGKILL);
                Self::said(&running.wait());
                self.model = self.model.disturbed(&[command]);
            }
            Step::Both(one, other) => {
                let both = [one, other].map(|command| self.stack.spawn(&command.arguments()));
                for running in both {
                    Self::said(&running.wait());
                }
                self.model = self.model.disturbed(&[one, other]);
            }
            Step::Kill(victim) => self.kill(victim),
            Step::Full(command) => {
                let filler = self.stack.root().join("filler");
                // The end of it is the error that it is about.
                let full = fs::write(&filler, vec![0; 64 << 20]).expect_err("the disk is smaller");
                assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
                let output = self.stack.run(&command.arguments());
                fs::remove_file(&filler).expect("what was written can be removed");
                Self::said(&output);
                self.model = self.model.disturbed(&[command]);
            }
        }
        self.check(step);
    }

    /// Runs a command to its end. After a disturbance, what was begun before may still be under way.
    fn run(&mut self, command: Command) {
        let run = || self.stack.run(&command.arguments());
        let nothing = matches!(self.model.known, Some((db, _)) if db.count == 0);
        let output = match command {
            Command::Up | Command::Scale(_) | Command::Down if self.model.known.is_none() => {
                wait::until(wait::PATIENCE, &format!("{command:?} after a disturbance"), || {
                    let output = run();
                    if output.code == 0 { Ok(output) } else { Err(output) }
                })
            }
            // What is not there is an error, or is not.
            Command::Start | Command::RestartWeb | Command::KillWeb if nothing || self.model.known.is_none() => run(),
            Command::KillWeb if self.model.known.is_some_and(|(_, web)| !web.running || web.count == 0) => run(),
            Command::RestartWeb if self.model.known.is_some_and(|(_, web)| web.count == 0) => run(),
            _ => run().ok(),
        };
        Self::said(&output);
        self.model = self.model.after(command);
        if command == Command::Down {
            self.assert_nothing_left(&output);
        }
    }

    fn said(output: &Output) {
        assert!(!output.stderr.contains("panicked"), "{output:?}");
    }

    fn kill(&self, victim: Victim) {
        let processes = self.stack.own_processes();
        let shim = || processes.iter().find(|process| process.name == "rcompose-shim");
        let supervisor = || {
            let others = ["rcompose-shim", "rcompose-launch", "rcompose-init"];
            processes.iter().find(|process| !others.contains(&&*process.name))
        };
        let victims = match victim {
            Victim::All => processes.iter().collect::<Vec<_>>(),
            Victim::Shim => shim().into_iter().collect(),
            Victim::Supervisor => supervisor().into_iter().collect(),
        };
        for process in victims {
            process.signal(Signal::SIGKILL);
        }
    }

    /// Compares what there is with the model.
    fn check(&mut self, step: Step) {
        self.containers.extend(census::container_ids(&self.stack.root()));
        let wanted = self.model.known;
        let all = wait::until(wait::PATIENCE, &format!("{wanted:?} after {step:?}"), || {
            let all = self.stack.containers();
            let group = |service: &str| {
                let own = all.iter().filter(|container| container["Service"] == service);
                let states = own.map(|container| container["State"] == "running").collect::<Vec<_>>();
                (states.len(), states)
            };
            let fits = |service: &str, group_wanted: Group| {
                let (count, states) = group(service);
                count == group_wanted.count && states.iter().all(|running| *running == group_wanted.running)
            };
            let right = wanted.is_none_or(|(db, web)| fits("db", db) && fits("web", web));
            if right { Ok(all) } else { Err(all) }
        });
        let names = all.iter().map(|container| container["Name"].as_str().unwrap_or_default()).collect::<BTreeSet<_>>();
        assert_eq!(names.len(), all.len(), "{all:#?}");
        let count = |service: &str| all.iter().filter(|container: &&Value| container["Service"] == service).count();
        assert!(count("db") <= 1 && count("job") <= 1 && count("web") <= 3, "{all:#?}");
        let volume = self.stack.root().join(format!("lib/volumes/{}_shared/_data/early", self.stack.project));
        assert!(self.model.loose || !volume.exists(), "web started before what it depends on, in {step:?}");
    }

    fn assert_nothing_left(&self, down: &Output) {
        wait::until(wait::PATIENCE, "everything to be gone", || {
            let left = self.stack.census_of(&self.containers).beyond(&self.before);
            if left.is_empty() { Ok(()) } else { Err((left, down)) }
        });
    }

    fn finish(mut self) {
        self.run(Command::Down);
        let Self { stack, disk, containers, .. } = self;
        drop(disk);
        stack.finish_without_down(&containers);
    }
}

/// Runs a history; returns what went wrong.
fn run(steps: &[Step]) -> Result<(), String> {
    let steps = steps.to_vec();
    // A thread of its own, since the stack puts its thread into another network namespace.
    let history = thread::spawn(move || {
        let mut bench = Bench::new();
        for step in steps {
            bench.step(step);
        }
        bench.finish();
    });
    history.join().map_err(|panic| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(_) => "it panicked".to_owned(),
    })
}

fn wanted() -> (u64, u64) {
    let Ok(text) = env::var("RCOMPOSE_MODEL") else { return (SEED, COUNT) };
    let parsed = text.split_once(':').and_then(|(seed, count)| Some((seed.parse().ok()?, count.parse().ok()?)));
    parsed.expect("RCOMPOSE_MODEL is SEED:COUNT")
}

#[test]
fn what_runs_is_what_the_model_says() {
    let (first, count) = wanted();
    for seed in first..first + count {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let mut tree = history().new_tree(&mut runner).expect("nothing of it is ever rejected");
        println!("seed {seed}: {:?}", tree.current());
        let Err(mut failure) = run(&tree.current()) else { continue };
        let mut shortest = tree.current();
        println!("seed {seed} failed: {failure}");
        for _ in 0..SHORTEN {
            if !tree.simplify() {
                break;
            }
            match run(&tree.current()) {
                Err(text) => (failure, shortest) = (text, tree.current()),
                Ok(()) if tree.complicate() => {}
                Ok(()) => break,
            }
        }
        panic!("RCOMPOSE_MODEL={seed}:1 fails; as short as it could be made: {shortest:?}\n{failure}");
    }
}
