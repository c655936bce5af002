//! Whatever can reach a step changes its key, and nothing else does.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::build::dispatch::{Dispatched, NamedContext, Options, dispatch};
use crate::build::dockerfile::Dockerfile;
use crate::build::graph::{Base, CopySource, ImageSource, Mount, Operation, VertexId};
use crate::image::ImportedConfig;

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
                kind: MountKind::Secret { id: "s".into(), variable: None, required: true, mode: 0o400, uid: 0, gid: 0 },
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

/// Everything that a build is made of. What files hold is said by where they come from.
#[derive(Clone)]
struct World {
    dockerfile: String,
    options: Options,
    /// What is in contexts, images, on web servers and in repositories.
    contents: BTreeMap<String, String>,
    /// What images trigger.
    triggers: Vec<String>,
    around: Surroundings,
}

const DOCKERFILE: &str = "FROM base AS tools
ARG USED
ENV E=1
RUN make $USED
COPY --from=named /n /n
FROM triggers
SHELL [\"/bin/sh\", \"-c\"]
USER app
WORKDIR /src
COPY --chown=1:1 --chmod=640 --exclude=*.x a /a
COPY --link b /b
COPY --parents c/d /p/
COPY <<TEXT /inline
first
TEXT
ADD http://web.test/f /f
ADD --unpack=true http://web.test/t /t
ADD git://git.test/r#v1 /r
RUN <<SCRIPT
#!/bin/sh
second
SCRIPT
RUN --mount=type=bind,target=/ctx,source=x --mount=type=bind,from=tools,target=/tools \\
  --mount=type=cache,id=k,target=/k,sharing=locked,mode=0700,uid=1,gid=2 --mount=type=tmpfs,target=/t,size=1m \\
  --mount=type=secret,id=s,target=/s,mode=0400 --mount=type=ssh,id=h --network=none third
";

impl World {
    fn new() -> Self {
        let contents = [
            ("base", "b"),
            ("triggers", "t"),
            ("context", "c"),
            ("named", "n"),
            ("http://web.test/f", "f"),
            ("http://web.test/t", "t"),
            ("git://git.test/r", "r"),
        ];
        let mut options = Options::default();
        options.contexts.insert("named".to_owned(), NamedContext::Directory("/named".to_owned()));
        options.arguments.insert("USED".to_owned(), "used".to_owned());
        Self {
            dockerfile: DOCKERFILE.to_owned(),
            options,
            contents: contents.map(|(name, content)| (name.to_owned(), content.to_owned())).into(),
            triggers: vec!["RUN triggered".to_owned()],
            around: Surroundings::default(),
        }
    }

    fn found(&self, place: &str) -> Digest {
        of(&format!("{place}: {}", self.contents.get(place).map_or("", String::as_str)))
    }

    fn base(&self, reference: &str, platform: &str) -> Base {
        let mut config = ImportedConfig::default();
        if reference == "triggers" {
            config.docker.on_build = Some(self.triggers.clone());
        }
        let platform = platform.parse().unwrap();
        let source = ImageSource { reference: reference.to_owned(), digest: self.found(reference), platform };
        Base { source, config, author: None }
    }

    fn operations(&self) -> Vec<Operation> {
        let dockerfile = Dockerfile::parse(self.dockerfile.as_bytes()).unwrap();
        let mut bases = BTreeMap::new();
        loop {
            match dispatch(&dockerfile, &self.options, &bases).unwrap() {
                Dispatched::Graph(plan) => {
                    return plan.graph.vertices.into_iter().map(|vertex| vertex.operation).collect();
                }
                Dispatched::Needs(requests) => bases.extend(requests.into_keys().map(|request| {
                    let base = self.base(&request.reference, &request.platform);
                    (request, base)
                })),
            }
        }
    }

    /// Returns the key of the last step, whose layers below are named by the keys of the steps that make them.
    fn key(&self) -> StepKey {
        let mut states: Vec<Vec<Digest>> = Vec::new();
        let mut last = None;
        for operation in self.operations() {
            let whole = |id: VertexId| of(&format!("{:?}", states[id.0]));
            let step = match &operation {
                Operation::Run(run) => {
                    let shown = |mount: &Mount| match &mount.kind {
                        MountKind::Bind { from, .. } | MountKind::Cache { from: Some(from), .. } => Some(whole(*from)),
                        _ => None,
                    };
                    let contents: Vec<_> = run.mounts.iter().map(shown).collect();
                    Some((run.on, super::run(run, &states[run.on.0], &contents, &self.around)))
                }
                Operation::Copy(copy) => {
                    let found = |source: &CopySource| vec![(source.path.clone(), whole(source.from))];
                    let sources: Vec<_> = copy.sources.iter().map(found).collect();
                    Some((copy.on, super::copy(copy, &states[copy.on.0], &sources, &self.around)))
                }
                Operation::MakeDirectory(make) => {
                    Some((make.on, super::make_directory(make, &states[make.on.0], &self.around)))
                }
                _ => None,
            };
            states.push(match (step, &operation) {
                (Some((on, key)), _) => {
                    last = Some(key);
                    states[on.0].iter().copied().chain([key]).collect()
                }
                (None, Operation::Image(image)) => vec![image.digest],
                (None, Operation::Context(context)) => vec![self.found(&context.name)],
                (None, Operation::Http(http)) => vec![self.found(&http.url)],
                (None, Operation::Git(git)) => {
                    vec![self.found(&git.remote), of(git.reference.as_deref().unwrap_or_default())]
                }
                (None, Operation::Inline(inline)) => {
                    vec![Digest::of(&inline.contents), of(&format!("{} {}", inline.name, inline.mode))]
                }
                _ => Vec::new(),
            });
        }
        last.unwrap()
    }

    fn with_text(&self, from: &str, to: &str) -> Self {
        assert_eq!(self.dockerfile.matches(from).count(), 1, "{from}");
        Self { dockerfile: self.dockerfile.replace(from, to), ..self.clone() }
    }

    fn with_content(&self, place: &str) -> Self {
        let mut world = self.clone();
        assert!(world.contents.insert(place.to_owned(), "changed".to_owned()).is_some(), "{place}");
        world
    }

    fn with_argument(&self, name: &str, value: &str) -> Self {
        let mut world = self.clone();
        world.options.arguments.insert(name.to_owned(), value.to_owned());
        world
    }
}

#[test]
fn every_input_that_reaches_the_last_step_changes_its_key() {
    let world = World::new();
    let key = world.key();
    assert_eq!(world.key(), key);
    // Words of the Dockerfile.
    for (from, to) in [
        ("RUN make", "RUN Make"),
        ("ENV E=1", "ENV E=2"),
        ("\"/bin/sh\", \"-c\"", "\"/bin/sh\", \"-ec\""),
        ("USER app", "USER other"),
        ("WORKDIR /src", "WORKDIR /src2"),
        ("--chown=1:1", "--chown=1:2"),
        ("--chmod=640", "--chmod=600"),
        ("--exclude=*.x", "--exclude=*.y"),
        ("--exclude=*.x a /a", "a /a"),
        ("a /a", "a /aa"),
        ("--link b", "b"),
        ("--parents c/d", "c/d"),
        ("COPY --parents c/d /p/", "COPY --parents c/./d /p/"),
        ("/inline", "/in-line"),
        ("first", "First"),
        ("ADD http", "ADD --chmod=600 http"),
        ("--unpack=true", "--unpack=false"),
        ("r#v1", "r#v2"),
        ("/r\n", "/rr\n"),
        ("second", "Second"),
        ("#!/bin/sh\n", "#!/bin/ash\n"),
        ("target=/ctx", "target=/ct"),
        ("source=x", "source=y"),
        ("target=/ctx", "target=/ctx,rw"),
        ("target=/tools", "target=/tool"),
        ("id=k", "id=kk"),
        ("sharing=locked", "sharing=shared"),
        ("mode=0700", "mode=0755"),
        ("uid=1", "uid=3"),
        ("gid=2", "gid=3"),
        ("target=/k,", "target=/k,ro,"),
        ("target=/k,", "target=/k,from=base,"),
        ("size=1m", "size=2m"),
        ("id=s", "id=ss"),
        ("target=/s,", "target=/s,env=S,"),
        ("target=/s,", "target=/s,required,"),
        ("mode=0400", "mode=0440"),
        ("id=h", "id=hh"),
        ("type=ssh,", "type=ssh,required,"),
        ("--network=none", "--network=default"),
        ("--network=none", "--network=none --security=insecure"),
        (" third", " Third"),
    ] {
        assert_ne!(world.with_text(from, to).key(), key, "{from} -> {to}");
    }
    // What is behind them.
    for place in world.contents.keys() {
        assert_ne!(world.with_content(place).key(), key, "{place}");
    }
    assert_ne!(world.with_argument("USED", "other").key(), key, "an argument that is used");
    assert_ne!(World { triggers: vec!["RUN other".to_owned()], ..world.clone() }.key(), key, "ONBUILD");
    let image = |name: &str| NamedContext::Image(name.to_owned());
    let mut replaced = world.clone();
    replaced.options.contexts.insert("base".to_owned(), image("triggers"));
    assert_ne!(replaced.key(), key, "a context in place of an image");
}

#[test]
fn what_does_not_reach_a_step_does_not_change_its_key() {
    let world = World::new();
    let key = world.key();
    for (from, to) in [
        ("FROM triggers\n", "# a comment\nFROM triggers AS last\n"),
        ("ENV E=1\n", "ENV E=1\nLABEL a=b\nEXPOSE 80\nCMD [\"x\"]\n"),
        ("USER app\n", "USER app\nSTOPSIGNAL 9\nHEALTHCHECK NONE\nVOLUME /v\n"),
        ("FROM triggers\n", "FROM base AS unused\nRUN unused\nFROM triggers\n"),
    ] {
        assert_eq!(world.with_text(from, to).key(), key, "{from} -> {to}");
    }
    assert_eq!(world.with_argument("UNDECLARED", "x").key(), key);
    assert_eq!(world.with_argument("HTTP_PROXY", "http://proxy.test").key(), key);
    let mut labelled = world.clone();
    labelled.options.labels.insert("a".to_owned(), "b".to_owned());
    assert_eq!(labelled.key(), key);
}

/// Any mount, of few values, so that two are often the same.
fn a_mount() -> impl Strategy<Value = Mount> {
    let word = || "[a-b]{0,1}";
    let small = || 0..2_u32;
    let kind = prop_oneof![
        (word(), any::<bool>()).prop_map(|(source, writable)| MountKind::Bind { from: VertexId(0), source, writable }),
        (word(), 0..3, word(), small(), small(), small(), any::<bool>()).prop_map(
            |(id, sharing, source, mode, uid, gid, read_only)| {
                let sharing = [Sharing::Shared, Sharing::Private, Sharing::Locked][usize::try_from(sharing).unwrap()];
                MountKind::Cache { id, sharing, from: None, source, mode, uid, gid, read_only }
            }
        ),
        proptest::option::of(0..2_u64).prop_map(|size| MountKind::Tmpfs { size }),
        (word(), proptest::option::of(word()), any::<bool>(), small(), small(), small()).prop_map(
            |(id, variable, required, mode, uid, gid)| MountKind::Secret { id, variable, required, mode, uid, gid }
        ),
        (word(), any::<bool>(), small(), small(), small()).prop_map(|(id, required, mode, uid, gid)| MountKind::Ssh {
            id,
            required,
            mode,
            uid,
            gid
        }),
    ];
    (word(), kind).prop_map(|(target, kind)| Mount { target, kind })
}

proptest! {
    #[test]
    fn commands_have_one_key_only_if_their_mounts_are_the_same(
        one in proptest::collection::vec(a_mount(), 0..3),
        other in proptest::collection::vec(a_mount(), 0..3),
    ) {
        let key = |mounts: &Vec<Mount>| {
            let run = Run { mounts: mounts.clone(), ..a_run() };
            super::run(&run, &[], &vec![None; mounts.len()], &Surroundings::default())
        };
        prop_assert_eq!(key(&one) == key(&other), one == other);
    }
}
