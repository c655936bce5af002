//! Servers for things that lie elsewhere: git repositories and files, on ports of the loopback that the kernel chooses.
//! They end with the test's process.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, thread};

use sha2::{Digest as _, Sha256};

/// When every file of a web server was changed.
pub const MODIFIED: &str = "Thu, 02 Jan 2020 03:04:05 GMT";

/// Runs git in a folder, apart from the user's settings.
pub fn git(folder: &Path, arguments: &[&str]) {
    let output = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "init.defaultBranch=main"])
        .args(["-c", "protocol.file.allow=always"])
        .args(arguments)
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .expect("git is installed");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes a repository of the files in a folder, with the tag v1, that servers of files can serve too.
pub fn make_repository(folder: &Path) {
    git(folder, &["init", "--quiet", "."]);
    git(folder, &["add", "--all", "--force"]);
    git(folder, &["commit", "--quiet", "--message", "all"]);
    git(folder, &["tag", "v1"]);
    git(folder, &["update-server-info"]);
}

/// Serves the repositories below a folder by git's own protocol.
pub fn serve_git(base: &Path) -> SocketAddr {
    let base = base.to_owned();
    listen(move |connection| {
        let output = connection.try_clone().expect("a socket can be duplicated");
        let mut base_path = std::ffi::OsString::from("--base-path=");
        base_path.push(&base);
        // As inetd would give it, every connection gets a git of its own.
        let served = Command::new("git")
            .args(["daemon", "--inetd", "--export-all"])
            .arg(base_path)
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "safe.directory")
            .env("GIT_CONFIG_VALUE_0", "*")
            .stdin(OwnedFd::from(connection))
            .stdout(OwnedFd::from(output))
            .stderr(Stdio::null())
            .status();
        served.expect("git is installed");
    })
}

/// A web server of the files below a folder. Each has an ETag and a time; `/to/PATH` redirects to `/PATH`, `/round` to
/// itself.
#[derive(Debug)]
pub struct Web {
    pub address: SocketAddr,
    answers: Arc<Mutex<Vec<String>>>,
}

impl Web {
    /// Starts one.
    pub fn start(folder: &Path) -> Self {
        Self::start_for(folder, "")
    }

    /// Starts one that answers 401 to whoever does not send this as `Authorization`.
    pub fn start_for(folder: &Path, authorization: &str) -> Self {
        let (folder, answers) = (folder.to_owned(), Arc::<Mutex<Vec<String>>>::default());
        let (seen, authorization) = (Arc::clone(&answers), authorization.to_owned());
        let address = listen(move |connection| {
            let answer = answer(connection, &folder, &authorization);
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
        });
        Self { address, answers }
    }

    /// Returns what was asked for since the last call, each as `STATUS PATH`.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Gives every connection a thread.
fn listen(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("a listener has an address");
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            thread::spawn(move || serve(connection));
        }
    });
    address
}

/// Reads a request's head up to the line that ends it.
pub fn read_head(connection: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && connection.read(&mut byte).is_ok_and(|read| read == 1) {
        request.push(byte[0]);
    }
    String::from_utf8_lossy(&request).into_owned()
}

fn answer(mut connection: TcpStream, folder: &Path, authorization: &str) -> String {
    let request = read_head(&mut connection);
    let path = request.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default();
    let header = |name: &str| {
        let mut lines = request.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let location = path.strip_prefix("/to").or_else(|| (path == "/round").then_some(path));
    let file: PathBuf = folder.join(path.trim_start_matches('/'));
    let is_refused = !authorization.is_empty() && header("authorization").as_deref() != Some(authorization);
    let (status, headers, body) = match (location, fs::read(&file)) {
        _ if is_refused => ("401 Unauthorized", "WWW-Authenticate: Basic realm=\"t\"\r\n".to_owned(), Vec::new()),
        (Some(location), _) => ("302 Found", format!("Location: {location}\r\n"), Vec::new()),
        (None, Ok(body)) => {
            let etag = format!("\"{:x}\"", Sha256::digest(&body)[0]);
            let headers = format!("ETag: {etag}\r\nLast-Modified: {MODIFIED}\r\n");
            if header("if-none-match").as_ref() == Some(&etag) {
                ("304 Not Modified", headers, Vec::new())
            } else {
                ("200 OK", headers, body)
            }
        }
        (None, Err(_)) => ("404 Not Found", String::new(), Vec::new()),
    };
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    // Who asked may have gone.
    let _ = connection.write_all(head.as_bytes()).and_then(|()| connection.write_all(&body));
    format!("{} {path}", &status[..3])
}
