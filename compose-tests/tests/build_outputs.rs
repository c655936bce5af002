//! What becomes of what was built: files, archives, images of registries, and caches of other builds.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use compose_tests::factory::registry::Registry;
use compose_tests::http;
use compose_tests::stack::Stack;
use compose_tests::wait;
use flate2::read::GzDecoder;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Says for which machine it was built, and needs none.
const FOR_ANY: &str = "FROM scratch
ARG TARGETPLATFORM
ARG TARGETARCH
COPY --chmod=640 hello /in/hello-${TARGETARCH}
LABEL platform=$TARGETPLATFORM
";

/// Two commands, of which the first is not in the image.
const TWO_STAGES: &str = "FROM busybox:musl AS made
RUN echo 1 >/made
FROM busybox:musl
COPY --from=made /made /made
RUN echo 2 >/two
";

fn stack(name: &str, dockerfile: &str) -> Stack {
    let stack = Stack::new(name);
    stack.write("context/Dockerfile", dockerfile);
    stack.write("context/hello", "hello\n");
    stack
}

/// Another store, with nothing in it.
fn elsewhere(stack: &Stack) -> BTreeMap<String, String> {
    let root = stack.project_folder().join("elsewhere");
    BTreeMap::from([("RCOMPOSE_ROOT".to_owned(), root.display().to_string())])
}

/// The files of an archive, by name.
fn files(archive: impl std::io::Read) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries().expect("it is an archive") {
        let mut entry = entry.expect("it is whole");
        let name = entry.path().expect("names are text").display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("it is whole");
        files.insert(name, content);
    }
    files
}

fn names(files: &BTreeMap<String, Vec<u8>>) -> Vec<&str> {
    files.keys().map(String::as_str).collect()
}

fn document(files: &BTreeMap<String, Vec<u8>>, name: &str) -> Value {
    serde_json::from_slice(&files[name]).expect("it is a document")
}

/// What a descriptor names.
fn blob(files: &BTreeMap<String, Vec<u8>>, descriptor: &Value) -> Value {
    document(files, &blob_name(descriptor))
}

fn blob_name(descriptor: &Value) -> String {
    format!("blobs/{}", descriptor["digest"].as_str().expect("it has a digest").replace(':', "/"))
}

#[test]
fn files_are_given_away_as_they_are() {
    let stack = stack("build-files", FOR_ANY);
    let folder = stack.project_folder();
    stack.write("out/in/kept", "was here");
    stack.run(&["image", "build", "-q", "-o", "out", "context"]).ok();
    let hello = folder.join("out/in/hello-amd64");
    assert_eq!(fs::read_to_string(&hello).unwrap(), "hello\n");
    assert_eq!(fs::metadata(&hello).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(folder.join("out/in/kept").exists());
    stack
        .run(&[
            "image",
            "build",
            "-q",
            "--platform",
            "linux/amd64,linux/arm64",
            "-o",
            "type=tar,dest=all.tar",
            "context",
        ])
        .ok();
    let all = files(fs::File::open(folder.join("all.tar")).unwrap());
    assert_eq!(
        names(&all),
        [
            "linux_amd64/",
            "linux_amd64/in/",
            "linux_amd64/in/hello-amd64",
            "linux_arm64/",
            "linux_arm64/in/",
            "linux_arm64/in/hello-arm64"
        ]
    );
    let piped = stack.run(&["image", "build", "-q", "-o", "-", "context"]).ok();
    assert_eq!(names(&files(piped.stdout.as_bytes())), ["in/", "in/hello-amd64"]);
    assert_eq!(stack.run(&["image", "ls", "-q"]).ok().stdout, "", "no image was asked for");
    stack.finish();
}

#[test]
fn what_leads_out_of_a_folder_is_not_followed() {
    let stack = stack(
        "build-files-hostile",
        "FROM busybox:musl\nRUN rm -rf /tmp && mkdir /tmp && echo x >/tmp/x && mknod /dev-null c 1 3\n",
    );
    let folder = stack.project_folder();
    fs::create_dir_all(folder.join("outside")).unwrap();
    fs::create_dir_all(folder.join("out")).unwrap();
    std::os::unix::fs::symlink("../outside", folder.join("out/tmp")).unwrap();
    stack.run(&["image", "build", "-q", "-o", "out", "context"]).fails().complains("/tmp");
    assert_eq!(fs::read_dir(folder.join("outside")).unwrap().count(), 0);
    fs::remove_file(folder.join("out/tmp")).unwrap();
    stack.run(&["image", "build", "-q", "-o", "out", "context"]).ok();
    assert!(folder.join("out/tmp/x").exists());
    assert!(!folder.join("out/dev-null").exists(), "a device would be one of this host");
    stack.finish();
}

#[test]
fn archives_have_what_their_readers_expect() {
    let stack = stack("build-archives", FOR_ANY);
    let folder = stack.project_folder();
    let build = |rest: &[&str]| {
        stack
            .run(
                &[&["image", "build", "-q", "--metadata-file", "metadata", "-t", "a/b:1"], rest, &["context"]].concat(),
            )
            .ok()
    };
    let read = |name: &str| files(fs::File::open(folder.join(name)).unwrap());
    build(&["-o", "type=docker,dest=docker.tar"]);
    let docker = read("docker.tar");
    let table = &document(&docker, "manifest.json")[0];
    assert_eq!(table["RepoTags"], json!(["a/b:1"]));
    let layer = docker[table["Layers"][0].as_str().unwrap()].as_slice();
    assert_eq!(names(&files(GzDecoder::new(layer))), ["in/", "in/hello-amd64"]);

    let several = [
        "--platform",
        "linux/amd64,linux/arm64",
        "--annotation",
        "index:who=me",
        "--annotation",
        "manifest[linux/arm64]:arm=yes",
    ];
    build(&[&several[..], &["-o", "type=oci,dest=oci.tar,compression=zstd"]].concat());
    let oci = read("oci.tar");
    let top = &document(&oci, "index.json")["manifests"][0];
    assert_eq!(top["annotations"]["io.containerd.image.name"], "docker.io/a/b:1");
    let metadata: Value = serde_json::from_slice(&fs::read(folder.join("metadata")).unwrap()).unwrap();
    assert_eq!((&metadata["containerimage.digest"], &metadata["image.name"]), (&top["digest"], &json!("a/b:1")));
    let index = blob(&oci, top);
    assert_eq!(index["annotations"], json!({"who": "me"}));
    for (manifest, architecture) in index["manifests"].as_array().unwrap().iter().zip(["amd64", "arm64"]) {
        assert_eq!(manifest["platform"]["architecture"], architecture);
        let manifest = blob(&oci, manifest);
        assert_eq!(manifest["annotations"]["arm"] == "yes", architecture == "arm64");
        assert_eq!(manifest["layers"][0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
        let config = blob(&oci, &manifest["config"]);
        assert_eq!(config["config"]["Labels"]["platform"], format!("linux/{architecture}"));
    }
    build(&[&several[..], &["-o", "type=oci,dest=folder,tar=false,compression=zstd"]].concat());
    let same = fs::read(folder.join("folder").join(blob_name(top))).unwrap();
    assert_eq!(same, oci[&blob_name(top)]);
    stack
        .run(&[
            "image",
            "build",
            "-q",
            "--platform",
            "linux/amd64,linux/arm64",
            "-o",
            "type=docker,dest=x.tar",
            "context",
        ])
        .fails()
        .complains("type=oci");
    assert!(!folder.join("x.tar").exists());
    assert_eq!(stack.run(&["image", "ls", "-q"]).ok().stdout, "", "no image was asked for");
    stack.finish();
}

#[test]
fn the_same_epoch_makes_the_same_bytes() {
    let stack = stack(
        "build-epoch",
        "FROM busybox:musl\nCOPY hello /hello\nRUN date >/dev/null; touch /touched; mkdir /made\n",
    );
    let archive = |root: &str, touched: i64| {
        let hello = fs::File::options().write(true).open(stack.project_folder().join("context/hello")).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(touched.unsigned_abs());
        hello.set_modified(time).unwrap();
        let environment = BTreeMap::from([
            ("RCOMPOSE_ROOT".to_owned(), stack.project_folder().join(root).display().to_string()),
            ("SOURCE_DATE_EPOCH".to_owned(), "1700000000".to_owned()),
        ]);
        let arguments = ["image", "build", "-q", "-o", "type=oci,dest=epoch.tar,rewrite-timestamp=true", "context"];
        stack.run_with(&arguments, &environment, "").ok();
        fs::read(stack.project_folder().join("epoch.tar")).unwrap()
    };
    let first = archive("one", 1_750_000_000);
    assert!(first == archive("other", 1_760_000_000), "the archives differ");
    stack.finish();
}

/// Asks a registry for what a tag names.
fn manifest(registry: &Registry, name: &str, tag: &str) -> Value {
    let target = format!("/v2/{name}/manifests/{tag}");
    let types = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";
    let answer = http::request(registry.address(), "GET", &target, &[("Accept", types)], None, wait::PATIENCE);
    let answer = answer.expect("the registry answers");
    serde_json::from_slice(&answer.body).expect("it is a document")
}

#[test]
fn several_platforms_are_pushed_as_one_image() {
    let stack = stack("build-push", FOR_ANY);
    let registry = Registry::start(&stack.project_folder().join("registry")).unwrap();
    let name = format!("{}/team/app", registry.address());
    let tag = |tag: &str| format!("{name}:{tag}");
    let platforms = ["--platform", "linux/amd64,linux/arm64"];
    stack.run(&[&["image", "build", "-q", "--push", "-t", &tag("1")], &platforms[..], &["context"]].concat()).ok();
    let index = manifest(&registry, "team/app", "1");
    let architectures: Vec<&Value> =
        index["manifests"].as_array().unwrap().iter().map(|entry| &entry["platform"]["architecture"]).collect();
    assert_eq!(architectures, ["amd64", "arm64"]);
    let entry = index["manifests"][1]["digest"].as_str().unwrap();
    let layer = &manifest(&registry, "team/app", entry)["layers"][0];
    assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
    // Here the name means the image that runs here; it is pushed under further names as a whole.
    let architecture = ["image", "inspect", &tag("1"), "--format", "{{.Architecture}}"];
    assert_eq!(stack.run(&architecture).ok().stdout, "amd64\n");
    stack.run(&["image", "tag", &tag("1"), &tag("2")]).ok();
    stack.run(&["image", "prune", "-f"]).ok();
    stack.run(&["image", "push", "-q", &tag("2")]).ok();
    assert_eq!(manifest(&registry, "team/app", "2"), index);
    let pull = ["image", "pull", "-q", "--platform", "linux/arm64", &tag("2")];
    stack.run_with(&pull, &elsewhere(&stack), "").ok();
    stack.run(&["image", "build", "--push", "context"]).fails().complains("tag is needed");

    // Likewise for services; commands of other machines need a handler for their programs.
    stack.write("compose.yaml", &format!(
        "services:\n  any:\n    image: {name}:3\n    build: {{context: context, platforms: [linux/amd64, linux/arm64]}}\n"
    ));
    stack.run(&["build", "--push"]).ok();
    assert_eq!(manifest(&registry, "team/app", "3"), index);
    stack.finish();
}

#[test]
fn a_command_for_another_machine_is_refused_by_name() {
    let stack = stack("build-foreign", "FROM scratch\nCOPY hello /\nRUN [\"/hello\"]\n");
    stack
        .run(&["image", "build", "--platform", "linux/mips64le", "context"])
        .fails()
        .complains("RUN [\"/hello\"]")
        .complains("linux/mips64le: no handler of binfmt_misc");
    stack.finish();
}

/// The handler here is a shell of this machine, for programs of a machine that no other test has any of: the table is one for the
/// whole host. It is gone with the script; its mount is seen by the script alone.
#[test]
fn a_command_for_another_machine_runs_by_its_handler() {
    let stack = stack(
        "build-handler",
        "FROM scratch\nARG TARGETARCH\nCOPY --chmod=755 sh /bin/sh\nRUN echo run by $0 for $TARGETARCH >/said; cat /said\n",
    );
    stack.shell("printf 'FROM busybox:musl\n' | dc image build -q -o out -").ok();
    // The beginning of an ELF file of that machine.
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(16, 0);
    header.extend([2, 0, 0xf3, 0]);
    fs::write(stack.project_folder().join("context/sh"), &header).expect("it can be written");
    let magic: Vec<String> = header.iter().map(|byte| format!("\\x{byte:02x}")).collect();
    let magic = magic.concat();
    stack.write(
        "script",
        &format!(
            "table=/proc/sys/fs/binfmt_misc name=rcompose-test-$$
mount -t binfmt_misc none $table || {{ echo no handlers; exit 0; }}
trap 'echo -1 >$table/$name' EXIT
printf '%s' \":$name:M::{magic}::$PWD/out/bin/busybox:F\" >$table/register
\"$PROGRAM\" --progress plain image build --platform linux/riscv64 -t foreign context
"
        ),
    );
    let output = stack.shell("unshare --mount --propagation private sh -e script").ok();
    if output.stdout.contains("no handlers") {
        eprintln!("skipped: this kernel has no binfmt_misc");
        return stack.finish();
    }
    assert!(output.stderr.contains("run by /bin/sh for riscv64"), "{output:?}");
    let architecture = ["image", "inspect", "foreign", "--format", "{{.Architecture}}"];
    assert_eq!(stack.run(&architecture).ok().stdout, "riscv64\n");
    stack.finish();
}

#[test]
fn caches_are_shared_by_folders_and_registries() {
    let stack = stack("build-cache", TWO_STAGES);
    let registry = Registry::start(&stack.project_folder().join("registry")).unwrap();
    let name = |tag: &str| format!("{}/team/cache:{tag}", registry.address());
    let to_registry = format!("type=registry,ref={},mode=max,compression=zstd", name("max"));
    stack
        .run(&[
            "image",
            "build",
            "-q",
            "-t",
            "x",
            "--cache-to",
            "type=local,dest=cache",
            "--cache-to",
            &to_registry,
            "context",
        ])
        .ok();
    let inline = name("inline");
    stack.run(&["image", "build", "-q", "--push", "-t", &inline, "--cache-to", "type=inline", "context"]).ok();
    let cache = manifest(&registry, "team/cache", "max");
    assert_eq!(cache["config"]["mediaType"], "application/vnd.buildkit.cacheconfig.v0");

    // With all steps; with those of the image; from the image itself.
    let first = "[made 2/2] RUN echo 1 >/made";
    for (from, made) in [
        (format!("type=registry,ref={}", name("max")), vec![]),
        ("type=local,src=cache".to_owned(), vec![first]),
        (inline, vec![first]),
    ] {
        let root = stack.project_folder().join("elsewhere");
        if root.exists() {
            fs::remove_dir_all(&root).unwrap();
        }
        let arguments = ["--progress", "plain", "image", "build", "--cache-from", &from, "context"];
        let output = stack.run_with(&arguments, &elsewhere(&stack), "").ok();
        for step in [first, "[stage-1 2/3] COPY --from=made /made /made", "[stage-1 3/3] RUN echo 2 >/two"] {
            let cached = after(&output.stderr, step) == "CACHED";
            assert_eq!(cached, !made.contains(&step), "{from}: {step}\n{output:?}");
        }
    }
    // A cache that is not there, or of a kind that is not supported, is worth a warning; what is to be written there is an error.
    let arguments = [
        "image",
        "build",
        "--cache-from",
        "type=local,src=nowhere",
        "--cache-from",
        "type=gha",
        "--cache-to",
        "type=s3,bucket=b,ignore-error=true",
        "context",
    ];
    let output = stack.run(&arguments).ok();
    output.complains("nowhere cannot be used").complains("type gha is ignored").complains("type s3 is ignored");
    let written = ["image", "build", "--cache-to", "type=azblob,name=n", "context"];
    stack.run(&written).fails().complains("type azblob cannot be written");
    stack.finish();
}

/// What is said of a step, below the line with its name.
fn after<'a>(text: &'a str, step: &str) -> &'a str {
    let mut lines = text.lines().skip_while(|line| !line.ends_with(step));
    lines.nth(1).and_then(|line| line.split_once(' ')).map_or("", |(_, said)| said)
}

#[test]
fn a_cache_that_lies_is_not_believed() {
    let stack = stack("build-cache-lies", "FROM busybox:musl\nRUN echo true >/made\n");
    stack.run(&["image", "build", "-q", "--cache-to", "type=local,dest=cache", "context"]).ok();
    let blobs = stack.project_folder().join("cache/blobs/sha256");
    // Every layer is something else now; what says so is the same.
    for entry in fs::read_dir(&blobs).unwrap() {
        let path = entry.unwrap().path();
        if fs::read(&path).unwrap().starts_with(&[0x1f, 0x8b]) {
            fs::write(&path, "something else").unwrap();
        }
    }
    let arguments = ["--progress", "plain", "image", "build", "--cache-from", "type=local,src=cache", "context"];
    let output = stack.run_with(&arguments, &elsewhere(&stack), "").ok();
    assert!(output.stderr.contains("cannot be taken from the cache"), "{output:?}");
    assert!(!output.stderr.contains("CACHED"), "{output:?}");
    assert!(!Path::new("/made").exists());
    stack.finish();
}

/// What is attested of the one image in an archive: each statement's predicate, by its type.
fn attested(archive: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Value> {
    let index = blob(archive, &document(archive, "index.json")["manifests"][0]);
    let Some([image, attestation]) = index["manifests"].as_array().map(Vec::as_slice) else { panic!("{index}") };
    assert_eq!(attestation["platform"], json!({"architecture": "unknown", "os": "unknown"}));
    assert_eq!(attestation["annotations"]["vnd.docker.reference.type"], "attestation-manifest");
    assert_eq!(attestation["annotations"]["vnd.docker.reference.digest"], image["digest"]);
    let mut predicates = BTreeMap::new();
    for layer in blob(archive, attestation)["layers"].as_array().expect("it has statements") {
        assert_eq!(layer["mediaType"], "application/vnd.in-toto+json");
        let statement = blob(archive, layer);
        assert_eq!(statement["predicateType"], layer["annotations"]["in-toto.io/predicate-type"]);
        let digest = image["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
        let subject = json!([{"name": "pkg:docker/a/b@1?platform=linux%2Famd64", "digest": {"sha256": digest}}]);
        assert_eq!(statement["subject"], subject);
        let kind = statement["predicateType"].as_str().expect("it has a type").to_owned();
        predicates.insert(kind, statement["predicate"].clone());
    }
    predicates
}

/// Builds the context into an archive, and reads it.
fn archived(stack: &Stack, arguments: &[&str]) -> BTreeMap<String, Vec<u8>> {
    let output = ["-t", "a/b:1", "-o", "type=oci,dest=attested.tar", "context"];
    stack.run(&[&["image", "build", "-q"], arguments, &output[..]].concat()).ok();
    files(fs::File::open(stack.project_folder().join("attested.tar")).expect("it was written"))
}

const PROVENANCE: &str = "https://slsa.dev/provenance/v0.2";
const SPDX: &str = "https://spdx.dev/Document";

#[test]
fn where_an_image_comes_from_is_attested() {
    let stack = stack("build-provenance", "FROM busybox:musl\nARG WHO\nCOPY hello /hello\n");
    let build = |mode: &str| {
        let archive = archived(&stack, &[mode, "--build-arg", "WHO=me"]);
        attested(&archive)[PROVENANCE].clone()
    };
    let min = build("--provenance");
    assert_eq!(min["materials"][0]["uri"], "pkg:docker/busybox@musl?platform=linux%2Famd64");
    assert!(min["invocation"]["parameters"]["args"].is_null());
    let max = build("--attest=type=provenance,mode=max");
    assert_eq!(max["invocation"]["parameters"]["args"]["build-arg:WHO"], "me");
    for (wrong, words) in [
        ("--attest=type=shelf", "unknown attestation type"),
        ("--attest=mode=max", "attestation type not specified"),
        ("--provenance=mode=most", "invalid provenance"),
        ("--sbom=format=x", "settings are a generator's"),
    ] {
        stack.run(&["image", "build", wrong, "context"]).fails().complains(words);
    }
    stack.finish();
}

#[test]
fn what_is_in_an_image_is_attested() {
    let stack = stack("build-sbom", "FROM scratch\nCOPY root /\n");
    for (path, text) in [
        ("etc/os-release", "ID=debian\nVERSION_ID=13\n"),
        (
            "var/lib/dpkg/status",
            "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.41-12\n",
        ),
        ("usr/lib/python3/dist-packages/six-1.17.0.dist-info/METADATA", "Name: six\nVersion: 1.17.0\nLicense: MIT\n"),
        ("app/node_modules/@a/b/package.json", "{\"name\": \"@a/b\", \"version\": \"1.0.0\"}"),
        ("app/node_modules/@a/b/broken/package.json", "{"),
    ] {
        stack.write(&format!("context/root/{path}"), text);
    }
    let packages = |spdx: &Value| -> Vec<String> {
        let list = spdx["packages"].as_array().unwrap().iter();
        list.map(|package| package["externalRefs"][0]["referenceLocator"].as_str().unwrap().to_owned()).collect()
    };
    let all = attested(&archived(&stack, &["--sbom", "--provenance"]));
    assert!(all.contains_key(PROVENANCE));
    let spdx = &all[SPDX];
    assert_eq!((&spdx["spdxVersion"], &spdx["SPDXID"]), (&json!("SPDX-2.3"), &json!("SPDXRef-DOCUMENT")));
    assert_eq!(
        packages(spdx),
        ["pkg:npm/%40a/b@1.0.0", "pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-13", "pkg:pypi/six@1.17.0"]
    );

    // A generator finds what was built, and says what it likes about it.
    stack.write(
        "generator/Dockerfile",
        "FROM busybox:musl\nENV MINE=1\nWORKDIR /here\nCOPY --chmod=755 scan /\nENTRYPOINT [\"/scan\"]\nCMD [\"said\"]\n",
    );
    stack.write(
        "generator/scan",
        "#!/bin/sh -e
test \"$PWD $MINE\" = '/here 1' && touch /tmp/x && ! touch $BUILDKIT_SCAN_SOURCE/x 2>/dev/null
found=$(cd $BUILDKIT_SCAN_SOURCE && find . -type f | wc -l)
printf '{\"_type\": \"x\", \"predicateType\": \"https://spdx.dev/Document\", \"subject\": null, \"predicate\": {\"by\": \"%s\"}}' \\
	\"$1 $found $BUILDKIT_SCAN_WHO $(basename $BUILDKIT_SCAN_SOURCE)\" >$BUILDKIT_SCAN_DESTINATION/one.spdx.json
",
    );
    stack.run(&["image", "build", "-q", "-t", "generator", "generator"]).ok();
    let generated = || attested(&archived(&stack, &["--attest", "type=sbom,generator=generator,who=me"]))[SPDX].clone();
    assert_eq!(generated()["by"], "said 5 me sbom");
    stack.write("context/root/more", "");
    assert_eq!(generated()["by"], "said 6 me sbom");
    stack.write(
        "generator/scan",
        "#!/bin/sh -e
for source in $BUILDKIT_SCAN_SOURCE $BUILDKIT_SCAN_SOURCE_EXTRAS/*; do
	printf '{\"predicateType\": \"x\", \"predicate\": {\"has\": \"%s\"}}' \"$(echo $(ls $source))\" \\
		>$BUILDKIT_SCAN_DESTINATION/$(basename $source).json
done
",
    );
    stack.run(&["image", "build", "-q", "-t", "generator", "generator"]).ok();
    stack.write(
        "context/Dockerfile",
        "ARG BUILDKIT_SBOM_SCAN_CONTEXT=1\nARG BUILDKIT_SBOM_SCAN_STAGE=made,other\nFROM scratch AS made\nCOPY hello /\n\
         FROM scratch\nCOPY --from=made hello /copied\n",
    );
    stack.run(&["image", "build", "-q", "--sbom=generator=generator", "-o", "scanned", "context"]).ok();
    let has = |name: &str| {
        let statement = fs::read(stack.project_folder().join("scanned").join(name)).expect(name);
        let statement: Value = serde_json::from_slice(&statement).expect("it is a document");
        statement["predicate"]["has"].as_str().expect("it says so").to_owned()
    };
    assert_eq!([has("sbom.json"), has("sbom-made.json")], ["copied", "hello"]);
    assert!(has("sbom-context.json").contains("hello"));
    stack.write("context/Dockerfile", "FROM scratch\nCOPY root /\n");
    for (scan, words) in [
        ("#!/bin/sh\n", "the generator has written no statement"),
        ("#!/bin/sh\necho x >/run/out/a.json\n", "what the generator has written cannot be read: a.json"),
        ("#!/bin/sh\necho {} >/run/out/a.json\n", "a.json has no predicateType"),
        ("#!/bin/sh\nexit 3\n", "exit code: 3"),
    ] {
        stack.write("generator/scan", scan);
        stack.run(&["image", "build", "-q", "-t", "generator", "generator"]).ok();
        let arguments = ["image", "build", "--sbom=generator=generator", "-o", "type=oci,dest=x.tar", "context"];
        stack.run(&arguments).fails().complains(words);
    }
    stack.write("compose.yaml", "services: {web: {build: {context: context, sbom: generator=hello}}}\n");
    stack.run(&["build"]).fails().complains("hello");
    stack.finish();
}

/// Docker's names and forms of files, recorded from BuildKit.
#[test]
fn what_is_attested_of_files_stands_beside_them() {
    let stack = stack("build-files-attested", FOR_ANY);
    stack.write("context/.dockerignore", "left-out\n");
    stack.write("context/node_modules/a/package.json", "{\"name\": \"a\", \"version\": \"1.0.0\"}");
    stack.write("context/left-out/node_modules/b/package.json", "{\"name\": \"b\", \"version\": \"1.0.0\"}");
    let folder = stack.project_folder();
    let build = |rest: &[&str]| {
        let arguments = ["image", "build", "-q", "--sbom", "--provenance"];
        stack.run(&[&arguments[..], rest, &["context"]].concat()).ok();
    };
    let scanned = ["--build-arg", "BUILDKIT_SBOM_SCAN_CONTEXT=true"];
    stack.write(
        "context/Dockerfile",
        &format!(
            "ARG BUILDKIT_SBOM_SCAN_CONTEXT\nFROM busybox:musl AS made\nARG BUILDKIT_SBOM_SCAN_STAGE=true\n\
                  RUN ! env | grep SCAN && echo made >/made\n{FOR_ANY}COPY --from=made /made /in/\n"
        ),
    );
    build(&[&scanned[..], &["-o", "out"]].concat());
    let read = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(folder.join(name)).expect(name)).expect("it is a document")
    };
    let provenance = read("out/provenance.json");
    assert_eq!(provenance["predicateType"], PROVENANCE);
    assert_eq!(provenance["predicate"]["invocation"]["configSource"]["entryPoint"], "Dockerfile");
    let digest = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
    assert_eq!(provenance["subject"][0], json!({"name": "in/hello-amd64", "digest": {"sha256": digest}}));
    assert_eq!(fs::metadata(folder.join("out/provenance.json")).unwrap().permissions().mode() & 0o777, 0o600);
    for name in ["sbom", "sbom-context", "sbom-made"] {
        let sbom = read(&format!("out/{name}.spdx.json"));
        assert_eq!((&sbom["predicateType"], &sbom["subject"]), (&json!(SPDX), &provenance["subject"]));
        assert_eq!(sbom["predicate"]["name"], name);
    }
    let packages = read("out/sbom-context.spdx.json")["predicate"]["packages"].clone();
    assert_eq!((packages.as_array().unwrap().len(), &packages[0]["name"]), (1, &json!("a")));

    stack.write("context/Dockerfile", FOR_ANY);
    let platforms = ["--platform", "linux/amd64,linux/arm64"];
    build(&[&platforms[..], &["-o", "type=tar,dest=all.tar"]].concat());
    let all = files(fs::File::open(folder.join("all.tar")).unwrap());
    assert!(names(&all).contains(&"linux_arm64/provenance.json"), "{:?}", names(&all));
    assert_eq!(document(&all, "linux_amd64/sbom.spdx.json")["subject"][0]["name"], "in/hello-amd64");
    build(&[&platforms[..], &["-o", "type=local,dest=laid,platform-split=false,attestation-prefix=a-"]].concat());
    assert_eq!(read("laid/a-provenance.linux_arm64.json")["subject"][0]["name"], "in/hello-arm64");
    assert_eq!(read("laid/a-sbom.spdx.linux_amd64.json")["subject"][0]["name"], "in/hello-amd64");
    stack.finish();
}

#[test]
fn layers_in_estargz_are_read_by_those_who_do_not_know_it() {
    let stack =
        stack("build-estargz", "FROM busybox:musl\nRUN mkdir /in && seq 200000 >/in/numbers\nCOPY hello /in/hello\n");
    let registry = Registry::start(&stack.project_folder().join("registry")).unwrap();
    let name = format!("{}/team/app:1", registry.address());
    let output = format!("type=registry,name={name},compression=estargz,force-compression=true");
    stack.run(&["image", "build", "-q", "-o", &output, "context"]).ok();
    let layers = manifest(&registry, "team/app", "1")["layers"].clone();
    for layer in layers.as_array().unwrap() {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
        assert!(layer["annotations"]["containerd.io/snapshot/stargz/toc.digest"].is_string(), "{layer}");
    }
    // Whoever fetches it, and whoever built it, has the same files, and the two more of the form.
    let images = json!({"services": {"app": {"image": name, "command": "sh -c 'cat /in/hello; tail -n 1 /in/numbers; ls /*.json'"}}});
    stack.write("compose.yaml", &images.to_string());
    for environment in [BTreeMap::new(), elsewhere(&stack)] {
        let run = stack.run_with(&["run", "--rm", "-T", "app"], &environment, "").ok();
        assert_eq!(run.stdout, "hello\n200000\n/stargz.index.json\n");
        stack.run_with(&["down"], &environment, "").ok();
    }
    stack
        .run(&["image", "build", "--cache-to", "type=inline,compression=estargz", "context"])
        .fails()
        .complains("estargz");
    stack.finish();
}

#[test]
fn what_is_large_in_a_context_is_said_before_it_is_copied() {
    let stack = stack("build-large", "FROM scratch\nCOPY . missing /in/\n");
    // Nothing is read of it: one of the sources is not there.
    stack.write("context/data/dumps/old.sql", "");
    let dump = stack.project_folder().join("context/data/dumps/old.sql");
    fs::File::options().write(true).open(&dump).unwrap().set_len(10_000_000_000).unwrap();
    let output = stack.run(&["--progress", "plain", "image", "build", "context"]).fails();
    let words = "the build context is large: 10.0 GB in 3 files are copied, most of it data/dumps/old.sql (10.0 GB)";
    output.complains(words).complains("by lines in .dockerignore:").complains("missing\": not found");
    // Whoever reads that may want to begin anew, before all of it was read.
    stack.write("context/Dockerfile", "FROM scratch\nCOPY . /in/\n");
    fs::File::options().write(true).open(&dump).unwrap().set_len(1_000_000_000_000).unwrap();
    let build = stack.spawn(&["--progress", "plain", "image", "build", "context"]);
    wait::until(wait::PATIENCE, "the remark", || {
        let output = build.so_far();
        if output.stderr.contains("data/dumps/old.sql (1000.0 GB)") { Ok(()) } else { Err(output) }
    });
    build.signal(Signal::SIGINT);
    let output = build.wait();
    assert!(output.code == 130 && output.stderr.contains("CANCELED"), "{output:?}");
    stack.write("context/Dockerfile", "FROM scratch\nCOPY . missing /in/\n");
    stack.write("context/.dockerignore", "data/dumps/old.sql\n");
    let output = stack.run(&["--progress", "plain", "image", "build", "context"]).fails();
    assert!(!output.stderr.contains("is large"), "{output:?}");
    stack.finish();
}

#[test]
fn images_have_the_names_and_forms_that_are_asked_for() {
    let stack = stack("build-exporter", "FROM busybox:musl\nCOPY hello /hello\n");
    let registry = Registry::start(&stack.project_folder().join("registry")).unwrap();
    let name = format!("{}/team/app", registry.address());
    let build =
        |output: &str| stack.run(&["image", "build", "-q", "--metadata-file", "metadata", "-o", output, "context"]);
    let digest = || {
        let metadata: Value =
            serde_json::from_slice(&fs::read(stack.project_folder().join("metadata")).unwrap()).unwrap();
        metadata["containerimage.digest"].as_str().unwrap().to_owned()
    };
    let names = || stack.run(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}@{{.Digest}}"]).ok().stdout;

    build(&format!("type=registry,name={name}:1,push-by-digest=true")).ok();
    let sent = manifest(&registry, "team/app", &digest());
    assert_eq!(sent["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    let target = "/v2/team/app/manifests/1";
    let tagged = http::request(registry.address(), "GET", target, &[], None, wait::PATIENCE).expect("it answers");
    assert_eq!(tagged.status, 404, "it has no tag");
    assert!(names().contains(&format!("{name}:<none>@{}", digest())), "{}", names());

    build("type=image,name=a/b:1,name-canonical=true").ok();
    assert!(names().contains("a/b:1@") && names().contains(&format!("a/b:<none>@{}", digest())), "{}", names());
    build("type=image,dangling-name-prefix=left/over").ok();
    assert!(names().contains(&format!("left/over:<none>@{}", digest())), "{}", names());

    let form = |options: &str| {
        build(&format!("type=oci,dest=form.tar,{options}")).ok();
        let archive = files(fs::File::open(stack.project_folder().join("form.tar")).unwrap());
        let manifest = blob(&archive, &document(&archive, "index.json")["manifests"][0]);
        let layers = manifest["layers"].as_array().unwrap().iter();
        let types = layers.map(|layer| layer["mediaType"].as_str().unwrap().rsplit('.').next().unwrap().to_owned());
        (manifest["mediaType"].as_str().unwrap().to_owned(), types.collect::<Vec<_>>())
    };
    assert_eq!(form("compression=zstd").1, ["tar+gzip", "tar+zstd"], "a base stays as it is");
    assert_eq!(form("compression=zstd,force-compression=true").1, ["tar+zstd", "tar+zstd"]);
    assert_eq!(form("compression=uncompressed,force-compression=true").1, ["tar", "tar"]);
    let docker = "application/vnd.docker.distribution.manifest.v2+json".to_owned();
    assert_eq!(form("oci-mediatypes=false"), (docker, vec!["gzip".to_owned(); 2]));
    stack.run(&["image", "load", "-i", "form.tar"]).ok();
    build("type=oci,dest=x,oci-mediatypes=false,annotation.a=b").fails().complains("annotations need oci-mediatypes");
    let attested = ["image", "build", "--sbom", "-o", "type=oci,dest=x.tar,oci-mediatypes=false", "context"];
    stack.run(&attested).fails().complains("attestations need media types of the OCI");
    build("type=local,dest=split,platform-split=true").ok();
    assert!(stack.project_folder().join("split/linux_amd64/hello").exists());
    for (wrong, words) in [
        ("attestation-prefix=a/b", "is no part of a name"),
        ("unpack=false", "unpack=false is not supported"),
        ("store=false", "store=false is not supported"),
        ("prefer-nondist-layers=true", "prefer-nondist-layers is not supported"),
        ("registry.insecure=1", "registry.insecure is not supported"),
        ("typo=1", "unknown key \"typo\""),
    ] {
        build(&format!("type=image,{wrong}")).fails().complains(words);
    }
    stack.finish();
}

#[test]
fn layers_that_are_kept_plain_are_compressed_when_they_are_pushed() {
    let stack = stack("build-push-later", "FROM busybox:musl\nCOPY hello /hello\n");
    let registry = Registry::start(&stack.project_folder().join("registry")).unwrap();
    let name = |tag: &str| format!("{}/team/app:{tag}", registry.address());
    stack.run(&["image", "build", "-q", "-t", &name("1"), "-t", &name("2"), "context"]).ok();
    let id = stack.run(&["image", "inspect", &name("1"), "--format", "{{.Id}}"]).ok().stdout;
    for tag in ["1", "2", "1"] {
        stack.run(&["image", "push", "-q", &name(tag)]).ok();
        let layers = manifest(&registry, "team/app", tag)["layers"].clone();
        let types: Vec<&Value> = layers.as_array().unwrap().iter().map(|layer| &layer["mediaType"]).collect();
        assert_eq!(types, ["application/vnd.oci.image.layer.v1.tar+gzip"; 2]);
    }
    assert_eq!(manifest(&registry, "team/app", "1"), manifest(&registry, "team/app", "2"));
    // Here they are the same image as before, under the digest that the registry has.
    let first = name("1");
    let inspect = ["image", "inspect", &first, "--format", "{{.Id}} {{index .RepoDigests 0}}"];
    let said = stack.run(&inspect).ok().stdout;
    let pull = stack.run_with(&["image", "pull", "-q", &name("2")], &elsewhere(&stack), "").ok();
    let other = name("2");
    let there = ["image", "inspect", &other, "--format", inspect[4]];
    let there = stack.run_with(&there, &elsewhere(&stack), "");
    assert_eq!(said, there.ok().stdout, "{pull:?}");
    assert!(said.starts_with(id.trim()), "{said}");
    assert_eq!(stack.run(&["image", "ls", "-q", "--filter", "dangling=true"]).ok().stdout, "");
    stack
        .run(&[
            "image",
            "build",
            "-q",
            "-o",
            &format!("type=image,push=true,compression=uncompressed,name={}", name("3")),
            "context",
        ])
        .ok();
    assert_eq!(
        manifest(&registry, "team/app", "3")["layers"][1]["mediaType"],
        "application/vnd.oci.image.layer.v1.tar"
    );
    stack.finish();
}

/// What is answered was recorded from BuildKit (Docker Engine 28).
#[test]
fn a_dockerfile_says_what_it_offers() {
    let stack = stack(
        "build-call",
        "# base is where it begins
FROM scratch AS base
# WHO it is for
ARG WHO=me
RUN --mount=type=secret,id=tok --mount=type=cache,target=/c --mount=type=ssh,id=k true
# final it is
FROM base AS final
ARG NODEF
RUN echo $WHO
FROM base
",
    );
    let call =
        |method: &str| stack.run(&["image", "build", "--call", method, "--target", "final", "context"]).ok().stdout;
    assert_eq!(call("targets"), "TARGET    DESCRIPTION\nbase      is where it begins\nfinal     it is\n(default) \n");
    assert_eq!(
        call("outline"),
        "TARGET:      final
DESCRIPTION: it is

BUILD ARG   VALUE   DESCRIPTION
WHO         me      it is for
NODEF               

SECRET   REQUIRED
tok      

SSH   REQUIRED
k     

"
    );
    let outline: Value = serde_json::from_str(&call("outline,format=json")).expect("it is JSON");
    assert_eq!(outline["args"][0]["location"]["ranges"][0]["start"]["line"], 4);
    assert_eq!(outline["secrets"][0]["name"], "tok");
    let targets: Value = serde_json::from_str(&call("targets,format=json")).expect("it is JSON");
    assert_eq!(targets["targets"][2]["default"], true);
    assert_eq!(call("check"), "Check complete, no warnings found.\n");
    stack.write("context/Dockerfile", "FROM scratch as lower\nCOPY hello /\n");
    let warned = stack.run(&["image", "build", "--check", "context"]).fails();
    assert!(warned.code == 1 && warned.stdout.contains("FromAsCasing"), "{warned:?}");
    stack.run(&["image", "build", "--builder", "other", "context"]).fails().complains("no builder \"other\" found");
    stack.finish();
}

#[test]
fn services_are_printed_for_bake() {
    let stack = stack("build-print", FOR_ANY);
    stack.write(
        "compose.yaml",
        "services:
  web:
    image: a/web:1
    build:
      context: context
      target: final
      args: {WHO: you}
      platforms: [linux/amd64]
      cache_from: [\"type=local,src=c\"]
      tags: [b/c:1]
  base:
    build: {context: context, additional_contexts: {other: \"service:web\"}}
",
    );
    let printed = stack.run(&["build", "--print", "--push", "--build-arg", "WHO=me"]).ok().stdout;
    let bake: Value = serde_json::from_str(&printed).expect("it is JSON");
    assert_eq!(bake["group"]["default"]["targets"], json!(["base", "web"]));
    let web = &bake["target"]["web"];
    assert_eq!((&web["args"], &web["output"]), (&json!({"WHO": "me"}), &json!(["type=registry"])));
    assert_eq!((&web["tags"], &web["cache-from"]), (&json!(["b/c:1", "a/web:1"]), &json!(["type=local,src=c"])));
    let dockerfile = stack.project_folder().canonicalize().unwrap().join("context/Dockerfile");
    assert_eq!(web["dockerfile"], dockerfile.display().to_string());
    assert_eq!(bake["target"]["base"]["contexts"], json!({"other": "target:web"}));
    stack.finish();
}

#[test]
fn a_failed_build_can_be_entered() {
    let dockerfile =
        "FROM busybox:musl\nENV WHO=me\nWORKDIR /in\nRUN echo before >made\nRUN echo after >made; exit 3\n";
    let stack = stack("build-debug", dockerfile);
    let typed = "echo $WHO in $PWD: $(cat made)\n";
    let output = stack.run_with(&["image", "build", "-q", "--debug", "context"], &BTreeMap::new(), typed);
    assert_eq!((output.code, output.stdout.trim_end()), (1, "me in /in: before"), "{output:?}");
    assert!(output.stderr.contains("exit code: 3"), "{output:?}");
    stack.write("compose.yaml", "services: {web: {build: context}}\n");
    let output = stack.run_with(&["build", "--debug"], &BTreeMap::new(), typed);
    assert_eq!((output.code, output.stdout.trim_end()), (1, "me in /in: before"), "{output:?}");
    assert_eq!(stack.run(&["image", "ls", "-q", "localhost/build-halted"]).ok().stdout, "");
    stack.finish();
}

#[test]
fn what_only_builds_keep_is_not_counted_as_images() {
    let stack = stack("build-usage", FOR_ANY);
    stack.write("context/hello", &"x".repeat(3_000_000));
    stack.run(&["image", "build", "-q", "-o", "type=cacheonly", "context"]).ok();
    let sizes = ["system", "df", "--format", "{{.Type}} {{.Size}}"];
    let before = stack.run(&sizes).ok().stdout;
    assert!(before.contains("Images 0B\n") && before.contains("Build Cache 6"), "{before}");
    stack.run(&["image", "build", "-q", "context"]).ok();
    let after = stack.run(&sizes).ok().stdout;
    assert!(after.contains("Images 6") && after.contains("Build Cache 0B\n"), "{after}");
    stack.finish();
}
