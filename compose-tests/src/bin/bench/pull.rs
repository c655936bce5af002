//! An image to be pulled from a registry on this machine, and what its decompression alone costs.

use std::{
    fs,
    io::{self, BufReader, Read, Write},
    path::Path,
    process::Stdio,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use compose_tests::{
    factory::{
        cache::Cache,
        image::{BuiltImage, Document},
        layer::{self, Layer},
        registry::Registry,
    },
    stack::Stack,
};
use flate2::{Compression, bufread::MultiGzDecoder, write::GzEncoder};
use serde_json::json;
use sha2::{Digest, Sha256};

const MIB: usize = 1 << 20;

/// An image in a registry of its own.
pub(crate) struct Served {
    registry: Registry,
    cache: Cache,
    layers: Vec<Layer>,
    _folder: tempfile::TempDir,
}

impl Served {
    /// Makes an image of so many layers, each of so many files of 1 MiB, half of which is noise and half text.
    pub(crate) fn new(layers: usize, files: usize) -> anyhow::Result<Served> {
        let folder = tempfile::Builder::new().prefix("rct-bench-").tempdir()?;
        let cache = Cache::open_at(&folder.path().join("cache"))?;
        cache.folder("blobs/sha256")?;
        let mut noise = Noise(0x2545_f491_4f6c_dd1d);
        let made: Vec<Layer> =
            (0..layers).map(|number| make(&cache, number, files, &mut noise)).collect::<anyhow::Result<_>>()?;
        let config = document(
            "application/vnd.oci.image.config.v1+json",
            &json!({
                "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
                "config": {"Cmd": ["/none"]},
                "rootfs": {"type": "layers", "diff_ids": made.iter().map(|layer| &layer.diff_id).collect::<Vec<_>>()},
            }),
        );
        let entries = made.iter().map(|layer| {
            json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer.digest, "size": layer.size})
        });
        let manifest = document(
            "application/vnd.oci.image.manifest.v1+json",
            &json!({
                "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": {"mediaType": config.media_type, "digest": config.digest, "size": config.text.len()},
                "layers": entries.collect::<Vec<_>>(),
            }),
        );
        fs::write(cache.blob(&config.digest), &config.text)?;
        let image = BuiltImage {
            names: vec!["bench/pulled:latest".to_owned()],
            layers: made.clone(),
            trees: Vec::new(),
            packages: std::collections::BTreeSet::new(),
            config: std::collections::BTreeMap::new(),
            documents: vec![manifest],
            configs: vec![config],
        };
        let registry = Registry::start(&folder.path().join("registry"))?;
        registry.push(&image, &cache)?;
        Ok(Served { registry, cache, layers: made, _folder: folder })
    }

    /// Returns a project with one service of this image.
    pub(crate) fn project(&self) -> String {
        format!("services:\n  pulled:\n    image: {}/bench/pulled:latest\n", self.registry.address())
    }

    /// Decompresses all layers on all cores, and forgets what comes out.
    pub(crate) fn decompress(&self) -> anyhow::Result<Duration> {
        self.on_all_cores(|_, blob| {
            let mut decoder = MultiGzDecoder::new(BufReader::with_capacity(128 * 1024, blob));
            let mut buffer = vec![0; 256 * 1024];
            while decoder.read(&mut buffer)? > 0 {}
            Ok(())
        })
    }

    /// Does what no pull can do without, on all cores, and nothing else: decompresses all layers, computes the digests of
    /// both forms, and keeps both in files of a folder.
    pub(crate) fn take_in(&self, folder: &Path) -> anyhow::Result<Duration> {
        self.on_all_cores(|number, blob| {
            let kept = fs::File::create(folder.join(format!("{number}.gz")))?;
            let plain = fs::File::create(folder.join(number.to_string()))?;
            let input = Kept { inner: blob, digest: Sha256::new(), file: kept };
            let decoder = MultiGzDecoder::new(BufReader::with_capacity(128 * 1024, input));
            let mut output = Kept { inner: decoder, digest: Sha256::new(), file: plain };
            let mut buffer = vec![0; 256 * 1024];
            while output.read(&mut buffer)? > 0 {}
            let made = &self.layers[number];
            let hex = |digest: Sha256| format!("sha256:{}", layer::hex(&digest.finalize()));
            let compressed = output.inner.into_inner().into_inner().digest;
            if hex(output.digest) != made.diff_id || hex(compressed) != made.digest {
                bail!("layer {number} has other digests");
            }
            Ok(())
        })
    }

    fn on_all_cores(&self, work: impl Fn(usize, fs::File) -> anyhow::Result<()> + Sync) -> anyhow::Result<Duration> {
        let cores = thread::available_parallelism()?.get();
        let next = AtomicUsize::new(0);
        let started = Instant::now();
        thread::scope(|scope| {
            let workers: Vec<_> = (0..cores)
                .map(|_| {
                    scope.spawn(|| -> anyhow::Result<()> {
                        loop {
                            let number = next.fetch_add(1, Ordering::SeqCst);
                            let Some(layer) = self.layers.get(number) else { return Ok(()) };
                            work(number, fs::File::open(self.cache.blob(&layer.digest))?)?;
                        }
                    })
                })
                .collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("it does not panic"))
        })?;
        Ok(started.elapsed())
    }
}

/// What is read, with its digest, and kept.
struct Kept<R> {
    inner: R,
    digest: Sha256,
    file: fs::File,
}

impl<R: Read> Read for Kept<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.digest.update(&buffer[..read]);
        self.file.write_all(&buffer[..read])?;
        Ok(read)
    }
}

/// What a pull has cost.
pub(crate) struct Pulled {
    pub(crate) time: Duration,
    /// At most, in KiB.
    pub(crate) memory: u64,
}

/// Pulls a project's images with rcompose, into a store below `root`.
pub(crate) fn measure(stack: &Stack, file: &str, root: &Path) -> anyhow::Result<Pulled> {
    let started = Instant::now();
    let mut child = stack
        .command(&["-f", file, "pull", "-q"])
        .env("RCOMPOSE_ROOT", root)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let mut memory = 0;
    let ended = loop {
        if let Some(ended) = child.try_wait()? {
            break ended;
        }
        let text = fs::read_to_string(&status).unwrap_or_default();
        // The kernel remembers the peak; only what came after the last look is missed.
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
        memory = memory.max(peak.unwrap_or(0));
        thread::sleep(Duration::from_millis(2));
    };
    if !ended.success() {
        bail!("rcompose pull ended with {ended}");
    }
    Ok(Pulled { time: started.elapsed(), memory })
}

struct Noise(u64);

impl Noise {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.copy_from_slice(&self.0.to_ne_bytes()[..chunk.len()]);
        }
    }
}

fn make(cache: &Cache, number: usize, files: usize, noise: &mut Noise) -> anyhow::Result<Layer> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut content = vec![0; MIB];
    for file in 0..files {
        let text = format!("layer {number} file {file} some text\n");
        let text = text.repeat(MIB / 2 / text.len() + 1);
        content[MIB / 2..].copy_from_slice(&text.as_bytes()[..MIB / 2]);
        noise.fill(&mut content[..MIB / 2]);
        let mut header = tar::Header::new_ustar();
        header.set_size(MIB as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, Path::new(&format!("l{number}/f{file}")), &content[..])?;
    }
    let archive = archive.into_inner()?;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&archive)?;
    let blob = encoder.finish()?;
    let digest = layer::digest(&blob);
    let path = cache.blob(&digest);
    fs::write(&path, &blob).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Layer { digest, diff_id: layer::digest(&archive), size: blob.len() as u64, comment: String::new() })
}

fn document(media_type: &str, value: &serde_json::Value) -> Document {
    let text = value.to_string();
    Document { media_type: media_type.to_owned(), digest: layer::digest(text.as_bytes()), text }
}
