//! A token server as registries name them (distribution specification, "Token Authentication"), and certificates.
//!
//! Keys and signatures are those of the `openssl` program, so that a real registry checks what a real one would.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::json;

/// A key and a certificate signed with it, for `localhost` and `127.0.0.1`.
#[derive(Debug)]
pub struct Identity {
    pub key: PathBuf,
    pub certificate: PathBuf,
}

impl Identity {
    /// Makes one in a folder.
    pub fn make(folder: &Path) -> Identity {
        let (key, certificate) = (folder.join("key.pem"), folder.join("certificate.pem"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
            .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .expect("openssl is installed (compose-tests/prepare)");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Identity { key, certificate }
    }

    fn sign(&self, text: &str) -> Vec<u8> {
        let mut signer = Command::new("openssl")
            .args(["dgst", "-sha256", "-sign"])
            .arg(&self.key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("openssl is installed");
        signer.stdin.take().expect("it was asked for").write_all(text.as_bytes()).expect("openssl reads");
        signer.wait_with_output().expect("openssl ends").stdout
    }

    /// Returns a token that grants these accesses (RFC 7519, RFC 7515).
    fn token(&self, accesses: &[serde_json::Value]) -> String {
        let pem = std::fs::read_to_string(&self.certificate).expect("the certificate was just made");
        let der: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [der]});
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is after 1970").as_secs();
        let claims = json!({
            "iss": "tests", "sub": "user", "aud": "tests", "exp": now + 300, "nbf": now - 60, "iat": now, "jti": "1",
            "access": accesses,
        });
        let encode = |text: String| URL_SAFE_NO_PAD.encode(text);
        let signed = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = URL_SAFE_NO_PAD.encode(self.sign(&signed));
        format!("{signed}.{signature}")
    }
}

/// A running token server. It lets `user` with the password `secret` do everything, and everybody pull from `public/…`.
#[derive(Debug)]
pub struct TokenServer {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl TokenServer {
    /// Starts it; it ends with the process.
    pub fn start(identity: Identity) -> TokenServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away is no reason to end.
                drop(answer(stream, &identity, &log));
            }
        });
        TokenServer { address, seen }
    }

    /// Returns the requests so far: who asked, and for what.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("nobody panics while holding it").clone()
    }
}

fn answer(mut stream: TcpStream, identity: &Identity, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut user = String::new();
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? <= 2 {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("authorization")
        {
            let encoded = value.trim().strip_prefix("Basic ").unwrap_or_default();
            user = String::from_utf8_lossy(&STANDARD.decode(encoded).unwrap_or_default()).into_owned();
        }
    }
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let scopes: Vec<String> = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("scope="))
        .map(|scope| scope.replace("%3A", ":").replace("%2F", "/").replace("%2C", ","))
        .collect();
    let who = user.split(':').next().unwrap_or_default().to_owned();
    log.lock().expect("nobody panics while holding it").push(format!("{who} {}", scopes.join(" ")));
    let known = user == "user:secret";
    let (status, body) = if !user.is_empty() && !known {
        ("401 Unauthorized", json!({"details": "incorrect username or password"}))
    } else {
        let granted = scopes.iter().filter_map(|scope| {
            let mut parts = scope.splitn(3, ':');
            let (kind, name, actions) = (parts.next()?, parts.next()?, parts.next()?);
            let actions: Vec<&str> = actions
                .split(',')
                .filter(|action| known || (name.starts_with("public/") && *action == "pull"))
                .collect();
            Some(json!({"type": kind, "name": name, "actions": actions}))
        });
        ("200 OK", json!({"token": identity.token(&granted.collect::<Vec<_>>()), "expires_in": 300}))
    };
    let body = body.to_string();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
