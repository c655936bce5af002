//! Pushes to Debian's `docker-registry`; saves archives that skopeo reads, and loads those that it writes.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::support::{FakeServer, Layer, Registry, Setup, TestImage, gzip, is_root, runtime};
use rcompose_engine::image::{
    Image, Platform, PushError, PushEvent, PushPhase, Reference, no_progress, prepare, pull, push,
};
use serde_json::json;

fn image() -> TestImage {
    let base = Layer::new().directory("etc").file("etc/base", &[b'b'; 300_000]).tar();
    let top = Layer::new().file("top", b"top").tar();
    TestImage::new(&[(base, "gzip"), (top, "gzip")])
}

/// Gets an image into a store from a server that is no registry to push to.
fn pulled(setup: &Setup) -> Image {
    let server = FakeServer::serving(image(), |_| None);
    runtime().block_on(pull(&setup.store, &server.reference("source"), &setup.options, &no_progress())).unwrap()
}

fn push_recording(setup: &Setup, name: &Reference) -> (Result<(), PushError>, Vec<PushPhase>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&events);
    let progress = Arc::new(move |event: PushEvent| sink.lock().unwrap().push(event.phase)) as _;
    let result = runtime().block_on(push(&setup.store, name, &setup.options, &progress)).map(|_| ());
    let phases = events.lock().unwrap().clone();
    (result, phases)
}

fn count(phases: &[PushPhase], wanted: fn(&PushPhase) -> bool) -> usize {
    phases.iter().filter(|phase| wanted(phase)).count()
}

#[test]
fn a_push_sends_what_is_missing_and_mounts_what_is_elsewhere() {
    let (true, Some(registry)) = (is_root(), Registry::start("")) else { return };
    let setup = Setup::new();
    let source = pulled(&setup);
    let name = registry.reference("team/app:1");
    setup.store.tag(&source, &name).unwrap();
    let (result, phases) = push_recording(&setup, &name);
    result.unwrap();
    assert_eq!(count(&phases, |phase| *phase == PushPhase::Complete), 3);
    // What was pushed can be pulled by somebody else.
    let other = Setup::new();
    let image = runtime().block_on(pull(&other.store, &name, &other.options, &no_progress())).unwrap();
    assert_eq!((image.digest, image.id), (source.digest, source.id));
    assert_eq!(other.store.read_file(&image, "etc/base").unwrap().unwrap().len(), 300_000);
    // Again: everything is there.
    let (result, phases) = push_recording(&setup, &name);
    result.unwrap();
    assert_eq!(count(&phases, |phase| *phase == PushPhase::Exists), 3);
    // Into another repository: the layers are mounted, the configuration is sent.
    let mounted = registry.reference("other/app:2");
    setup.store.tag(&source, &mounted).unwrap();
    let (result, phases) = push_recording(&setup, &mounted);
    result.unwrap();
    assert_eq!(count(&phases, |phase| matches!(phase, PushPhase::Mounted { from } if from == "team/app")), 2);
    assert_eq!(count(&phases, |phase| *phase == PushPhase::Complete), 1);
}

#[test]
fn what_cannot_be_pushed_is_said() {
    if !is_root() {
        return;
    }
    let setup = Setup::new();
    let source = pulled(&setup);
    let nowhere: Reference = "127.0.0.1:1/app:1".parse().unwrap();
    let (result, _) = push_recording(&setup, &nowhere);
    assert!(result.unwrap_err().to_string().contains("no such image: 127.0.0.1:1/app:1"));
    setup.store.tag(&source, &nowhere).unwrap();
    let (result, _) = push_recording(&setup, &nowhere);
    assert!(result.unwrap_err().to_string().contains("unreachable"));
}

fn save(setup: &Setup, path: &Path) {
    setup.store.save(&setup.store.list().unwrap(), File::create(path).unwrap()).unwrap();
}

fn load(setup: &Setup, path: &Path) -> Vec<Image> {
    let names = setup.store.load_archive(File::open(path).unwrap(), &Platform::host()).unwrap();
    let runtime = runtime();
    names
        .iter()
        .map(|name| runtime.block_on(prepare(&setup.store, name, &setup.options, &no_progress())).unwrap().unwrap())
        .collect()
}

#[test]
fn what_is_saved_is_loaded_by_us_and_by_skopeo() {
    if !is_root() {
        return;
    }
    let setup = Setup::new();
    let source = pulled(&setup);
    setup.store.remove(&source.reference).unwrap();
    let archive = setup.directory.path().join("images.tar");
    let name: Reference = "example/app:1".parse().unwrap();
    // The name is gone, the blobs are not; another name brings the image back.
    let again = pulled(&setup);
    setup.store.tag(&again, &name).unwrap();
    setup.store.remove(&again.reference).unwrap();
    save(&setup, &archive);
    let other = Setup::new();
    let loaded = load(&other, &archive);
    assert_eq!(loaded.len(), 1);
    assert_eq!((loaded[0].digest, loaded[0].reference.clone()), (source.digest, name));
    assert_eq!(other.store.read_file(&loaded[0], "top").unwrap().unwrap(), b"top");
    assert_eq!(other.leftovers(), [""; 0]);
    // Compressed as well.
    let compressed = setup.directory.path().join("images.tar.gz");
    fs::write(&compressed, gzip(&fs::read(&archive).unwrap())).unwrap();
    assert_eq!(load(&Setup::new(), &compressed)[0].id, source.id);

    if Command::new("skopeo").arg("--version").output().is_err() {
        eprintln!("skipped: skopeo is not installed");
        return;
    }
    let skopeo = |arguments: &[&str]| {
        let output = Command::new("skopeo").args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let target = setup.directory.path().join("layout");
    skopeo(&["copy", &format!("docker-archive:{}", archive.display()), &format!("oci:{}:a", target.display())]);
    let inspected = skopeo(&["inspect", &format!("oci-archive:{}", archive.display())]);
    assert!(inspected.contains(&source.digest.to_string()), "{inspected}");
    // And what skopeo writes, in both forms.
    for (kind, file) in [("docker-archive", "docker.tar"), ("oci-archive", "oci.tar")] {
        let path = setup.directory.path().join(file);
        skopeo(&[
            "copy",
            &format!("oci-archive:{}", archive.display()),
            &format!("{kind}:{}:example/copy:2", path.display()),
        ]);
        let other = Setup::new();
        let loaded = load(&other, &path);
        assert_eq!(loaded[0].reference.familiar(), "example/copy:2", "{kind}");
        assert_eq!(other.store.read_file(&loaded[0], "etc/base").unwrap().unwrap().len(), 300_000, "{kind}");
    }
}

#[test]
fn hostile_archives_are_refused() {
    if !is_root() {
        return;
    }
    let setup = Setup::new();
    let refuse = |what: &str, archive: Layer, expected: &str| {
        let error = setup.store.load_archive(&archive.tar()[..], &Platform::host()).expect_err(what);
        assert!(error.to_string().contains(expected), "{what}: {error}");
        assert!(setup.store.list().unwrap().is_empty(), "{what}");
        assert_eq!(setup.leftovers(), [""; 0], "{what}");
    };
    let digest = "a".repeat(64);
    refuse("no images", Layer::new().file("readme", b"hello"), "not an image archive");
    refuse("wrong digest", Layer::new().file(&format!("blobs/sha256/{digest}"), b"x"), "wrong digest");
    refuse("no table", Layer::new().file("manifest.json", b"{}"), "manifest.json in the archive is invalid");
    let table = json!([{"Config": "../../../../etc/passwd", "RepoTags": ["a:b"], "Layers": ["/etc/shadow"]}]);
    refuse("names that lead out", Layer::new().file("manifest.json", table.to_string().as_bytes()), "lacks");
    let linked = Layer::new()
        .file("manifest.json", table.to_string().as_bytes())
        .symlink("etc/passwd", "/etc/passwd")
        .symlink("etc/shadow", "shadow");
    refuse("links that lead out or round", linked, "lacks");
    let index = json!({"schemaVersion": 2, "manifests": [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": format!("sha256:{digest}"), "size": 1}]});
    refuse("a manifest that is not there", Layer::new().file("index.json", index.to_string().as_bytes()), "lacks");
}
