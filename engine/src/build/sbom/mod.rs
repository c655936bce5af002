//! What is in an image (SBOM): by a generator that the user names, or by our own look at the databases of package managers. The
//! build's context and further stages have documents of their own.

mod databases;
mod generator;
mod golang;
mod spdx;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use self::databases::{Distribution, apk, dpkg, node, python};
use self::spdx::document;
use super::attest::Predicate;
use super::error::{BuildError, StepError};
use super::execute::{Builder, Solved};
use super::graph::VertexId;
use super::request::Request;
use super::tree::{Found, Match, Tree, kind};

/// The longest database of a package manager that is read, in bytes.
const LONGEST: u64 = 64 << 20;
/// Likewise, of the metadata of one package.
const LONGEST_METADATA: u64 = 4 << 20;

/// What the SBOM of the image is called. Those of what else is told of have a name behind it.
const CORE: &str = "sbom";

/// A package that is installed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Its package URL.
    pub(crate) url: String,
    /// The licence, as the package says it.
    pub(crate) licence: Option<String>,
}

impl Builder {
    /// Says what is in the image of a graph, and in what else the graph names: what its generator wrote, or what we see ourselves.
    pub fn sbom(&self, request: &Request, solved: &Solved) -> Result<Vec<Predicate>, BuildError> {
        let said = match request.scan {
            Some(scan) => self.scanned(solved, scan),
            None => self.inspect(request, solved),
        };
        said.map_err(|source| BuildError::Export { source: Box::new(source) })
    }

    /// Says what we see ourselves.
    fn inspect(&self, request: &Request, solved: &Solved) -> Result<Vec<Predicate>, StepError> {
        let graph = &request.graph;
        let extras = graph.extras.iter().map(|(name, at)| (extra(name), *at));
        let document = |(name, at): (String, VertexId)| {
            let tree = solved.state(at).ok_or(StepError::Worker)?.tree(self.shop())?;
            Ok(document(&name, &packages(&tree)?, request.epoch))
        };
        std::iter::once((CORE.to_owned(), graph.target)).chain(extras).map(document).collect()
    }
}

/// Returns what something is called that is told of beside the image.
fn extra(name: &str) -> String {
    format!("{CORE}-{name}")
}

/// Finds the packages of a file system: each once, in an order.
fn packages(tree: &Tree) -> Result<Vec<Package>, StepError> {
    let distribution = match text(tree, "/etc/os-release")? {
        Some(release) => Distribution::parse(&release),
        None => {
            text(tree, "/usr/lib/os-release")?.map_or_else(Distribution::default, |text| Distribution::parse(&text))
        }
    };
    let mut packages = Vec::new();
    if let Some(status) = text(tree, "/var/lib/dpkg/status")? {
        packages.extend(dpkg(&status, &distribution));
    }
    for database in ["/lib/apk/db/installed", "/usr/lib/apk/db/installed"] {
        if let Some(installed) = text(tree, database)? {
            packages.extend(apk(&installed, &distribution));
        }
    }
    for found in &tree.find("/", true)? {
        for file in found.found.iter().filter(|file| kind(&file.stat) == libc::S_IFREG) {
            package_of_file(tree, found, file, &distribution, &mut packages)?;
        }
    }
    packages.sort();
    packages.dedup();
    Ok(packages)
}

/// Finds the packages that a file tells of by its name, or, a program in Go, by what its compiler wrote into it.
fn package_of_file(
    tree: &Tree,
    found: &Match,
    file: &Found,
    distribution: &Distribution,
    packages: &mut Vec<Package>,
) -> Result<(), StepError> {
    let path = &file.path;
    let name = path.file_name().unwrap_or_default();
    let parent = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let read = || content(tree.open_file(&found.base, file)?, LONGEST_METADATA, path);
    if name == "METADATA" && parent.ends_with(".dist-info") || name == "PKG-INFO" && parent.ends_with(".egg-info") {
        packages.extend(python(&String::from_utf8_lossy(&read()?)));
    } else if name == "package.json" && path.components().any(|part| part.as_os_str() == "node_modules") {
        packages.extend(node(&read()?));
    } else if parent == "status.d" && path.starts_with("var/lib/dpkg") {
        // As images have it that were put together without a package manager.
        packages.extend(dpkg(&String::from_utf8_lossy(&read()?), distribution));
    } else if file.stat.st_mode & 0o111 != 0 {
        packages.extend(golang::modules(&tree.open_file(&found.base, file)?));
    }
    Ok(())
}

/// Reads a file that may be there.
fn text(tree: &Tree, path: &str) -> Result<Option<String>, StepError> {
    let found = match tree.find(path, true) {
        Err(super::TreeError::NotFound { .. }) => return Ok(None),
        found => found?,
    };
    let Some(found) = found.first().filter(|found| kind(&found.found[0].stat) == libc::S_IFREG) else {
        return Ok(None);
    };
    let bytes = content(tree.open_file(&found.base, &found.found[0])?, LONGEST, Path::new(path))?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

fn content(file: File, limit: u64, path: &Path) -> Result<Vec<u8>, StepError> {
    let mut bytes = Vec::new();
    let read = file.take(limit + 1).read_to_end(&mut bytes);
    read.map_err(|source| StepError::Io { action: "read", path: path.to_owned(), source })?;
    if bytes.len() as u64 > limit {
        return Err(StepError::TooLong { path: path.to_owned(), limit });
    }
    Ok(bytes)
}
