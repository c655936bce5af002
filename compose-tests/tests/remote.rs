//! Compose files that lie elsewhere: in git repositories and in registries. Both are served from this process's own
//! scratch folders, on ports of the loopback that the kernel chooses.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use compose_tests::factory::registry::Registry;
use compose_tests::stack::{Stack, binary};
use compose_tests::{http, serve, wait};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// A scratch folder with a home and a project in it.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a scratch directory can be made");
        for name in ["home", "project"] {
            fs::create_dir(folder.path().join(name)).expect("a folder can be made in a new one");
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().expect("the scratch directory is there").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a file has a folder")).expect("folders can be made");
        fs::write(path, text).expect("a file can be written");
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(binary())
            .args(arguments)
            .current_dir(self.path("project"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .stdin(Stdio::null())
            .output()
            .expect("the program can be run")
    }

    /// The project as JSON.
    fn config(&self, file: &str) -> Value {
        let output = self.run(&["-f", file, "config", "--format", "json"]);
        assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("config prints JSON")
    }

    /// What is said of a file that is refused.
    fn refused(&self, file: &str) -> String {
        let output = self.run(&["-f", file, "config"]);
        assert!(!output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Makes a repository of the files below `repository/`, with the tag v1, and serves it.
    fn serve_git(&self) -> String {
        serve::make_repository(&self.path("repository"));
        format!("git://{}/repository/.git", serve::serve_git(&self.path("")))
    }
}

fn pointer<'v>(value: &'v Value, path: &str) -> &'v str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_else(|| panic!("no text at {path} of {value:#}"))
}

const WEB: &str =
    "services:\n  web:\n    image: web:${TAG:-none}\n    env_file: web.env\n    volumes: ['./conf:/conf']\n";

#[test]
fn a_repository_is_a_project() {
    let place = Place::new();
    place.write("repository/compose.yaml", WEB);
    place.write("repository/web.env", "FROM=repository\n");
    place.write(
        "repository/sub/compose.yaml",
        "include: [deep.yaml]\nservices: {sub: {extends: {file: ../compose.yaml, service: web}}}\n",
    );
    place.write("repository/sub/deep.yaml", "services: {deep: {image: d, volumes: ['./x:/x']}}\n");
    place.write("project/.env", "TAG=local\n");
    let url = place.serve_git();

    let whole = place.config(&url);
    assert_eq!(pointer(&whole, "/name"), "project");
    assert_eq!(pointer(&whole, "/services/web/image"), "web:local");
    assert_eq!(pointer(&whole, "/services/web/environment/FROM"), "repository");
    let source = PathBuf::from(pointer(&whole, "/services/web/volumes/0/source"));
    assert!(source.starts_with(place.path("home/.cache/rcompose/git")), "{}", source.display());
    let tree = source.parent().expect("the volume is in the tree").to_owned();

    let part = place.config(&format!("{url}#v1:sub"));
    assert_eq!(pointer(&part, "/services/deep/volumes/0/source"), tree.join("sub/x").display().to_string());
    assert_eq!(pointer(&part, "/services/sub/volumes/0/source"), tree.join("conf").display().to_string());

    place.write(
        "project/compose.yaml",
        &format!("include: ['{url}']\nservices: {{mine: {{extends: {{file: '{url}#main', service: web}}}}}}\n"),
    );
    let included = place.config("compose.yaml");
    for service in ["web", "mine"] {
        assert_eq!(pointer(&included, &format!("/services/{service}/environment/FROM")), "repository");
    }

    for (wrong, words) in [
        ("#nothing", "does not contain ref nothing"),
        ("#:../..", "traversal"),
        ("#:/etc", "must be relative"),
        ("#--upload-pack=true", "does not contain ref"),
        ("#v1:web", "the repository has no web"),
    ] {
        let said = place.refused(&format!("{url}{wrong}"));
        assert!(said.contains(words), "{wrong}: {said}");
    }
}

#[test]
fn a_repository_names_nothing_outside_of_it() {
    let place = Place::new();
    place.write("secret", "SECRET=hidden\n");
    let secret = place.path("secret").display().to_string();
    let service = |line: &str| format!("services: {{a: {{image: i, {line}}}}}\n");
    place.write("repository/absolute.yaml", &service(&format!("env_file: '{secret}'")));
    place.write("repository/up.yaml", &service("env_file: '../../../../../secret'"));
    place.write("repository/labels.yaml", &service(&format!("label_file: '{secret}'")));
    place.write("repository/include.yaml", &format!("include: ['{secret}']\n"));
    place.write("repository/variables.yaml", &format!("include: [{{path: link.yaml, env_file: '{secret}'}}]\n"));
    place.write("repository/extends.yaml", &service(&format!("extends: {{file: '{secret}', service: x}}")));
    place.write("repository/link.yaml", &service("env_file: link"));
    std::os::unix::fs::symlink(&secret, place.path("repository/link")).expect("a link can be made");
    let url = place.serve_git();
    for (file, words) in [
        ("absolute.yaml", "outside of the remote project"),
        ("up.yaml", "outside of the remote project"),
        ("labels.yaml", "outside of the remote project"),
        ("include.yaml", "outside of the remote project"),
        ("variables.yaml", "outside of the remote project"),
        ("extends.yaml", "outside of the remote project"),
        ("link.yaml", "symbolic link that leads out"),
    ] {
        let said = place.refused(&format!("{url}#:{file}"));
        assert!(said.contains(words), "{file}: {said}");
        assert!(!said.contains("hidden"), "{file}: {said}");
    }
}

#[test]
fn without_git_the_error_says_so() {
    let place = Place::new();
    let output = Command::new(binary())
        .args(["-f", "git://127.0.0.1:1/x.git", "config"])
        .env_clear()
        .env("PATH", place.path("home"))
        .env("HOME", place.path("home"))
        .stdin(Stdio::null())
        .output()
        .expect("the program can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("cannot run git") && said.contains("install git"), "{said}");
}

/// What a registry has under one path.
struct Content {
    path: String,
    media_type: &'static str,
    bytes: Vec<u8>,
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const COMPOSE: &str = "application/vnd.docker.compose.file+yaml";
const ENV: &str = "application/vnd.docker.compose.envfile";

/// An artifact with these files: media type, annotations, content.
fn artifact(tag: &str, artifact_type: &str, files: &[(&str, Value, &str)]) -> Vec<Content> {
    let blob = |bytes: &[u8]| Content {
        path: format!("/v2/app/blobs/{}", digest(bytes)),
        media_type: "application/octet-stream",
        bytes: bytes.to_vec(),
    };
    let layers: Vec<Value> = files
        .iter()
        .map(|(media_type, annotations, text)| {
            json!({"mediaType": media_type, "digest": digest(text.as_bytes()), "size": text.len(), "annotations": annotations})
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": artifact_type,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(b"{}"), "size": 2},
        "layers": layers,
    });
    let bytes = manifest.to_string().into_bytes();
    let mut contents: Vec<Content> = files.iter().map(|(_, _, text)| blob(text.as_bytes())).collect();
    contents.push(Content { path: format!("/v2/app/manifests/{tag}"), media_type: MANIFEST, bytes });
    contents
}

/// Answers every request with what is there under its path.
fn serve(contents: Vec<Content>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("a listener has an address");
    thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            let text = serve::read_head(&mut connection);
            let path = text.split(' ').nth(1).unwrap_or_default();
            let (status, media_type, bytes) = match contents.iter().find(|content| content.path == path) {
                Some(content) => ("200 OK", content.media_type, content.bytes.as_slice()),
                None => ("404 Not Found", "text/plain", b"".as_slice()),
            };
            let length = bytes.len();
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            // Who asked may have gone.
            let _ = connection.write_all(head.as_bytes()).and_then(|()| connection.write_all(bytes));
        }
    });
    address
}

#[test]
fn an_artifact_is_a_project() {
    const KIND: &str = "application/vnd.docker.compose.project";
    let place = Place::new();
    let file = |name: &str| json!({"com.docker.compose.file": name});
    let main = (
        COMPOSE,
        file("compose.yaml"),
        "services: {a: {image: one, env_file: [h.env], extends: {file: e.yaml, service: z}}}\n",
    );
    let over = (COMPOSE, file("compose.override.yaml"), "services: {a: {image: two, volumes: ['./d:/d']}}\n");
    let variables = (ENV, json!({"com.docker.compose.envfile": "h.env"}), "FROM=artifact\n");
    let extended = (
        COMPOSE,
        json!({"com.docker.compose.extends": "true", "com.docker.compose.file": "e.yaml"}),
        "services: {z: {labels: {l: extended}}}\n",
    );
    let outside = (ENV, json!({"com.docker.compose.envfile": "../outside"}), "A=1\n");
    let mut contents = artifact("1", KIND, &[main.clone(), over, variables, extended]);
    contents.extend(artifact("other", "application/x", std::slice::from_ref(&main)));
    contents.extend(artifact("outside", KIND, &[outside, main]));
    let image = contents.iter().find(|content| content.path.ends_with("manifests/1")).expect("it is there");
    let image_digest = digest(&image.bytes);
    let address = serve(contents);

    let config = place.config(&format!("oci://{address}/app:1"));
    assert_eq!(pointer(&config, "/name"), "project");
    assert_eq!(pointer(&config, "/services/a/image"), "two");
    assert_eq!(pointer(&config, "/services/a/environment/FROM"), "artifact");
    assert_eq!(pointer(&config, "/services/a/labels/l"), "extended");
    let source = PathBuf::from(pointer(&config, "/services/a/volumes/0/source"));
    assert!(source.starts_with(place.path("home/.cache/rcompose/oci")), "{}", source.display());

    for (tag, words) in [("other", "no artifact of type"), ("outside", "not the name of a file"), ("none", "not found")]
    {
        let said = place.refused(&format!("oci://{address}/app:{tag}"));
        assert!(said.contains(words), "{tag}: {said}");
    }
    assert!(!place.path("home/.cache/rcompose/outside").exists() && !place.path("home/.cache/outside").exists());
    assert_eq!(left_aside(&place.path("home/.cache/rcompose/oci")), 0);

    // The same registry gives images their digests.
    place.write(
        "project/compose.yaml",
        &format!("services: {{a: {{image: '{address}/app:1', command: x}}, b: {{build: .}}}}\n"),
    );
    let output = place.run(&["config", "--lock-image-digests"]);
    let wanted = format!("services:\n  a:\n    image: {address}/app:1@{image_digest}\n  b: {{}}\n");
    assert_eq!(String::from_utf8_lossy(&output.stdout), wanted, "{}", String::from_utf8_lossy(&output.stderr));
    let output = place.run(&["config", "--resolve-image-digests", "--format", "json"]);
    let config: Value = serde_json::from_slice(&output.stdout).expect("config prints JSON");
    assert_eq!(pointer(&config, "/services/a/image"), format!("{address}/app:1@{image_digest}"));
    assert_eq!(pointer(&config, "/services/a/command/0"), "x");
}

fn manifest(registry: &Registry, tag: &str) -> Option<Value> {
    let target = format!("/v2/shop/manifests/{tag}");
    let types = [MANIFEST, INDEX, "application/vnd.docker.distribution.manifest.v2+json"].join(", ");
    let answer = http::request(registry.address(), "GET", &target, &[("Accept", &types)], None, wait::PATIENCE);
    let answer = answer.expect("the registry answers");
    (answer.status == 200).then(|| serde_json::from_slice(&answer.body).expect("a manifest is JSON"))
}

fn hex(text: &str) -> String {
    digest(text.as_bytes()).split_off("sha256:".len())
}

/// What Docker Compose 2.40 makes of the same files, with its own hand: recorded on 2026-11-22.
fn published(place: &Place) -> Value {
    let version = ("com.docker.compose.version", "2.40.3");
    let layer = |media_type: &str, annotations: &[(&str, &str)], content: &str| {
        let annotations = annotations.iter().chain([&version]).copied().collect::<BTreeMap<_, _>>();
        let data = STANDARD.encode(content);
        let (digest, size) = (digest(content.as_bytes()), content.len());
        json!({"mediaType": media_type, "digest": digest, "size": size, "annotations": annotations, "data": data})
    };
    let hash = |path: &str| hex(&place.path(path).display().to_string());
    let base = format!("{}.yaml", hash("project/sub/base.yaml"));
    let env = format!("{}.env", hash("project/a.env"));
    let main = SHOP.replace("sub/base.yaml", &base).replace("a.env", &env);
    json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.docker.compose.project",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(b"{}"), "size": 2, "data": "e30="},
        "layers": [
            layer(COMPOSE, &[("com.docker.compose.file", "compose.yaml")], &main),
            layer(COMPOSE, &[("com.docker.compose.extends", "true"), ("com.docker.compose.file", &base)], BASE),
            layer(ENV, &[("com.docker.compose.envfile", &env)], "FROM=a\n"),
        ],
    })
}

const SHOP: &str = "# A shop
services:
  web:
    image: \"${IMAGE:-web}\"
    env_file:
      - a.env
    extends:
      file: sub/base.yaml
      service: base
  admin:
    image: web
    profiles: [admin]
    volumes: [./data:/data]
";
const BASE: &str = "services:\n  base:\n    labels: {from: base}\n";

fn shop() -> (Place, Registry) {
    let place = Place::new();
    place.write("project/compose.yaml", SHOP);
    place.write("project/sub/base.yaml", BASE);
    place.write("project/a.env", "FROM=a\n");
    let registry = Registry::start(&place.path("registry")).expect("the registry starts");
    (place, registry)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_project_is_published() {
    let (place, registry) = shop();
    let name = |tag: &str| format!("{}/shop:{tag}", registry.address());
    let publish = |tag: &str, flags: &[&str]| {
        let output = place.run(&[&["publish"], flags, &[&name(tag)]].concat());
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    };
    publish("pretended", &["--with-env", "--yes", "--dry-run"]);
    assert_eq!(manifest(&registry, "pretended"), None);
    assert!(publish("1", &["--with-env", "--yes"]).contains("published"));
    let mut first = manifest(&registry, "1").expect("it is there");
    let own = first.as_object_mut().expect("a manifest is an object");
    let created = own.remove("annotations").expect("it has some");
    assert!(pointer(&created, "/org.opencontainers.image.created").ends_with('Z'), "{created}");
    assert_eq!(first, published(&place));

    // Whoever has nothing but its name reads the same.
    place.write("elsewhere/none", "");
    let config = |file: &str| {
        let output = place.run(&["--project-directory", "../elsewhere", "-f", file, "config", "--format", "json"]);
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice::<Value>(&output.stdout).expect("config prints JSON")
    };
    let read = config(&format!("oci://{}", name("1")));
    assert_eq!(pointer(&read, "/services/web/environment/FROM"), "a");
    assert_eq!(pointer(&read, "/services/web/labels/from"), "base");
    assert_eq!(pointer(&read, "/services/web/image"), "web");

    publish("old", &["--with-env", "--yes", "--oci-version", "1.0"]);
    let old = manifest(&registry, "old").expect("it is there");
    assert_eq!(old.get("artifactType"), None);
    assert_eq!(pointer(&old, "/config/mediaType"), "application/vnd.docker.compose.config.empty.v1+json");
    assert_eq!(pointer(&config(&format!("oci://{}", name("old"))), "/services/web/image"), "web");

    // The registry has no other image than what was published before.
    place.write("project/compose.yaml", &format!("services: {{web: {{image: '{}'}}}}\n", name("1")));
    publish("pinned", &["--resolve-image-digests"]);
    let pinned = manifest(&registry, "pinned").expect("it is there");
    assert_eq!(pointer(&pinned, "/layers/1/annotations/com.docker.compose.file"), "image-digests.yaml");
    let read = config(&format!("oci://{}", name("pinned")));
    assert!(pointer(&read, "/services/web/image").starts_with(&format!("{}@sha256:", name("1"))), "{read:#}");
}

#[test]
fn images_go_along_with_their_project() {
    let stack = Stack::new("publish-app");
    let registry = Registry::start(&stack.project_folder().join("registry")).expect("the registry starts");
    let publish = |image: &str, tag: &str| {
        stack.write("compose.yaml", &format!("services: {{web: {{image: '{image}'}}}}\n"));
        stack.run(&["publish", "--app", &format!("{}/shop:{tag}", registry.address())]).ok();
        // What names the artifact and its images has no tag.
        let put =
            |request: &String| request.strip_prefix("PUT /v2/shop/manifests/")?.split(' ').next().map(str::to_owned);
        let index = registry.requests().iter().filter_map(put).next_back().expect("an index was sent");
        manifest(&registry, &index).expect("it is there")
    };
    let first = publish("busybox", "1");
    assert_eq!(pointer(&first, "/subject/artifactType"), "application/vnd.docker.compose.project");
    let artifact = manifest(&registry, pointer(&first, "/subject/digest")).expect("the artifact is there");
    assert_eq!(Some(artifact), manifest(&registry, "1"));
    let image = pointer(&first, "/manifests/0/digest");
    assert!(manifest(&registry, image).is_some(), "the image is in the same repository");
    stack.run(&["image", "pull", "-q", &format!("{}/shop@{image}", registry.address())]).ok();
    // Of what the registry has, nothing is sent again.
    let sent = || {
        registry.requests().iter().filter(|request| request.starts_with("PUT") && request.contains("/blobs/")).count()
    };
    let before = sent();
    let second = publish(&format!("{}/shop@{image}", registry.address()), "2");
    assert_eq!(pointer(&second, "/manifests/0/digest"), image);
    assert_eq!(sent(), before + 1, "only the compose file is new");
    stack.finish();
}

#[test]
fn what_may_be_private_is_asked_about() {
    let (place, registry) = shop();
    let name = format!("{}/shop:1", registry.address());
    let publish = |flags: &[&str]| place.run(&[&["publish"], flags, &[&name]].concat());
    // Nobody answers.
    let asked = publish(&["--with-env"]);
    assert!(asked.status.success() && said(&asked).contains("admin: "), "{}", said(&asked));
    assert!(said(&asked).contains("Are you ok to publish these bind mount declarations?"), "{}", said(&asked));
    let refused = publish(&["--yes"]);
    assert!(!refused.status.success() && said(&refused).contains("--with-env"), "{}", said(&refused));
    let key = format!("AKIA{}", "Z".repeat(16));
    for (file, words) in [
        (format!("services:\n  web:\n    image: i\n    labels: {{key: {key}}}\n"), "compose.yaml:4: AKIA"),
        ("services: {a: {build: .}}\n".to_owned(), "only contains a build section for service(s):\n- \"a\""),
        (
            "include: [other.yaml]\nservices: {a: {image: i}}\n".to_owned(),
            "cannot publish compose file with local includes",
        ),
    ] {
        place.write("project/compose.yaml", &file);
        place.write("project/other.yaml", "services: {b: {image: i}}\n");
        let output = publish(&[]);
        assert!(said(&output).contains(words), "{words}: {}", said(&output));
    }
    assert_eq!(manifest(&registry, "1"), None);
}

/// How many unfinished trees there are.
fn left_aside(cache: &Path) -> usize {
    let entries = fs::read_dir(cache).expect("the cache is there").flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(".new-")).count()
}
