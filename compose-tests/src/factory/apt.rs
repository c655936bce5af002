//! Debian packages: which ones an image needs and where their files are.
//!
//! apt runs with lists, caches and a package database of its own (an empty one), so neither what the host has
//! installed nor its configuration changes what an image contains. Only the addresses of the mirrors are the host's.

use std::{
    collections::BTreeSet,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};

use anyhow::{Context, bail};

use super::cache::Cache;

/// The Debian release that all images are made of.
pub const SUITE: &str = "bookworm";

/// A downloaded package.
#[derive(Debug, Clone)]
pub struct Deb {
    pub package: String,
    pub file: PathBuf,
}

/// apt with a root of its own.
#[derive(Debug)]
pub struct Apt {
    config: PathBuf,
    /// Not apt's own archive folder: --print-uris leaves out what lies there.
    debs: PathBuf,
    /// One apt process at a time: it locks its folders and would fail, not wait.
    turn: Mutex<()>,
}

impl Apt {
    /// Writes the configuration and the list of sources into the cache folder.
    pub fn new(cache: &Cache) -> anyhow::Result<Apt> {
        let root = cache.folder("apt")?;
        for folder in ["lists/partial", "archives/partial", "state", "sources.d", "debs"] {
            fs::create_dir_all(root.join(folder))?;
        }
        fs::write(root.join("status"), "")?;
        fs::write(root.join("sources.d/factory.sources"), sources()?)?;
        let dir = root.display();
        let config = root.join("apt.conf");
        fs::write(
            &config,
            format!(
                r#"Dir::State "{dir}/state";
Dir::State::status "{dir}/status";
Dir::State::lists "{dir}/lists";
Dir::Cache "{dir}";
Dir::Cache::archives "{dir}/archives";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{dir}/sources.d";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::Check-Valid-Until "false";
Acquire::Check-Date "false";
Binary::apt-get::APT::Keep-Downloaded-Packages "true";
"#
            ),
        )?;
        Ok(Apt { config, debs: root.join("debs"), turn: Mutex::new(()) })
    }

    /// Fetches the lists of packages.
    pub fn update(&self) -> anyhow::Result<()> {
        self.get(&["update"]).map(drop)
    }

    /// Downloads `packages` with everything they depend on and returns the files, without those of `have` (which the
    /// layers below contain) and `without` (which the recipe can do without).
    pub fn fetch(&self, packages: &[String], without: &[String], have: &BTreeSet<String>) -> anyhow::Result<Vec<Deb>> {
        if packages.is_empty() {
            return Ok(Vec::new());
        }
        let mut install = vec!["install", "--yes", "--print-uris"];
        install.extend(packages.iter().map(String::as_str));
        let listing = self.get(&install)?;
        // 'http://mirror/pool/…/a_1%3a2_amd64.deb' a_1%3a2_amd64.deb 1234 MD5Sum:…
        let mut wanted = Vec::new();
        for line in listing.lines().filter(|line| line.starts_with('\'')) {
            let mut words = line.split(' ').skip(1);
            let (Some(file), Some(size)) = (words.next(), words.next()) else {
                bail!("unexpected line of apt-get --print-uris: {line}");
            };
            let package = file.split('_').next().unwrap_or(file).to_owned();
            if have.contains(&package) || without.contains(&package) {
                continue;
            }
            let size: u64 = size.parse().with_context(|| format!("no size in {line}"))?;
            wanted.push((Deb { package, file: self.debs.join(file) }, size));
        }
        if wanted.is_empty() {
            bail!("apt finds nothing to download for {packages:?}");
        }
        let missing: Vec<&str> = wanted
            .iter()
            .filter(|(deb, size)| fs::metadata(&deb.file).map_or(true, |file| file.len() != *size))
            .map(|(deb, _)| deb.package.as_str())
            .collect();
        if !missing.is_empty() {
            // `download` puts files into the working folder, under the names that --print-uris gave, and verifies
            // them against the signed lists.
            let mut download = vec!["download"];
            download.extend(missing);
            self.get(&download)?;
        }
        for (deb, size) in &wanted {
            let found = fs::metadata(&deb.file).with_context(|| format!("apt did not fetch {}", deb.file.display()))?;
            if found.len() != *size {
                bail!("{} has {} bytes instead of {size}", deb.file.display(), found.len());
            }
        }
        Ok(wanted.into_iter().map(|(deb, _)| deb).collect())
    }

    fn get(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let _turn = self.turn.lock().expect("no thread panics while it runs apt");
        let output = Command::new("apt-get")
            .env("APT_CONFIG", &self.config)
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .current_dir(&self.debs)
            .arg("-qq")
            .args(arguments)
            .output()
            .context("cannot run apt-get (the image factory needs a Debian host)")?;
        if !output.status.success() {
            bail!(
                "apt-get {} ended with {}:\n{}",
                arguments[0],
                output.status,
                String::from_utf8_lossy(&output.stderr).trim_end()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Returns sources for [`SUITE`] on the mirrors that the host itself uses.
pub fn sources() -> anyhow::Result<String> {
    let etc = Path::new("/etc/apt");
    let mut files = vec![etc.join("sources.list")];
    if let Ok(entries) = fs::read_dir(etc.join("sources.list.d")) {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    let mut archive = None;
    let mut security = None;
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        for uri in uris(&text) {
            let path = uri.trim_end_matches('/');
            if path.ends_with("/debian") {
                archive.get_or_insert_with(|| path.to_owned());
            } else if path.ends_with("/debian-security") {
                security.get_or_insert_with(|| path.to_owned());
            }
        }
    }
    let archive = archive.context("no Debian mirror in /etc/apt/sources.list or sources.list.d")?;
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let mut text = format!(
        "Types: deb\nURIs: {archive}\nSuites: {SUITE} {SUITE}-updates\nComponents: main\nSigned-By: {keyring}\n"
    );
    if let Some(security) = security {
        write!(
            text,
            "\nTypes: deb\nURIs: {security}\nSuites: {SUITE}-security\nComponents: main\nSigned-By: {keyring}\n"
        )?;
    }
    Ok(text)
}

/// Returns the addresses in a sources file, in either of its two formats.
fn uris(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(list) = line.strip_prefix("URIs:") {
            found.extend(list.split_whitespace());
        } else if line.starts_with("deb ") {
            found.extend(line.split_whitespace().find(|word| word.contains("://")));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_source_formats_are_read() {
        let deb822 = "Types: deb\nURIs: http://a.example/debian http://b.example/debian\n";
        assert_eq!(uris(deb822), ["http://a.example/debian", "http://b.example/debian"]);
        let one_line = "# deb http://no.example/debian x\ndeb [arch=amd64] http://c.example/debian x main\n";
        assert_eq!(uris(one_line), ["http://c.example/debian"]);
    }
}
