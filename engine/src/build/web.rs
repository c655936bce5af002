//! Files of web servers: `ADD` of a URL, and contexts that are one.
//!
//! What was fetched is kept by its digest, and with the URL what the server calls this version of it. So a file that has not
//! changed comes over the network once, and one whose checksum is known is not even asked for.

use std::fs::{self, File, Permissions};
use std::io::{self, Seek as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::error::StepError;
use super::execute::{Shop, Temporary};
use super::graph::Http;
use crate::image::{Digest, Hasher, Version, write_volatile};
use crate::root::{Root, make_directory};

/// The longest file that is fetched, in bytes.
const LARGEST: u64 = 32 << 30;

/// The longest record that is read, in bytes.
const LONGEST_RECORD: u64 = 64 << 10;

/// How many bytes come between two times that progress is told.
const REPORT_EVERY: u64 = 1 << 20;

/// What is known of a URL.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: Version,
    digest: Digest,
}

/// Returns the directory that files of web servers are kept in.
pub(super) fn kept(root: &Root) -> PathBuf {
    root.data().join("build/web")
}

/// Has a file, of the network only if it must. `progress` hears how many bytes have come.
pub(super) async fn fetch(
    shop: &Shop,
    http: &Http,
    progress: impl Fn(u64),
) -> Result<(File, Option<SystemTime>), StepError> {
    let directory = kept(&shop.machine.root);
    make_directory(&directory).map_err(failed("create", &directory))?;
    let path = directory.join(format!("{}.json", Digest::of(http.url.as_bytes()).hex()));
    let record = read(&path);
    let modified = record.as_ref().and_then(|record| time(&record.version));
    let wanted = http.checksum.or_else(|| record.as_ref().map(|record| record.digest));
    let there = wanted.and_then(|digest| open(&directory, &digest));
    if let (Some(file), Some(_)) = (&there, &http.checksum) {
        return Ok((file.try_clone().map_err(failed("open", &path))?, modified));
    }
    let known = record.filter(|_| there.is_some()).map(|record| record.version).unwrap_or_default();
    let download = match (shop.client.download_unless(&http.url, &known).await?, there) {
        (Some(download), _) => download,
        (None, Some(file)) => return Ok((file, modified)),
        (None, None) => return Err(StepError::Worker),
    };
    let version = download.version();
    let temporary = shop.temporary()?;
    let partial = temporary.0.join("file");
    let mut file = File::create_new(&partial).map_err(failed("create", &partial))?;
    let mut told = 0;
    let digest = download
        .save(&mut file, LARGEST, |received| {
            if received >= told + REPORT_EVERY {
                told = received;
                progress(received);
            }
        })
        .await?;
    if let Some(expected) = http.checksum.filter(|expected| *expected != digest) {
        return Err(StepError::Checksum {
            url: http.url.clone(),
            expected: expected.to_string(),
            actual: digest.to_string(),
        });
    }
    let whole = directory.join(digest.hex());
    fs::rename(&partial, &whole).map_err(failed("create", &whole))?;
    let modified = time(&version);
    let record = serde_json::to_vec(&Record { version, digest }).map_err(|_| StepError::Worker)?;
    write_volatile(&directory, &path, &record).map_err(failed("write", &path))?;
    Ok((File::open(&whole).map_err(failed("open", &whole))?, modified))
}

/// Makes a directory with nothing but this file in it, as `ADD` has it: for root alone, as old as its server says.
pub(super) fn place(
    shop: &Shop,
    (mut file, modified): (File, Option<SystemTime>),
    name: &str,
) -> Result<Temporary, StepError> {
    let directory = shop.temporary()?;
    let path = directory.0.join(name.trim_start_matches('/'));
    let mut copy = File::create_new(&path).map_err(failed("create", &path))?;
    io::copy(&mut file, &mut copy)
        .and_then(|_| copy.set_permissions(Permissions::from_mode(0o600)))
        .and_then(|()| copy.set_modified(modified.unwrap_or(UNIX_EPOCH)))
        .map_err(failed("write", &path))?;
    Ok(directory)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StepError {
    let path = path.to_owned();
    move |source| StepError::Io { action, path, source }
}

/// Reads what is known of a URL. What cannot be read counts as not there: it is a cache and nothing else.
fn read(path: &Path) -> Option<Record> {
    let length = fs::metadata(path).ok()?.len();
    if length > LONGEST_RECORD {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Opens a kept file that still is what it was.
fn open(directory: &Path, digest: &Digest) -> Option<File> {
    let mut file = File::open(directory.join(digest.hex())).ok()?;
    let mut hasher = Hashing(Hasher::new());
    io::copy(&mut file, &mut hasher).ok()?;
    file.rewind().ok()?;
    (hasher.0.finish() == *digest).then_some(file)
}

struct Hashing(Hasher);

impl io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns when the server says that the file was changed.
fn time(version: &Version) -> Option<SystemTime> {
    let parsed = jiff::fmt::rfc2822::parse(version.modified.as_deref()?).ok()?;
    let seconds = u64::try_from(parsed.timestamp().as_second()).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_servers_are_read() {
        let of = |text: &str| time(&Version { modified: Some(text.to_owned()), etag: None });
        assert_eq!(of("Sun, 06 Nov 1994 08:49:37 GMT"), UNIX_EPOCH.checked_add(Duration::from_secs(784_111_777)));
        for none in ["", "yesterday", "Sun, 06 Nov 1894 08:49:37 GMT"] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
