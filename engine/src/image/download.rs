//! Files of web servers that are no registries. Redirects are followed, never from HTTPS to plain HTTP; proxies,
//! certificates and time-outs are those of the client, and no credentials are sent.

use std::fs::File;
use std::io::{self, Write as _};

use hyper::body::Bytes;
use hyper::header::{CONTENT_LENGTH, ETAG, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::digest::{Digest, Hasher};
use super::http::{Request, Response, TransportError};
use super::registry::Client;
use super::url::Url;

/// Why a file cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// It is not where a file can be fetched from.
    #[error("cannot fetch {url:?}: it is no http or https URL without a user name")]
    Url {
        /// What was given.
        url: String,
    },
    /// The server cannot be reached, or the connection failed.
    #[error("cannot fetch {url}: {source}")]
    Fetch {
        /// The URL, without its query.
        url: String,
        /// What went wrong.
        #[source]
        source: TransportError,
    },
    /// The server does not have it, or does not give it.
    #[error("cannot fetch {url}: the server answered {status}")]
    Status {
        /// The URL, without its query.
        url: String,
        /// What it answered.
        status: StatusCode,
    },
    /// There is more of it than is accepted.
    #[error("cannot fetch {url}: it has more than {limit} bytes")]
    TooLong {
        /// The URL, without its query.
        url: String,
        /// What is accepted.
        limit: u64,
    },
    /// It cannot be kept.
    #[error("cannot fetch {url}: cannot write it to the disk")]
    Write {
        /// The URL, without its query.
        url: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What tells one version of a file from another, in its server's words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version {
    pub(crate) etag: Option<String>,
    pub(crate) modified: Option<String>,
}

/// A file that a server has begun to send.
#[derive(Debug)]
pub(crate) struct Download {
    response: Response,
    /// The URL without its query, which may hold a key.
    shown: String,
}

impl Client {
    /// Asks a server for a file.
    pub(crate) async fn download(&self, url: &str) -> Result<Download, DownloadError> {
        self.ask(url, &Version::default()).await?.whole()
    }

    /// Asks a server for a file. `None`: it still has the version that is known.
    pub(crate) async fn download_unless(&self, url: &str, known: &Version) -> Result<Option<Download>, DownloadError> {
        let download = self.ask(url, known).await?;
        let same = *known != Version::default() && download.response.status == StatusCode::NOT_MODIFIED;
        if same { Ok(None) } else { download.whole().map(Some) }
    }

    async fn ask(&self, url: &str, known: &Version) -> Result<Download, DownloadError> {
        let parsed = Url::parse(url).ok_or_else(|| DownloadError::Url { url: url.to_owned() })?;
        let shown = parsed.without_query();
        let mut request = Request::new(Method::GET, parsed);
        for (name, value) in [(IF_NONE_MATCH, &known.etag), (IF_MODIFIED_SINCE, &known.modified)] {
            if let Some(value) = value.as_ref().and_then(|value| HeaderValue::from_str(value).ok()) {
                request = request.header(name, value);
            }
        }
        match self.http.send(&request).await {
            Ok(response) => Ok(Download { response, shown }),
            Err(source) => Err(DownloadError::Fetch { url: shown, source }),
        }
    }
}

impl Download {
    fn whole(self) -> Result<Self, DownloadError> {
        match self.response.status {
            StatusCode::OK => Ok(self),
            status => Err(DownloadError::Status { url: self.shown, status }),
        }
    }

    /// Returns which version comes.
    pub(crate) fn version(&self) -> Version {
        let header = |name: HeaderName| self.response.header(name).map(str::to_owned);
        Version { etag: header(ETAG), modified: header(LAST_MODIFIED) }
    }

    /// Returns how many bytes there are, where the server says so.
    pub(crate) fn length(&self) -> Option<u64> {
        self.response.header(CONTENT_LENGTH)?.parse().ok()
    }

    /// Returns the next bytes, or `None` at the end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, DownloadError> {
        let chunk = self.response.body.chunk().await;
        chunk.map_err(|source| DownloadError::Fetch { url: self.shown.clone(), source })
    }

    /// Writes it to a file, if it has no more than so many bytes. `progress` hears how many have come.
    pub(crate) async fn save(
        mut self,
        file: &mut File,
        limit: u64,
        mut progress: impl FnMut(u64),
    ) -> Result<Digest, DownloadError> {
        let too_long = |url: &str| DownloadError::TooLong { url: url.to_owned(), limit };
        if self.length().is_some_and(|length| length > limit) {
            return Err(too_long(&self.shown));
        }
        let mut hasher = Hasher::new();
        let mut received = 0;
        while let Some(chunk) = self.chunk().await? {
            received += chunk.len() as u64;
            if received > limit {
                return Err(too_long(&self.shown));
            }
            hasher.update(&chunk);
            // A page cache takes it; the disk is not waited for.
            file.write_all(&chunk).map_err(|source| DownloadError::Write { url: self.shown.clone(), source })?;
            progress(received);
        }
        Ok(hasher.finish())
    }
}
