//! The store's promises: names, garbage collection, verification, and survival of killed processes and power cuts.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::{FakeServer, Layer, Setup, TestImage, honest, is_root, nothing_in_use, runtime};
use rcompose_engine::image::{
    Client, ClientOptions, Damage, Digest, PullOptions, Reference, Store, StoreError, no_progress, prepare, pull,
    repair,
};

fn image(name: &str) -> TestImage {
    let base = Layer::new().directory("etc").file("etc/base", &[b'b'; 100_000]).tar();
    let own = Layer::new().file("name", name.as_bytes()).tar();
    TestImage::new(&[(base, "gzip"), (own, "zstd")])
}

pub(super) fn served(name: &str) -> FakeServer {
    FakeServer::serving(image(name), |_| None)
}

pub(super) fn pull_into(setup: &Setup, reference: &Reference) -> rcompose_engine::image::Image {
    runtime().block_on(pull(&setup.store, reference, &setup.options, &no_progress())).unwrap()
}

fn files_in(path: &Path) -> BTreeSet<String> {
    fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.'))
        .collect()
}

#[test]
fn names_move_and_garbage_goes() {
    if !is_root() {
        return;
    }
    let setup = Setup::new();
    let (first, second) = (served("first"), served("second"));
    let one = pull_into(&setup, &first.reference("app:1"));
    let two = pull_into(&setup, &second.reference("app:1"));
    let latest: Reference = "app:latest".parse().unwrap();
    setup.store.tag(&one, &latest).unwrap();
    assert_eq!(setup.store.get(&latest).unwrap().unwrap().id, one.id);
    // The name goes over to the other image, and the first one keeps its other name.
    setup.store.tag(&two, &latest).unwrap();
    assert_eq!(setup.store.get(&latest).unwrap().unwrap().id, two.id);
    assert_eq!(setup.store.list().unwrap().len(), 3);
    assert!(setup.store.list().unwrap().iter().all(|image| !image.dangling));
    // Without any name left it is listed as dangling, until it is removed.
    setup.store.tag(&two, &one.reference).unwrap();
    let dangling: Vec<_> = setup.store.list().unwrap().into_iter().filter(|image| image.dangling).collect();
    assert_eq!(dangling.len(), 1);
    assert_eq!((dangling[0].id, dangling[0].reference.tag()), (one.id, None));
    assert_eq!(setup.store.find(&one.id.short()).unwrap().unwrap().id, one.id);

    assert_eq!(setup.store.gc(nothing_in_use).unwrap().blobs, 0, "everything is referred to");
    assert_eq!(setup.store.remove_image(&one.id).unwrap().len(), 1);
    // A container still uses the layer that only the first image has.
    let freed = setup.store.gc(|| Ok::<_, StoreError>(one.diff_ids.clone())).unwrap();
    assert_eq!((freed.blobs, freed.layers), (3, 0), "manifest, configuration and its own layer's blob");
    let freed = setup.store.gc(nothing_in_use).unwrap();
    assert_eq!((freed.blobs, freed.layers, freed.bytes), (0, 1, 5));
    assert!(setup.store.get(&latest).unwrap().is_some());
    assert_eq!(setup.store.remove_image(&two.id).unwrap().len(), 3);
    let freed = setup.store.gc(nothing_in_use).unwrap();
    assert_eq!((freed.blobs, freed.layers), (4, 2));
    assert_eq!(setup.store.usage().unwrap(), rcompose_engine::image::Usage::default());
    assert_eq!(files_in(&setup.data().join("images/blobs/sha256")).len(), 0);
    assert_eq!(files_in(&setup.data().join("layers")).len(), 0);
}

#[test]
fn removing_a_name_leaves_the_others() {
    if !is_root() {
        return;
    }
    let setup = Setup::new();
    let server = served("app");
    let image = pull_into(&setup, &server.reference("app"));
    let other: Reference = "other:1".parse().unwrap();
    setup.store.tag(&image, &other).unwrap();
    assert!(setup.store.remove(&image.reference).unwrap());
    assert!(!setup.store.remove(&image.reference).unwrap());
    assert!(setup.store.get(&image.reference).unwrap().is_none());
    assert_eq!(setup.store.get(&other).unwrap().unwrap().id, image.id);
    assert_eq!(setup.store.gc(nothing_in_use).unwrap().blobs, 0);
}

#[test]
fn damage_is_found_and_repaired() {
    if !is_root() {
        return;
    }
    let setup = Setup::new();
    let server = served("app");
    let image = pull_into(&setup, &server.reference("app"));
    assert_eq!(setup.store.verify(&image).unwrap(), []);
    let blob = setup.data().join("images/blobs/sha256").join(image.layers[0].digest.hex());
    let mut content = fs::read(&blob).unwrap();
    content[20] ^= 1;
    fs::write(&blob, content).unwrap();
    fs::remove_file(setup.data().join("images/blobs/sha256").join(image.layers[1].digest.hex())).unwrap();
    fs::remove_dir_all(setup.data().join("layers").join(image.diff_ids[1].hex())).unwrap();
    let damage = setup.store.verify(&image).unwrap();
    assert_eq!(
        damage,
        [
            Damage::Blob(image.layers[0].digest),
            Damage::MissingBlob(image.layers[1].digest),
            Damage::Layer(image.diff_ids[1])
        ]
    );
    assert!(setup.store.get(&image.reference).unwrap().is_none(), "an image without its layers cannot be run");
    setup.store.discard(&damage).unwrap();
    let image = pull_into(&setup, &image.reference);
    assert_eq!(setup.store.verify(&image).unwrap(), []);
}

#[test]
fn what_is_repaired_is_what_the_name_meant() {
    if !is_root() {
        return;
    }
    let setup = Setup::new();
    let first = image("first");
    let moved = Arc::new(AtomicBool::new(false));
    let (second, own, is_moved) = (image("second"), first.clone(), Arc::clone(&moved));
    let server = FakeServer::start(move |request| {
        let by_digest = request.path.ends_with(&own.digest().to_string());
        let current = if is_moved.load(Ordering::SeqCst) { &second } else { &own };
        let is_manifest = request.path.contains("/manifests/");
        honest(if is_manifest && !by_digest { current } else { &own }, request)
    });
    let reference = server.reference("app");
    let pulled = pull_into(&setup, &reference);
    let damage = |setup: &Setup| runtime().block_on(repair(&setup.store, &reference, &setup.options, &no_progress()));
    assert_eq!(damage(&setup).unwrap(), [], "nothing to do");
    // Meanwhile the registry has something else under the name.
    moved.store(true, Ordering::SeqCst);
    let blobs = setup.data().join("images/blobs/sha256");
    for victim in [pulled.digest, pulled.id, pulled.layers[0].digest, pulled.layers[1].digest] {
        for gone in [false, true] {
            let path = blobs.join(victim.hex());
            if gone {
                fs::remove_file(&path).unwrap();
            } else {
                let mut content = fs::read(&path).unwrap();
                content[10] ^= 1;
                fs::write(&path, content).unwrap();
            }
            assert_eq!(setup.store.names().unwrap(), std::slice::from_ref(&reference));
            let found = setup.store.verify_name(&reference).unwrap().unwrap();
            let expected = if gone { Damage::MissingBlob(victim) } else { Damage::Blob(victim) };
            assert_eq!(found, [expected]);
            assert_eq!(damage(&setup).unwrap(), found);
            assert_eq!(setup.store.verify_name(&reference).unwrap().unwrap(), []);
            assert_eq!(setup.store.get(&reference).unwrap().unwrap().digest, pulled.digest);
        }
    }
    fs::remove_dir_all(setup.data().join("layers").join(pulled.diff_ids[1].hex())).unwrap();
    let requests = server.count("/");
    assert_eq!(damage(&setup).unwrap(), [Damage::Layer(pulled.diff_ids[1])]);
    assert_eq!(server.count("/"), requests, "a layer is unpacked from its blob");
    assert_eq!(setup.store.verify(&pulled).unwrap(), []);
    let other: Reference = "nothing:1".parse().unwrap();
    assert_eq!(setup.store.verify_name(&other).unwrap(), None);
    assert!(runtime().block_on(repair(&setup.store, &other, &setup.options, &no_progress())).is_err());
}

#[test]
fn what_is_held_is_not_removed() {
    if !is_root() {
        return;
    }
    let setup = Setup::new();
    let server = served("app");
    let image = pull_into(&setup, &server.reference("app"));
    let hold = setup.store.hold().unwrap();
    let (said, heard) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let data = setup.data();
        let remover = scope.spawn(move || {
            let store = Store::open(&data).unwrap();
            said.send(()).unwrap();
            store.remove_image(&image.id).unwrap();
            store.gc(nothing_in_use).unwrap()
        });
        heard.recv().unwrap();
        // It tries; whatever it has done by now, the image is there.
        for _ in 0..200 {
            assert!(setup.store.get(&server.reference("app")).unwrap().is_some());
            assert_eq!(setup.store.find(&image.id.short()).unwrap().map(|found| found.id), Some(image.id));
            std::thread::yield_now();
        }
        // Others may hold it too, and pull, while somebody waits to remove.
        drop(setup.store.hold().unwrap());
        pull_into(&setup, &server.reference("app:2"));
        drop(hold);
        assert!(remover.join().unwrap().blobs > 0);
    });
    assert!(setup.store.list().unwrap().is_empty());
}

mod model {
    //! Garbage collection against a model: what nothing refers to, and nothing else.

    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Layers that the images are put together from.
    const LAYERS: usize = 4;
    /// Which layers each image has.
    const IMAGES: [&[usize]; 5] = [&[0], &[0, 1], &[0, 1, 2], &[3], &[2, 0, 2]];
    const NAMES: usize = 3;

    #[derive(Debug, Clone)]
    enum Step {
        Pull(usize, usize),
        Tag(usize, usize),
        Remove(usize),
        RemoveImage(usize),
        /// With the layers of these images in use by containers.
        Collect(Vec<usize>),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let (name, image) = (0..NAMES, 0..IMAGES.len());
        let step = prop_oneof![
            4 => (image.clone(), name.clone()).prop_map(|(image, name)| Step::Pull(image, name)),
            2 => (name.clone(), name.clone()).prop_map(|(from, to)| Step::Tag(from, to)),
            2 => name.prop_map(Step::Remove),
            1 => image.clone().prop_map(Step::RemoveImage),
            3 => prop::collection::vec(image, 0..2).prop_map(Step::Collect),
        ];
        prop::collection::vec(step, 1..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn frees_exactly_what_nothing_refers_to(steps in steps()) {
            if !is_root() {
                return Ok(());
            }
            let archives: Vec<_> = (0..LAYERS).map(|n| Layer::new().file(&format!("f{n}"), &[b'x'; 100]).tar()).collect();
            let images: Vec<TestImage> = IMAGES
                .iter()
                .enumerate()
                .map(|(number, layers)| {
                    let layers: Vec<_> = layers.iter().map(|layer| (archives[*layer].clone(), "gzip")).collect();
                    TestImage::with_config(&layers, serde_json::json!({"Env": [format!("I={number}")]}), false)
                })
                .collect();
            let all = images.clone();
            let server = FakeServer::start(move |request| {
                let number = request.path.split('/').find_map(|part| part.strip_prefix("image-")?.parse::<usize>().ok());
                honest(&all[number.unwrap()], request)
            });
            let setup = Setup::new();
            let runtime = runtime();
            let name = |number: usize| format!("name-{number}").parse::<Reference>().unwrap();
            // Which image has which name, and which lost all of its names to others.
            let mut named: BTreeMap<Reference, usize> = BTreeMap::new();
            let mut dangling: BTreeSet<usize> = BTreeSet::new();
            let give = |named: &mut BTreeMap<Reference, usize>, dangling: &mut BTreeSet<usize>, to: Reference, image| {
                if let Some(former) = named.insert(to, image)
                    && !named.values().any(|other| *other == former)
                {
                    dangling.insert(former);
                }
                dangling.remove(&image);
            };
            for step in steps {
                match step {
                    Step::Pull(image, to) => {
                        let reference = server.reference(&format!("image-{image}"));
                        let pulled = runtime.block_on(pull(&setup.store, &reference, &setup.options, &no_progress())).unwrap();
                        give(&mut named, &mut dangling, reference.clone(), image);
                        setup.store.tag(&pulled, &name(to)).unwrap();
                        give(&mut named, &mut dangling, name(to), image);
                    }
                    Step::Tag(from, to) => {
                        let Some(image) = named.get(&name(from)).copied() else { continue };
                        let found = setup.store.get(&name(from)).unwrap().unwrap();
                        setup.store.tag(&found, &name(to)).unwrap();
                        give(&mut named, &mut dangling, name(to), image);
                    }
                    Step::Remove(victim) => {
                        let was = setup.store.remove(&name(victim)).unwrap();
                        prop_assert_eq!(was, named.remove(&name(victim)).is_some());
                    }
                    Step::RemoveImage(image) => {
                        let id = Digest::of(images[image].blobs.iter().find(|(digest, _)| !images[image].layers.contains(digest)).unwrap().1);
                        setup.store.remove_image(&id).unwrap();
                        named.retain(|_, other| *other != image);
                        dangling.remove(&image);
                    }
                    Step::Collect(used) => {
                        let ids = |image: &usize| IMAGES[*image].iter().map(|layer| Digest::of(&archives[*layer])).collect::<Vec<_>>();
                        let in_use: Vec<Digest> = used.iter().flat_map(ids).collect();
                        let before = files_in(&setup.data().join("layers"));
                        setup.store.gc(|| Ok::<_, StoreError>(in_use.clone())).unwrap();
                        let alive: BTreeSet<usize> = named.values().copied().chain(dangling.iter().copied()).collect();
                        let mut blobs: BTreeSet<String> = BTreeSet::new();
                        for image in &alive {
                            blobs.insert(images[*image].digest().hex());
                            blobs.extend(images[*image].blobs.keys().map(|digest| digest["sha256:".len()..].to_owned()));
                        }
                        prop_assert_eq!(files_in(&setup.data().join("images/blobs/sha256")), blobs);
                        let mut layers: BTreeSet<String> = alive.iter().flat_map(ids).map(|id| id.hex()).collect();
                        // What a container uses stays, but is not made by that.
                        layers.extend(in_use.iter().map(Digest::hex).filter(|id| before.contains(id)));
                        prop_assert_eq!(files_in(&setup.data().join("layers")), layers);
                        prop_assert_eq!(setup.leftovers(), Vec::<String>::new());
                    }
                }
                for (name, image) in &named {
                    let found = setup.store.get(name).unwrap().unwrap();
                    prop_assert_eq!(found.digest, images[*image].digest());
                }
            }
        }
    }
}

#[test]
fn a_layer_from_before_a_power_cut_is_unpacked_again() {
    if !is_root() {
        return;
    }
    let setup = Setup::new();
    let server = served("app");
    let image = pull_into(&setup, &server.reference("app"));
    assert_eq!(files_in(&setup.data().join("layers/.unsynced")).len(), 2);
    setup.store.settle().unwrap();
    assert_eq!(files_in(&setup.data().join("layers/.unsynced")).len(), 0, "all is durable");
    // As after a power cut: the mark is from another boot, and the file's content never reached the disk.
    let layer = image.diff_ids[0].hex();
    std::os::unix::fs::symlink("another-boot", setup.data().join("layers/.unsynced").join(&layer)).unwrap();
    fs::write(setup.data().join("layers").join(&layer).join("etc/base"), "").unwrap();
    let store = Arc::new(Store::open(&setup.data()).unwrap());
    assert!(store.get(&image.reference).unwrap().is_none());
    // The blob is believed, so nothing is fetched.
    let before = server.count("/");
    let again = runtime().block_on(prepare(&store, &image.reference, &setup.options, &no_progress())).unwrap().unwrap();
    assert_eq!(server.count("/"), before);
    assert_eq!(store.read_file(&again, "/etc/base").unwrap().unwrap().len(), 100_000);
    assert!(store.get(&image.reference).unwrap().is_some());
}

#[test]
fn collections_and_pulls_at_once_do_no_harm() {
    if !is_root() {
        return;
    }
    let setup = Setup::new();
    let servers: Vec<FakeServer> = (0..4).map(|number| served(&format!("image{number}"))).collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let store = Store::open(&setup.data()).unwrap();
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                store.gc(nothing_in_use).unwrap();
                rounds += 1;
            }
            rounds
        });
        let pullers: Vec<_> = servers
            .iter()
            .map(|server| {
                scope.spawn(|| {
                    let store = Arc::new(Store::open(&setup.data()).unwrap());
                    let runtime = runtime();
                    let reference = server.reference("app");
                    for _ in 0..15 {
                        let image = runtime.block_on(pull(&store, &reference, &setup.options, &no_progress())).unwrap();
                        // Nothing of an image with a name is ever collected.
                        assert_eq!(store.verify(&image).unwrap(), []);
                        assert_eq!(store.read_file(&image, "etc/base").unwrap().unwrap().len(), 100_000);
                        assert!(store.remove(&reference).unwrap());
                    }
                })
            })
            .collect();
        for puller in pullers {
            puller.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(collector.join().unwrap() > 0);
    });
    setup.store.gc(nothing_in_use).unwrap();
    assert_eq!(setup.leftovers(), [""; 0]);
    assert_eq!(files_in(&setup.data().join("layers")).len(), 0);
}

/// Is no test: the process that the next one kills.
#[test]
fn puller() {
    let (Ok(root), Ok(reference)) = (std::env::var("IMAGE_TEST_ROOT"), std::env::var("IMAGE_TEST_REFERENCE")) else {
        return;
    };
    let store = Arc::new(Store::open(Path::new(&root)).unwrap());
    let options = PullOptions::new(Arc::new(Client::new(ClientOptions::default())));
    let reference: Reference = reference.parse().unwrap();
    runtime().block_on(pull(&store, &reference, &options, &no_progress())).unwrap();
    store.remove(&reference).unwrap();
    store.gc(nothing_in_use).unwrap();
}

#[test]
fn a_process_killed_at_any_moment_leaves_a_good_store() {
    if !is_root() {
        return;
    }
    // Enough work that most kills hit it in the middle.
    let mut layers = Vec::new();
    for number in 0..4 {
        let mut layer = Layer::new();
        for file in 0..150 {
            layer = layer.file(&format!("l{number}-f{file}"), &vec![number; 5000]);
        }
        layers.push((layer.tar(), if number % 2 == 0 { "gzip" } else { "zstd" }));
    }
    let image = TestImage::new(&layers);
    let server = FakeServer::serving(image, |_| None);
    let setup = Setup::new();
    let reference = server.reference("app");
    let run = |limit: Option<Duration>| {
        let start = Instant::now();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::puller", "--test-threads=1"])
            .env("IMAGE_TEST_ROOT", setup.data())
            .env("IMAGE_TEST_REFERENCE", reference.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        if let Some(limit) = limit {
            std::thread::sleep(limit);
            // It may be done already.
            let _ = child.kill();
        }
        (child.wait().unwrap(), start.elapsed())
    };
    let (status, whole) = run(None);
    assert!(status.success());
    let rounds = 20_u32;
    let mut killed = 0;
    for round in 0..rounds {
        let (status, _) = run(Some(whole * round / rounds));
        killed += u32::from(status.signal() == Some(9));
        check_invariants(&setup.data());
    }
    assert!(killed > 0, "none was killed in time");
    // What the last one left behind hinders nobody.
    let image = pull_into(&setup, &reference);
    assert_eq!(setup.store.verify(&image).unwrap(), []);
    for number in 0..4_u8 {
        let content = setup.store.read_file(&image, &format!("l{number}-f149")).unwrap().unwrap();
        assert_eq!(content, vec![number; 5000]);
    }
    assert!(setup.store.remove(&reference).unwrap());
    setup.store.gc(nothing_in_use).unwrap();
    assert_eq!(setup.leftovers(), [""; 0]);
}

/// Every blob has its digest, the index is whole, and every layer that can be seen is complete.
fn check_invariants(data: &Path) {
    let blobs = data.join("images/blobs/sha256");
    if !blobs.exists() {
        return;
    }
    for name in files_in(&blobs) {
        assert_eq!(Digest::of(&fs::read(blobs.join(&name)).unwrap()).hex(), name);
    }
    let index = data.join("images/index.json");
    if index.exists() {
        let _: serde_json::Value = serde_json::from_slice(&fs::read(index).unwrap()).unwrap();
    }
    for name in files_in(&data.join("layers")) {
        assert_eq!(files_in(&data.join("layers").join(&name)).len(), 150, "layer {name} is complete");
    }
}
