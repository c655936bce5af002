//! HTTP/1.1 to registries: connections that are kept and shared, TLS, proxies, redirects, time-outs.
//!
//! It knows nothing of registries beyond their settings. Credentials are headers of one request to one origin; a
//! redirect to another origin goes on without them (CVE-2020-15157), and never from HTTPS to plain HTTP.

use std::collections::HashMap;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{
    AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, PROXY_AUTHORIZATION, USER_AGENT,
};
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::settings::{Proxy, RegistrySettings};
use super::url::{Scheme, Url};
use crate::resolve::{ResolveError, Resolver};

/// How many redirects are followed.
const MAX_REDIRECTS: usize = 10;
/// How many connections to one host are open at once.
const MAX_CONNECTIONS: usize = 8;

/// What a request carries.
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// To resolve a name and to connect, TLS included.
    pub connect: Duration,
    /// Without a byte from the server.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(15), idle: Duration::from_mins(1) }
    }
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The host's name cannot be resolved.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// No connection was made.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Host and port.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// TLS was not agreed on.
    #[error("TLS with {address}: {source}")]
    Tls {
        /// Host and port.
        address: String,
        /// What was wrong.
        #[source]
        source: io::Error,
    },
    /// Certificates of an authority cannot be read.
    #[error("cannot read the certificates in {}: {message}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The proxy refused.
    #[error("the proxy {proxy} answered {answer:?}")]
    Proxy {
        /// Host and port.
        proxy: String,
        /// Its status line.
        answer: String,
    },
    /// The connection broke, or what came was not HTTP.
    #[error("connection to {address}: {source}")]
    Http {
        /// Host and port.
        address: String,
        /// What was wrong.
        #[source]
        source: hyper::Error,
    },
    /// Something took too long.
    #[error("{address}: no {what} within {} s", limit.as_secs_f32())]
    TimedOut {
        /// Host and port.
        address: String,
        /// What was waited for.
        what: &'static str,
        /// For how long.
        limit: Duration,
    },
    /// A redirect that is not followed.
    #[error("{address} redirects {reason}")]
    Redirect {
        /// Host and port.
        address: String,
        /// Why it is not followed.
        reason: &'static str,
    },
    /// A request that cannot be made.
    #[error("cannot make a request to {address}: {message}")]
    Request {
        /// Host and port.
        address: String,
        /// Why.
        message: String,
    },
    /// An answer that should be short is not.
    #[error("{address} answered with more than {limit} bytes")]
    TooLong {
        /// Host and port.
        address: String,
        /// What is accepted.
        limit: u64,
    },
}

impl TransportError {
    /// Tells whether no connection was made at all (and another endpoint, or plain HTTP, might do).
    pub(crate) fn is_connect(&self) -> bool {
        matches!(
            self,
            Self::Resolve(_)
                | Self::Connect { .. }
                | Self::Tls { .. }
                | Self::Proxy { .. }
                | Self::TimedOut { what: "connection", .. }
        )
    }

    /// Tells whether trying again could help.
    pub(crate) fn is_temporary(&self) -> bool {
        match self {
            Self::Resolve(ResolveError::NoAnswer { .. }) | Self::Http { .. } | Self::TimedOut { .. } => true,
            Self::Connect { source, .. } | Self::Tls { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
            ),
            _ => false,
        }
    }
}

/// A request to be sent, perhaps several times (redirects, a stale connection).
#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Payload,
}

/// What a request carries, in a form that can be sent again.
#[derive(Clone)]
pub(crate) enum Payload {
    None,
    Bytes(Bytes),
    /// A file of a known length. The counter tells how much of it was handed to the connection.
    File {
        path: PathBuf,
        length: u64,
        sent: Arc<AtomicU64>,
    },
}

impl Payload {
    fn sent(&self) -> u64 {
        match self {
            Self::File { sent, .. } => sent.load(Ordering::Relaxed),
            _ => 0,
        }
    }

    fn open(&self) -> RequestBody {
        match self {
            Self::None => Empty::new().map_err(|never| match never {}).boxed_unsync(),
            Self::Bytes(bytes) => Full::new(bytes.clone()).map_err(|never| match never {}).boxed_unsync(),
            Self::File { path, length, sent } => FileBody::open(path.clone(), *length, Arc::clone(sent)).boxed_unsync(),
        }
    }
}

/// Sends a file, which a thread of its own reads.
struct FileBody {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
    sent: Arc<AtomicU64>,
}

impl FileBody {
    fn open(path: PathBuf, length: u64, sent: Arc<AtomicU64>) -> Self {
        let (sender, chunks) = mpsc::channel(4);
        sent.store(0, Ordering::Relaxed);
        let failure = sender.clone();
        let read = move || -> io::Result<()> {
            let mut file = std::fs::File::open(path)?.take(length);
            loop {
                let mut chunk = vec![0; 128 * 1024];
                let read = file.read(&mut chunk)?;
                chunk.truncate(read);
                // Whoever sends may have given up.
                if read == 0 || sender.blocking_send(Ok(chunk.into())).is_err() {
                    return Ok(());
                }
            }
        };
        let reader = std::thread::Builder::new().name("image-upload".to_owned()).spawn(move || {
            if let Err(error) = read() {
                drop(failure.blocking_send(Err(error)));
            }
        });
        if let Err(error) = reader {
            // The body then ends before its length, which fails the request.
            tracing::error!(%error, "cannot start a thread");
        }
        Self { chunks, left: length, sent }
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, io::Error>>> {
        let next = std::task::ready!(self.chunks.poll_recv(context));
        Poll::Ready(match next {
            Some(Ok(chunk)) => {
                self.left = self.left.saturating_sub(chunk.len() as u64);
                self.sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                Some(Ok(hyper::body::Frame::data(chunk)))
            }
            Some(Err(error)) => Some(Err(error)),
            None if self.left > 0 => Some(Err(io::ErrorKind::UnexpectedEof.into())),
            None => None,
        })
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(self.left)
    }
}

impl Request {
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: Payload::None }
    }

    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }
}

/// An answer whose body is still to be read.
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: ResponseBody,
}

impl std::fmt::Debug for Response {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Response").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Response {
    pub(crate) fn header(&self, name: impl hyper::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Reads a short body.
    pub(crate) async fn bytes(mut self, limit: u64) -> Result<Vec<u8>, TransportError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.body.chunk().await? {
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Err(TransportError::TooLong { address: self.body.address.clone(), limit });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

/// The certificates to believe beside the system's, and whether to believe any.
type TlsKey = (Option<PathBuf>, bool);
type Origin = (Scheme, String, u16);
type Sender = SendRequest<RequestBody>;
type Pool = Arc<Mutex<HashMap<Origin, Vec<Sender>>>>;

/// The bytes of an answer. When they are read to the end, the connection is free for another request.
pub(crate) struct ResponseBody {
    incoming: Incoming,
    address: String,
    idle: Duration,
    connection: Option<(Sender, Origin, Pool)>,
    _permit: OwnedSemaphorePermit,
}

impl ResponseBody {
    /// Returns the next bytes, or `None` at the end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, TransportError> {
        loop {
            let frame = timeout(self.idle, self.incoming.frame()).await.map_err(|_| TransportError::TimedOut {
                address: self.address.clone(),
                what: "data",
                limit: self.idle,
            })?;
            match frame {
                None => {
                    if let Some((sender, origin, pool)) = self.connection.take() {
                        let mut pool = pool.lock().unwrap_or_else(PoisonError::into_inner);
                        pool.entry(origin).or_default().push(sender);
                    }
                    return Ok(None);
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        return Ok(Some(data));
                    }
                }
                Some(Err(source)) => return Err(TransportError::Http { address: self.address.clone(), source }),
            }
        }
    }
}

/// Makes requests. One client serves all registries; connections are kept for its lifetime.
pub(crate) struct HttpClient {
    settings: Arc<RegistrySettings>,
    timeouts: Timeouts,
    resolver: Resolver,
    pool: Pool,
    permits: Mutex<HashMap<Origin, Arc<Semaphore>>>,
    tls: Mutex<HashMap<TlsKey, Arc<ClientConfig>>>,
}

impl std::fmt::Debug for HttpClient {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("HttpClient").field("timeouts", &self.timeouts).finish_non_exhaustive()
    }
}

impl HttpClient {
    pub(crate) fn new(settings: Arc<RegistrySettings>, timeouts: Timeouts, resolver: Resolver) -> Self {
        Self { settings, timeouts, resolver, pool: Pool::default(), permits: Mutex::default(), tls: Mutex::default() }
    }

    /// Sends a request and follows redirects (of GET and HEAD) to their end.
    pub(crate) async fn send(&self, request: &Request) -> Result<Response, TransportError> {
        let mut url = request.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send_once(request, &url).await?;
            let is_redirect = matches!(response.status.as_u16(), 301 | 302 | 303 | 307 | 308)
                && matches!(request.method, Method::GET | Method::HEAD);
            if !is_redirect {
                return Ok(response);
            }
            let refused = |reason| TransportError::Redirect { address: url.authority(), reason };
            let next = response
                .header(LOCATION)
                .and_then(|location| url.follow(location))
                .ok_or_else(|| refused("to nowhere"))?;
            if url.scheme == Scheme::Https && next.scheme == Scheme::Http {
                let (_, insecure) = self.settings.tls(&url);
                if !insecure {
                    return Err(refused("from HTTPS to plain HTTP"));
                }
            }
            // Read to its end, a short answer leaves the connection usable; a long one is not worth waiting for.
            drop(response.bytes(64 * 1024).await);
            url = next;
        }
        Err(TransportError::Redirect { address: url.authority(), reason: "without end" })
    }

    async fn send_once(&self, request: &Request, url: &Url) -> Result<Response, TransportError> {
        let origin = (url.scheme, url.host.clone(), url.port);
        let permits = {
            let mut permits = self.permits.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(permits.entry(origin.clone()).or_insert_with(|| Arc::new(Semaphore::new(MAX_CONNECTIONS))))
        };
        let permit = permits.acquire_owned().await.expect("the semaphore is never closed");
        let proxy = self.settings.proxy(url);
        let address = url.authority();
        loop {
            let kept = self.pool.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&origin).and_then(Vec::pop);
            let (mut sender, is_fresh) = match kept {
                // The server may have closed it meanwhile.
                Some(sender) if sender.is_closed() => continue,
                Some(sender) => (sender, false),
                None => (self.connect(url, proxy.as_ref()).await?, true),
            };
            let built = build(request, url, proxy.as_ref())
                .map_err(|message| TransportError::Request { address: address.clone(), message })?;
            let attempt = async {
                sender.ready().await?;
                sender.send_request(built).await
            };
            let answer = match patiently(attempt, self.timeouts.idle, || request.body.sent()).await {
                None => {
                    let limit = self.timeouts.idle;
                    return Err(TransportError::TimedOut { address, what: "answer", limit });
                }
                // A kept connection that was closed as we used it says nothing about the server.
                Some(Err(error))
                    if !is_fresh && (error.is_closed() || error.is_canceled() || error.is_incomplete_message()) =>
                {
                    continue;
                }
                Some(Err(source)) => return Err(TransportError::Http { address, source }),
                Some(Ok(answer)) => answer,
            };
            let (head, incoming) = answer.into_parts();
            return Ok(Response {
                status: head.status,
                headers: head.headers,
                body: ResponseBody {
                    incoming,
                    address,
                    idle: self.timeouts.idle,
                    connection: Some((sender, origin, Arc::clone(&self.pool))),
                    _permit: permit,
                },
            });
        }
    }

    async fn connect(&self, url: &Url, proxy: Option<&Proxy>) -> Result<Sender, TransportError> {
        let limit = self.timeouts.connect;
        timeout(limit, self.connect_unbounded(url, proxy))
            .await
            .unwrap_or_else(|_| Err(TransportError::TimedOut { address: url.authority(), what: "connection", limit }))
    }

    async fn connect_unbounded(&self, url: &Url, proxy: Option<&Proxy>) -> Result<Sender, TransportError> {
        let address = url.authority();
        let mut stream = self.connect_tcp(proxy.map_or(url, |proxy| &proxy.url)).await?;
        if url.scheme == Scheme::Http {
            return start(Stream::Plain(stream), &address).await;
        }
        if let Some(proxy) = proxy {
            stream = open_tunnel(stream, url, proxy).await?;
        }
        let config = self.tls_config(url).await?;
        let name = url.host.trim_matches(['[', ']']).to_owned();
        let failed = |source| TransportError::Tls { address: address.clone(), source };
        let name =
            ServerName::try_from(name).map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.map_err(failed)?;
        start(Stream::Tls(Box::new(stream)), &address).await
    }

    async fn connect_tcp(&self, url: &Url) -> Result<TcpStream, TransportError> {
        let host = url.host.clone();
        let addresses: Vec<IpAddr> = if let Ok(address) = host.trim_matches(['[', ']']).parse() {
            vec![address]
        } else {
            let resolver = self.resolver.clone();
            tokio::task::spawn_blocking(move || resolver.resolve(&host)).await.expect("the resolver does not panic")?
        };
        let mut failure = io::Error::other("the name has no address");
        for address in addresses {
            match TcpStream::connect(SocketAddr::new(address, url.port)).await {
                Ok(stream) => {
                    // Requests are written whole; waiting for more would only delay them.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Err(error) => failure = error,
            }
        }
        Err(TransportError::Connect { address: format!("{}:{}", url.host, url.port), source: failure })
    }

    async fn tls_config(&self, url: &Url) -> Result<Arc<ClientConfig>, TransportError> {
        let (ca, insecure) = self.settings.tls(url);
        let key = (ca.map(Path::to_owned), insecure);
        if let Some(config) = self.tls.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(Arc::clone(config));
        }
        let (ca, _) = key.clone();
        // Reading the system's certificates takes milliseconds of disk and parsing.
        let config = tokio::task::spawn_blocking(move || make_tls_config(ca.as_deref(), insecure))
            .await
            .expect("reading certificates does not panic")?;
        let config = Arc::new(config);
        self.tls.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::clone(&config));
        Ok(config)
    }
}

/// Waits for something for as long as a counter moves, and then for as long as the limit says.
async fn patiently<T>(work: impl Future<Output = T>, limit: Duration, progress: impl Fn() -> u64) -> Option<T> {
    tokio::pin!(work);
    loop {
        let before = progress();
        match timeout(limit, &mut work).await {
            Ok(done) => return Some(done),
            Err(_) if progress() != before => {}
            Err(_) => return None,
        }
    }
}

fn build(request: &Request, url: &Url, proxy: Option<&Proxy>) -> Result<hyper::Request<RequestBody>, String> {
    let through_proxy = proxy.is_some() && url.scheme == Scheme::Http;
    let target = if through_proxy { format!("http://{}{}", url.authority(), url.path) } else { url.path.clone() };
    let mut built = hyper::Request::builder()
        .method(request.method.clone())
        .uri(target)
        .body(request.body.open())
        .map_err(|error| error.to_string())?;
    let headers = built.headers_mut();
    *headers = request.headers.clone();
    if !url.same_origin(&request.url) {
        headers.remove(AUTHORIZATION);
    }
    headers.insert(HOST, HeaderValue::from_str(&url.authority()).map_err(|error| error.to_string())?);
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("rcompose/", env!("CARGO_PKG_VERSION"))));
    if let Some(authorization) = proxy.and_then(|proxy| proxy.authorization.as_ref()).filter(|_| through_proxy) {
        headers.insert(PROXY_AUTHORIZATION, authorization.clone());
    }
    if matches!(request.body, Payload::None) && matches!(request.method, Method::POST | Method::PUT | Method::PATCH) {
        headers.insert(hyper::header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    Ok(built)
}

async fn start(stream: Stream, address: &str) -> Result<Sender, TransportError> {
    let (sender, connection) = handshake(TokioIo::new(stream))
        .await
        .map_err(|source| TransportError::Http { address: address.to_owned(), source })?;
    // It ends when the sender is dropped or the server closes; errors reach whoever reads the answer.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a registry connection ended");
        }
    });
    Ok(sender)
}

/// Asks an HTTP proxy for a tunnel (`CONNECT`, RFC 9110, section 9.3.6).
async fn open_tunnel(mut stream: TcpStream, url: &Url, proxy: &Proxy) -> Result<TcpStream, TransportError> {
    let address = proxy.url.authority();
    let failed = |source| TransportError::Connect { address: address.clone(), source };
    let target = format!("{}:{}", url.host, url.port);
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    if let Some(authorization) = &proxy.authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(authorization.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request).await.map_err(failed)?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        // One by one, so that nothing of what follows the head is taken away from TLS.
        answer.push(stream.read_u8().await.map_err(failed)?);
        if answer.len() > 16 * 1024 {
            break;
        }
    }
    let line = String::from_utf8_lossy(answer.split(|b| *b == b'\r').next().unwrap_or_default()).into_owned();
    if line.split(' ').nth(1).is_some_and(|status| status.starts_with('2')) {
        Ok(stream)
    } else {
        Err(TransportError::Proxy { proxy: address, answer: line.chars().take(100).collect() })
    }
}

fn make_tls_config(ca: Option<&Path>, insecure: bool) -> Result<ClientConfig, TransportError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider has ciphers for the default versions");
    if insecure {
        let verifier = Arc::new(AnyCertificate(provider));
        return Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth());
    }
    let mut roots = RootCertStore::empty();
    // Hosts may have certificates that cannot be parsed; the others are still good.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca {
        let failed = |message: String| TransportError::Certificates { path: path.to_owned(), message };
        let mut found = 0;
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))? {
            let certificate = certificate.map_err(|error| failed(error.to_string()))?;
            roots.add(certificate).map_err(|error| failed(error.to_string()))?;
            found += 1;
        }
        if found == 0 {
            return Err(failed("there is no certificate in it".to_owned()));
        }
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Accepts every certificate, for registries that were declared insecure. The handshake's signature still is checked.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A connection, with or without TLS.
enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, buffer),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
