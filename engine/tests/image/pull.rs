//! Pulls from a real registry: Debian's `docker-registry`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::support::{FakeServer, Layer, Registry, Setup, TestImage, is_root, nothing_in_use, put_manifest, runtime};
use base64::Engine as _;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use rcompose_engine::container::user::resolve_in_layers;
use rcompose_engine::image::{
    ClientOptions, Descriptor, PullError, PullEvent, PullPhase, Reference, RegistryConfig, RegistrySettings, Store,
    media, no_progress, prepare, pull, save_credentials,
};
use serde_json::json;

fn two_layers() -> Vec<(Vec<u8>, &'static str)> {
    let base = Layer::new()
        .entry("./", tar::EntryType::Directory, 0o755, "", b"")
        .directory("etc")
        .file("etc/passwd", b"root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n")
        .file("etc/group", b"root:x:0:\napp:x:1001:\nweb:x:50:app\n")
        .directory("usr")
        .directory("usr/bin")
        .symlink("bin", "usr/bin")
        .entry("usr/bin/su", tar::EntryType::Regular, 0o4755, "", b"program")
        .file("removed", b"x")
        .tar();
    let top = Layer::new()
        .directory("etc")
        .file("etc/extra", b"extra")
        .file(".wh.removed", b"")
        .entry("usr/bin/hard", tar::EntryType::Regular, 0o755, "", b"shared")
        .entry("usr/bin/link", tar::EntryType::Link, 0o755, "usr/bin/hard", b"")
        .tar();
    vec![(base, "gzip"), (top, "zstd")]
}

#[test]
fn an_image_is_pulled_unpacked_and_read() {
    let (true, Some(registry)) = (is_root(), Registry::start("")) else { return };
    let image = TestImage::with_config(
        &two_layers(),
        json!({"User": "app", "Healthcheck": {"Test": ["CMD", "true"], "Retries": 2}}),
        false,
    );
    image.push(&registry.server, "team/app", "1");
    let setup = Setup::new();
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&events);
    let reference = registry.reference("team/app:1");
    let pulled = runtime()
        .block_on(pull(
            &setup.store,
            &reference,
            &setup.options,
            &(Arc::new(move |event: PullEvent| sink.lock().unwrap().push(event)) as _),
        ))
        .unwrap();
    assert_eq!(pulled.digest, image.digest());
    assert_eq!(pulled.docker.healthcheck.as_ref().unwrap().retries, 2);
    assert_eq!(setup.store.get(&reference).unwrap(), Some(pulled.clone()));
    assert_eq!(setup.store.list().unwrap().len(), 1);
    assert_eq!(setup.leftovers(), [""; 0]);

    let layers = setup.store.layer_paths(&pulled);
    assert_eq!(layers.len(), 2);
    let su = fs::metadata(layers[1].join("usr/bin/su")).unwrap();
    assert_eq!((su.permissions().mode() & 0o7777, su.uid(), su.mtime()), (0o4755, 0, 1_600_000_000));
    let hard = fs::metadata(layers[0].join("usr/bin/hard")).unwrap();
    assert_eq!((hard.nlink(), hard.ino()), (2, fs::metadata(layers[0].join("usr/bin/link")).unwrap().ino()));
    let read = |path: &str| setup.store.read_file(&pulled, path).unwrap();
    assert_eq!(read("/bin/su").unwrap(), b"program");
    assert_eq!(read("/etc/extra").unwrap(), b"extra");
    assert_eq!(read("/removed"), None);
    let user = resolve_in_layers(&layers, "app", &[]).unwrap();
    assert_eq!((user.uid, user.gid, user.additional_gids.as_slice()), (1000, 1001, &[1001, 50][..]));

    let events = events.lock().unwrap();
    let phases = |wanted: fn(&PullPhase) -> bool| events.iter().filter(|event| wanted(&event.phase)).count();
    assert_eq!(phases(|phase| *phase == PullPhase::Complete), 2);
    assert_eq!(phases(|phase| matches!(phase, PullPhase::Done { updated: true, .. })), 1);
}

#[test]
fn every_compression_and_both_dialects_give_the_same_files() {
    let (true, Some(registry)) = (is_root(), Registry::start("")) else { return };
    let setup = Setup::new();
    let runtime = runtime();
    for (name, compression, docker) in
        [("plain", "", false), ("gzip", "gzip", false), ("zstd", "zstd", false), ("docker", "gzip", true)]
    {
        let archive = Layer::new().file(&format!("only-{name}"), name.as_bytes()).tar();
        TestImage::with_config(&[(archive, compression)], json!({}), docker).push(&registry.server, name, "latest");
        let image =
            runtime.block_on(pull(&setup.store, &registry.reference(name), &setup.options, &no_progress())).unwrap();
        assert_eq!(setup.store.read_file(&image, &format!("/only-{name}")).unwrap().unwrap(), name.as_bytes());
    }
}

#[test]
fn docker_hub_names_resolve_through_a_mirror() {
    let (true, Some(registry)) = (is_root(), Registry::start("")) else { return };
    let image = TestImage::new(&two_layers());
    image.push(&registry.server, "library/postgres", "16");
    let setup = Setup::mirroring("docker.io", &["127.0.0.1:1", &registry.host()], true);
    let reference: Reference = "postgres:16".parse().unwrap();
    let runtime = runtime();
    runtime.block_on(pull(&setup.store, &reference, &setup.options, &no_progress())).unwrap();
    let found = setup.store.get(&reference).unwrap().unwrap();
    assert_eq!(found.reference.familiar(), "postgres:16");
    // By digest it is the same image, and nothing is fetched for it.
    let pinned: Reference = format!("postgres@{}", image.digest()).parse().unwrap();
    assert_eq!(setup.store.get(&pinned).unwrap().unwrap().id, found.id);
    let both: Reference = format!("postgres:16@{}", image.digest()).parse().unwrap();
    assert_eq!(setup.store.get(&both).unwrap().unwrap().id, found.id);

    let unknown: Reference = "postgres:nope".parse().unwrap();
    let error = runtime.block_on(pull(&setup.store, &unknown, &setup.options, &no_progress())).unwrap_err();
    assert!(error.is_unknown_image(), "{error}");
    assert!(error.to_string().starts_with("manifest for postgres:nope not found"), "{error}");
    assert_eq!(setup.leftovers(), [""; 0]);
}

#[test]
fn an_unreachable_registry_is_named() {
    let setup = Setup::new();
    let reference: Reference = "127.0.0.1:1/app".parse().unwrap();
    let error = runtime().block_on(pull(&setup.store, &reference, &setup.options, &no_progress())).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("127.0.0.1:1/app") && text.contains("registry 127.0.0.1:1 is unreachable"), "{text}");
    assert!(text.contains("onnection refused"), "{text}");
}

#[test]
fn the_platform_is_chosen_from_an_index() {
    let (true, Some(registry)) = (is_root(), Registry::start("")) else { return };
    let variant = |name: &str| TestImage::new(&[(Layer::new().file("which", name.as_bytes()).tar(), "gzip")]);
    let mut manifests = Vec::new();
    for (platform, architecture) in [("amd64", "amd64"), ("arm64", "arm64")] {
        let image = variant(platform);
        image.push(&registry.server, "multi", platform);
        let mut entry = Descriptor::new(media::OCI_MANIFEST, image.digest(), image.manifest.len() as u64);
        entry.platform = Some(format!("linux/{architecture}").parse().unwrap());
        manifests.push(entry);
    }
    let index = json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": manifests}).to_string();
    put_manifest(&registry.server, "multi", "latest", media::OCI_INDEX, index.as_bytes());
    let reference = registry.reference("multi");
    let runtime = runtime();
    let mut setup = Setup::new();
    let image = runtime.block_on(pull(&setup.store, &reference, &setup.options, &no_progress())).unwrap();
    assert_eq!(setup.store.read_file(&image, "which").unwrap().unwrap(), b"amd64");
    assert_eq!(image.source_digest, rcompose_engine::image::Digest::of(index.as_bytes()));
    // The index's digest names the image as well.
    let pinned: Reference = format!("{}@{}", reference.name(), image.source_digest).parse().unwrap();
    assert_eq!(setup.store.get(&pinned).unwrap().unwrap().id, image.id);
    setup.options.platform = Some("linux/arm64".parse().unwrap());
    let image = runtime.block_on(pull(&setup.store, &reference, &setup.options, &no_progress())).unwrap();
    assert_eq!(setup.store.read_file(&image, "which").unwrap().unwrap(), b"arm64");
    setup.options.platform = Some("linux/s390x".parse().unwrap());
    let error = runtime.block_on(pull(&setup.store, &reference, &setup.options, &no_progress())).unwrap_err();
    assert!(error.to_string().contains("no matching manifest for linux/s390x"), "{error}");
}

#[test]
fn many_pulls_at_once_fetch_each_layer_once() {
    let (true, Some(registry)) = (is_root(), Registry::start("")) else { return };
    let shared = Layer::new().file("shared", &vec![7; 3_000_000]).tar();
    let setup = Setup::new();
    let runtime = runtime();
    let references: Vec<Reference> = (0..6)
        .map(|number| {
            let own = Layer::new().file("own", format!("{number}").as_bytes()).tar();
            TestImage::new(&[(shared.clone(), "gzip"), (own, "gzip"), (shared.clone(), "gzip")]).push(
                &registry.server,
                &format!("image{number}"),
                "latest",
            );
            registry.reference(&format!("image{number}"))
        })
        .collect();
    let downloads = Arc::new(Mutex::new(Vec::new()));
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        // Half of them through a store of its own, as another process would.
        for (number, reference) in references.iter().enumerate() {
            let store =
                if number % 2 == 0 { Arc::clone(&setup.store) } else { Arc::new(Store::open(&setup.data()).unwrap()) };
            let (reference, options, sink) = (reference.clone(), setup.options.clone(), Arc::clone(&downloads));
            tasks.spawn(async move {
                let progress = Arc::new(move |event: PullEvent| {
                    if event.phase == PullPhase::Extracting {
                        sink.lock().unwrap().push(event.layer.unwrap());
                    }
                });
                pull(&store, &reference, &options, &(progress as _)).await.unwrap();
            });
        }
        while let Some(result) = tasks.join_next().await {
            result.unwrap();
        }
    });
    let mut downloads = downloads.lock().unwrap().clone();
    downloads.sort();
    let count = downloads.len();
    downloads.dedup();
    assert_eq!((count, downloads.len()), (7, 7), "each layer was fetched once");
    for (number, reference) in references.iter().enumerate() {
        let image = setup.store.get(reference).unwrap().unwrap();
        assert_eq!(setup.store.read_file(&image, "own").unwrap().unwrap(), format!("{number}").as_bytes());
        // The layer that is in it twice is stacked once.
        assert_eq!(setup.store.layer_paths(&image).len(), 2);
    }
    assert_eq!(setup.leftovers(), [""; 0]);
}

#[test]
fn a_registry_with_passwords_wants_the_right_one() {
    let authorization = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode("user:secret"));
    let started = is_root().then(|| Registry::start_with(password_settings, Some(authorization)));
    let Some(Some(registry)) = started else { return };
    TestImage::new(&two_layers()).push(&registry.server, "private", "latest");
    let reference = registry.reference("private");
    let runtime = runtime();
    let config = registry.directory.path().join("docker/config.json");
    let with_config = |options: &mut ClientOptions| options.docker_config = Some(config.clone());
    let attempt = |setup: &Setup| runtime.block_on(pull(&setup.store, &reference, &setup.options, &no_progress()));

    let error = attempt(&Setup::with(with_config)).unwrap_err();
    assert!(matches!(error, PullError::Denied { .. }), "{error}");
    assert!(error.to_string().contains("may require 'rcompose login'"), "{error}");
    save_credentials(&config, &registry.host(), "user", "wrong").unwrap();
    assert!(matches!(attempt(&Setup::with(with_config)), Err(PullError::Denied { .. })));
    save_credentials(&config, &registry.host(), "user", "secret").unwrap();
    let setup = Setup::with(with_config);
    attempt(&setup).unwrap();
    runtime.block_on(setup.options.client.check_login(&registry.host(), None)).unwrap();
}

/// Makes a certificate for this machine, and returns what the registry's configuration says of it.
fn tls_settings(directory: &Path) -> String {
    let (key, certificate) = (directory.join("key.pem"), directory.join("cert.pem"));
    let names = "subjectAltName=DNS:localhost,IP:127.0.0.1";
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", names, "-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    format!("  tls:\n    certificate: {}\n    key: {}\n", certificate.display(), key.display())
}

/// Writes the file of passwords, and returns what the registry's configuration says of it.
fn password_settings(directory: &Path) -> String {
    // `user` and `secret`, hashed with bcrypt as the registry demands.
    fs::write(directory.join("htpasswd"), include_str!("htpasswd")).unwrap();
    format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", directory.join("htpasswd").display())
}

#[test]
fn an_image_comes_over_tls_with_a_password() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("skipped: openssl is not installed");
        return;
    }
    let (true, Some(open)) = (is_root(), Registry::start("")) else { return };
    let image = TestImage::new(&two_layers());
    image.push(&open.server, "private/app", "1");
    // The same content behind TLS and a password.
    let settings = |directory: &Path| {
        let status = Command::new("cp").arg("-r").arg(open.directory.path().join("data")).arg(directory).status();
        assert!(status.unwrap().success());
        tls_settings(directory) + &password_settings(directory)
    };
    let Some(registry) = Registry::start_with(settings, None) else { return };
    let host = format!("localhost:{}", registry.server.address.port());
    let reference: Reference = format!("{host}/private/app:1").parse().unwrap();
    let docker = registry.directory.path().join("docker/config.json");
    let ca = registry.directory.path().join("cert.pem");
    let setup = || {
        let own = RegistryConfig { ca: Some(ca.clone()), ..Default::default() };
        let settings = RegistrySettings { registries: [(host.clone(), own)].into(), ..Default::default() };
        Setup::with(|options| {
            options.settings = Arc::new(settings);
            options.docker_config = Some(docker.clone());
        })
    };
    let runtime = runtime();
    let attempt = |setup: &Setup| runtime.block_on(pull(&setup.store, &reference, &setup.options, &no_progress()));
    assert!(matches!(attempt(&setup()), Err(PullError::Denied { .. })));
    save_credentials(&docker, &host, "user", "secret").unwrap();
    let setup = setup();
    let pulled = attempt(&setup).unwrap();
    assert_eq!(pulled.digest, image.digest());
    assert_eq!(setup.store.read_file(&pulled, "/etc/extra").unwrap().unwrap(), b"extra");
}

#[test]
fn a_registry_with_tls_is_believed_only_with_its_authority() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("skipped: openssl is not installed");
        return;
    }
    let (true, Some(registry)) = (is_root(), Registry::start_with(tls_settings, None)) else { return };
    let host = format!("localhost:{}", registry.server.address.port());
    let reference: Reference = format!("{host}/none").parse().unwrap();
    let runtime = runtime();
    let attempt = |config: RegistryConfig| {
        let settings = RegistrySettings { registries: [(host.clone(), config)].into(), ..Default::default() };
        let setup = Setup::with(|options| options.settings = Arc::new(settings));
        runtime.block_on(pull(&setup.store, &reference, &setup.options, &no_progress())).unwrap_err()
    };
    // That the registry is understood is shown by its saying that it has no such image.
    let known = attempt(RegistryConfig { ca: Some(registry.directory.path().join("cert.pem")), ..Default::default() });
    assert!(known.is_unknown_image(), "{known}");
    let insecure = attempt(RegistryConfig { insecure: true, ..Default::default() });
    assert!(insecure.is_unknown_image(), "{insecure}");
    let address = format!("https://{host}");
    let unverified = attempt(RegistryConfig { mirrors: vec![address], mirrors_only: true, ..Default::default() });
    assert!(unverified.to_string().contains("certificate"), "{unverified}");
}

#[test]
fn what_skopeo_writes_is_read_and_what_we_write_skopeo_reads() {
    if Command::new("skopeo").arg("--version").output().is_err() {
        eprintln!("skipped: skopeo is not installed");
        return;
    }
    let (true, Some(registry)) = (is_root(), Registry::start("")) else { return };
    let image = TestImage::new(&two_layers());
    image.push(&registry.server, "library/tool", "1");
    let setup = Setup::new();
    let runtime = runtime();
    let reference = registry.reference("library/tool:1");
    runtime.block_on(pull(&setup.store, &reference, &setup.options, &no_progress())).unwrap();
    let images = setup.data().join("images");
    let skopeo = |arguments: &[&str]| {
        let output = Command::new("skopeo").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let inspected = skopeo(&["inspect", &format!("oci:{}:{reference}", images.display())]);
    assert!(inspected.contains(&image.digest().to_string()), "{inspected}");
    // The other way round: skopeo copies into our layout, we unpack what it brought.
    let source = format!("docker://{reference}");
    let target = format!("oci:{}:copied:2", images.display());
    skopeo(&["copy", "--src-tls-verify=false", &source, &target]);
    let copied: Reference = "copied:2".parse().unwrap();
    let found = setup.store.get(&copied).unwrap().expect("its layers are the same ones");
    assert_eq!(found.digest, image.digest());
    let fresh = Setup::new();
    let target = format!("oci:{}:copied:2", fresh.data().join("images").display());
    skopeo(&["copy", "--src-tls-verify=false", &source, &target]);
    assert_eq!(fresh.store.get(&copied).unwrap(), None, "it is not unpacked");
    let prepared = runtime.block_on(prepare(&fresh.store, &copied, &fresh.options, &no_progress())).unwrap().unwrap();
    assert_eq!(fresh.store.read_file(&prepared, "/etc/extra").unwrap().unwrap(), b"extra");
}

#[test]
fn umoci_works_on_our_store() {
    if Command::new("umoci").arg("--version").output().is_err() {
        eprintln!("skipped: umoci is not installed");
        return;
    }
    let (true, Some(registry)) = (is_root(), Registry::start("")) else { return };
    // It knows no zstd.
    let layers: Vec<_> = two_layers().into_iter().map(|(archive, _)| (archive, "gzip")).collect();
    TestImage::new(&layers).push(&registry.server, "library/tool", "1");
    let setup = Setup::new();
    let runtime = runtime();
    let reference = registry.reference("library/tool:1");
    let image = runtime.block_on(pull(&setup.store, &reference, &setup.options, &no_progress())).unwrap();
    let images = setup.data().join("images");
    let umoci = |arguments: &[&str]| {
        let output = Command::new("umoci").args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let layout = images.to_str().unwrap();
    assert_eq!(umoci(&["ls", "--layout", layout]).trim(), reference.to_string());
    let bundle = setup.directory.path().join("bundle");
    let bundle = bundle.to_str().unwrap();
    umoci(&["unpack", "--image", &format!("{layout}:{reference}"), bundle]);
    let extra = setup.directory.path().join("bundle/rootfs/etc/extra");
    assert_eq!(fs::read(&extra).unwrap(), b"extra", "it sees what we see");
    // What it adds to our layout is an image of ours.
    fs::write(&extra, "changed").unwrap();
    umoci(&["repack", "--image", &format!("{layout}:changed:2"), bundle]);
    let name: Reference = "changed:2".parse().unwrap();
    let changed = runtime.block_on(prepare(&setup.store, &name, &setup.options, &no_progress())).unwrap().unwrap();
    assert_eq!(setup.store.read_file(&changed, "/etc/extra").unwrap().unwrap(), b"changed");
    assert_eq!(setup.store.read_file(&image, "/etc/extra").unwrap().unwrap(), b"extra");
    // Neither's garbage collection takes away what the other has.
    umoci(&["gc", "--layout", layout]);
    setup.store.gc(nothing_in_use).unwrap();
    for image in [&image, &changed] {
        assert_eq!(setup.store.verify(image).unwrap(), []);
    }
    // What it removes is free to be collected.
    umoci(&["rm", "--image", &format!("{layout}:changed:2")]);
    assert!(setup.store.get(&name).unwrap().is_none());
    assert!(setup.store.gc(nothing_in_use).unwrap().layers == 1, "the layer that only it had");
    assert_eq!(setup.store.verify(&image).unwrap(), []);
}

#[test]
fn chains_of_120_layers_are_mounted() {
    if !is_root() {
        return;
    }
    // Each layer has a file of its own and one that hides the one below.
    let layers: Vec<_> = (0..120)
        .map(|number| {
            let own = Layer::new().file(&format!("f{number}"), b"x").file("top", format!("{number}").as_bytes());
            (own.tar(), if number % 2 == 0 { "gzip" } else { "zstd" })
        })
        .collect();
    let server = FakeServer::serving(TestImage::new(&layers), |_| None);
    let setup = Setup::new();
    let reference = server.reference("deep");
    let image = runtime().block_on(pull(&setup.store, &reference, &setup.options, &no_progress())).unwrap();
    let lowers = setup.store.layer_paths(&image);
    assert_eq!(lowers.len(), 120);
    assert_eq!(setup.store.read_file(&image, "/top").unwrap().unwrap(), b"119");
    // Nobody sees it but us, and it is gone with its descriptor.
    let root = rcompose_engine::container::rootfs::image(&lowers).unwrap();
    let read = |name: &str| {
        let file = openat(&root, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
        std::io::read_to_string(fs::File::from(file)).unwrap()
    };
    assert_eq!(read("top"), "119");
    for number in 0..120 {
        assert_eq!(read(&format!("f{number}")), "x");
    }
}
