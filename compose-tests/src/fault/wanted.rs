//! Which faults are tried, and which of them were tried before.

use std::{
    collections::BTreeSet,
    env,
    hash::{DefaultHasher, Hash, Hasher},
};

use nix::errno::Errno;

use super::{Fault, Role, Seen};

/// Which faults are wanted: `RCOMPOSE_FAULTS=all`, `each` (every place, with one of its errors), `SEED:COUNT` (so many of
/// each scenario, by chance), `quick` (a few of the processes with one thread, where a place is the same in each run; without
/// the variable), or one place with its error, such as `Init:setns:0:EPERM`.
#[derive(Debug)]
pub enum Wanted {
    /// Every place with every error.
    All,
    /// Every place with one of its errors.
    Each,
    /// A few of the processes with one thread.
    Quick,
    /// So many, by chance.
    Sample { seed: u64, count: usize },
    /// This one.
    One(Fault),
}

impl Wanted {
    /// Reads the variable; panics if it says nothing that is known.
    pub fn of_environment() -> Wanted {
        let text = env::var("RCOMPOSE_FAULTS").unwrap_or_else(|_| "quick".to_owned());
        match text.as_str() {
            "all" => return Wanted::All,
            "each" => return Wanted::Each,
            "quick" => return Wanted::Quick,
            _ => {}
        }
        if let Some((seed, count)) = text.split_once(':')
            && let (Ok(seed), Ok(count)) = (seed.parse(), count.parse())
        {
            return Wanted::Sample { seed, count };
        }
        let (place, error) = text.rsplit_once(':').expect("RCOMPOSE_FAULTS is `all`, SEED:COUNT or PLACE:ERROR");
        let error = (1..134).map(Errno::from_raw).find(|known| format!("{known:?}") == error);
        let place = place.parse().expect("RCOMPOSE_FAULTS names a place");
        Wanted::One(Fault { place, error: error.expect("RCOMPOSE_FAULTS names an error") })
    }

    /// Returns those of a scenario in which these calls were seen.
    pub fn of(&self, scenario: &str, seen: &[Seen]) -> Vec<Fault> {
        let faults =
            seen.iter().flat_map(|seen| seen.errors.iter().map(|error| Fault { place: seen.place, error: *error }));
        match self {
            Wanted::All => faults.collect(),
            Wanted::Each => {
                let place = |seen: &Seen| {
                    let error = *seen.errors.get(seen.place.number % seen.errors.len().max(1))?;
                    Some(Fault { place: seen.place, error })
                };
                seen.iter().filter_map(place).collect()
            }
            Wanted::One(fault) => vec![*fault],
            Wanted::Quick => {
                let single = |seen: &&Seen| matches!(seen.place.role, Role::Init | Role::Shim);
                let seen: Vec<Seen> = seen.iter().filter(single).cloned().collect();
                Wanted::Sample { seed: 1, count: 4 }.of(scenario, &seen)
            }
            Wanted::Sample { seed, count } => {
                let mut faults: Vec<Fault> = faults.collect();
                faults.sort_by_cached_key(|fault| {
                    let mut hasher = DefaultHasher::new();
                    (seed, scenario, fault.place, fault.error as i32).hash(&mut hasher);
                    hasher.finish()
                });
                faults.truncate(*count);
                faults
            }
        }
    }
}

/// Returns the faults of a scenario that a log tells of, as [`Fault`] is printed: those that were brought about, and of which
/// nothing bad came when they were tried last.
pub fn tried(log: &str, scenario: &str) -> BTreeSet<String> {
    let mut tried = BTreeSet::new();
    for line in log.lines() {
        let found = line.strip_prefix(FOUND);
        let told = found.unwrap_or(line).strip_prefix(scenario).and_then(|rest| rest.strip_prefix(": "));
        let mut words = told.unwrap_or_default().splitn(3, ' ');
        let (Some(place), Some(error)) = (words.next(), words.next()) else { continue };
        let fault = format!("{place} {}", error.trim_end_matches(':'));
        if found.is_some() {
            tried.remove(&fault);
        } else if !line.ends_with(NOT_REACHED) {
            tried.insert(fault);
        }
    }
    tried
}

/// How a line of the log begins that tells of something bad.
pub const FOUND: &str = "FOUND ";

/// What a line says of a call that was not made.
pub const NOT_REACHED: &str = "not reached";

#[test]
fn what_was_tried_is_not_tried_again_unless_it_failed() {
    let log = "up: Init:setns:0 EPERM (5): error: cannot start container p-web-1: cannot enter the network
up: Init:setns:1 ENOMEM: not reached
stop: Init:setns:2 EPERM (5): tolerated
up: Shim:openat:3 EMFILE (/tmp x): tolerated
FOUND up: Shim:openat:3 EMFILE (/tmp x): it left [
    \"process 7\",
up: Shim:openat:4 EMFILE (/tmp y): tolerated
FOUND up: Shim:openat:4 EMFILE (/tmp y): it hung
up: Shim:openat:4 EMFILE (/tmp y): tolerated
";
    let tried: Vec<String> = tried(log, "up").into_iter().collect();
    assert_eq!(tried, ["Init:setns:0 EPERM", "Shim:openat:4 EMFILE"]);
}
