//! What a step depends on, as one digest: the key of the cache.
//!
//! It has everything in it that can reach the step: what the step is, the layers below it, and of files that it is given
//! their content and attributes. It has nothing in it that cannot: times of files, values of secrets, proxies.

use serde_json::{Value, json};

use super::graph::{Copy, MakeDirectory, MountKind, Run, RunNetwork, Sharing};
use crate::image::{Digest, StepKey};

/// Changed whenever the same step would make another layer than before.
const VERSION: u32 = 3;

/// What belongs to the build and not to one step, and is part of the keys.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Surroundings {
    /// `SOURCE_DATE_EPOCH`.
    pub(crate) epoch: Option<u64>,
    pub(crate) hostname: String,
    pub(crate) hosts: Vec<(String, String)>,
    pub(crate) network: RunNetwork,
    pub(crate) shm_size: Option<u64>,
    pub(crate) ulimits: Vec<(String, i64, i64)>,
}

fn network(network: RunNetwork) -> &'static str {
    match network {
        RunNetwork::Default => "default",
        RunNetwork::None => "none",
        RunNetwork::Host => "host",
    }
}

fn finish(step: &Value) -> StepKey {
    Digest::of(json!([VERSION, step]).to_string().as_bytes())
}

/// Returns the key of a command. `contents` are the digests of what its mounts show, in their order; none for those that
/// show nothing of the build.
pub(crate) fn run(run: &Run, below: &[Digest], contents: &[Option<Digest>], around: &Surroundings) -> StepKey {
    let Run { on: _, arguments, environment, uncached: _, user, directory, mounts, network: wanted, insecure, devices } =
        run;
    let mounts: Vec<Value> = mounts
        .iter()
        .zip(contents)
        .map(|(mount, content)| {
            let kind = match &mount.kind {
                MountKind::Bind { from: _, source, writable } => json!(["bind", source, writable]),
                MountKind::Cache { id, sharing, from: _, source, mode, uid, gid, read_only } => {
                    let sharing = match sharing {
                        Sharing::Shared => "shared",
                        Sharing::Private => "private",
                        Sharing::Locked => "locked",
                    };
                    json!(["cache", id, sharing, source, mode, uid, gid, read_only])
                }
                MountKind::Tmpfs { size } => json!(["tmpfs", size]),
                MountKind::Secret { id, variable, required, mode, uid, gid } => {
                    json!(["secret", id, variable, required, mode, uid, gid])
                }
                MountKind::Ssh { id, required, mode, uid, gid } => json!(["ssh", id, required, mode, uid, gid]),
            };
            json!([mount.target, kind, content])
        })
        .collect();
    finish(&json!({
        "run": arguments, "on": below, "environment": environment, "user": user, "directory": directory,
        "mounts": mounts, "network": network(*wanted), "insecure": insecure, "devices": devices,
        "epoch": around.epoch, "hostname": around.hostname, "hosts": around.hosts,
        "default network": network(around.network), "shm": around.shm_size, "ulimits": around.ulimits,
    }))
}

/// Returns the key of a copy. `sources` are the names and digests of what each source was found to be.
pub(crate) fn copy(copy: &Copy, below: &[Digest], sources: &[Vec<(String, Digest)>], around: &Surroundings) -> StepKey {
    let Copy { on: _, sources: _, destination, owner, mode, link, parents, exclude } = copy;
    let unpack: Vec<bool> = copy.sources.iter().map(|source| source.unpack).collect();
    // A layer of its own does not depend on what is below it, but for the names in its owner.
    let named =
        owner.as_deref().is_some_and(|owner| owner.contains(|letter: char| !letter.is_ascii_digit() && letter != ':'));
    let below = if *link && !named { &[] } else { below };
    finish(&json!({
        "copy": sources, "unpack": unpack, "on": below, "to": destination, "owner": owner, "mode": mode, "link": link,
        "parents": parents, "exclude": exclude, "epoch": around.epoch,
    }))
}

/// Returns the key of a directory that is made.
pub(crate) fn make_directory(make: &MakeDirectory, below: &[Digest], around: &Surroundings) -> StepKey {
    let MakeDirectory { on: _, path, owner } = make;
    finish(&json!({"directory": path, "owner": owner, "on": below, "epoch": around.epoch}))
}

#[cfg(test)]
mod tests;
