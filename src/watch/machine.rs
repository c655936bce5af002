//! What is to be done for one service, and when: a state machine that knows neither files nor containers.
//!
//! It is told what changed and what became of what it asked for, and answers with what is to be done next. A change is kept
//! until every container has it. A container that is new gets everything that was changed since watching began; one that is
//! away gets what it missed. What runs a service anew (a rebuild, a restart) comes one at a time, and after the files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::compose::model::WatchAction;

/// A path that a rule brings into containers, as it is at that moment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item {
    /// The rule, by number.
    pub rule: usize,
    pub path: PathBuf,
}

/// Where a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It runs, and has so since then.
    Running { since: Option<jiff::Timestamp> },
    /// It does not run, and nothing starts it by itself.
    Stopped,
    /// It is about to be started again.
    Away,
}

/// Why files are brought into a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// They have just changed.
    Changed,
    /// It is new, and may have older ones.
    Missed,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command<K> {
    /// Bring these files into this container. Answered by [`Machine::synced`].
    Sync { container: K, items: BTreeSet<Item>, reason: Reason },
    /// Something for the service as a whole. Answered by [`Machine::done`].
    Work(Work),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Build its image, and make its containers anew.
    Rebuild,
    Restart,
    /// Execute the commands of these rules in its containers.
    Exec(BTreeSet<usize>),
}

/// What became of bringing files into a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Synced {
    /// Rules of which something was not there yet.
    Done { wrote: BTreeSet<usize> },
    /// It has ended meanwhile.
    Away,
    /// It cannot be done, and would not be the next time.
    Failed,
}

/// What follows when the files are where they are to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Wanted {
    rebuild: bool,
    restart: bool,
    exec: BTreeSet<usize>,
}

/// What a rule does.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    pub action: WatchAction,
    /// What it brings into a container is gone when that starts again.
    pub volatile: bool,
}

/// One service; `K` names its containers.
#[derive(Debug)]
pub struct Machine<K> {
    /// The rules of the service, by number.
    rules: BTreeMap<usize, Kind>,
    containers: BTreeMap<K, Member>,
    /// Everything that was to be in containers since watching began.
    edited: BTreeSet<Item>,
    wanted: Wanted,
    /// What is under way, and what it has taken the place of.
    work: Option<(Work, Wanted)>,
}

#[derive(Debug)]
struct Member {
    presence: Presence,
    changed: BTreeSet<Item>,
    missed: BTreeSet<Item>,
    syncing: Option<(BTreeSet<Item>, Reason)>,
}

impl Member {
    fn new(presence: Presence, missed: BTreeSet<Item>) -> Self {
        Self { presence, changed: BTreeSet::new(), missed, syncing: None }
    }

    fn has_everything(&self) -> bool {
        self.changed.is_empty() && self.missed.is_empty() && self.syncing.is_none()
    }

    fn pending(&mut self, reason: Reason) -> &mut BTreeSet<Item> {
        match reason {
            Reason::Changed => &mut self.changed,
            Reason::Missed => &mut self.missed,
        }
    }

    /// Returns what is to be brought next, and why.
    fn take(&mut self) -> Option<(BTreeSet<Item>, Reason)> {
        let reason = if self.missed.is_empty() { Reason::Changed } else { Reason::Missed };
        let items = std::mem::take(self.pending(reason));
        if items.is_empty() || self.syncing.is_some() {
            self.pending(reason).extend(items);
            return None;
        }
        self.syncing = Some((items.clone(), reason));
        Some((items, reason))
    }
}

impl<K: Ord + Clone> Machine<K> {
    pub fn new(rules: BTreeMap<usize, Kind>) -> Self {
        Self { rules, containers: BTreeMap::new(), edited: BTreeSet::new(), wanted: Wanted::default(), work: None }
    }

    /// Files are to be in all containers from the beginning; nothing else follows from that.
    pub fn initial(&mut self, items: impl IntoIterator<Item = Item>) -> Vec<Command<K>> {
        for item in items {
            self.add(item);
        }
        self.next()
    }

    /// Files have changed: each with the rule that it concerns.
    pub fn changed(&mut self, items: impl IntoIterator<Item = Item>) -> Vec<Command<K>> {
        for item in items {
            self.want(item.rule);
            if self.rules.get(&item.rule).is_some_and(|rule| rule.action.syncs()) {
                self.add(item);
            }
        }
        self.next()
    }

    /// These are the containers now, and where they are.
    pub fn observed(&mut self, containers: BTreeMap<K, Presence>) -> Vec<Command<K>> {
        self.containers.retain(|known, _| containers.contains_key(known));
        for (name, presence) in containers {
            let Some(member) = self.containers.get_mut(&name) else {
                self.containers.insert(name, Member::new(presence, self.edited.clone()));
                continue;
            };
            let before = std::mem::replace(&mut member.presence, presence);
            if matches!(presence, Presence::Running { .. }) && before != presence {
                let is_lost = |item: &&Item| self.rules.get(&item.rule).is_some_and(|rule| rule.volatile);
                member.changed.extend(self.edited.iter().filter(is_lost).cloned());
            }
        }
        self.next()
    }

    /// A [`Command::Sync`] is over.
    pub fn synced(&mut self, container: &K, outcome: &Synced) -> Vec<Command<K>> {
        let Some(member) = self.containers.get_mut(container) else { return Vec::new() };
        let Some((items, reason)) = member.syncing.take() else { return Vec::new() };
        match outcome {
            Synced::Done { wrote } if reason == Reason::Missed => {
                for rule in wrote {
                    self.want(*rule);
                }
            }
            Synced::Done { .. } | Synced::Failed => {}
            Synced::Away => {
                member.presence = Presence::Away;
                member.pending(reason).extend(items);
            }
        }
        self.next()
    }

    /// The [`Command::Work`] is over; whether it succeeded.
    pub fn done(&mut self, succeeded: bool) -> Vec<Command<K>> {
        if let Some((_, instead)) = self.work.take()
            && !succeeded
        {
            self.wanted.restart |= instead.restart;
        }
        self.next()
    }

    fn add(&mut self, item: Item) {
        for member in self.containers.values_mut() {
            // It is among what is new for it anyway.
            if !member.missed.contains(&item) {
                member.changed.insert(item.clone());
            }
        }
        self.edited.insert(item);
    }

    fn want(&mut self, rule: usize) {
        match self.rules.get(&rule).map(|rule| rule.action) {
            Some(WatchAction::Rebuild) => self.wanted.rebuild = true,
            Some(WatchAction::Restart | WatchAction::SyncRestart) => self.wanted.restart = true,
            Some(WatchAction::SyncExec) => _ = self.wanted.exec.insert(rule),
            Some(WatchAction::Sync) | None => {}
        }
    }

    fn next(&mut self) -> Vec<Command<K>> {
        let mut commands = Vec::new();
        let restarts = matches!(self.work, Some((Work::Restart, _)));
        // What does not run gets its files before it is started, and not while somebody may start it.
        let prepares = self.wanted.restart && self.work.is_none();
        for (name, member) in &mut self.containers {
            let is_reachable = match member.presence {
                Presence::Running { .. } => !restarts,
                Presence::Stopped => prepares,
                Presence::Away => false,
            };
            if is_reachable && let Some((items, reason)) = member.take() {
                commands.push(Command::Sync { container: name.clone(), items, reason });
            }
        }
        if self.work.is_none()
            && let Some((work, instead)) = self.next_work()
        {
            commands.push(Command::Work(work.clone()));
            self.work = Some((work, instead));
        }
        commands
    }

    fn next_work(&mut self) -> Option<(Work, Wanted)> {
        let nothing = Wanted::default();
        if std::mem::take(&mut self.wanted.rebuild) {
            // What is made anew is started anew.
            let restart = std::mem::take(&mut self.wanted.restart);
            return Some((Work::Rebuild, Wanted { restart, ..nothing }));
        }
        let counts = |member: &&Member| member.presence != Presence::Stopped || self.wanted.restart;
        if !self.containers.values().filter(counts).all(Member::has_everything) {
            return None;
        }
        if std::mem::take(&mut self.wanted.restart) {
            return Some((Work::Restart, nothing));
        }
        let exec = std::mem::take(&mut self.wanted.exec);
        if exec.is_empty() { None } else { Some((Work::Exec(exec), nothing)) }
    }
}

#[cfg(test)]
mod tests;
