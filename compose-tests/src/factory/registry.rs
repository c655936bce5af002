//! A registry of our own on a loopback port: Debian's `docker-registry` over a folder, and the pushing of images.

use std::{
    collections::BTreeSet,
    fs,
    io::Cursor,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{apt::Apt, cache::Cache, image::BuiltImage};
use crate::http::{self, Body, Response};

const TIMEOUT: Duration = Duration::from_secs(30);

/// A running registry; it ends when the value is dropped, or when this process dies.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    pid: Pid,
    waiter: Option<thread::JoinHandle<()>>,
    /// Its configuration and its logs.
    folder: tempfile::TempDir,
}

/// What a registry is to be besides a server of images to everybody over plain HTTP.
#[derive(Debug, Clone, Default)]
pub struct Extra {
    /// Further members of its `http` section, each beginning with a comma: `, tls: {…}`.
    pub http: String,
    /// Further sections, such as `auth: {…}`.
    pub sections: String,
}

impl Registry {
    /// Starts `docker-registry` over `storage` (created when absent) on a free port of 127.0.0.1.
    ///
    /// Any number may serve the same folder, as long as only one of them is pushed to at a time.
    pub fn start(storage: &Path) -> anyhow::Result<Registry> {
        Registry::start_with(storage, &Extra::default())
    }

    /// Starts one that wants passwords or speaks TLS.
    pub fn start_with(storage: &Path, extra: &Extra) -> anyhow::Result<Registry> {
        fs::create_dir_all(storage).with_context(|| format!("cannot create {}", storage.display()))?;
        // The port is free when it is chosen and may be taken a moment later; then another one is.
        let mut failed = None;
        for _ in 0..5 {
            let address = free_address()?;
            match Registry::start_at(storage, address, extra) {
                Ok(registry) => return Ok(registry),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.expect("five attempts leave an error behind"))
    }

    fn start_at(storage: &Path, address: SocketAddr, extra: &Extra) -> anyhow::Result<Registry> {
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("config.yml");
        // It calls every "do you have this?" that it answers with no an error; the log is shown only if it fails to start.
        let log = folder.path().join("log");
        let log_file = fs::File::create(&log)?;
        let requests = fs::File::create(folder.path().join("requests"))?;
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error}}\n\
                 storage:\n  filesystem: {{rootdirectory: {:?}}}\n  delete: {{enabled: true}}\n\
                 http: {{addr: {:?}, secret: tests{}}}\n{}\n",
                storage.display().to_string(),
                address.to_string(),
                extra.http,
                extra.sections,
            ),
        )?;
        // The death signal is tied to the thread that started the process, so that thread must live as long as the
        // registry: it is the one that waits for it.
        let (sender, receiver) = mpsc::channel();
        let waiter = thread::Builder::new().name("registry".into()).spawn(move || {
            match spawn(&config, log_file, requests) {
                Ok(mut child) => {
                    // Both ends know each other: the receiver waits for exactly this message.
                    sender.send(Ok(child.id())).expect("the starter waits for the pid");
                    child.wait().expect("a child that was just started can be waited for");
                }
                Err(error) => sender.send(Err(error)).expect("the starter waits for the error"),
            }
        })?;
        let pid = receiver.recv().context("the registry's thread ended")??;
        let registry = Registry {
            address,
            pid: Pid::from_raw(i32::try_from(pid).context("a pid fits")?),
            waiter: Some(waiter),
            folder,
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let answer = http::get(address, "/v2/");
            match answer {
                // Over TLS it says 400 to this, and without a password 401.
                Ok(answer) if matches!(answer.status, 200 | 400 | 401) => return Ok(registry),
                _ if registry.waiter.as_ref().is_none_or(thread::JoinHandle::is_finished) => {
                    bail!("docker-registry ended while it started: {}", fs::read_to_string(&log)?.trim_end());
                }
                _ if Instant::now() > deadline => {
                    bail!("docker-registry does not answer at {address}: {answer:?}");
                }
                _ => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the requests it has answered so far, each as `METHOD PATH STATUS`.
    pub fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(self.folder.path().join("requests")).unwrap_or_default();
        let request = |line: &str| {
            // The combined log format of Apache.
            let (_, rest) = line.split_once('"')?;
            let (request, rest) = rest.split_once('"')?;
            let mut words = request.split(' ');
            Some(format!("{} {} {}", words.next()?, words.next()?, rest.split_whitespace().next()?))
        };
        log.lines().filter_map(request).collect()
    }

    /// Pushes an image under all its names; what the registry already has is not sent again.
    pub fn push(&self, image: &BuiltImage, cache: &Cache) -> anyhow::Result<()> {
        for name in &image.names {
            let (repository, tag) = name.rsplit_once(':').with_context(|| format!("no tag in {name}"))?;
            self.push_as(image, repository, tag, cache).with_context(|| format!("cannot push {name}"))?;
        }
        Ok(())
    }

    fn push_as(&self, image: &BuiltImage, repository: &str, tag: &str, cache: &Cache) -> anyhow::Result<()> {
        let top = image.documents.last().context("an image without documents")?;
        let tag_target = format!("/v2/{repository}/manifests/{tag}");
        let present = self.send("HEAD", &tag_target, &[("Accept", &top.media_type)], None)?;
        if present.status == 200 && present.headers.get("docker-content-digest") == Some(&top.digest) {
            return Ok(());
        }
        for layer in &image.layers {
            self.push_blob(repository, &layer.digest, &cache.blob(&layer.digest))?;
        }
        for config in &image.configs {
            self.push_blob(repository, &config.digest, &cache.blob(&config.digest))?;
        }
        for document in &image.documents {
            let mut targets = vec![format!("/v2/{repository}/manifests/{}", document.digest)];
            if document.digest == top.digest {
                targets.push(tag_target.clone());
            }
            for target in targets {
                let mut reader = Cursor::new(document.text.as_bytes());
                let body = Body { length: document.text.len() as u64, reader: &mut reader };
                let answer = self.send("PUT", &target, &[("Content-Type", &document.media_type)], Some(body))?;
                expect(&answer, 201, &target)?;
            }
        }
        Ok(())
    }

    fn push_blob(&self, repository: &str, digest: &str, file: &Path) -> anyhow::Result<()> {
        let present = self.send("HEAD", &format!("/v2/{repository}/blobs/{digest}"), &[], None)?;
        if present.status == 200 {
            return Ok(());
        }
        let start = format!("/v2/{repository}/blobs/uploads/");
        let answer = self.send("POST", &start, &[], None)?;
        expect(&answer, 202, &start)?;
        let location = answer.headers.get("location").context("an upload without Location")?;
        let path = location.strip_prefix(&format!("http://{}", self.address)).unwrap_or(location);
        let separator = if path.contains('?') { '&' } else { '?' };
        let target = format!("{path}{separator}digest={digest}");
        let mut reader = fs::File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
        let length = reader.metadata()?.len();
        let answer = self.send(
            "PUT",
            &target,
            &[("Content-Type", "application/octet-stream")],
            Some(Body { length, reader: &mut reader }),
        )?;
        expect(&answer, 201, &target)
    }

    fn send(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: Option<Body<'_>>,
    ) -> anyhow::Result<Response> {
        http::request(self.address, method, target, headers, body, TIMEOUT)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself; either way the waiting thread reaps it.
        if kill(self.pid, Signal::SIGKILL).is_ok()
            && let Some(waiter) = self.waiter.take()
        {
            drop(waiter.join());
        }
    }
}

fn spawn(config: &Path, log: fs::File, requests: fs::File) -> anyhow::Result<Child> {
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .arg(program()?)
        .arg("serve")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(requests)
        .stderr(log)
        .spawn()
        .context("cannot run docker-registry by setpriv (of util-linux)")
}

fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot find a free port")?;
    Ok(listener.local_addr()?)
}

fn expect(answer: &Response, status: u16, target: &str) -> anyhow::Result<()> {
    if answer.status == status {
        return Ok(());
    }
    bail!("the registry answered {} instead of {status} to {target}: {}", answer.status, answer.text())
}

/// Fetches Debian's `docker-registry` into the cache: unpacked, not installed, so that no service is started by it.
pub fn fetch(cache: &Cache) -> anyhow::Result<()> {
    if program()?.exists() {
        return Ok(());
    }
    let apt = Apt::new(cache)?;
    apt.update()?;
    let debs = apt.fetch(&["docker-registry".to_owned()], &[], &BTreeSet::new())?;
    let deb = debs.iter().find(|deb| deb.package == "docker-registry").context("apt gives no docker-registry")?;
    let new = cache.work_dir("docker-registry")?;
    let status = Command::new("dpkg-deb").arg("--extract").arg(&deb.file).arg(&new).status()?;
    if !status.success() {
        bail!("dpkg-deb --extract ended with {status}");
    }
    let program = program()?;
    fs::create_dir_all(program.parent().context("a program lies in a folder")?)?;
    fs::rename(new.join("usr/bin/docker-registry"), &program)
        .with_context(|| format!("cannot write {}", program.display()))
}

/// Returns where [`fetch`] puts the program.
fn program() -> anyhow::Result<PathBuf> {
    Ok(super::cache::cache_root()?.join("tools/docker-registry"))
}

/// Returns the folder that the registry's storage lies in.
pub fn storage() -> anyhow::Result<PathBuf> {
    Ok(super::cache::cache_root()?.join("registry"))
}

/// Writes the file that `RCOMPOSE_REGISTRIES` names: `docker.io` comes from the registry at `address`.
pub fn write_settings(folder: &Path, address: SocketAddr) -> anyhow::Result<PathBuf> {
    let path = folder.join("registries.json");
    let settings = serde_json::json!({
        "registries": {
            "docker.io": {"mirrors": [format!("http://{address}")], "mirrors_only": true},
            (address.to_string()): {"insecure": true},
        }
    });
    fs::write(&path, settings.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
