//! Carries out a plan, as much of it at a time as its order allows.

mod hook;
mod outcome;
mod step;
mod update;
mod wait;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use petgraph::graph::NodeIndex;
use rcompose_engine::image::Hold;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::engine::Engine;
use super::plan::{Action, Plan};
use super::timeline::{Recorder, Recording};
use crate::ui::progress::Progress;

pub use hook::{Audience, HookError, Said, run as run_hooks};
pub use outcome::Unready;
pub use step::StepError;
pub use update::Then;

/// How a plan is carried out.
#[derive(Debug, Default)]
pub struct Options {
    /// The most steps at a time; `None`: as many as there are.
    pub parallel: Option<usize>,
    /// Go on with everything that is left when a step fails, as when things are taken down.
    pub keep_going: bool,
    /// Nothing more is begun once this is cancelled; what was begun is brought to its end, or to the next place where it can
    /// stay as it is.
    pub interrupt: CancellationToken,
    /// Only say what would be done.
    pub pretend: bool,
    /// Notes when which step was done.
    pub recorder: Option<Recorder>,
    /// Hears what hooks write.
    pub audience: Audience,
    /// Keeps the images that containers are made of; it ends with the last step that makes one.
    pub hold: Option<Hold>,
}

/// Why a plan was not carried out to its end.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Step(#[from] StepError),
    #[error("{}", first)]
    Several { first: StepError, others: Vec<StepError> },
    #[error("interrupted")]
    Interrupted,
}

/// Carries out every step of the plan.
pub async fn apply(engine: &Arc<Engine>, plan: Plan, progress: &Progress, options: Options) -> Result<(), ApplyError> {
    if options.pretend {
        for step in plan.order() {
            step::pretend(progress, &plan.steps[step].action);
        }
        return Ok(());
    }
    let permits = Arc::new(Semaphore::new(options.parallel.unwrap_or(Semaphore::MAX_PERMITS)));
    let recorder = options.recorder.filter(|_| !plan.is_empty());
    let mut run = Run {
        recording: recorder.map(|recorder| recorder.record(&plan, &engine.project)).unwrap_or_default(),
        missing: plan
            .steps
            .node_indices()
            .map(|step| plan.steps.neighbors_directed(step, petgraph::Incoming).count())
            .collect(),
        ready: VecDeque::new(),
        tasks: JoinSet::new(),
        waits: Vec::new(),
        errors: Vec::new(),
        creating: plan.steps.node_indices().filter(|step| plan.steps[*step].action.makes_containers()).collect(),
        hold: options.hold,
        audience: options.audience,
        interrupt: options.interrupt.clone(),
        plan,
    };
    run.release();
    run.ready = run.plan.steps.node_indices().filter(|step| run.missing[step.index()] == 0).collect();
    let mut interrupted = false;
    loop {
        while let Some(step) = run.ready.pop_front() {
            if !interrupted && (run.errors.is_empty() || options.keep_going) {
                run.begin(step, engine, progress, &permits);
            }
        }
        let ended = tokio::select! {
            ended = run.tasks.join_next() => ended,
            () = options.interrupt.cancelled(), if !interrupted => {
                interrupted = true;
                run.waits.iter().for_each(AbortHandle::abort);
                continue;
            }
        };
        match ended {
            None => break,
            Some(Ok((step, result))) => run.end(step, result, options.keep_going),
            // Waiting was given up.
            Some(Err(error)) if error.is_cancelled() => {}
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    let mut errors = run.errors.into_iter();
    match (errors.next(), interrupted) {
        (None, false) => Ok(()),
        (None, true) => Err(ApplyError::Interrupted),
        (Some(first), _) if errors.len() == 0 => Err(first.into()),
        (Some(first), _) => Err(ApplyError::Several { first, others: errors.collect() }),
    }
}

struct Run {
    plan: Plan,
    /// How many steps each step still has to come after.
    missing: Vec<usize>,
    ready: VecDeque<NodeIndex>,
    tasks: JoinSet<(NodeIndex, Result<(), StepError>)>,
    /// The tasks that only wait, and may be given up at any time.
    waits: Vec<AbortHandle>,
    errors: Vec<StepError>,
    /// The steps that are still to make a container.
    creating: HashSet<NodeIndex>,
    hold: Option<Hold>,
    audience: Audience,
    interrupt: CancellationToken,
    recording: Recording,
}

impl Run {
    fn begin(&mut self, step: NodeIndex, engine: &Arc<Engine>, progress: &Progress, permits: &Arc<Semaphore>) {
        let action = std::mem::replace(&mut self.plan.steps[step].action, Action::Barrier);
        self.recording.begin(step);
        match action {
            Action::Barrier => {
                self.recording.end(step);
                self.followers(step);
            }
            action => {
                let (engine, progress, permits) = (Arc::clone(engine), progress.clone(), Arc::clone(permits));
                let (waits, audience) = (matches!(action, Action::Wait(_)), self.audience.clone());
                let interrupt = self.interrupt.clone();
                let task = self.tasks.spawn(async move {
                    // Waiting is no work.
                    let permit = if waits { None } else { permits.acquire().await.ok() };
                    let result = Box::pin(step::run(&engine, &progress, action, (&audience, &interrupt))).await;
                    drop(permit);
                    (step, result)
                });
                if waits {
                    self.waits.push(task);
                }
            }
        }
    }

    fn end(&mut self, step: NodeIndex, result: Result<(), StepError>, keep_going: bool) {
        let failed = result.is_err();
        self.recording.end(step);
        // A container that was not to be stopped yet is not to be removed either.
        let keep_going = keep_going && !matches!(result, Err(StepError::Hook(_)));
        self.creating.remove(&step);
        self.release();
        if let Err(error) = result {
            self.errors.push(error);
            if !keep_going {
                self.waits.iter().for_each(AbortHandle::abort);
            }
        }
        if !failed || keep_going {
            self.followers(step);
        }
    }

    /// Lets go of the images when nothing more is made of them.
    fn release(&mut self) {
        if self.creating.is_empty() {
            self.hold = None;
        }
    }

    /// Notes that a step is over for those that come after it.
    fn followers(&mut self, step: NodeIndex) {
        for follower in self.plan.steps.neighbors(step) {
            let missing = &mut self.missing[follower.index()];
            *missing -= 1;
            if *missing == 0 {
                self.ready.push_back(follower);
            }
        }
    }
}
