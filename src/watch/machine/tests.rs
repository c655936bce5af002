//! A model of files, an image and containers, in which everything happens in any order.

use proptest::prelude::*;

use super::*;

/// The rules: file 0 is synced, 1 synced and restarts, 2 rebuilds, 3 is synced and executes, 4 restarts.
const ACTIONS: [WatchAction; 5] =
    [WatchAction::Sync, WatchAction::SyncRestart, WatchAction::Rebuild, WatchAction::SyncExec, WatchAction::Restart];

type Files = [u32; ACTIONS.len()];

fn machine() -> Machine<u32> {
    let kind = |action| Kind { action, volatile: false };
    Machine::new(ACTIONS.into_iter().map(kind).enumerate().collect())
}

fn item(rule: usize) -> Item {
    Item { rule, path: PathBuf::from(rule.to_string()) }
}

fn presence(run: i64) -> Presence {
    Presence::Running { since: Some(jiff::Timestamp::new(run, 0).unwrap()) }
}

#[derive(Debug, Clone)]
struct Container {
    files: Files,
    /// The files as they were when its process was started.
    started_with: Files,
    /// The files as they were when a command was executed.
    executed_with: Files,
    presence: Presence,
}

#[derive(Debug, Clone)]
enum Step {
    Edit(usize),
    /// The nth thing under way comes to its end.
    Finish(usize, bool),
    /// The nth container ends; whether it comes back by itself.
    End(usize, bool),
    /// Those who come back by themselves do so.
    Return,
    /// The user starts what is stopped.
    Start,
    /// The user makes a container anew, of the image.
    Recreate(usize),
    /// One container more, or one less.
    Scale(bool),
}

/// Something under way, with the files as they were when it began to read them.
#[derive(Debug, Clone)]
enum Task {
    Sync { container: u32, items: BTreeSet<Item>, run: Presence, read: Files },
    Work { work: Work, read: Files },
}

#[derive(Debug)]
struct World {
    machine: Machine<u32>,
    host: Files,
    image: Files,
    containers: BTreeMap<u32, Container>,
    tasks: Vec<Task>,
    next: u32,
    runs: i64,
    edits: usize,
    made: usize,
    restarts: usize,
    rebuilds: usize,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            machine: machine(),
            host: [0; ACTIONS.len()],
            image: [0; ACTIONS.len()],
            containers: BTreeMap::new(),
            tasks: Vec::new(),
            next: 0,
            runs: 0,
            edits: 0,
            made: 0,
            restarts: 0,
            rebuilds: 0,
        };
        world.make();
        world.make();
        world.observe();
        world.made = 0;
        world
    }

    fn run(&mut self) -> Presence {
        self.runs += 1;
        presence(self.runs)
    }

    fn make(&mut self) {
        let presence = self.run();
        let container = Container { files: self.image, started_with: self.image, executed_with: self.image, presence };
        self.containers.insert(self.next, container);
        self.next += 1;
        self.made += 1;
    }

    fn start(&mut self, name: u32) {
        let presence = self.run();
        let container = self.containers.get_mut(&name).unwrap();
        container.presence = presence;
        container.started_with = container.files;
    }

    fn observe(&mut self) {
        let seen = self.containers.iter().map(|(name, container)| (*name, container.presence)).collect();
        let commands = self.machine.observed(seen);
        self.begin(commands);
    }

    fn begin(&mut self, commands: Vec<Command<u32>>) {
        for command in commands {
            let read = self.host;
            self.tasks.push(match command {
                Command::Sync { container, items, .. } => {
                    let busy = |task: &Task| matches!(task, Task::Sync { container: other, .. } if *other == container);
                    assert!(!self.tasks.iter().any(busy), "one at a time for each container");
                    let run = self.containers.get(&container).map_or(Presence::Away, |there| there.presence);
                    Task::Sync { container, items, run, read }
                }
                Command::Work(work) => {
                    assert!(!self.tasks.iter().any(|task| matches!(task, Task::Work { .. })), "one work at a time");
                    Task::Work { work, read }
                }
            });
        }
    }

    fn finish(&mut self, number: usize, succeeds: bool) {
        if self.tasks.is_empty() {
            return;
        }
        match self.tasks.remove(number % self.tasks.len()) {
            Task::Sync { container, items, run, read } => {
                let outcome = match self.containers.get_mut(&container).filter(|there| there.presence == run) {
                    None => Synced::Away,
                    Some(there) => {
                        let mut wrote = BTreeSet::new();
                        for item in items {
                            if there.files[item.rule] != read[item.rule] {
                                there.files[item.rule] = read[item.rule];
                                wrote.insert(item.rule);
                            }
                        }
                        Synced::Done { wrote }
                    }
                };
                let commands = self.machine.synced(&container, &outcome);
                self.begin(commands);
                self.observe();
            }
            Task::Work { work, read } => {
                match work {
                    Work::Rebuild => {
                        self.rebuilds += 1;
                        if succeeds {
                            self.image = read;
                            let count = self.containers.len();
                            self.containers.clear();
                            (0..count).for_each(|_| self.make());
                        }
                    }
                    Work::Restart => {
                        self.restarts += 1;
                        let names = self.containers.keys().copied().collect::<Vec<_>>();
                        for name in names {
                            self.start(name);
                        }
                    }
                    Work::Exec(_) => {
                        for container in self.containers.values_mut() {
                            container.executed_with = container.files;
                        }
                    }
                }
                // Only a build fails for reasons of its own.
                let succeeded = succeeds || !matches!(work, Work::Rebuild);
                self.observe();
                let commands = self.machine.done(succeeded);
                self.begin(commands);
            }
        }
    }

    fn step(&mut self, step: &Step) {
        let nth = |number: usize, world: &Self| {
            let count = world.containers.len().max(1);
            world.containers.keys().nth(number % count).copied()
        };
        match *step {
            Step::Edit(file) => {
                self.edits += 1;
                self.host[file] += 1;
                let commands = self.machine.changed([item(file)]);
                self.begin(commands);
            }
            Step::Finish(number, succeeds) => self.finish(number, succeeds),
            Step::End(number, returns) => {
                if let Some(name) = nth(number, self) {
                    let presence = if returns { Presence::Away } else { Presence::Stopped };
                    self.containers.get_mut(&name).unwrap().presence = presence;
                    self.observe();
                }
            }
            Step::Return => self.start_all(Presence::Away),
            Step::Start => self.start_all(Presence::Stopped),
            Step::Recreate(number) => {
                if let Some(name) = nth(number, self) {
                    self.containers.remove(&name);
                    self.make();
                    self.observe();
                }
            }
            Step::Scale(true) => {
                self.make();
                self.observe();
            }
            Step::Scale(false) => {
                if let Some(name) = nth(0, self) {
                    self.containers.remove(&name);
                    self.observe();
                }
            }
        }
    }

    fn start_all(&mut self, of: Presence) {
        let names = self.containers.iter().filter(|(_, container)| container.presence == of);
        let names = names.map(|(name, _)| *name).collect::<Vec<_>>();
        for name in names {
            self.start(name);
            self.observe();
        }
    }

    /// Lets everything come to its end.
    fn settle(&mut self) {
        for _ in 0..1000 {
            self.start_all(Presence::Away);
            self.start_all(Presence::Stopped);
            if self.tasks.is_empty() {
                return;
            }
            self.finish(0, true);
        }
        panic!("it goes on for ever: {self:#?}");
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..ACTIONS.len()).prop_map(Step::Edit),
        5 => (0..4_usize, prop::bool::weighted(0.8)).prop_map(|(number, succeeds)| Step::Finish(number, succeeds)),
        1 => (0..3_usize, any::<bool>()).prop_map(|(number, returns)| Step::End(number, returns)),
        1 => Just(Step::Return),
        1 => Just(Step::Start),
        1 => (0..3_usize).prop_map(Step::Recreate),
        1 => any::<bool>().prop_map(Step::Scale),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn nothing_is_lost_and_nothing_done_twice(steps in prop::collection::vec(step(), 0..60)) {
        let mut world = World::new();
        let mut failed = false;
        let mut rebuilds_wanted = 0;
        for step in &steps {
            failed |= matches!(step, Step::Finish(_, false));
            rebuilds_wanted += usize::from(matches!(step, Step::Edit(2)));
            world.step(step);
        }
        world.settle();
        for container in world.containers.values() {
            for synced in [0, 1, 3] {
                prop_assert_eq!(container.files[synced], world.host[synced], "file {} of {:#?}", synced, &world);
            }
            prop_assert_eq!(container.started_with[1], world.host[1], "what it was started with, of {:#?}", &world);
        }
        // A build that failed is tried again with the next change.
        prop_assert!(failed || world.image[2] == world.host[2], "{:#?}", &world);
        prop_assert!(world.rebuilds <= rebuilds_wanted);
        prop_assert!(world.restarts <= world.edits + world.made + 1, "{:#?}", &world);
    }
}

fn syncs(commands: &[Command<u32>]) -> Vec<(u32, usize)> {
    let sync = |command: &Command<u32>| match command {
        Command::Sync { container, items, .. } => Some((*container, items.len())),
        Command::Work(_) => None,
    };
    commands.iter().filter_map(sync).collect()
}

fn running(names: &[u32]) -> BTreeMap<u32, Presence> {
    names.iter().map(|name| (*name, presence(1))).collect()
}

const WROTE: Synced = Synced::Done { wrote: BTreeSet::new() };

#[test]
fn a_restart_comes_once_after_all_files() {
    let mut machine = machine();
    machine.observed(running(&[1, 2]));
    let commands = machine.changed([item(0), item(1)]);
    assert_eq!(syncs(&commands), [(1, 2), (2, 2)]);
    assert_eq!(machine.synced(&1, &WROTE), []);
    assert_eq!(machine.synced(&2, &WROTE), [Command::Work(Work::Restart)]);
    // What changes meanwhile waits for the containers to be back.
    assert_eq!(machine.changed([item(1)]), []);
    assert_eq!(syncs(&machine.done(true)), [(1, 1), (2, 1)]);
}

#[test]
fn a_failed_build_does_not_swallow_a_restart() {
    let mut machine = machine();
    machine.observed(running(&[1]));
    assert_eq!(machine.changed([item(2), item(4)]), [Command::Work(Work::Rebuild)]);
    assert_eq!(machine.done(false), [Command::Work(Work::Restart)]);
    assert_eq!(machine.done(true), []);
}

#[test]
fn what_does_not_run_gets_its_files_before_it_is_started() {
    let mut machine = machine();
    machine.observed([(1, Presence::Stopped)].into());
    assert_eq!(machine.changed([item(0)]), []);
    assert_eq!(syncs(&machine.changed([item(1)])), [(1, 2)]);
    assert_eq!(machine.synced(&1, &WROTE), [Command::Work(Work::Restart)]);
}

#[test]
fn a_new_container_gets_what_was_edited_and_nothing_follows_if_it_has_it() {
    let mut machine = machine();
    machine.observed(running(&[1]));
    machine.changed([item(1)]);
    machine.synced(&1, &WROTE);
    machine.done(true);
    assert_eq!(syncs(&machine.observed(running(&[1, 2]))), [(2, 1)]);
    assert_eq!(machine.synced(&2, &WROTE), []);
    assert_eq!(syncs(&machine.observed(running(&[1, 3]))), [(3, 1)]);
    let wrote = Synced::Done { wrote: [1].into() };
    assert_eq!(machine.synced(&3, &wrote), [Command::Work(Work::Restart)]);
}

#[test]
fn what_is_in_memory_comes_again_with_each_run() {
    let kind = Kind { action: WatchAction::Sync, volatile: true };
    let mut machine = Machine::new([(0, kind)].into());
    machine.observed(running(&[1]));
    machine.changed([item(0)]);
    machine.synced(&1, &WROTE);
    assert_eq!(machine.observed(running(&[1])), []);
    assert_eq!(syncs(&machine.observed([(1, presence(2))].into())), [(1, 1)]);
}
