//! What a step depends on, as one digest: the key of the cache.
//!
//! It has everything in it that can reach the step: what the step is, the layers below it, and of files that it is given
//! their content and attributes. It has nothing in it that cannot: times of files, values of secrets, proxies.

use serde_json::{Value, json};

use super::graph::{Copy, MakeDirectory, MountKind, Run, RunNetwork, Sharing};
use crate::image::{Digest, StepKey};

/// Changed whenever the same step would make another layer than before.
const VERSION: u32 = 2;

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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::build::graph::{CopySource, Mount, VertexId};

    fn a_run() -> Run {
        Run {
            on: VertexId(0),
            arguments: vec!["/bin/sh".into(), "-c".into(), "make".into()],
            environment: vec!["A=1".into()],
            uncached: [("HTTP_PROXY".to_owned(), "x".to_owned())].into(),
            user: "app".into(),
            directory: "/src".into(),
            mounts: vec![
                Mount {
                    target: "/in".into(),
                    kind: MountKind::Bind { from: VertexId(1), source: "/".into(), writable: false },
                },
                Mount {
                    target: "/key".into(),
                    kind: MountKind::Secret {
                        id: "s".into(),
                        variable: None,
                        required: true,
                        mode: 0o400,
                        uid: 0,
                        gid: 0,
                    },
                },
            ],
            network: RunNetwork::Default,
            insecure: false,
            devices: Vec::new(),
        }
    }

    fn of(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    fn key_of(run: &Run) -> StepKey {
        super::run(run, &[of("base")], &[Some(of("in")), None], &Surroundings::default())
    }

    #[test]
    fn what_reaches_a_command_changes_its_key_and_nothing_else_does() {
        let before = key_of(&a_run());
        let changes: [fn(&mut Run); 12] = [
            |run| run.arguments[2].push('x'),
            |run| run.arguments.push(String::new()),
            |run| run.environment.push("B=2".into()),
            |run| run.user.push('x'),
            |run| run.directory.push('x'),
            |run| run.network = RunNetwork::None,
            |run| run.insecure = true,
            |run| run.devices.push("vendor.com/device=0".into()),
            |run| run.mounts[0].target.push('x'),
            |run| run.mounts[0].kind = MountKind::Bind { from: VertexId(1), source: "/x".into(), writable: false },
            |run| run.mounts[0].kind = MountKind::Bind { from: VertexId(1), source: "/".into(), writable: true },
            |run| {
                run.mounts[1].kind =
                    MountKind::Secret { id: "t".into(), variable: None, required: true, mode: 0o400, uid: 0, gid: 0 };
            },
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut run = a_run();
            change(&mut run);
            assert_ne!(key_of(&run), before, "change {number}");
        }
        let around = Surroundings::default();
        let contents = [Some(of("in")), None];
        assert_ne!(super::run(&a_run(), &[of("other")], &contents, &around), before);
        assert_ne!(super::run(&a_run(), &[of("base")], &[Some(of("out")), None], &around), before);
        for around in [
            Surroundings { epoch: Some(1), ..Surroundings::default() },
            Surroundings { hosts: vec![("a".into(), "b".into())], ..Surroundings::default() },
            Surroundings { network: RunNetwork::Host, ..Surroundings::default() },
            Surroundings { shm_size: Some(1), ..Surroundings::default() },
            Surroundings { ulimits: vec![("nofile".into(), 1, 1)], ..Surroundings::default() },
            Surroundings { hostname: "x".into(), ..Surroundings::default() },
        ] {
            assert_ne!(super::run(&a_run(), &[of("base")], &contents, &around), before, "{around:?}");
        }
        let mut same = a_run();
        same.uncached.clear();
        same.on = VertexId(7);
        assert_eq!(key_of(&same), before);
    }

    proptest! {
        /// Wherever the boundary between two words or variables is, it counts.
        #[test]
        fn two_commands_have_one_key_only_if_they_are_the_same(
            one in proptest::collection::vec("[a\\[\\]\",= ]{0,3}", 0..4),
            other in proptest::collection::vec("[a\\[\\]\",= ]{0,3}", 0..4),
        ) {
            let with = |words: &Vec<String>| Run { arguments: words.clone(), ..a_run() };
            prop_assert_eq!(key_of(&with(&one)) == key_of(&with(&other)), one == other);
            let with = |words: &Vec<String>| Run { environment: words.clone(), ..a_run() };
            prop_assert_eq!(key_of(&with(&one)) == key_of(&with(&other)), one == other);
        }

        /// A copy's key depends on every part of it, and on what is below it unless it is a layer of its own.
        #[test]
        fn a_copy_is_known_by_what_it_copies(
            names in proptest::collection::vec(("[a-c/]{0,3}", "[a-c]{0,2}"), 0..3),
            others in proptest::collection::vec(("[a-c/]{0,3}", "[a-c]{0,2}"), 0..3),
            link in any::<bool>(),
        ) {
            let sources = |names: &Vec<(String, String)>| {
                vec![names.iter().map(|(name, content)| (name.clone(), of(content))).collect::<Vec<_>>()]
            };
            let copy = Copy {
                on: VertexId(0),
                sources: vec![CopySource { from: VertexId(1), path: "*".into(), literal: false, unpack: false }],
                destination: "/".into(), owner: None, mode: None, link, parents: false, exclude: Vec::new(),
            };
            let around = Surroundings::default();
            let key = |names, below: &str| super::copy(&copy, &[of(below)], &sources(names), &around);
            prop_assert_eq!(key(&names, "x") == key(&others, "x"), names == others);
            prop_assert_eq!(key(&names, "x") == key(&names, "y"), link);
        }
    }
}
