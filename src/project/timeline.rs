//! What an `up` did when: each step with its cause and what it came after, the chain that made it take as long as it took, and
//! the form that Chrome and Perfetto show.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;
use petgraph::graph::NodeIndex;
use rcompose_engine::container::store::Container;
use rcompose_engine::root::Root;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::labels::Labelled as _;
use super::observe::Observed;
use super::plan::Plan;
use super::plan::document::{Document, Entry, Facts, Kind, Verb, Why};
use crate::ui::plan::sentence;

/// Steps in the order in which they were planned; the numbers in `after` count from the first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    pub project: String,
    pub steps: Vec<Timed>,
}

/// A step that was carried out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timed {
    #[serde(flatten)]
    pub step: Entry,
    /// `None`: it was never begun.
    pub begun: Option<Timestamp>,
    /// `None`: it did not come to its end.
    pub ended: Option<Timestamp>,
}

impl Timed {
    /// Returns how long it took, in microseconds.
    pub fn took(&self) -> i64 {
        match (self.begun, self.ended) {
            (Some(begun), Some(ended)) => ended.as_microsecond() - begun.as_microsecond(),
            _ => 0,
        }
    }
}

/// Where steps are noted while they are carried out. Clones note in the same place.
#[derive(Debug, Clone, Default)]
pub struct Recorder {
    timeline: Arc<Mutex<Timeline>>,
}

/// The steps of one plan in a recorder.
#[derive(Debug, Default)]
pub struct Recording {
    recorder: Option<Recorder>,
    /// The place of each of the plan's steps.
    places: Vec<usize>,
}

impl Recorder {
    fn lock(&self) -> MutexGuard<'_, Timeline> {
        self.timeline.lock().expect("no holder of this lock panics")
    }

    /// Begins to note the steps of a plan, behind those of the ones before, which are over.
    pub fn record(&self, plan: &Plan, project: &str) -> Recording {
        let observed = Observed::default();
        let facts = Facts { observed: &observed, place: &|_| None, written: &|_| 0 };
        let document = Document::of(plan, project, &[], &facts);
        let mut timeline = self.lock();
        project.clone_into(&mut timeline.project);
        let first = timeline.steps.len();
        let mut places = vec![0; plan.steps.node_count()];
        for (n, step) in plan.order().into_iter().enumerate() {
            places[step.index()] = first + n;
        }
        for mut step in document.steps {
            step.id += first;
            step.after.iter_mut().for_each(|earlier| *earlier += first);
            if step.after.is_empty() {
                step.after = (0..first).collect();
            }
            timeline.steps.push(Timed { step, begun: None, ended: None });
        }
        Recording { recorder: Some(self.clone()), places }
    }

    /// Notes what was done since then, before anything was planned.
    pub fn fetched(&self, begun: Timestamp) {
        let cause = Why {
            reason: "missing".to_owned(),
            text: "they are not there yet, or may be others now".to_owned(),
            place: None,
            changes: Vec::new(),
        };
        let mut timeline = self.lock();
        let step = Entry {
            id: timeline.steps.len(),
            action: Verb::Pull,
            kind: Kind::Image,
            name: "of the services".to_owned(),
            service: None,
            hash: None,
            cause,
            loses: Vec::new(),
            interrupts: false,
            rolling: None,
            after: Vec::new(),
        };
        timeline.steps.push(Timed { step, begun: Some(begun), ended: Some(Timestamp::now()) });
    }

    /// Returns what was noted; `containers` tell which service a step was about.
    pub fn timeline(&self, containers: &[Container]) -> Timeline {
        let mut timeline = self.lock().clone();
        let services = containers.iter().map(|container| (container.config.name.as_str(), container.service()));
        let services = services.collect::<BTreeMap<_, _>>();
        for timed in timeline.steps.iter_mut().filter(|timed| timed.step.service.is_none()) {
            timed.step.service = services.get(timed.step.name.as_str()).map(|service| (*service).to_owned());
        }
        timeline
    }
}

impl Recording {
    pub fn begin(&self, step: NodeIndex) {
        self.note(step, |timed, now| timed.begun = Some(now));
    }

    pub fn end(&self, step: NodeIndex) {
        self.note(step, |timed, now| timed.ended = Some(now));
    }

    fn note(&self, step: NodeIndex, note: impl FnOnce(&mut Timed, Timestamp)) {
        if let Some(recorder) = &self.recorder {
            note(&mut recorder.lock().steps[self.places[step.index()]], Timestamp::now());
        }
    }
}

impl Timeline {
    /// Keeps the timeline as the project's last one, as long as its supervisor lives: nobody asks for it later.
    pub fn keep(&self, root: &Root) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        match fs::write(place(root, &self.project), text) {
            // Nothing of the project runs any more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Returns the project's last timeline, if one was kept.
    pub fn last(root: &Root, project: &str) -> io::Result<Option<Self>> {
        match fs::read(place(root, project)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns how long everything took, in microseconds.
    pub fn took(&self) -> i64 {
        let begun = self.steps.iter().filter_map(|timed| timed.begun).min();
        let ended = self.steps.iter().filter_map(|timed| timed.ended).max();
        begun.zip(ended).map_or(0, |(begun, ended)| ended.as_microsecond() - begun.as_microsecond())
    }

    /// Returns the steps of which each waited for the one before, up to the one that ended last: without them it would have
    /// been over sooner.
    pub fn critical_path(&self) -> Vec<&Timed> {
        let ended = |timed: &&Timed| timed.ended;
        let mut path = Vec::new();
        let mut next = self.steps.iter().filter(|timed| timed.ended.is_some()).max_by_key(ended);
        while let Some(timed) = next {
            path.push(timed);
            let earlier = timed.step.after.iter().filter_map(|id| self.steps.get(*id));
            next = earlier.filter(|timed| timed.ended.is_some()).max_by_key(ended);
        }
        path.reverse();
        path
    }

    /// Returns the timeline as Chrome's trace event format has it: a row for each service, and arrows from each step to those
    /// that waited for it.
    pub fn chrome(&self) -> Json {
        let Some(start) = self.steps.iter().filter_map(|timed| timed.begun).min() else {
            return json!({ "traceEvents": [] });
        };
        let since = |time: Timestamp| time.as_microsecond() - start.as_microsecond();
        let rows = self.rows();
        let mut events = vec![json!({
            "ph": "M", "name": "process_name", "pid": 1, "args": { "name": format!("rcompose up of {}", self.project) }
        })];
        let mut named = BTreeMap::new();
        for (row, lane) in rows.values() {
            let count = named.len();
            named.entry((row.clone(), *lane)).or_insert(count);
        }
        for (tid, ((row, lane), number)) in named.iter_mut().enumerate() {
            *number = tid + 1;
            let name = if *lane == 0 { row.clone() } else { format!("{row} ({})", lane + 1) };
            events
                .push(json!({ "ph": "M", "name": "thread_name", "pid": 1, "tid": *number, "args": { "name": name } }));
        }
        for timed in &self.steps {
            let (Some(row), Some(begun)) = (rows.get(&timed.step.id), timed.begun) else { continue };
            let tid = named[row];
            events.push(json!({
                "ph": "X", "name": sentence(&timed.step), "cat": timed.step.kind.word(), "pid": 1, "tid": tid,
                "ts": since(begun), "dur": timed.took(),
                "args": { "cause": timed.step.cause.text, "step": timed.step.id, "after": timed.step.after },
            }));
            for earlier in timed.step.after.iter().filter_map(|id| self.steps.get(*id)) {
                let (Some(from), Some(ended)) = (rows.get(&earlier.step.id), earlier.ended) else { continue };
                let id = earlier.step.id * self.steps.len() + timed.step.id;
                let arrow = json!({ "name": "after", "cat": "after", "pid": 1, "id": id });
                for (phase, tid, time) in [("s", named[from], ended), ("f", tid, begun)] {
                    let mut event = arrow.clone();
                    event["ph"] = phase.into();
                    event["tid"] = tid.into();
                    event["ts"] = since(time).into();
                    event["bp"] = "e".into();
                    events.push(event);
                }
            }
        }
        json!({ "traceEvents": events, "displayTimeUnit": "ms" })
    }

    /// Returns the row and the lane in it of each step that was begun: steps that overlap are in different lanes.
    fn rows(&self) -> BTreeMap<usize, (String, usize)> {
        let mut rows = BTreeMap::new();
        let mut busy = BTreeMap::<String, Vec<Timestamp>>::new();
        let mut steps = self.steps.iter().filter(|timed| timed.step.action != Verb::Join).collect::<Vec<_>>();
        steps.sort_by_key(|timed| timed.begun);
        for timed in steps {
            let (Some(begun), ended) = (timed.begun, timed.ended) else { continue };
            let row = timed.step.service.clone().unwrap_or_else(|| "project".to_owned());
            let lanes = busy.entry(row.clone()).or_default();
            let lane = lanes.iter().position(|until| *until <= begun).unwrap_or(lanes.len());
            lanes.resize(lanes.len().max(lane + 1), begun);
            lanes[lane] = ended.unwrap_or(begun);
            rows.insert(timed.step.id, (row, lane));
        }
        rows
    }
}

fn place(root: &Root, project: &str) -> PathBuf {
    root.project_run(project).join("timeline.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(id: usize, service: &str, action: Verb, after: &[usize], times: (i64, i64)) -> Timed {
        let at = |time| Timestamp::from_microsecond(time).ok();
        let cause = Why { reason: "missing".into(), text: "it is new".into(), place: None, changes: Vec::new() };
        let (kind, after) = (Kind::Container, after.to_vec());
        let (name, service) = (format!("p-{service}-1"), Some(service.to_owned()));
        let (loses, interrupts, rolling) = (Vec::new(), false, None);
        let step = Entry { id, action, kind, name, service, hash: None, cause, loses, interrupts, rolling, after };
        Timed { step, begun: at(times.0), ended: at(times.1) }
    }

    fn timeline() -> Timeline {
        let steps = vec![
            step(0, "db", Verb::Start, &[], (0, 10)),
            step(1, "cache", Verb::Start, &[], (0, 30)),
            step(2, "db", Verb::WaitUntilHealthy, &[0], (10, 1910)),
            step(3, "web", Verb::Start, &[1, 2], (1910, 1950)),
        ];
        Timeline { project: "p".into(), steps }
    }

    #[test]
    fn the_critical_path_is_what_each_step_waited_for() {
        let timeline = timeline();
        let path = timeline.critical_path();
        assert_eq!(path.iter().map(|timed| timed.step.id).collect::<Vec<_>>(), [0, 2, 3]);
        assert_eq!((timeline.took(), path[1].took()), (1950, 1900));
        assert!(Timeline::default().critical_path().is_empty());
    }

    #[test]
    fn a_trace_has_a_row_for_each_service_and_more_where_steps_overlap() {
        let mut timeline = timeline();
        timeline.steps.push(step(4, "web", Verb::Start, &[], (1920, 1930)));
        let trace = timeline.chrome();
        let events = trace["traceEvents"].as_array().unwrap();
        let of = |phase: &str| events.iter().filter(|event| event["ph"] == phase).collect::<Vec<_>>();
        let names = of("M").iter().map(|event| event["args"]["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(names, ["rcompose up of p", "cache", "db", "web", "web (2)"]);
        assert_eq!(of("X").len(), 5);
        assert_eq!((of("s").len(), of("f").len()), (3, 3));
        assert_eq!(of("X")[2]["dur"], 1900);
    }
}
