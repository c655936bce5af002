//! Packages as a document of SPDX 2.3, in JSON.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Package;
use crate::build::attest::Predicate;
use crate::id::Id;
use crate::image::Digest;

/// The type of such a predicate.
const KIND: &str = "https://spdx.dev/Document";
/// What nothing is known of.
const UNKNOWN: &str = "NOASSERTION";

/// Makes the document of packages, of this name. With an epoch it is always the same for the same packages.
pub(super) fn document(name: &str, packages: &[Package], epoch: Option<u64>) -> Predicate {
    let created = epoch.and_then(|epoch| Timestamp::from_second(i64::try_from(epoch).ok()?).ok());
    let identifier = match created {
        Some(_) => {
            let urls = packages.iter().map(|package| package.url.as_str());
            let lines: Vec<&str> = std::iter::once(name).chain(urls).collect();
            Digest::of(lines.join("\n").as_bytes()).hex()
        }
        None => Id::random().as_str().to_owned(),
    };
    let created = created.unwrap_or_else(Timestamp::now);
    let listed: Vec<Value> = packages.iter().enumerate().map(|(number, package)| entry(number, package)).collect();
    let described: Vec<Value> = (0..packages.len())
        .map(|number| {
            json!({
                "spdxElementId": "SPDXRef-DOCUMENT", "relatedSpdxElement": reference(number),
                "relationshipType": "DESCRIBES",
            })
        })
        .collect();
    let content = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": format!("urn:rcompose:sbom:{identifier}"),
        "creationInfo": {
            "creators": [format!("Tool: rcompose-{}", env!("CARGO_PKG_VERSION"))],
            "created": created.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        },
        "packages": listed,
        "relationships": described,
    });
    Predicate { kind: KIND.to_owned(), file: format!("{name}.spdx.json"), content }
}

fn reference(number: usize) -> String {
    format!("SPDXRef-Package-{number}")
}

fn entry(number: usize, package: &Package) -> Value {
    let mut entry = json!({
        "SPDXID": reference(number),
        "name": package.name,
        "versionInfo": package.version,
        "downloadLocation": UNKNOWN,
        "filesAnalyzed": false,
        "licenseConcluded": UNKNOWN,
        "licenseDeclared": UNKNOWN,
        "copyrightText": UNKNOWN,
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": package.url,
        }],
    });
    // Packages name licences in words of their own, and few in an expression of SPDX.
    if let Some(licence) = &package.licence {
        entry["licenseComments"] = format!("the package says: {licence}").into();
    }
    entry
}
