//! The whole corpus through the whole of `pull` and `load`, in a process that may not have much memory.

use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rcompose_engine::image::{
    Client, ClientOptions, Limits, Platform, PullOptions, Reference, Store, no_progress, prepare, pull,
};
use serde::{Deserialize, Serialize};

use super::world::World;
use super::{Fate, archives, images, layers};
use crate::support::{Answer, FakeServer, Layer, TestImage, honest, is_root, nothing_in_use, runtime};

/// What the pull of one image may add to a process that has done nothing yet, in KiB: a hostile image gets no more than
/// an honest one.
const MEMORY: u64 = 64 << 10;
/// The same for an image whose layers say that a window of 128 MiB is needed.
const LARGE_WINDOW: u64 = 192 << 10;

/// What a layer may have, in bytes.
const LIMIT: u64 = 8 << 20;

/// One attack, as the confined process is told of it.
#[derive(Serialize, Deserialize)]
struct Case {
    name: String,
    fate: Fate,
    /// In KiB.
    memory: u64,
    /// What a layer may have, in bytes.
    limit: u64,
    /// What to pull, or the file to load.
    source: Source,
}

#[derive(Serialize, Deserialize)]
enum Source {
    Registry(String),
    Archive(String),
}

/// Is no test: the process that the next one confines.
#[test]
fn confined() {
    let (Some(world), Some(cases)) = (std::env::var_os("HOSTILE_WORLD"), std::env::var_os("HOSTILE_CASES")) else {
        return;
    };
    let world = World::at(world.into());
    let cases: Vec<Case> = serde_json::from_reader(File::open(cases).unwrap()).unwrap();
    let store = Arc::new(Store::open(&world.data()).unwrap());
    let mut options =
        PullOptions::new(Arc::new(Client::new(ClientOptions { attempts: 2, ..ClientOptions::default() })));
    // The memory that counts is measured; this keeps the machine alive if all goes wrong.
    setrlimit(Resource::RLIMIT_DATA, 1 << 30, 1 << 30).unwrap();
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 512, most).unwrap();
    let runtime = runtime();
    let before = world.snapshot();
    let mut wrong = Vec::new();
    for case in &cases {
        fs::write("/proc/self/clear_refs", "5").unwrap();
        let start = peak();
        options.limits = Limits { bytes: case.limit, entries: 10_000, names: 1 << 20 };
        let outcome = match &case.source {
            Source::Registry(name) => {
                let name: Reference = name.parse().unwrap();
                runtime.block_on(pull(&store, &name, &options, &no_progress())).map(drop).map_err(|e| e.to_string())
            }
            Source::Archive(path) => load(&runtime, &store, &options, Path::new(path)),
        };
        let grown = peak().saturating_sub(start);
        let mut complain = |text: String| wrong.push(format!("{}: {text}", case.name));
        if grown > case.memory {
            complain(format!("it took {grown} KiB"));
        }
        if !case.fate.is(outcome.is_err()) {
            complain(format!("expected {:?}, got {outcome:?}", case.fate));
        }
        // A panic of ours is not a refusal.
        if outcome.as_ref().is_err_and(|error| error.contains("unexpectedly")) {
            complain(format!("{outcome:?}"));
        }
        if world.snapshot() != before {
            complain("something outside is not what it was".to_owned());
        }
        if outcome.is_err() {
            for name in leftovers(&world.data()) {
                complain(format!("{name} is left behind"));
            }
        }
        for image in store.list().unwrap() {
            store.remove_image(&image.id).unwrap();
        }
        store.gc(nothing_in_use).unwrap();
        for directory in ["images/blobs/sha256", "layers", "layers/.meta", "layers/.unsynced"] {
            for name in visible(&world.data().join(directory)) {
                complain(format!("{directory}/{name} is left even by garbage collection"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    writeln!(std::io::stdout(), "{} attacks", cases.len()).unwrap();
}

fn load(
    runtime: &tokio::runtime::Runtime,
    store: &Arc<Store>,
    options: &PullOptions,
    path: &Path,
) -> Result<(), String> {
    let file = BufReader::new(File::open(path).unwrap());
    let names = store.load_archive(file, &Platform::host()).map_err(|error| error.to_string())?;
    for name in names {
        let prepared = runtime.block_on(prepare(store, &name, options, &no_progress()));
        prepared.map_err(|error| error.to_string())?.ok_or("it cannot be prepared")?;
    }
    Ok(())
}

/// Returns the most memory that this process has had since that was last forgotten, in KiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn visible(path: &Path) -> Vec<String> {
    let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.starts_with('.')).collect()
}

/// Returns what a failure has left half made.
fn leftovers(data: &Path) -> Vec<String> {
    let mut found = visible(&data.join("layers"));
    for directory in ["images/.rcompose/tmp", "images/.rcompose/locks", "layers/.tmp"] {
        found.extend(visible(&data.join(directory)));
    }
    // The locks that others take shared stay.
    found.retain(|name| name != "store" && name != "use");
    found
}

/// An image with what must become of it.
struct Hostile {
    name: String,
    image: TestImage,
    fate: Fate,
    memory: u64,
    limit: u64,
}

fn all_images(world: &World) -> Vec<Hostile> {
    let mut all: Vec<Hostile> = Vec::new();
    let usual = |name, image, fate| Hostile { name, image, fate, memory: MEMORY, limit: LIMIT };
    for attack in layers::attacks(world) {
        let compression = if all.len().is_multiple_of(2) { "gzip" } else { "zstd" };
        all.push(usual(attack.name, TestImage::new(&[(attack.archive, compression)]), attack.fate));
    }
    for (name, archives) in layers::stacks(world) {
        let archives: Vec<_> = archives.into_iter().map(|archive| (archive, "gzip")).collect();
        all.push(usual(name, TestImage::new(&archives), Fate::Contained));
    }
    for (name, image, fate) in images::attacks() {
        all.push(usual(name, image, fate));
    }
    for (what, log, size, fate, memory) in [
        ("128", 27, 140 << 20, Fate::Contained, LARGE_WINDOW),
        ("8", 23, 12 << 20, Fate::Contained, MEMORY),
        ("256", 28, 12 << 20, Fate::Refused, MEMORY),
    ] {
        let layers = (0..4).map(|number| large_window(number, log, size)).collect();
        let image = images::compressed(layers);
        all.push(Hostile { name: format!("windows of {what} MiB"), image, fate, memory, limit: 140 << 20 });
    }
    all
}

/// A layer whose zstd stream says that it needs a window of `1 << log` bytes. Its archive and its stream.
fn large_window(number: u8, log: u32, size: usize) -> (Vec<u8>, Vec<u8>) {
    let mut archive = Layer::new().file("f", &[number]).tar();
    // Behind the end of an archive nothing makes a file, so that it is only memory that counts.
    archive.resize(size, 0);
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.set_parameter(zstd::zstd_safe::CParameter::WindowLog(log)).unwrap();
    encoder.write_all(&archive).unwrap();
    (archive, encoder.finish().unwrap())
}

#[test]
fn the_corpus_in_little_memory() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let images = all_images(&world);
    let files = tempfile::Builder::new().prefix("rcompose-archives-").tempdir().unwrap();
    let mut cases = Vec::new();
    let mut archive = |name: String, content: &[u8], fate: Fate, memory: u64, limit: u64| {
        let path = files.path().join(cases.len().to_string());
        fs::write(&path, content).unwrap();
        cases.push(Case { name, fate, memory, limit, source: Source::Archive(path.to_str().unwrap().to_owned()) });
    };
    for attack in archives::attacks() {
        archive(attack.name, &attack.archive, attack.fate, MEMORY, LIMIT);
    }
    for (number, Hostile { name, image, fate, memory, limit }) in images.iter().enumerate() {
        // What is wrong with a manifest is wrong in an archive too; sizes are not looked at where the files are there.
        let fate = if name.starts_with("manifest") { Fate::Harmless } else { *fate };
        let is_layout = number.is_multiple_of(2) || name.starts_with("manifest");
        let packed = if is_layout { archives::layout(image) } else { archives::docker(image) };
        archive(format!("{name}, loaded"), &packed.tar(), fate, *memory, *limit);
    }
    let count = images.len();
    for (number, Hostile { name, fate, memory, limit, .. }) in images.iter().enumerate() {
        // The server is not there yet; its address is put in below.
        let source = Source::Registry(format!("case-{number}"));
        cases.push(Case { name: name.clone(), fate: *fate, memory: *memory, limit: *limit, source });
    }
    let server = FakeServer::start(move |request| {
        let number = request.path.split('/').find_map(|part| part.strip_prefix("case-")?.parse::<usize>().ok());
        match number {
            Some(number) => honest(&images[number].image, request),
            None => Answer::Send(404, String::new(), Vec::new()),
        }
    });
    for case in &mut cases {
        if let Source::Registry(name) = &mut case.source {
            *name = server.reference(name).to_string();
        }
    }
    assert!(count >= 300, "{count} images");
    let list = files.path().join("cases.json");
    fs::write(&list, serde_json::to_vec(&cases).unwrap()).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hostile::confined::confined", "--test-threads=1", "--nocapture"])
        .env("HOSTILE_WORLD", world.path())
        .env("HOSTILE_CASES", &list)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    assert!(said.contains(&format!("{} attacks", cases.len())), "{said}");
}
