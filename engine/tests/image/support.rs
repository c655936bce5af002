//! What the image tests share: images made in memory, Debian's `docker-registry`, and a server that misbehaves.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rcompose_engine::image::{
    Client, ClientOptions, Digest, PullOptions, Reference, RegistryConfig, RegistrySettings, Store, StoreError, media,
};
use serde_json::{Value, json};

/// A layer's archive under construction.
#[derive(Default)]
pub(crate) struct Layer {
    bytes: Vec<u8>,
}

impl Layer {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn entry(mut self, path: &str, kind: tar::EntryType, mode: u32, link: &str, data: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_600_000_000);
        header.set_size(data.len() as u64);
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn raw(mut self, header: &tar::Header, data: &[u8]) -> Self {
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, path: &str, data: &[u8]) -> Self {
        self.entry(path, tar::EntryType::Regular, 0o644, "", data)
    }

    pub(crate) fn directory(self, path: &str) -> Self {
        self.entry(path, tar::EntryType::Directory, 0o755, "", b"")
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, tar::EntryType::Symlink, 0o777, target, b"")
    }

    pub(crate) fn tar(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An image in memory: its blobs by digest, and its manifest.
#[derive(Clone)]
pub(crate) struct TestImage {
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    pub(crate) manifest: Vec<u8>,
    pub(crate) media_type: String,
    pub(crate) layers: Vec<String>,
}

impl TestImage {
    /// Makes an image of archives, each with the way it is compressed (`gzip`, `zstd`, or nothing).
    pub(crate) fn new(layers: &[(Vec<u8>, &str)]) -> Self {
        Self::with_config(layers, json!({"Env": ["PATH=/bin"], "Cmd": ["/bin/true"]}), false)
    }

    pub(crate) fn with_config(layers: &[(Vec<u8>, &str)], config: Value, docker: bool) -> Self {
        let mut blobs = BTreeMap::new();
        let mut descriptors = Vec::new();
        let mut diff_ids = Vec::new();
        let mut digests = Vec::new();
        for (archive, compression) in layers {
            diff_ids.push(Digest::of(archive));
            let (bytes, media_type) = match *compression {
                "gzip" if docker => (gzip(archive), media::DOCKER_LAYER),
                "gzip" => (gzip(archive), media::OCI_LAYER_GZIP),
                "zstd" => (zstd::encode_all(&archive[..], 1).unwrap(), media::OCI_LAYER_ZSTD),
                _ => (archive.clone(), media::OCI_LAYER),
            };
            let digest = Digest::of(&bytes).to_string();
            descriptors.push(json!({"mediaType": media_type, "digest": digest, "size": bytes.len()}));
            digests.push(digest.clone());
            blobs.insert(digest, bytes);
        }
        let config = json!({
            "architecture": "amd64", "os": "linux", "created": "2024-05-06T07:08:09Z", "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string()
        .into_bytes();
        let digest = Digest::of(&config).to_string();
        let (media_type, config_type) = if docker {
            (media::DOCKER_MANIFEST, media::DOCKER_CONFIG)
        } else {
            (media::OCI_MANIFEST, media::OCI_CONFIG)
        };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type,
            "config": {"mediaType": config_type, "digest": digest, "size": config.len()},
            "layers": descriptors,
        });
        blobs.insert(digest, config);
        Self { blobs, manifest: manifest.to_string().into_bytes(), media_type: media_type.to_owned(), layers: digests }
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// Pushes the image with plain HTTP calls.
    pub(crate) fn push(&self, server: &Server, repository: &str, tag: &str) {
        for (digest, content) in &self.blobs {
            let (status, headers, _) = server.call("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], b"");
            assert_eq!(status, 202, "start of an upload");
            let location = &headers["location"];
            let path =
                location.split_once("://").map_or(location.as_str(), |(_, rest)| &rest[rest.find('/').unwrap()..]);
            let separator = if path.contains('?') { '&' } else { '?' };
            let path = format!("{path}{separator}digest={digest}");
            let (status, _, body) = server.call("PUT", &path, &[("Content-Type", "application/octet-stream")], content);
            assert_eq!(status, 201, "{}", String::from_utf8_lossy(&body));
        }
        self.push_manifest(server, repository, tag);
    }

    pub(crate) fn push_manifest(&self, server: &Server, repository: &str, tag: &str) {
        put_manifest(server, repository, tag, &self.media_type, &self.manifest);
    }
}

pub(crate) fn put_manifest(server: &Server, repository: &str, tag: &str, media_type: &str, manifest: &[u8]) {
    let path = format!("/v2/{repository}/manifests/{tag}");
    let (status, _, body) = server.call("PUT", &path, &[("Content-Type", media_type)], manifest);
    assert_eq!(status, 201, "{}", String::from_utf8_lossy(&body));
}

/// A server to speak plain HTTP with.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    authorization: Option<String>,
}

impl Server {
    pub(crate) fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> (u16, BTreeMap<String, String>, Vec<u8>) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        if let Some(authorization) = &self.authorization {
            head += &format!("Authorization: {authorization}\r\n");
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("Content-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("no status: {line:?}")).parse().unwrap();
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let mut body = Vec::new();
        if method != "HEAD" {
            reader.read_to_end(&mut body).unwrap();
        }
        (status, headers, body)
    }
}

/// Debian's `docker-registry`, with a directory and a port of its own.
pub(crate) struct Registry {
    child: Child,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) server: Server,
}

impl Registry {
    /// Starts it, or says why the test is skipped.
    pub(crate) fn start(extra: &str) -> Option<Self> {
        Self::start_with(|_| extra.to_owned(), None)
    }

    pub(crate) fn start_with(extra: impl Fn(&Path) -> String, authorization: Option<String>) -> Option<Self> {
        let Some(program) = registry_program() else {
            eprintln!("skipped: there is no docker-registry (compose-tests/run gets it)");
            return None;
        };
        let directory = tempfile::Builder::new().prefix("rcompose-registry-").tempdir().unwrap();
        let root = directory.path().join("data");
        for attempt in 0.. {
            // Free now; another process may take it before the registry does.
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let config = directory.path().join("config.yml");
            let text = format!(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
                 http:\n  addr: {address}\n{}\n",
                root.display(),
                extra(directory.path()),
            );
            fs::write(&config, text).unwrap();
            let log = fs::File::create(directory.path().join("log")).unwrap();
            let mut child =
                Command::new(&program).arg("serve").arg(&config).stdout(Stdio::null()).stderr(log).spawn().unwrap();
            let deadline = Instant::now() + Duration::from_secs(20);
            while Instant::now() < deadline {
                if TcpStream::connect(address).is_ok() {
                    let server = Server { address, authorization: authorization.clone() };
                    return Some(Self { child, directory, server });
                }
                if child.try_wait().unwrap().is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill();
            let _ = child.wait();
            let log = fs::read_to_string(directory.path().join("log")).unwrap();
            assert!(attempt < 3, "docker-registry does not start: {log}");
        }
        unreachable!("the loop returns or panics")
    }

    pub(crate) fn host(&self) -> String {
        self.server.address.to_string()
    }

    pub(crate) fn reference(&self, name: &str) -> Reference {
        format!("{}/{name}", self.host()).parse().unwrap()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Debian's program, installed or as `compose-tests/run` keeps it in its cache.
fn registry_program() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let below = |base: PathBuf| base.join("rcompose-tests");
    let cache = variable("RCOMPOSE_TEST_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(below))
        .or_else(|| variable("HOME").map(|home| below(home.join(".cache"))));
    let kept = cache.map(|cache| cache.join("tools/docker-registry"));
    kept.into_iter().chain([PathBuf::from("/usr/bin/docker-registry")]).find(|program| program.exists())
}

/// A request as the misbehaving server sees it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// What the misbehaving server does.
pub(crate) enum Answer {
    /// Status, further header lines, body.
    Send(u16, String, Vec<u8>),
    /// The same, but the head promises more than is sent before the connection is closed.
    Cut(u16, String, Vec<u8>, usize),
    /// The same, with a pause after every so many bytes.
    Slow(u16, String, Vec<u8>, usize, Duration),
    /// Nothing, ever (until the client gives up).
    Silence,
    /// Sends this and closes.
    Raw(Vec<u8>),
}

/// A server that answers as a closure says, and remembers what it was asked.
pub(crate) struct FakeServer {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
    pub(crate) most_open: Arc<AtomicUsize>,
}

impl FakeServer {
    pub(crate) fn start(answer: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (open, most_open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let answer = Arc::new(answer);
        let server = Self { address, seen: Arc::clone(&seen), most_open: Arc::clone(&most_open) };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                let (open, most_open) = (Arc::clone(&open), Arc::clone(&most_open));
                std::thread::spawn(move || {
                    most_open.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    // A client that goes away ends its connection's thread.
                    let _ = serve(stream, &*answer, &seen);
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        server
    }

    /// Serves an image as an honest registry would, but for what `spoil` answers itself.
    pub(crate) fn serving(image: TestImage, spoil: impl Fn(&Seen) -> Option<Answer> + Send + Sync + 'static) -> Self {
        Self::start(move |request| spoil(request).unwrap_or_else(|| honest(&image, request)))
    }

    pub(crate) fn reference(&self, name: &str) -> Reference {
        format!("{}/{name}", self.address).parse().unwrap()
    }

    pub(crate) fn count(&self, part: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|seen| seen.path.contains(part)).count()
    }
}

pub(crate) fn honest(image: &TestImage, request: &Seen) -> Answer {
    let last = request.path.rsplit('/').next().unwrap_or_default().split('?').next().unwrap_or_default();
    if request.path.contains("/manifests/") {
        let head = format!("Content-Type: {}\r\nDocker-Content-Digest: {}\r\n", image.media_type, image.digest());
        return Answer::Send(200, head, image.manifest.clone());
    }
    match image.blobs.get(last) {
        None => Answer::Send(
            404,
            String::new(),
            br#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}"#.to_vec(),
        ),
        Some(blob) => {
            let from = request.headers.get("range").map(|range| {
                range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse::<usize>().unwrap()
            });
            match from {
                None => Answer::Send(200, String::new(), blob.clone()),
                Some(from) => {
                    let range = format!("Content-Range: bytes {from}-{}/{}\r\n", blob.len() - 1, blob.len());
                    Answer::Send(206, range, blob[from..].to_vec())
                }
            }
        }
    }
}

fn serve(stream: TcpStream, answer: &dyn Fn(&Seen) -> Answer, seen: &Mutex<Vec<Seen>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace();
        let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let request = Seen { method, path, headers, body };
        seen.lock().unwrap().push(request.clone());
        let mut head = |status: u16, extra: &str, length: usize| {
            write!(stream, "HTTP/1.1 {status} Status\r\n{extra}Content-Length: {length}\r\n\r\n")
        };
        match answer(&request) {
            Answer::Send(status, extra, body) => {
                head(status, &extra, body.len())?;
                stream.write_all(&body)?;
            }
            Answer::Cut(status, extra, body, sent) => {
                head(status, &extra, body.len())?;
                stream.write_all(&body[..sent])?;
                return Ok(());
            }
            Answer::Slow(status, extra, body, piece, pause) => {
                head(status, &extra, body.len())?;
                for piece in body.chunks(piece) {
                    stream.write_all(piece)?;
                    std::thread::sleep(pause);
                }
            }
            Answer::Silence => {
                // Until the other side closes.
                let mut rest = Vec::new();
                reader.read_to_end(&mut rest)?;
                return Ok(());
            }
            Answer::Raw(bytes) => {
                stream.write_all(&bytes)?;
                return Ok(());
            }
        }
    }
}

/// A store and options for pulling into it.
pub(crate) struct Setup {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) store: Arc<Store>,
    pub(crate) options: PullOptions,
}

impl Setup {
    pub(crate) fn new() -> Self {
        Self::with(|_| ())
    }

    pub(crate) fn with(change: impl FnOnce(&mut ClientOptions)) -> Self {
        let directory = tempfile::Builder::new().prefix("rcompose-image-").tempdir().unwrap();
        let store = Arc::new(Store::open(&directory.path().join("data")).unwrap());
        let mut options = ClientOptions { attempts: 4, ..ClientOptions::default() };
        change(&mut options);
        let options = PullOptions::new(Arc::new(Client::new(options)));
        Self { directory, store, options }
    }

    pub(crate) fn mirroring(registry: &str, mirrors: &[&str], mirrors_only: bool) -> Self {
        let config = RegistryConfig {
            mirrors: mirrors.iter().map(|&mirror| mirror.to_owned()).collect(),
            mirrors_only,
            ..RegistryConfig::default()
        };
        let settings = RegistrySettings { registries: [(registry.to_owned(), config)].into(), ..Default::default() };
        Self::with(|options| options.settings = Arc::new(settings))
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Lists what is in the store besides its own fixed files, to see that nothing was left behind.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        for directory in ["images/.rcompose/tmp", "images/.rcompose/locks", "layers/.tmp"] {
            for entry in fs::read_dir(self.data().join(directory)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                // The locks that others take shared stay.
                if name != "store" && name != "use" {
                    found.push(format!("{directory}/{name}"));
                }
            }
        }
        found
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// For garbage collection where there are no containers.
#[expect(clippy::unnecessary_wraps, reason = "it stands for something that can fail")]
pub(crate) fn nothing_in_use() -> Result<Vec<Digest>, StoreError> {
    Ok(Vec::new())
}

/// Tells whether this process may make device nodes and set trusted attributes, which layers need.
pub(crate) fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: unpacking layers with their owners needs root");
    }
    root
}
