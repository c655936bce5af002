//! A graph without what neither its target nor its SBOM needs.

use std::collections::BTreeMap;

use super::state::State;
use crate::build::graph::{Graph, History, MountKind, Operation, Vertex, VertexId};

/// Returns the graph of what the target and what its SBOM tells of need, numbered anew.
pub(crate) fn without_unneeded(vertices: Vec<Vertex>, state: State, extras: BTreeMap<String, VertexId>) -> Graph {
    let mut needed = vec![false; vertices.len()];
    let mut left: Vec<VertexId> = extras.values().copied().chain([state.at]).collect();
    while let Some(at) = left.pop() {
        if !std::mem::replace(&mut needed[at.0], true) {
            left.extend(vertices[at.0].operation.inputs());
        }
    }
    let mut numbers = Vec::with_capacity(vertices.len());
    let mut kept = 0;
    for is_needed in &needed {
        numbers.push(VertexId(kept));
        kept += usize::from(*is_needed);
    }
    let number = |id: VertexId| numbers[id.0];
    let mut vertices: Vec<Vertex> =
        vertices.into_iter().zip(&needed).filter_map(|(vertex, is_needed)| is_needed.then_some(vertex)).collect();
    for vertex in &mut vertices {
        renumber(&mut vertex.operation, number);
    }
    let renumbered = |entry: History| History { layer: entry.layer.map(number), ..entry };
    Graph {
        vertices,
        target: number(state.at),
        platform: state.platform,
        config: state.config,
        author: state.author,
        base: state.base,
        history: state.history.into_iter().map(renumbered).collect(),
        extras: extras.into_iter().map(|(name, at)| (name, number(at))).collect(),
    }
}

/// Gives the inputs of an operation other numbers.
fn renumber(operation: &mut Operation, number: impl Fn(VertexId) -> VertexId) {
    match operation {
        Operation::Run(run) => {
            run.on = number(run.on);
            for mount in &mut run.mounts {
                match &mut mount.kind {
                    MountKind::Bind { from, .. } | MountKind::Cache { from: Some(from), .. } => *from = number(*from),
                    MountKind::Cache { from: None, .. }
                    | MountKind::Tmpfs { .. }
                    | MountKind::Secret { .. }
                    | MountKind::Ssh { .. } => {}
                }
            }
        }
        Operation::Copy(copy) => {
            copy.on = number(copy.on);
            for source in &mut copy.sources {
                source.from = number(source.from);
            }
        }
        Operation::MakeDirectory(make) => make.on = number(make.on),
        Operation::Image(_)
        | Operation::Scratch
        | Operation::Context(_)
        | Operation::Http(_)
        | Operation::Git(_)
        | Operation::Inline(_) => {}
    }
}
