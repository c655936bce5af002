//! Dockerfiles as steps, where BuildKit cannot be asked for what comes out.

use proptest::prelude::*;

use super::*;
use crate::build::graph::{ImageSource, MountKind, Operation, Run, RunNetwork};
use crate::image::{Digest, ImportedConfig};

/// Bases for every request: busybox and an image with triggers.
fn base(request: &ImageRequest) -> Base {
    let mut config = ImportedConfig { env: vec!["PATH=/bin".to_owned(), "B=base".to_owned()], ..Default::default() };
    config.cmd = Some(vec!["sh".to_owned()]);
    if request.reference.starts_with("triggers") {
        config.docker.on_build = Some(vec!["COPY --from=other /x /y".to_owned(), "RUN trigger".to_owned()]);
    }
    let platform = request.platform.parse().unwrap();
    let source = ImageSource { reference: request.reference.clone(), digest: Digest::of(b"x"), platform };
    Base { source, config, author: None }
}

fn plan_with(text: &str, options: &Options) -> Result<Plan, String> {
    let dockerfile = Dockerfile::parse(text.as_bytes()).map_err(|fault| fault.to_string())?;
    let mut bases = BTreeMap::new();
    loop {
        match dispatch(&dockerfile, options, &bases).map_err(|refused| refused.fault.to_string())? {
            Dispatched::Graph(plan) => return Ok(*plan),
            Dispatched::Needs(requests) => bases.extend(requests.into_keys().map(|request| {
                let base = base(&request);
                (request, base)
            })),
        }
    }
}

fn plan(text: &str) -> Plan {
    plan_with(text, &Options::default()).unwrap()
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.graph.vertices.iter().map(|vertex| vertex.name.as_str()).collect()
}

fn runs(plan: &Plan) -> Vec<&Run> {
    let operations = plan.graph.vertices.iter().map(|vertex| &vertex.operation);
    operations.filter_map(|operation| if let Operation::Run(run) = operation { Some(run) } else { None }).collect()
}

#[test]
fn only_what_is_needed_is_done() {
    let text = "FROM a AS one\nRUN 1\nFROM b AS two\nRUN 2\nFROM scratch\nCOPY --from=one /x /\n";
    let names = names(&plan(text)).join("\n");
    assert!(names.contains("[one 2/2] RUN 1") && names.contains("[stage-2 1/1] COPY --from=one /x /"), "{names}");
    assert!(!names.contains("RUN 2"), "{names}");
    let options = Options { target: Some("TWO".to_owned()), ..Options::default() };
    let plan = plan_with(text, &options).unwrap();
    assert_eq!(plan.graph.vertices.len(), 2);
    let options = Options { target: Some("tow".to_owned()), ..Options::default() };
    let message = "target stage \"tow\" could not be found (did you mean two?)";
    assert_eq!(plan_with(text, &options).unwrap_err(), message);
}

#[test]
fn an_sbom_tells_of_what_arguments_say() {
    let text = "ARG BUILDKIT_SBOM_SCAN_CONTEXT=true\nFROM a AS one\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nRUN 1\nFROM one AS two\n\
                RUN 2\nFROM b AS three\nRUN 3\nFROM c AS unused\nARG BUILDKIT_SBOM_SCAN_STAGE=1\nFROM scratch\n\
                COPY --from=two /x /\nCOPY --from=three /x /\n";
    assert!(plan(text).graph.extras.is_empty(), "nobody has asked for an SBOM");
    let scanned = |text: &str| plan_with(text, &Options { sbom: true, ..Options::default() }).unwrap();
    let scanned_plan = scanned(text);
    let graph = &scanned_plan.graph;
    assert_eq!(graph.extras.keys().collect::<Vec<_>>(), ["context", "one", "two"], "two is built on one");
    assert!(matches!(graph.vertex(graph.extras["context"]).operation, Operation::Context(_)));
    assert!(graph.vertex(graph.extras["two"]).name.ends_with("RUN 2"));
    assert!(runs(&scanned_plan).iter().all(|run| !run.environment.iter().any(|one| one.contains("SCAN"))));
    let text = "FROM scratch AS one\nCOPY a b\nFROM scratch\nARG BUILDKIT_SBOM_SCAN_CONTEXT=no\nCOPY --from=one b /\n";
    assert!(scanned(text).graph.extras.is_empty());
}

#[test]
fn an_image_is_asked_for_at_a_place() {
    let text = "FROM scratch AS build\nFROM scratch\nCOPY --from=bulid a b\nRUN --mount=from=other,target=/m true\n";
    let dockerfile = Dockerfile::parse(text.as_bytes()).unwrap();
    let Ok(Dispatched::Needs(requests)) = dispatch(&dockerfile, &Options::default(), &BTreeMap::new()) else {
        panic!("nothing is known yet");
    };
    let asked: Vec<_> = requests
        .iter()
        .map(|(request, asked)| (request.reference.as_str(), asked.at.start.line, asked.meant.as_deref()))
        .collect();
    assert_eq!(asked, [("bulid", 3, Some("build")), ("other", 4, None)]);
}

#[test]
fn inputs_stand_before_what_needs_them() {
    let plan = plan("FROM a AS x\nRUN 1\nFROM x AS y\nRUN --mount=from=x,target=/m 2\nFROM y\nCOPY --from=x a b\n");
    for (at, vertex) in plan.graph.vertices.iter().enumerate() {
        assert!(vertex.operation.inputs().iter().all(|input| input.0 < at), "{plan:#?}");
    }
    assert_eq!(plan.graph.target.0, plan.graph.vertices.len() - 1);
}

#[test]
fn triggers_come_first_and_can_need_more() {
    let plan = plan("FROM triggers\nRUN own");
    assert_eq!(plan.graph.vertices.len(), 5);
    let names = names(&plan).join("\n");
    assert!(names.contains("2/4] ONBUILD COPY --from=other /x /y\n"), "{names}");
    assert!(names.contains("3/4] ONBUILD RUN trigger\n") && names.ends_with("4/4] RUN own"), "{names}");
    assert!(plan.graph.config.docker.on_build.is_none());
}

#[test]
fn stages_that_need_each_other_are_refused() {
    let text = "FROM scratch AS a\nCOPY --from=b / /\nFROM scratch AS b\nCOPY --from=a / /\n";
    assert_eq!(plan_with(text, &Options::default()).unwrap_err(), "circular dependency detected on stage: a");
    let text = "FROM scratch AS a\nCOPY --from=b / /\nFROM scratch AS b\nFROM a\n";
    let message = "cannot copy from stage \"b\", it needs to be defined before current stage \"a\"";
    assert_eq!(plan_with(text, &Options::default()).unwrap_err(), message);
}

#[test]
fn named_contexts_take_the_place_of_stages_and_images() {
    let contexts = [("base", "./dir"), ("alpine", "docker-image://other:1"), ("extra", "https://host.test/a.git#v1")];
    let contexts =
        contexts.map(|(name, value)| (name.to_owned(), NamedContext::parse(value).unwrap())).into_iter().collect();
    let options = Options { contexts, ..Options::default() };
    let text = "FROM x AS base\nRUN never\nFROM alpine\nCOPY --from=base a b\nCOPY --from=extra c d\n";
    let plan = plan_with(text, &options).unwrap();
    let operations: Vec<&Operation> = plan.graph.vertices.iter().map(|vertex| &vertex.operation).collect();
    assert!(operations.iter().any(|one| matches!(one, Operation::Context(context) if context.name == "base")));
    assert!(operations.iter().any(|one| matches!(one, Operation::Git(git) if git.reference.as_deref() == Some("v1"))));
    assert!(operations.iter().any(|one| matches!(one, Operation::Image(image) if image.reference == "other:1")));
    assert!(runs(&plan).is_empty());
}

#[test]
fn runs_have_all_that_they_need() {
    let options = Options {
        arguments: [("http_proxy", "p"), ("A", "given"), ("BUILDKIT_CACHE_MOUNT_NS", "ns")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        ..Options::default()
    };
    let text = "FROM a\nARG A=1 U\nENV B=2\nWORKDIR /w\nUSER u:g\n\
                RUN --mount=type=cache,target=c,sharing=locked --mount=type=secret,id=s,env=S --mount=type=ssh \
                --mount=type=bind,target=/src --mount=type=tmpfs,target=/t,size=1k --network=none make $A\n";
    let plan = plan_with(text, &options).unwrap();
    let run = runs(&plan)[0];
    assert_eq!(run.arguments, ["/bin/sh", "-c", "make $A"]);
    assert_eq!(run.environment, ["PATH=/bin", "A=given", "B=2"]);
    assert_eq!((run.user.as_str(), run.directory.as_str(), run.network), ("u:g", "/w", RunNetwork::None));
    assert_eq!(run.uncached["HTTP_PROXY"], "p");
    assert!(matches!(&run.mounts[0].kind, MountKind::Cache { id, .. } if id == "ns/c"));
    let targets: Vec<&str> = run.mounts.iter().map(|mount| mount.target.as_str()).collect();
    assert_eq!(targets, ["/w/c", "", "/run/buildkit/ssh_agent.0", "/src", "/t"]);
    let last = plan.graph.history.last().unwrap();
    assert_eq!(last.created_by, "RUN |2 A=given U= /bin/sh -c make $A # buildkit");
    assert_eq!(plan.graph.config.env, ["PATH=/bin", "B=2"]);
    assert_eq!(plan.outline.secrets[0].id, "s");
}

#[test]
fn heredocs_are_run_as_scripts_and_copied_as_files() {
    let text = "FROM a\nENV V=1\nRUN <<EOF\n#!/bin/x\ny\nEOF\nRUN <<EOF\necho\nEOF\nRUN cat <<A <<B\n1\nA\n2\nB\n\
                COPY <<f <<'g' /d/\n$V\nf\n$V\ng\n";
    let plan = plan(text);
    let arguments: Vec<&str> = runs(&plan).iter().map(|run| run.arguments[2].as_str()).collect();
    assert_eq!(arguments, ["/dev/pipes/EOF", "echo\n", "cat <<A <<B\n1\nA\n2\nB"]);
    let inline = plan.graph.vertices.iter().filter_map(|vertex| match &vertex.operation {
        Operation::Inline(inline) => Some((inline.name.as_str(), inline.contents.as_slice(), inline.mode)),
        _ => None,
    });
    let expected: [(&str, &[u8], u32); 3] =
        [("EOF", b"#!/bin/x\ny\n", 0o755), ("f", b"1\n", 0o644), ("g", b"$V\n", 0o644)];
    assert_eq!(inline.collect::<Vec<_>>(), expected);
}

#[test]
fn copies_say_where_from_and_where_to() {
    let copy = |line: &str| {
        let plan = plan(&format!("FROM a\nWORKDIR /w\nENV D=dir\n{line}\n"));
        match &plan.graph.vertex(plan.graph.target).operation {
            Operation::Copy(copy) => copy.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(copy("COPY a b").destination, "/w/b");
    assert_eq!(copy("COPY a .").destination, "/w/");
    assert_eq!(copy("COPY a /").destination, "/");
    assert_eq!(copy("COPY a $D/").destination, "/w/dir/");
    assert_eq!(copy("COPY ../../etc/passwd /x").sources[0].path, "/etc/passwd");
    assert_eq!(copy("COPY --parents a/./b/*.c /x").sources[0].path, "/a/./b/*.c");
    assert!(copy("ADD a.tar /x").sources[0].unpack && !copy("COPY a.tar /x").sources[0].unpack);
    assert!(!copy("ADD https://host.test/a.tar /x").sources[0].unpack);
    assert!(copy("ADD --unpack https://host.test/a.tar /x").sources[0].unpack);
    assert_eq!(copy("ADD https://host.test/git/a.git#v:sub /x").sources[0].path, "/");
    let all = copy("COPY --link --chown=$D --chmod=u+x --exclude=*.o a b /x/");
    assert_eq!(
        (all.owner.as_deref(), all.mode.as_deref(), all.exclude.as_slice()),
        (Some("dir"), Some("u+x"), &["*.o".to_owned()][..])
    );
    assert!(all.link);
}

#[test]
fn what_grows_without_end_is_refused() {
    let doubling = "ENV A=$A$A\n".repeat(40);
    let text = format!("FROM a\nENV A=aaaaaaaaaaaaaaaa\n{doubling}");
    assert!(plan_with(&text, &Options::default()).unwrap_err().contains("which no program can be given"));
    let value = "v".repeat(60_000);
    let text = format!("FROM a\nARG A={value}\n{}", "RUN x\n".repeat(9_000));
    assert!(plan_with(&text, &Options::default()).unwrap_err().contains("expands to more than"));
}

#[test]
fn few_lines_cannot_make_much() {
    let text = format!("FROM a\nEXPOSE {}\n", "1-65535 ".repeat(8_000));
    assert!(plan_with(&text, &Options::default()).unwrap_err().contains("expands to more than"));
    // Many words of one line, each with its place, and many variables that are not there.
    let text = format!("FROM a\nLABEL {}\n", "a=$b ".repeat(13_000));
    assert!(!plan(&text).warnings.is_empty());
    let missing: Vec<String> = (0..9_000).map(|number| format!("$a{number}")).collect();
    let text = format!("FROM a\nUSER {}\n", missing.concat());
    assert_eq!(plan(&text).warnings.len(), 1_000);
}

#[test]
fn no_cache_is_for_some_or_all() {
    let text = "FROM a AS x\nRUN 1\nFROM x AS y\nRUN 2\n";
    let marked = |options: Options| {
        let plan = plan_with(text, &options).unwrap();
        plan.graph
            .vertices
            .iter()
            .filter(|vertex| vertex.no_cache)
            .map(|vertex| vertex.name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(marked(Options { no_cache: true, ..Options::default() }).len(), 2);
    let filter = BTreeSet::from(["y".to_owned()]);
    assert_eq!(marked(Options { no_cache_filter: filter, ..Options::default() }), ["[y 1/1] RUN 2"]);
}

/// Parts that Dockerfiles are made of, and some that they are not.
fn part() -> impl Strategy<Value = String> {
    const WORDS: &[&str] = &[
        "FROM a",
        "FROM scratch AS s",
        "RUN ",
        "COPY ",
        "ADD ",
        "ENV ",
        "ARG ",
        "--from=s ",
        "--mount=type=cache,target=/x ",
        "--chown=$A ",
        "ONBUILD ",
        "HEALTHCHECK CMD ",
        "EXPOSE ",
        "VOLUME ",
        "WORKDIR ",
        "USER ",
        "LABEL ",
        "<<EOF",
        "<<-'X' ",
        "EOF\n",
        "X\n",
        "[\"a\", \"b\"]",
        "a=b ",
        "$A",
        "${A:-",
        "}",
        "${A//",
        "/",
        "'",
        "\"",
        "\\\n",
        "\n",
        "\n",
        "\n",
        " ",
        "#",
        "# escape=`\n",
        "`",
        "a",
        "80-90/udp",
        "é",
        "*",
        ":",
        "@",
        "https://host.test/x ",
        "git@host.test:x#y ",
        "./",
        "..",
    ];
    prop_oneof![8 => prop::sample::select(WORDS).prop_map(str::to_owned), 1 => "\\PC{0,3}"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_is_written_is_understood_or_refused(parts in prop::collection::vec(part(), 0..40)) {
        let text = format!("FROM a\n{}", parts.concat());
        let options = Options { all_stages: true, ..Options::default() };
        match plan_with(&text, &options) {
            Ok(plan) => {
                for (at, vertex) in plan.graph.vertices.iter().enumerate() {
                    prop_assert!(vertex.operation.inputs().iter().all(|input| input.0 < at));
                }
                prop_assert!(plan.graph.target.0 < plan.graph.vertices.len());
            }
            Err(message) => prop_assert!(!message.is_empty()),
        }
    }

    #[test]
    fn faults_are_within_the_file(parts in prop::collection::vec(part(), 0..20)) {
        let text = parts.concat();
        if let Err(fault) = Dockerfile::parse(text.as_bytes()) && let Some(span) = fault.span {
            let lines = u32::try_from(text.split('\n').count()).unwrap();
            prop_assert!(span.start.line >= 1 && span.start <= span.end && span.end.line <= lines, "{span:?} {text:?}");
        }
    }
}
