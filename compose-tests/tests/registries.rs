//! Real registries: with passwords, with tokens, with TLS, and several pulls from one at once.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    thread,
};

use compose_tests::{
    factory::registry::{Extra, Registry},
    stack::{self, Stack},
    tokens::{Identity, TokenServer},
};
use flate2::{Compression, write::GzEncoder};
use serde_json::json;

/// `user` and `secret`, hashed with bcrypt as the registry demands.
const HTPASSWD: &str = include_str!("../../engine/tests/image/htpasswd");

/// Returns a stack, unless another program is tested, which has its images elsewhere.
fn stack(name: &str) -> Option<Stack> {
    (!stack::is_peer()).then(|| Stack::new(name))
}

/// Makes a folder beside the project.
fn folder(stack: &Stack, name: &str) -> std::path::PathBuf {
    let folder = stack.project_folder().join(name);
    fs::create_dir_all(&folder).expect("folders can be made");
    folder
}

fn passwords(stack: &Stack) -> String {
    let path = folder(stack, "registry").join("htpasswd");
    fs::write(&path, HTPASSWD).expect("files can be written");
    format!("auth: {{htpasswd: {{realm: tests, path: {:?}}}}}", path.display().to_string())
}

fn start(stack: &Stack, extra: &Extra) -> Registry {
    Registry::start_with(&folder(stack, "registry").join("data"), extra).expect("the registry starts")
}

fn login(stack: &Stack, host: &str, password: &str) -> compose_tests::output::Output {
    stack.run_with(&["login", "-u", "user", "--password-stdin", host], &BTreeMap::new(), password)
}

#[test]
fn what_is_pushed_can_be_pulled_by_who_is_logged_in() {
    let Some(stack) = stack("passwords") else { return };
    let registry = start(&stack, &Extra { sections: passwords(&stack), ..Extra::default() });
    let host = registry.address().to_string();
    let name = |rest: &str| format!("{host}/{rest}");
    stack.run(&["image", "pull", "-q", "test/two-layers"]).ok();
    for tag in ["team/app:1", "team/app:2", "other/app:1"] {
        stack.run(&["image", "tag", "test/two-layers", &name(tag)]).ok();
    }

    let denied = stack.run(&["image", "push", &name("team/app:1")]);
    assert!(denied.code == 1 && denied.stderr.contains(&format!("rcompose login {host}")), "{denied:?}");
    let wrong = login(&stack, &host, "wrong");
    assert!(wrong.code == 1 && wrong.stderr.contains("check the user name and the password"), "{wrong:?}");
    let config = stack.project_folder().parent().expect("it lies in a folder").join(".docker/config.json");
    assert!(!config.exists(), "a login that failed keeps nothing");
    assert!(login(&stack, &host, "secret\n").ok().stdout.contains("Login Succeeded"));
    let mode = fs::metadata(&config).expect("the login was kept").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "nobody else may read it");
    let again = stack.run(&["login", &host]).ok();
    assert!(again.stdout.contains("Authenticating with existing credentials"), "{again:?}");

    let pushed = stack.run(&["image", "push", "--all-tags", &name("team/app")]).ok();
    assert!(pushed.stdout.contains("1: digest: sha256:") && pushed.stdout.contains("2: digest: sha256:"), "{pushed:?}");
    let mounted = stack.run(&["image", "push", &name("other/app:1")]).ok();
    assert!(mounted.stderr.contains("Mounted from team/app"), "{mounted:?}");
    let uploads = |registry: &Registry| registry.requests().iter().filter(|line| line.starts_with("PUT")).count();
    let before = uploads(&registry);
    let again = stack.run(&["image", "push", &name("other/app:1")]).ok();
    assert!(again.stderr.contains("Layer already exists"), "{again:?}");
    assert_eq!(uploads(&registry), before + 1, "only the manifest is sent: {:#?}", registry.requests());

    stack.run(&["image", "prune", "-a", "-f"]).ok();
    stack.run(&["image", "pull", "--all-tags", &name("team/app")]).ok();
    let tags = stack.run(&["image", "ls", "--format", "{{.Tag}}"]).ok();
    assert_eq!(tags.stdout.lines().collect::<Vec<_>>(), ["1", "2"]);

    // A service that is built here and has a name is pushed under it, and under its further tags. They have the same
    // blobs, and all are on their way at once.
    let tags: Vec<String> = (2..10).map(|tag| name(&format!("built/app:{tag}"))).collect();
    stack.write(
        "compose.yaml",
        &format!("services:\n  app:\n    image: {host}/built/app:1\n    build: {{context: ., tags: {tags:?}}}\n  db: {{image: busybox}}\n"),
    );
    stack.run(&["image", "tag", &name("team/app:1"), &name("built/app:1")]).ok();
    let missing = stack.run(&["push"]);
    assert!(missing.code == 1 && missing.stderr.contains("built/app:2"), "{missing:?}");
    for tag in &tags {
        stack.run(&["image", "tag", &name("team/app:1"), tag]).ok();
    }
    let pushed = stack.run(&["push"]).ok();
    assert!(pushed.stderr.contains("app Pushed") && pushed.stderr.contains("db Skipped"), "{pushed:?}");
    let digests = stack.run(&["image", "inspect", "-f", "{{json .RepoDigests}}", &name("built/app:1")]).ok();
    assert!(digests.stdout.contains(&name("built/app@sha256:")), "{digests:?}");

    assert!(stack.run(&["logout", &host]).ok().stdout.contains("Removing login credentials"));
    stack.run(&["image", "prune", "-a", "-f"]).ok();
    let denied = stack.run(&["image", "pull", &name("team/app:1")]);
    assert!(denied.code == 1 && denied.stderr.contains(&format!("rcompose login {host}")), "{denied:?}");
    stack.finish();
}

#[test]
fn tokens_come_from_the_server_that_the_registry_names() {
    let Some(stack) = stack("tokens") else { return };
    let identity = Identity::make(&folder(&stack, "tokens"));
    let certificate = identity.certificate.display().to_string();
    let tokens = TokenServer::start(identity);
    let sections = format!(
        "auth: {{token: {{realm: \"http://{}/token\", service: tests, issuer: tests, rootcertbundle: {certificate:?}}}}}",
        tokens.address
    );
    let registry = start(&stack, &Extra { sections, ..Extra::default() });
    let host = registry.address().to_string();
    let name = |rest: &str| format!("{host}/{rest}");
    stack.run(&["image", "pull", "-q", "busybox:musl"]).ok();
    stack.run(&["image", "tag", "busybox:musl", &name("public/app:1")]).ok();
    stack.run(&["image", "tag", "busybox:musl", &name("private/app:1")]).ok();

    let denied = stack.run(&["image", "push", &name("public/app:1")]);
    assert!(denied.code == 1 && denied.stderr.contains("denied"), "{denied:?}");
    let wrong = login(&stack, &host, "wrong");
    assert!(wrong.code == 1 && wrong.stderr.contains("incorrect username or password"), "{wrong:?}");
    login(&stack, &host, "secret").ok();
    stack.run(&["image", "push", &name("public/app:1")]).ok();
    // The blob is in the other repository, from which this one may take it.
    let mounted = stack.run(&["image", "push", &name("private/app:1")]).ok();
    assert!(mounted.stderr.contains("Mounted from public/app"), "{mounted:?}");
    let before = tokens.seen().len();
    stack.run(&["image", "pull", &name("private/app:1")]).ok();
    let seen = tokens.seen();
    assert_eq!(seen[before..], ["user repository:private/app:pull"], "one token is enough for a pull");

    stack.run(&["logout", &host]).ok();
    stack.run(&["image", "prune", "-a", "-f"]).ok();
    stack.run(&["image", "pull", &name("public/app:1")]).ok();
    let denied = stack.run(&["image", "pull", &name("private/app:1")]);
    assert!(denied.code == 1 && denied.stderr.contains(&format!("rcompose login {host}")), "{denied:?}");
    stack.finish();
}

#[test]
fn a_helper_keeps_the_password() {
    let Some(mut stack) = stack("helper") else { return };
    let registry = start(&stack, &Extra { sections: passwords(&stack), ..Extra::default() });
    let host = registry.address().to_string();
    let programs = folder(&stack, "bin");
    let kept = programs.join("kept");
    let helper = programs.join("docker-credential-ours");
    let script = format!(
        "#!/bin/sh\nkept={kept:?}\ncase $1 in\nstore) cat > $kept;;\nerase) cat > /dev/null; rm -f $kept;;\n\
         get) cat > /dev/null; [ -e $kept ] && exec cat $kept; echo 'credentials not found in native keychain'; exit 1;;\nesac\n",
    );
    fs::write(&helper, script).expect("files can be written");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("modes can be set");
    stack.set("PATH", &format!("{}:/usr/bin:/bin", programs.display()));
    let config = folder(&stack, "docker").join("config.json");
    fs::write(&config, json!({"credHelpers": {host.clone(): "ours"}, "HttpHeaders": {"a": "b"}}).to_string())
        .expect("files can be written");
    stack.set("DOCKER_CONFIG", &config.parent().expect("it lies in a folder").display().to_string());

    let done = login(&stack, &host, "secret").ok();
    assert!(!done.stderr.contains("unencrypted"), "{done:?}");
    assert!(fs::read_to_string(&kept).expect("the helper has it").contains("secret"));
    let text = fs::read_to_string(&config).expect("it is there");
    assert!(!text.contains("secret") && text.contains("HttpHeaders"), "{text}");
    stack.run(&["image", "pull", "-q", "busybox:musl"]).ok();
    stack.run(&["image", "tag", "busybox:musl", &format!("{host}/app")]).ok();
    stack.run(&["image", "push", &format!("{host}/app")]).ok();
    stack.run(&["logout", &host]).ok();
    assert!(!kept.exists(), "the helper has forgotten it");
    assert_eq!(stack.run(&["image", "pull", &format!("{host}/app")]).code, 1);
    stack.finish();
}

#[test]
fn authorities_of_ones_own_are_believed_where_the_settings_say_so() {
    let Some(mut stack) = stack("tls") else { return };
    let identity = Identity::make(&folder(&stack, "tls"));
    let http = format!(
        ", tls: {{certificate: {:?}, key: {:?}}}",
        identity.certificate.display().to_string(),
        identity.key.display().to_string()
    );
    let registry = start(&stack, &Extra { http, sections: passwords(&stack) });
    let host = format!("localhost:{}", registry.address().port());
    let hub = json!({"mirrors": [format!("http://{}", stack.registry_address())], "mirrors_only": true});
    let settings = stack.project_folder().join("registries.json");
    let set = |own: serde_json::Value| {
        let all = json!({"registries": {"docker.io": hub, host.clone(): own}});
        fs::write(&settings, all.to_string()).expect("files can be written");
    };
    set(json!({"ca": identity.certificate}));
    stack.set("RCOMPOSE_REGISTRIES", &settings.display().to_string());
    stack.run(&["image", "pull", "-q", "busybox:musl"]).ok();
    let name = format!("{host}/app:1");
    stack.run(&["image", "tag", "busybox:musl", &name]).ok();
    login(&stack, &host, "secret").ok();
    stack.run(&["image", "push", &name]).ok();
    stack.run(&["image", "pull", &name]).ok();

    // Without its authority it is not believed, unless anybody is to be.
    let other = Identity::make(&folder(&stack, "other"));
    set(json!({"ca": other.certificate}));
    let refused = stack.run(&["image", "pull", &name]);
    assert!(refused.code == 1 && refused.stderr.contains("certificate"), "{refused:?}");
    set(json!({"insecure": true}));
    stack.run(&["image", "pull", &name]).ok();
    set(json!({"ca": "/nowhere.pem"}));
    let refused = stack.run(&["image", "pull", &name]);
    assert!(refused.code == 1 && refused.stderr.contains("/nowhere.pem"), "{refused:?}");
    set(json!({"authority": "x"}));
    let refused = stack.run(&["image", "pull", &name]);
    assert!(refused.code == 1 && refused.stderr.contains("registries.json"), "{refused:?}");
    stack.finish();
}

#[test]
fn two_pulls_at_once_fetch_each_layer_once() {
    let Some(mut stack) = stack("at-once") else { return };
    // Images of one project that have layers in common, pulled by two processes.
    stack.write(
        "compose.yaml",
        "services:\n  web: {image: \"nginx:alpine\"}\n  cache: {image: \"redis:7-alpine\"}\n  again: {image: \"nginx:alpine\"}\n",
    );
    let registry = Registry::start(&compose_tests::factory::registry::storage().expect("a cache folder is named"))
        .expect("the registry starts");
    let settings = stack.project_folder().join("registries.json");
    let hub = json!({"mirrors": [format!("http://{}", registry.address())], "mirrors_only": true});
    fs::write(&settings, json!({"registries": {"docker.io": hub}}).to_string()).expect("files can be written");
    stack.set("RCOMPOSE_REGISTRIES", &settings.display().to_string());
    let pulls = [stack.spawn(&["pull"]), stack.spawn(&["pull"])];
    for pull in pulls {
        pull.wait().ok();
    }
    let ids = stack.run(&["image", "inspect", "-f", "{{.Id}}", "nginx:alpine", "redis:7-alpine"]).ok().stdout;
    let mut counts = BTreeMap::<String, usize>::new();
    for request in registry.requests() {
        let is_configuration = ids.lines().any(|id| request.contains(id));
        if request.starts_with("GET") && request.contains("/blobs/") && !is_configuration {
            let digest = request.split(['/', ' ']).rev().nth(1).unwrap_or_default().to_owned();
            *counts.entry(digest).or_default() += 1;
        }
    }
    assert!(counts.len() > 4, "{counts:#?}");
    assert!(counts.values().all(|count| *count == 1), "a layer was fetched twice: {counts:#?}");
    stack.finish();
}

#[test]
fn other_tools_read_what_is_saved_and_we_read_theirs() {
    let Some(stack) = stack("archives") else { return };
    let path = |name: &str| stack.project_folder().join(name);
    stack.run(&["image", "pull", "-q", "test/two-layers"]).ok();
    stack.run(&["image", "save", "-o", "ours.tar", "test/two-layers"]).ok();
    let id = stack.run(&["image", "inspect", "-f", "{{.Id}}", "test/two-layers"]).ok().stdout;

    // Compressed, and through a pipe.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&fs::read(path("ours.tar")).expect("it was saved")).expect("memory can be written");
    fs::write(path("ours.tar.gz"), encoder.finish().expect("memory can be written")).expect("files can be written");
    stack.run(&["image", "prune", "-a", "-f"]).ok();
    let mut load = stack.command(&["image", "load"]);
    load.stdin(fs::File::open(path("ours.tar.gz")).expect("it is there"));
    let loaded = load.output().expect("rcompose runs");
    assert_eq!(String::from_utf8_lossy(&loaded.stdout), "Loaded image: test/two-layers:latest\n");
    assert_eq!(stack.run(&["image", "inspect", "-f", "{{.Id}}", "test/two-layers"]).ok().stdout, id);

    let skopeo = |from: &str, to: &str| {
        let output = Command::new("skopeo").args(["--insecure-policy", "copy", "-q", from, to]).output();
        let output = output.expect("skopeo was there a moment ago");
        assert!(output.status.success(), "{from} → {to}: {}", String::from_utf8_lossy(&output.stderr));
    };
    if Command::new("skopeo").arg("--version").output().is_ok() {
        let file = |kind: &str, name: &str, rest: &str| format!("{kind}:{}{rest}", path(name).display());
        skopeo(&file("docker-archive", "ours.tar", ""), &file("docker-archive", "docker.tar", ":theirs/docker:1"));
        skopeo(&file("oci-archive", "ours.tar", ":latest"), &file("oci-archive", "oci.tar", ":theirs/oci:1"));
        for (archive, name) in [("docker.tar", "theirs/docker:1"), ("oci.tar", "theirs/oci:1")] {
            let loaded = stack.run(&["image", "load", "-q", "-i", archive]).ok();
            assert_eq!(loaded.stdout, format!("Loaded image: {name}\n"));
            let command = stack.run(&["image", "inspect", "-f", "{{json .Config.Cmd}}", name]).ok().stdout;
            assert_eq!(
                command,
                stack.run(&["image", "inspect", "-f", "{{json .Config.Cmd}}", "test/two-layers"]).ok().stdout
            );
        }
    }

    // A directory of files.
    let files = folder(&stack, "files");
    fs::write(files.join("hello"), "from an archive\n").expect("files can be written");
    let tar = Command::new("tar").args(["-C"]).arg(&files).args(["-cf", "-", "."]).output().expect("tar is installed");
    fs::write(path("files.tar"), tar.stdout).expect("files can be written");
    let made =
        stack.run(&["image", "import", "-c", "CMD [\"/hello\"]", "-c", "LABEL a=b", "files.tar", "mine/files"]).ok();
    let told =
        stack.run(&["image", "inspect", "-f", "{{.Id}} {{.Config.Cmd}} {{.Config.Labels.a}}", "mine/files"]).ok();
    assert_eq!(told.stdout.trim(), format!("{} [/hello] b", made.stdout.trim()));
    stack.finish();
}

#[test]
fn what_is_damaged_is_fetched_again() {
    let Some(stack) = stack("verify") else { return };
    stack.run(&["image", "pull", "-q", "test/two-layers"]).ok();
    let blobs = stack.root().join("lib/images/blobs/sha256");
    let largest = |folder: &Path| {
        let mut files: Vec<_> =
            fs::read_dir(folder).expect("the store is there").map(|entry| entry.expect("it is there").path()).collect();
        files.sort_by_key(|path| fs::metadata(path).map_or(0, |metadata| metadata.len()));
        files.pop().expect("there are blobs")
    };
    fs::write(largest(&blobs), "damage").expect("files can be written");
    let found = stack.run(&["image", "verify", "--no-repair"]);
    assert!(found.code == 1 && found.stderr.contains("is damaged"), "{found:?}");
    let repaired = stack.run(&["image", "verify"]).ok();
    assert!(repaired.stdout.contains("test/two-layers:latest: repaired"), "{repaired:?}");
    assert_eq!(stack.run(&["image", "verify"]).ok().stdout, "test/two-layers:latest: OK\n");
    let names = stack.run(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]).ok();
    assert_eq!(names.stdout, "test/two-layers:latest\n", "it has the names that it had");
    stack.finish();
}

#[test]
fn references_of_every_form_mean_the_same_image() {
    let Some(mut stack) = stack("references") else { return };
    // The first mirror is not there, the second one is.
    let hub = json!({"mirrors": ["http://127.0.0.1:1", format!("http://{}", stack.registry_address())], "mirrors_only": true});
    let settings = stack.project_folder().join("registries.json");
    fs::write(&settings, json!({"registries": {"docker.io": hub}}).to_string()).expect("files can be written");
    stack.set("RCOMPOSE_REGISTRIES", &settings.display().to_string());
    let inspect =
        |name: &str, what: &str| stack.run(&["image", "inspect", "-f", what, name]).ok().stdout.trim().to_owned();
    stack.run(&["image", "pull", "-q", "busybox:musl"]).ok();
    let id = inspect("busybox:musl", "{{.Id}}");
    let digest = inspect("busybox:musl", "{{index .RepoDigests 0}}");
    let digest = digest.strip_prefix("busybox@").expect("it is named by the repository");
    for name in [
        "library/busybox:musl".to_owned(),
        "docker.io/busybox:musl".to_owned(),
        "index.docker.io/library/busybox:musl".to_owned(),
        format!("{}/library/busybox:musl", stack.registry_address()),
        format!("busybox@{digest}"),
        format!("busybox:musl@{digest}"),
        // The digest decides; the tag is for people.
        format!("busybox:nosuch@{digest}"),
    ] {
        stack.run(&["image", "pull", "-q", &name]).ok();
        assert_eq!(inspect(&name, "{{.Id}}"), id, "{name}");
    }
    let wrong = format!("busybox@sha256:{}", "0".repeat(64));
    let refused = stack.run(&["image", "pull", "-q", &wrong]);
    assert!(refused.code == 1 && refused.stderr.contains("not found"), "{refused:?}");

    stack.run(&["image", "prune", "-a", "-f"]).ok();
    let file = format!("services:\n  web: {{image: \"busybox:musl@{digest}\", command: sleep 1000}}\n");
    stack.write("compose.yaml", &file);
    stack.run(&["up", "-d"]).ok();
    assert_eq!(stack.container("web")["State"], "running");
    let listed = stack.run(&["image", "ls", "--digests", "--format", "{{.Repository}} {{.Tag}} {{.Digest}}"]).ok();
    assert_eq!(listed.stdout.trim(), format!("busybox <none> {digest}"));
    stack.finish();
}

/// Serves an archive at `/files/rootfs.tar.gz`, a redirect to it, one that breaks off, and one that is none. Ends with
/// the process. Returns where it is.
fn web_server(archive: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    let answer = move |mut stream: TcpStream| -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let request = lines.next().transpose()?.unwrap_or_default();
        let headers: Vec<String> =
            lines.map_while(Result::ok).take_while(|line| !line.is_empty()).map(|line| line.to_lowercase()).collect();
        let has_credentials = headers.iter().any(|line| line.starts_with("authorization:"));
        let (head, body): (String, &[u8]) = match request.split(' ').nth(1).unwrap_or_default() {
            _ if has_credentials => ("400 Bad Request".to_owned(), b""),
            "/rootfs?key=secret" => ("302 Found\r\nLocation: /files/rootfs.tar.gz".to_owned(), b""),
            "/files/rootfs.tar.gz" => ("200 OK".to_owned(), &archive),
            "/cut" => (format!("200 OK\r\nContent-Length: {}", archive.len() + 1), &archive),
            "/page" => ("200 OK".to_owned(), b"<html>"),
            _ => ("404 Not Found".to_owned(), b"no such file"),
        };
        let length =
            if head.contains("Length") { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        stream.write_all(format!("HTTP/1.1 {head}\r\n{length}Connection: close\r\n\r\n").as_bytes())?;
        stream.write_all(body)
    };
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away is no reason to end.
            drop(answer(stream));
        }
    });
    format!("http://{address}")
}

#[test]
fn an_archive_is_imported_from_a_web_server() {
    let Some(stack) = stack("import") else { return };
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let mut header = tar::Header::new_ustar();
    header.set_size(5);
    header.set_mode(0o644);
    archive.append_data(&mut header, "etc/motd", &b"hello"[..]).expect("memory can be written");
    let archive = archive.into_inner().and_then(GzEncoder::finish).expect("memory can be written");
    let server = web_server(archive.clone());
    fs::write(stack.project_folder().join("rootfs.tar.gz"), archive).expect("files can be written");

    for (path, said) in
        [("missing", "the server answered 404"), ("cut", "cannot fetch"), ("page", "cannot load my/files:latest")]
    {
        let failed = stack.run(&["image", "import", &format!("{server}/{path}"), "my/files"]);
        assert!(failed.code == 1 && failed.stderr.contains(said), "{failed:?}");
        assert_eq!(stack.run(&["image", "ls", "-q"]).ok().stdout, "", "nothing of it is kept");
    }

    let url = format!("{server}/rootfs?key=secret");
    let imported = stack.run(&["image", "import", "-c", "CMD [\"/hello\"]", &url, "my/files"]).ok();
    assert!(imported.stdout.starts_with("sha256:") && !imported.stderr.contains("secret"), "{imported:?}");
    let inspect = |name: &str| {
        let format = "{{json .RootFS.Layers}} {{json .Config.Cmd}}";
        stack.run(&["image", "inspect", "--format", format, name]).ok().stdout
    };
    stack.run(&["image", "import", "-c", "CMD [\"/hello\"]", "rootfs.tar.gz", "from/file"]).ok();
    assert_eq!(inspect("my/files"), inspect("from/file"));
}
