//! The client side of the OCI distribution specification (and of Docker's registry API before it).
//!
//! One [`Client`] serves a whole process: connections, tokens and limits are shared by all images. It fetches bytes and
//! checks what it is told to check; what to do with them is decided in [`super::pull`].

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LINK, RANGE, RETRY_AFTER};
use hyper::{Method, StatusCode};
use serde::Deserialize;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc};

use super::credentials::{Credentials, CredentialsError};
use super::digest::Digest;
use super::http::{HttpClient, Request, Response, Timeouts, TransportError};
use super::manifest::{Descriptor, Document, MAX_MANIFEST, ManifestError, media};
use super::reference::Reference;
use super::settings::{Endpoint, RegistrySettings, SettingsError};
use super::url::Url;
use crate::resolve::Resolver;

/// Most that a registry may say in an error or a token answer, in bytes.
pub(super) const MAX_ANSWER: u64 = 1024 * 1024;
/// Longest time that a `Retry-After` is obeyed for.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(1);
/// Most tags of a repository that are asked for.
const MAX_TAGS: usize = 100_000;
/// After so many bytes without trouble the next trouble is a new one.
const PROGRESS: u64 = 4 << 20;

/// How registries are spoken to.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Mirrors, certificates, proxies.
    pub settings: Arc<RegistrySettings>,
    /// Docker's configuration file with credentials, if it is to be read.
    pub docker_config: Option<PathBuf>,
    /// How often one request is tried.
    pub attempts: u32,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How host names are resolved.
    pub resolver: Resolver,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            settings: Arc::default(),
            docker_config: None,
            attempts: 5,
            timeouts: Timeouts::default(),
            resolver: Resolver::default(),
        }
    }
}

/// Speaks with registries.
#[derive(Debug)]
pub struct Client {
    pub(super) options: ClientOptions,
    pub(super) http: HttpClient,
    /// Tokens by endpoint and scope.
    pub(super) tokens: Mutex<HashMap<(Url, String), HeaderValue>>,
    /// Credentials by registry, each asked for once (a helper may ask the user).
    pub(super) credentials: Mutex<HashMap<String, Option<Credentials>>>,
    /// Who may write what lies at an address of a registry now.
    turns: Mutex<HashMap<Url, Arc<Mutex<()>>>>,
}

/// Why a registry did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It cannot be reached, or the connection fails again and again.
    #[error("registry {registry} is unreachable: {source}")]
    Unreachable {
        /// The registry that was asked.
        registry: String,
        /// What went wrong last.
        #[source]
        source: TransportError,
    },
    /// It has no such image.
    #[error("not found at {registry}: {message}")]
    NotFound {
        /// The registry that was asked.
        registry: String,
        /// What it said.
        message: String,
    },
    /// It wants credentials, or others.
    #[error("access denied by {registry}: {message}")]
    Denied {
        /// The registry that was asked.
        registry: String,
        /// What it said.
        message: String,
    },
    /// It answered with an error, again and again if that could help.
    #[error("registry {registry} answered {status} to {step}: {message}")]
    Status {
        /// The registry that was asked.
        registry: String,
        /// What it was asked for.
        step: &'static str,
        /// Its status.
        status: StatusCode,
        /// What it said.
        message: String,
    },
    /// Its answer is not what it should be.
    #[error("registry {registry} sent a bad answer to {step}: {message}")]
    Answer {
        /// The registry that was asked.
        registry: String,
        /// What it was asked for.
        step: &'static str,
        /// What is wrong.
        message: String,
    },
    /// What it sent has another digest than it should.
    #[error("registry {registry} sent wrong content for {expected}: its digest is {actual}")]
    WrongDigest {
        /// The registry that was asked.
        registry: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// What it sent is longer or shorter than it should be.
    #[error("registry {registry} sent {actual} bytes of {digest} instead of {expected}")]
    WrongSize {
        /// The registry that was asked.
        registry: String,
        /// What was asked for.
        digest: Digest,
        /// How long it should be.
        expected: u64,
        /// What came.
        actual: u64,
    },
    /// The manifest cannot be used.
    #[error("registry {registry}: {source}")]
    Manifest {
        /// The registry that was asked.
        registry: String,
        /// What is wrong with it.
        #[source]
        source: ManifestError,
    },
    /// Credentials for it cannot be had.
    #[error("registry {registry}: {source}")]
    Credentials {
        /// The registry that was asked.
        registry: String,
        /// What went wrong.
        #[source]
        source: CredentialsError,
    },
    /// The settings make no sense.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The settings leave nothing to ask.
    #[error("there is nothing to ask for images of {registry}: it has no mirrors, but only those may be asked")]
    NoEndpoint {
        /// The registry.
        registry: String,
    },
    /// What goes from one repository to another could not be kept on its way.
    #[error("cannot keep what is copied")]
    Scratch(#[source] std::io::Error),
    /// Whoever wanted the bytes does not want them any more.
    #[error("the download was given up")]
    Abandoned,
}

impl RegistryError {
    /// Tells whether there was not even a connection.
    pub(crate) fn is_connect(&self) -> bool {
        matches!(self, Self::Unreachable { source, .. } if source.is_connect())
    }

    /// Tells whether asking another endpoint makes sense.
    fn is_elsewhere_perhaps(&self) -> bool {
        !matches!(self, Self::Settings(_) | Self::NoEndpoint { .. } | Self::Abandoned)
    }
}

/// A manifest as a registry has it.
#[derive(Debug)]
pub(crate) struct FetchedManifest {
    pub(crate) document: Document,
    pub(crate) media_type: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
    /// Who had it; blobs are asked for there first.
    pub(crate) endpoint: Endpoint,
}

/// A manifest before anybody has looked at it; its digest is right.
#[derive(Debug)]
pub(super) struct RawManifest {
    pub(super) content_type: Option<String>,
    pub(super) bytes: Vec<u8>,
    pub(super) digest: Digest,
    pub(super) endpoint: Endpoint,
}

impl RawManifest {
    /// Reads it as what an image is made of.
    fn parse(self) -> Result<FetchedManifest, RegistryError> {
        let Self { content_type, bytes, digest, endpoint } = self;
        let document = Document::parse(&bytes, content_type.as_deref())
            .map_err(|source| RegistryError::Manifest { registry: endpoint.registry.clone(), source })?;
        let own = match &document {
            Document::Manifest(manifest) => manifest.media_type.clone(),
            Document::Index(index) => index.media_type.clone(),
        };
        let fallback = match &document {
            Document::Manifest(_) => media::OCI_MANIFEST,
            Document::Index(_) => media::OCI_INDEX,
        };
        let declared_type =
            content_type.filter(|media_type| media::is_manifest(media_type) || media::is_index(media_type));
        let media_type = own.or(declared_type).unwrap_or_else(|| fallback.to_owned());
        Ok(FetchedManifest { document, media_type, bytes, digest, endpoint })
    }
}

/// What a download reports: bytes that came, or that another attempt is made.
#[derive(Debug)]
pub(crate) enum DownloadEvent {
    Progress(u64),
    Retry { message: String },
}

impl Client {
    /// Makes a client. It must be used within a Tokio runtime.
    pub fn new(options: ClientOptions) -> Self {
        let http = HttpClient::new(Arc::clone(&options.settings), options.timeouts, options.resolver.clone());
        Self { options, http, tokens: Mutex::default(), credentials: Mutex::default(), turns: Mutex::default() }
    }

    /// Fetches what a reference names. Endpoints are asked in order until one has it.
    ///
    /// What comes has the reference's digest, if that has one, and the digest that the registry itself declares.
    pub(crate) async fn manifest(&self, reference: &Reference) -> Result<FetchedManifest, RegistryError> {
        self.document(reference, &|raw| raw.parse()).await
    }

    /// Fetches what a reference names, and reads it in the caller's way.
    pub(super) async fn document<T>(
        &self,
        reference: &Reference,
        read: &(dyn Fn(RawManifest) -> Result<T, RegistryError> + Sync),
    ) -> Result<T, RegistryError> {
        let mut failures: Vec<RegistryError> = Vec::new();
        for endpoint in self.options.settings.endpoints(reference.registry())? {
            if endpoint.is_fallback && !failures.last().is_some_and(RegistryError::is_connect) {
                continue;
            }
            let raw = self.manifest_at(&endpoint, reference, &reference.identifier(), reference.digest()).await;
            match raw.and_then(read) {
                Ok(read) => return Ok(read),
                Err(error) if error.is_elsewhere_perhaps() => {
                    tracing::debug!(registry = %endpoint.base, %error, "asking elsewhere");
                    failures.push(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(worst(failures, reference))
    }

    /// Lists the tags of a repository, in the registry's order.
    pub async fn tags(&self, reference: &Reference) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Answer {
            tags: Option<Vec<String>>,
        }
        let step = "the request for the tags";
        let mut failures = Vec::new();
        'endpoints: for endpoint in self.options.settings.endpoints(reference.registry())? {
            if endpoint.is_fallback && !failures.last().is_some_and(RegistryError::is_connect) {
                continue;
            }
            let mut tags = Vec::new();
            let mut url = endpoint.base.join(&format!("v2/{}/tags/list", reference.repository()));
            // Some send a page at a time; no repository has more than this.
            while tags.len() < MAX_TAGS {
                let request = Request::new(Method::GET, url.clone());
                let response = match self.request(&endpoint, &request, &pull_scope(reference), step).await {
                    Ok(response) => response,
                    Err(error) if error.is_elsewhere_perhaps() => {
                        failures.push(error);
                        continue 'endpoints;
                    }
                    Err(error) => return Err(error),
                };
                let next = response.header(LINK).and_then(next_page).and_then(|link| url.follow(link));
                let registry = endpoint.registry.clone();
                let bad = |message: String| RegistryError::Answer { registry, step, message };
                let bytes = response.bytes(MAX_ANSWER).await.map_err(|error| bad(error.to_string()));
                let answer: Answer = serde_json::from_slice(&bytes?).map_err(|error| RegistryError::Answer {
                    registry: endpoint.registry.clone(),
                    step,
                    message: error.to_string(),
                })?;
                tags.extend(answer.tags.unwrap_or_default());
                match next.filter(|next| next.same_origin(&endpoint.base)) {
                    Some(next) => url = next,
                    None => break,
                }
            }
            return Ok(tags);
        }
        Err(worst(failures, reference))
    }

    /// Fetches one manifest by digest from the endpoint that named it.
    pub(crate) async fn manifest_by_digest(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        entry: &Descriptor,
    ) -> Result<FetchedManifest, RegistryError> {
        self.manifest_at(endpoint, reference, &entry.digest.to_string(), Some(entry.digest)).await?.parse()
    }

    pub(super) async fn manifest_at(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        identifier: &str,
        expected: Option<Digest>,
    ) -> Result<RawManifest, RegistryError> {
        const ACCEPTED: [&str; 4] =
            [media::OCI_INDEX, media::DOCKER_INDEX, media::OCI_MANIFEST, media::DOCKER_MANIFEST];
        let step = "the request for the manifest";
        let registry = endpoint.registry.clone();
        let url = endpoint.base.join(&format!("v2/{}/manifests/{identifier}", reference.repository()));
        let request = Request::new(Method::GET, url)
            .header(ACCEPT, HeaderValue::from_str(&ACCEPTED.join(", ")).expect("media types are ASCII"));
        let scope = pull_scope(reference);
        let mut attempt = 0;
        let (content_type, declared, bytes) = loop {
            let response = self.request(endpoint, &request, &scope, step).await?;
            let content_type = response.header(CONTENT_TYPE).map(|text| media::bare(text).to_owned());
            let declared: Option<Digest> = response.header("docker-content-digest").and_then(|text| text.parse().ok());
            match response.bytes(MAX_MANIFEST).await {
                Ok(bytes) => break (content_type, declared, bytes),
                Err(error @ TransportError::TooLong { .. }) => {
                    return Err(RegistryError::Answer { registry, step, message: error.to_string() });
                }
                Err(source) => {
                    attempt += 1;
                    if attempt >= self.options.attempts {
                        return Err(RegistryError::Unreachable { registry, source });
                    }
                    back_off(attempt, None).await;
                }
            }
        };
        let actual = Digest::of(&bytes);
        for expected in expected.into_iter().chain(declared) {
            if expected != actual {
                return Err(RegistryError::WrongDigest { registry, expected, actual });
            }
        }
        Ok(RawManifest { content_type, bytes, digest: actual, endpoint: endpoint.clone() })
    }

    /// Fetches a small blob whole, and checks it.
    pub(crate) async fn small_blob(
        &self,
        preferred: &Endpoint,
        reference: &Reference,
        descriptor: &Descriptor,
    ) -> Result<Vec<u8>, RegistryError> {
        let (sender, mut receiver) = mpsc::channel::<Result<Bytes, ()>>(4);
        let collect = async {
            let mut bytes = Vec::new();
            while let Some(Ok(chunk)) = receiver.recv().await {
                bytes.extend_from_slice(&chunk);
            }
            bytes
        };
        let ignore = |_: DownloadEvent| {};
        let download = self.blob(preferred, reference, descriptor, 0, sender, &ignore);
        let (result, bytes) = tokio::join!(download, collect);
        result?;
        let actual = Digest::of(&bytes);
        if actual != descriptor.digest {
            let registry = preferred.registry.clone();
            return Err(RegistryError::WrongDigest { registry, expected: descriptor.digest, actual });
        }
        Ok(bytes)
    }

    /// Streams a blob from byte `start` on into a channel. Broken connections are taken up again where they broke.
    ///
    /// Exactly `descriptor.size - start` bytes are sent, or an error is returned; the digest is the receiver's to check.
    pub(crate) async fn blob(
        &self,
        preferred: &Endpoint,
        reference: &Reference,
        descriptor: &Descriptor,
        start: u64,
        sink: mpsc::Sender<Result<Bytes, ()>>,
        report: &(dyn Fn(DownloadEvent) + Sync),
    ) -> Result<(), RegistryError> {
        let mut endpoints = vec![preferred.clone()];
        endpoints.extend(
            self.options.settings.endpoints(reference.registry())?.into_iter().filter(|other| other != preferred),
        );
        let mut position = start;
        let mut failures = Vec::new();
        for endpoint in endpoints {
            if endpoint.is_fallback && endpoint != *preferred {
                continue;
            }
            match self.blob_at(&endpoint, reference, descriptor, &mut position, &sink, report).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_elsewhere_perhaps() => failures.push(error),
                Err(error) => return Err(error),
            }
        }
        // The endpoint that had the manifest should have had the blob.
        Err(failures.swap_remove(0))
    }

    async fn blob_at(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        descriptor: &Descriptor,
        position: &mut u64,
        sink: &mpsc::Sender<Result<Bytes, ()>>,
        report: &(dyn Fn(DownloadEvent) + Sync),
    ) -> Result<(), RegistryError> {
        let step = "the request for a blob";
        let registry = || endpoint.registry.clone();
        let url = endpoint.base.join(&format!("v2/{}/blobs/{}", reference.repository(), descriptor.digest));
        let scope = pull_scope(reference);
        let mut attempt = 0;
        while *position < descriptor.size {
            let mut request = Request::new(Method::GET, url.clone());
            if *position > 0 {
                let range = format!("bytes={position}-");
                request = request.header(RANGE, HeaderValue::from_str(&range).expect("digits are ASCII"));
            }
            let mut response = self.request(endpoint, &request, &scope, step).await?;
            let mut skip = if response.status == StatusCode::PARTIAL_CONTENT {
                let range = response.header(CONTENT_RANGE).unwrap_or_default().to_owned();
                if !range.starts_with(&format!("bytes {position}-")) {
                    let message = format!("{range:?} is not the range from {position}");
                    return Err(RegistryError::Answer { registry: registry(), step, message });
                }
                0
            } else {
                // The server knows no ranges and starts over.
                *position
            };
            let resumed_at = *position;
            let failure = loop {
                match response.body.chunk().await {
                    Ok(Some(mut chunk)) => {
                        let skipped = skip.min(chunk.len() as u64);
                        skip -= skipped;
                        let chunk = chunk.split_off(usize::try_from(skipped).expect("at most the chunk's length"));
                        let end = *position + chunk.len() as u64;
                        if end > descriptor.size {
                            return Err(RegistryError::WrongSize {
                                registry: registry(),
                                digest: descriptor.digest,
                                expected: descriptor.size,
                                actual: end,
                            });
                        }
                        if chunk.is_empty() {
                            continue;
                        }
                        if sink.send(Ok(chunk)).await.is_err() {
                            return Err(RegistryError::Abandoned);
                        }
                        *position = end;
                        report(DownloadEvent::Progress(end));
                    }
                    Ok(None) if *position == descriptor.size => return Ok(()),
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            };
            if *position == descriptor.size {
                return Ok(());
            }
            attempt = if *position - resumed_at >= PROGRESS { 1 } else { attempt + 1 };
            if attempt >= self.options.attempts {
                return Err(match failure {
                    Some(source) => RegistryError::Unreachable { registry: registry(), source },
                    None => RegistryError::WrongSize {
                        registry: registry(),
                        digest: descriptor.digest,
                        expected: descriptor.size,
                        actual: *position,
                    },
                });
            }
            let message = failure.map_or("the connection ended too early".to_owned(), |error| error.to_string());
            report(DownloadEvent::Retry { message });
            back_off(attempt, None).await;
        }
        Ok(())
    }

    /// Sends a request until it succeeds, fails for good, or has failed too often. The answer's status is a success.
    pub(crate) async fn request(
        &self,
        endpoint: &Endpoint,
        request: &Request,
        scope: &str,
        step: &'static str,
    ) -> Result<Response, RegistryError> {
        self.request_up_to(self.options.attempts, endpoint, request, scope, step).await
    }

    /// Sends a request that cannot simply be sent again.
    pub(crate) async fn request_once(
        &self,
        endpoint: &Endpoint,
        request: &Request,
        scope: &str,
        step: &'static str,
    ) -> Result<Response, RegistryError> {
        self.request_up_to(1, endpoint, request, scope, step).await
    }

    async fn request_up_to(
        &self,
        most: u32,
        endpoint: &Endpoint,
        request: &Request,
        scope: &str,
        step: &'static str,
    ) -> Result<Response, RegistryError> {
        let registry = || endpoint.registry.clone();
        let mut attempt = 0;
        loop {
            attempt += 1;
            let response = match self.authorized(endpoint, request, scope).await {
                Ok(response) => response,
                Err(RegistryError::Unreachable { source, .. }) => {
                    // Where nobody listens, nobody will within seconds; two tries are for a registry that restarts.
                    let attempts = if source.is_connect() { most.min(2) } else { most };
                    // A mirror that is away has the registry itself behind it.
                    let give_up = endpoint.is_mirror && source.is_connect();
                    if give_up || !source.is_temporary() || attempt >= attempts {
                        return Err(RegistryError::Unreachable { registry: registry(), source });
                    }
                    back_off(attempt, None).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let status = response.status;
            if status.is_success() {
                return Ok(response);
            }
            let retry_after = response.header(RETRY_AFTER).and_then(|text| retry_after(text, jiff::Timestamp::now()));
            let message = error_message(response).await;
            let registry = registry();
            match status {
                StatusCode::NOT_FOUND => return Err(RegistryError::NotFound { registry, message }),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    return Err(RegistryError::Denied { registry, message });
                }
                _ => {}
            }
            let is_temporary = matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504);
            if !is_temporary || attempt >= most {
                return Err(RegistryError::Status { registry, step, status, message });
            }
            tracing::debug!(%status, attempt, "trying again");
            back_off(attempt, retry_after).await;
        }
    }

    /// Returns where to push to: a registry itself, never a mirror of it.
    pub(crate) fn push_endpoints(&self, registry: &str) -> Result<Vec<Endpoint>, RegistryError> {
        let mut endpoints = self.options.settings.endpoints(registry)?;
        endpoints.retain(|endpoint| !endpoint.is_mirror);
        if endpoints.is_empty() {
            return Err(RegistryError::NoEndpoint { registry: registry.to_owned() });
        }
        Ok(endpoints)
    }

    /// Waits until nothing else of this process writes what lies at `url`, for as long as the result is kept.
    ///
    /// Two tags of one repository have the same blobs, and registries that keep files truncate one that is written
    /// again: who asks at that moment is told that the blob is unknown.
    pub(crate) async fn turn(&self, url: &Url) -> OwnedMutexGuard<()> {
        let turn = Arc::clone(self.turns.lock().await.entry(url.clone()).or_default());
        turn.lock_owned().await
    }

    /// Asks a registry whether it accepts these credentials, or those that are kept for it (`login`).
    pub async fn check_login(&self, registry: &str, credentials: Option<Credentials>) -> Result<(), RegistryError> {
        if credentials.is_some() {
            self.credentials.lock().await.insert(registry.to_owned(), credentials);
        }
        self.knock(registry, self.push_endpoints(registry)?).await
    }

    /// Asks whether anybody is there to pull from: a registry, or a mirror of it.
    pub async fn reach(&self, registry: &str) -> Result<(), RegistryError> {
        self.knock(registry, self.options.settings.endpoints(registry)?).await
    }

    /// Asks for the API (OCI distribution specification, `end-1`), of the first endpoint that is there.
    async fn knock(&self, registry: &str, endpoints: Vec<Endpoint>) -> Result<(), RegistryError> {
        let mut failure = None;
        for endpoint in endpoints {
            let request = Request::new(Method::GET, endpoint.base.join("v2/"));
            match self.request(&endpoint, &request, "", "the request for access").await {
                Ok(_) => return Ok(()),
                Err(error @ RegistryError::Unreachable { .. }) => failure = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(failure.unwrap_or(RegistryError::NoEndpoint { registry: registry.to_owned() }))
    }
}

pub(crate) fn pull_scope(reference: &Reference) -> String {
    format!("repository:{}:pull", reference.repository())
}

/// Reads where the next page is (RFC 8288).
fn next_page(link: &str) -> Option<&str> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    parameters.replace('"', "").contains("rel=next").then_some(target)
}

/// Reads for how long a server wants to be left alone: seconds, or the time until when (RFC 9110, section 10.2.3).
fn retry_after(text: &str, now: jiff::Timestamp) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Some(Duration::try_from(then.duration_since(now)).unwrap_or_default())
}

/// Of several endpoints' failures, returns the one that says most about the image.
fn worst(failures: Vec<RegistryError>, reference: &Reference) -> RegistryError {
    let rank = |error: &RegistryError| match error {
        // That it cannot be reached says nothing about the image.
        RegistryError::Unreachable { .. } => 0,
        RegistryError::NotFound { .. } => 1,
        RegistryError::Denied { .. } => 2,
        RegistryError::Status { .. } => 3,
        _ => 4,
    };
    failures
        .into_iter()
        // The last of equals: the registry itself rather than its mirrors.
        .max_by_key(rank)
        .unwrap_or_else(|| RegistryError::NoEndpoint { registry: reference.registry().to_owned() })
}

/// Waits before another attempt: twice as long each time, and not in step with everybody else.
pub(crate) async fn back_off(attempt: u32, retry_after: Option<Duration>) {
    let mut random = [0];
    crate::sys::random(&mut random);
    let base = Duration::from_millis(200) * 2_u32.saturating_pow(attempt.saturating_sub(1)).min(50);
    let wait = base.mul_f32(0.5 + f32::from(random[0]) / 255.0);
    tokio::time::sleep(retry_after.map_or(wait, |least| least.min(MAX_RETRY_AFTER).max(wait))).await;
}

/// Returns what a registry says in an error, made fit for a terminal.
pub(super) async fn error_message(response: Response) -> String {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        errors: Vec<Error>,
        details: Option<String>,
    }
    #[derive(Deserialize)]
    struct Error {
        code: Option<String>,
        message: Option<String>,
    }
    let status = response.status;
    let reason = || status.canonical_reason().unwrap_or("unknown status").to_ascii_lowercase();
    let Ok(bytes) = response.bytes(MAX_ANSWER).await else {
        return reason();
    };
    let text = match serde_json::from_slice::<Answer>(&bytes) {
        Ok(answer) => {
            let messages =
                answer.errors.into_iter().filter_map(|error| error.message.filter(|m| !m.is_empty()).or(error.code));
            messages.chain(answer.details).collect::<Vec<_>>().join("; ")
        }
        Err(_) => String::new(),
    };
    let text: String = text.chars().filter(|c| !c.is_control()).take(300).collect();
    if text.is_empty() { reason() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_a_number_or_a_time() {
        let now = "1994-11-06T08:49:00Z".parse().unwrap();
        assert_eq!(retry_after(" 125 ", now), Some(Duration::from_secs(125)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now), Some(Duration::from_secs(37)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:48:37 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
    }

    #[test]
    fn the_next_page_is_a_link() {
        assert_eq!(next_page("</v2/a/tags/list?n=1&last=x>; rel=\"next\""), Some("/v2/a/tags/list?n=1&last=x"));
        assert_eq!(next_page("</v2/a>; rel=\"prev\""), None);
        assert_eq!(next_page("nothing"), None);
    }
}
