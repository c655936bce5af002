//! Measures a pull against what decompression alone costs, and the opening of a store. Run it by hand, of an optimised build:
//! `CARGO_PROFILE_DEV_OPT_LEVEL=3 cargo test -p rcompose-engine --test image speed -- --ignored --nocapture`

use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use flate2::bufread::MultiGzDecoder;
use rcompose_engine::image::{Reference, Store, no_progress, pull};

use super::store::{pull_into, served};
use crate::support::{Registry, Setup, TestImage, is_root, runtime};

/// Packs this machine's own programs and libraries, which is what images are made of.
fn layers(count: usize, bytes: u64) -> Vec<(Vec<u8>, &'static str)> {
    let mut archives: Vec<tar::Builder<Vec<u8>>> = (0..count).map(|_| tar::Builder::new(Vec::new())).collect();
    let mut sizes = vec![0; count];
    let mut rest = vec![PathBuf::from("/usr/lib"), PathBuf::from("/usr/bin"), PathBuf::from("/usr/share")];
    while let Some(path) = rest.pop() {
        let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            let Ok(entries) = std::fs::read_dir(&path) else { continue };
            rest.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
            continue;
        }
        let smallest = (0..count).min_by_key(|at| sizes[*at]).unwrap();
        if !metadata.is_file() || metadata.len() > 20 << 20 || sizes[smallest] > bytes / count as u64 {
            continue;
        }
        let name = path.strip_prefix("/").unwrap();
        if archives[smallest].append_path_with_name(&path, name).is_ok() {
            sizes[smallest] += metadata.len();
        }
    }
    archives.into_iter().map(|archive| (archive.into_inner().unwrap(), "gzip")).collect()
}

fn cpu_time() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let micros = |time: nix::sys::time::TimeVal| u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap();
    Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
}

#[test]
#[ignore = "a measurement, to be read by a person"]
fn a_large_image_against_decompression_alone() {
    let (true, Some(registry)) = (is_root(), Registry::start("")) else { return };
    let megabytes = std::env::var("IMAGE_SPEED_MB").map_or(520, |text| text.parse().unwrap());
    let image = TestImage::new(&layers(5, megabytes << 20));
    let compressed: usize = image.layers.iter().map(|layer| image.blobs[layer].len()).sum();
    image.push(&registry.server, "big", "latest");
    println!("{} MB in {} layers", compressed >> 20, image.layers.len());
    let cores = std::thread::available_parallelism().unwrap().get();
    let runtime = runtime();
    // Stores are kept to the end: ext4 looks at every inode that was deleted within the last seconds before it takes
    // another (`recently_deleted` in fs/ext4/ialloc.c), which made pulls ten times dearer after a round was cleaned up.
    let mut setups = Vec::new();
    for round in 0..4 {
        let next = std::sync::atomic::AtomicUsize::new(0);
        let (start, cpu) = (Instant::now(), cpu_time());
        std::thread::scope(|scope| {
            for _ in 0..cores {
                scope.spawn(|| {
                    while let Some(layer) = image.layers.get(next.fetch_add(1, std::sync::atomic::Ordering::SeqCst)) {
                        let mut decoder = MultiGzDecoder::new(&image.blobs[layer][..]);
                        let mut buffer = vec![0; 256 * 1024];
                        while decoder.read(&mut buffer).unwrap() > 0 {}
                    }
                });
            }
        });
        let (decompression, decompression_cpu) = (start.elapsed(), cpu_time().saturating_sub(cpu));
        let setup = Setup::new();
        let (start, cpu) = (Instant::now(), cpu_time());
        runtime.block_on(pull(&setup.store, &registry.reference("big"), &setup.options, &no_progress())).unwrap();
        let pulled = start.elapsed();
        setups.push(setup);
        let ratio = pulled.as_secs_f64() / decompression.as_secs_f64();
        // On a busy machine the second ratio is the truer one.
        let pulled_cpu = cpu_time().saturating_sub(cpu);
        let cpu_ratio = pulled_cpu.as_secs_f64() / decompression_cpu.as_secs_f64();
        println!(
            "round {round}: decompression alone {decompression:.0?} ({decompression_cpu:.0?} of CPU), \
             pull {pulled:.0?} ({pulled_cpu:.0?} of CPU): {ratio:.2}x, {cpu_ratio:.2}x of CPU"
        );
    }
}

#[test]
#[ignore = "a measurement, to be read by a person"]
fn a_store_is_opened_and_ten_images_found() {
    if !is_root() {
        return;
    }
    let setup = Setup::new();
    let server = served("app");
    let image = pull_into(&setup, &server.reference("app"));
    let names: Vec<Reference> = (0..10).map(|number| format!("name{number}").parse().unwrap()).collect();
    for name in &names {
        setup.store.tag(&image, name).unwrap();
    }
    let mut best = Duration::MAX;
    for _ in 0..20 {
        let start = Instant::now();
        let store = Store::open(&setup.data()).unwrap();
        for name in &names {
            assert!(store.get(name).unwrap().is_some());
        }
        best = best.min(start.elapsed());
    }
    println!("opening the store and finding ten images: {best:?}");
}
