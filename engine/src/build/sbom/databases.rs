//! What package managers say of what they have installed. What makes no sense is left out.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::Package;

/// The distribution that packages are of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Distribution {
    id: String,
    version: String,
}

impl Distribution {
    /// Reads `os-release(5)`.
    pub(crate) fn parse(text: &str) -> Self {
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            value.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
        };
        Self { id: field("ID"), version: field("VERSION_ID") }
    }

    fn package(&self, kind: &str, name: &str, version: &str, architecture: &str) -> String {
        let id = if self.id.is_empty() { "unknown" } else { &self.id };
        let distribution = match self.version.as_str() {
            "" => String::new(),
            version => format!("&distro={}-{}", encoded(id), encoded(version)),
        };
        let [id, name, version, architecture] = [id, name, version, architecture].map(encoded);
        format!("pkg:{kind}/{id}/{name}@{version}?arch={architecture}{distribution}")
    }
}

/// Returns a part of a package URL.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Returns the paragraphs of a text in the form of RFC 822 headers, each as its fields.
fn paragraphs(text: &str) -> impl Iterator<Item = BTreeMap<&str, &str>> {
    let lines = text.lines().collect::<Vec<_>>();
    let paragraphs: Vec<_> = lines
        .split(|line| line.trim().is_empty())
        .map(|lines| lines.iter().filter_map(|line| line.split_once(": ")).collect())
        .collect();
    paragraphs.into_iter()
}

/// Reads the `status` of dpkg.
pub(crate) fn dpkg(status: &str, distribution: &Distribution) -> Vec<Package> {
    let package = |fields: BTreeMap<&str, &str>| {
        // `want flag status`; a file of `status.d` has none.
        let is_installed = fields.get("Status").is_none_or(|status| status.ends_with(" installed"));
        let (name, version) = (fields.get("Package")?.trim(), fields.get("Version")?.trim());
        let architecture = fields.get("Architecture").map_or("all", |found| found.trim());
        is_installed.then(|| Package {
            name: name.to_owned(),
            version: version.to_owned(),
            url: distribution.package("deb", name, version, architecture),
            licence: None,
        })
    };
    paragraphs(status).filter_map(package).collect()
}

/// Reads the `installed` of apk.
pub(crate) fn apk(installed: &str, distribution: &Distribution) -> Vec<Package> {
    let package = |paragraph: &str| {
        let field = |name: char| {
            let mut lines = paragraph.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        let (name, version) = (field('P')?, field('V')?);
        Some(Package {
            name: name.to_owned(),
            version: version.to_owned(),
            url: distribution.package("apk", name, version, field('A').unwrap_or("noarch")),
            licence: field('L').filter(|licence| !licence.is_empty()).map(str::to_owned),
        })
    };
    installed.split("\n\n").filter_map(package).collect()
}

/// Reads the `METADATA` of a Python package (core metadata).
pub(crate) fn python(metadata: &str) -> Option<Package> {
    let fields = paragraphs(metadata).next()?;
    let (name, version) = (fields.get("Name")?.trim(), fields.get("Version")?.trim());
    let licence = fields.get("License-Expression").or_else(|| fields.get("License"));
    let normal = name.to_lowercase().replace(['_', '.'], "-");
    Some(Package {
        name: name.to_owned(),
        version: version.to_owned(),
        url: format!("pkg:pypi/{}@{}", encoded(&normal), encoded(version)),
        licence: licence.map(|licence| licence.trim().to_owned()).filter(|licence| !licence.is_empty()),
    })
}

/// Reads the `package.json` of a package of Node. Those without a name or a version are parts of others.
pub(crate) fn node(document: &[u8]) -> Option<Package> {
    let document: Value = serde_json::from_slice(document).ok()?;
    let (name, version) = (document["name"].as_str()?, document["version"].as_str()?);
    let path: Vec<String> = name.split('/').map(encoded).collect();
    Some(Package {
        name: name.to_owned(),
        version: version.to_owned(),
        url: format!("pkg:npm/{}@{}", path.join("/"), encoded(version)),
        licence: document["license"].as_str().map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(packages: impl IntoIterator<Item = Package>) -> Vec<String> {
        packages.into_iter().map(|package| package.url).collect()
    }

    #[test]
    fn databases_are_read() {
        let debian = Distribution::parse("NAME=\"Debian\"\nID=debian\nVERSION_ID=\"13\"\n");
        let status = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:2.41-12+b1\n\
                      Description: x\n .\n Package: none\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\
                      Version: 2\n";
        assert_eq!(urls(dpkg(status, &debian)), ["pkg:deb/debian/libc6@1%3A2.41-12%2Bb1?arch=amd64&distro=debian-13"]);
        assert_eq!(
            urls(dpkg("Package: tzdata\nVersion: 1\n", &Distribution::default())),
            ["pkg:deb/unknown/tzdata@1?arch=all"]
        );
        let alpine = Distribution::parse("ID=alpine\nVERSION_ID=3.22.1\n");
        let musl = &apk("C:Q1\nP:musl\nV:1.2.5-r10\nA:x86_64\nL:MIT\n\nF:lib\n\n", &alpine)[0];
        assert_eq!(musl.url, "pkg:apk/alpine/musl@1.2.5-r10?arch=x86_64&distro=alpine-3.22.1");
        assert_eq!(musl.licence.as_deref(), Some("MIT"));
        let metadata =
            "Metadata-Version: 2.4\nName: Foo_Bar\nVersion: 1.0+x\nLicense-Expression: MIT\n\nName: readme\n";
        assert_eq!(python(metadata).unwrap().url, "pkg:pypi/foo-bar@1.0%2Bx");
        let scoped = br#"{"name": "@vitejs/plugin-react", "version": "5.0.0", "license": "MIT"}"#;
        assert_eq!(node(scoped).unwrap().url, "pkg:npm/%40vitejs/plugin-react@5.0.0");
        assert!(node(br#"{"type": "module"}"#).is_none() && node(b"{").is_none() && python("").is_none());
    }
}
