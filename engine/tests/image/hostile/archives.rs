//! Attacks by archives that are loaded rather than pulled.

use rcompose_engine::image::{Digest, media};
use serde_json::{Value, json};
use tar::EntryType;

use super::Fate::{self, Contained, Harmless, Refused};
use super::layers::{Attack, header, pax_entry};
use crate::support::{Layer, TestImage, gzip};

/// Packs an image as an OCI image layout.
pub(crate) fn layout(image: &TestImage) -> Layer {
    let entry = json!({"mediaType": image.media_type, "digest": image.digest(), "size": image.manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": "evil"}});
    let mut layer = with_index(&json!({"schemaVersion": 2, "manifests": [entry]}));
    layer = blob(layer, &image.digest().to_string(), &image.manifest);
    for (digest, content) in &image.blobs {
        layer = blob(layer, digest, content);
    }
    layer
}

/// Packs an image as `docker save` did before it wrote layouts.
pub(crate) fn docker(image: &TestImage) -> Layer {
    let manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    let config = manifest["config"]["digest"].as_str().unwrap();
    let mut layer = Layer::new().file("config.json", &image.blobs[config]);
    let mut names = Vec::new();
    for (number, digest) in image.layers.iter().enumerate() {
        let name = format!("{number}/layer.tar");
        layer = layer.file(&name, &image.blobs[digest]);
        names.push(name);
    }
    with_table(layer, &json!([{"Config": "config.json", "RepoTags": ["evil:latest"], "Layers": names}]))
}

fn with_index(index: &Value) -> Layer {
    Layer::new()
        .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
        .file("index.json", index.to_string().as_bytes())
}

fn with_table(layer: Layer, table: &Value) -> Layer {
    layer.file("manifest.json", table.to_string().as_bytes())
}

fn blob(layer: Layer, digest: &str, content: &[u8]) -> Layer {
    layer.file(&format!("blobs/{}", digest.replace(':', "/")), content)
}

fn small() -> TestImage {
    TestImage::new(&[(Layer::new().file("f", b"content").tar(), "gzip")])
}

/// The archives.
pub(crate) fn attacks() -> Vec<Attack> {
    let mut attacks = Vec::new();
    let mut add = |name: &str, archive: Layer, fate: Fate| {
        attacks.push(Attack { name: format!("archive {name}"), archive: gzip(&archive.tar()), fate });
    };
    let image = small();
    add("with nothing wrong", layout(&image), Contained);
    add("with nothing wrong, of Docker", docker(&image), Contained);

    // Names.
    for name in ["../../outside/victim", "/etc/passwd", "blobs/sha256/../../../outside/victim", "a/b/../../../x"] {
        let entry = |layer: Layer| pax_entry(layer, EntryType::Regular, name.as_bytes(), b"", &[], b"evil");
        add(&format!("with a file {name}"), entry(layout(&image)), Contained);
        let table = json!([{"Config": name, "RepoTags": ["evil:latest"], "Layers": [name]}]);
        add(&format!("whose table names {name}"), with_table(entry(Layer::new()), &table), Refused);
        add(&format!("whose table names {name}, which is not there"), with_table(Layer::new(), &table), Refused);
    }
    let table = json!([{"Config": "c", "RepoTags": ["evil:latest"], "Layers": ["l"]}]);
    for (what, target) in
        [("out", "../../../../../../../etc/passwd"), ("to itself", "c"), ("round", "l"), ("nowhere", "x")]
    {
        let linked = with_table(Layer::new().symlink("c", target).symlink("l", "c"), &table);
        add(&format!("with links {what}"), linked, Refused);
        let hard =
            Layer::new().entry("c", EntryType::Link, 0o644, target, b"").entry("l", EntryType::Link, 0o644, "c", b"");
        add(&format!("with hard links {what}"), with_table(hard, &table), Refused);
    }
    for kind in [EntryType::Fifo, EntryType::Char, EntryType::Block, EntryType::Directory] {
        let special = Layer::new().entry("c", kind, 0o666, "", b"").entry("l", kind, 0o666, "", b"");
        add(&format!("of {kind:?}"), with_table(special, &table), Refused);
        let index = Layer::new().entry("index.json", kind, 0o666, "", b"").entry("manifest.json", kind, 0o666, "", b"");
        add(&format!("whose tables are {kind:?}"), index, Refused);
    }
    let long = "n".repeat(900 << 10);
    let mut named = layout(&image);
    for number in 0..40 {
        named = pax_entry(named, EntryType::Regular, format!("{number}{long}").as_bytes(), b"", &[], b"");
    }
    add("with names of 900 KiB", named, Refused);
    let mut linked = layout(&image);
    for number in 0..40 {
        let target = format!("{number}{long}");
        linked = pax_entry(linked, EntryType::Symlink, format!("{number}").as_bytes(), target.as_bytes(), &[], b"");
    }
    add("with targets of 900 KiB", linked, Refused);
    let mut many = layout(&image);
    let prefix = "p".repeat(4000);
    for number in 0..6000 {
        let name = format!("{number}{prefix}");
        many = pax_entry(many, EntryType::Symlink, name.as_bytes(), b"x", &[], b"");
    }
    add("with 6,000 long names", many, Refused);

    // Tables.
    add("without a table", Layer::new().file("readme", b"hello"), Refused);
    add("with an empty table", with_table(Layer::new(), &json!([])), Harmless);
    add("with an empty index", with_index(&json!({"schemaVersion": 2, "manifests": []})), Harmless);
    for text in ["{}", "[", "null", "[null]", "[{}]", r#"[{"Config": 1, "Layers": 2}]"#] {
        add(&format!("whose table is {text}"), Layer::new().file("manifest.json", text.as_bytes()), Refused);
        let manifests = format!(r#"{{"schemaVersion": 2, "manifests": {text}}}"#);
        let index = Layer::new().file("index.json", manifests.as_bytes());
        add(&format!("whose index has {text}"), index, if text == "null" { Harmless } else { Refused });
    }
    add("whose table is deep", Layer::new().file("manifest.json", &[b'['; 1 << 20]), Refused);
    for name in ["manifest.json", "index.json"] {
        add(&format!("whose {name} has 17 MB"), Layer::new().file(name, &vec![b' '; 17 << 20]), Refused);
        let dense = format!("[{}0]", "0,".repeat(7 << 20));
        let text = if name == "manifest.json" { dense } else { format!(r#"{{"schemaVersion":2,"x":{dense}}}"#) };
        add(&format!("whose {name} has seven million values"), Layer::new().file(name, text.as_bytes()), Refused);
        let huge = Layer::new().raw(&header(EntryType::Regular, name.as_bytes(), 1 << 50), b"{}");
        add(&format!("whose {name} claims a petabyte"), huge, Refused);
    }
    let entry = |digest: &str, kind: &str, size: u64| json!({"mediaType": kind, "digest": digest, "size": size});
    let index_of =
        |digest: &str, kind: &str| with_index(&json!({"schemaVersion": 2, "manifests": [entry(digest, kind, 1)]}));
    let missing = Digest::of(b"missing").to_string();
    add("whose manifest is missing", index_of(&missing, media::OCI_MANIFEST), Refused);
    add("whose digest is a path", index_of("sha256:../../../../etc/passwd", media::OCI_MANIFEST), Refused);
    add(
        "whose digest is of another kind",
        index_of(&format!("sha512:{}", "0".repeat(128)), media::OCI_MANIFEST),
        Refused,
    );
    let own = image.digest().to_string();
    add("whose manifest is called an index", blob(index_of(&own, media::OCI_INDEX), &own, &image.manifest), Refused);
    // An index within an index, and so on.
    let mut inner = image.manifest.clone();
    let mut kind = media::OCI_MANIFEST;
    let mut nested = layout(&image);
    for _ in 0..6 {
        let digest = Digest::of(&inner).to_string();
        inner = json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": [entry(&digest, kind, 1)]})
            .to_string()
            .into_bytes();
        kind = media::OCI_INDEX;
        nested = blob(nested, &Digest::of(&inner).to_string(), &inner);
    }
    let top = json!({"schemaVersion": 2, "manifests": [entry(&Digest::of(&inner).to_string(), kind, 1)]});
    add("with indexes within indexes", nested.file("index.json", top.to_string().as_bytes()), Refused);
    let mut both: Value = serde_json::from_slice(&image.manifest).unwrap();
    both["manifests"] = json!([]);
    let both = both.to_string().into_bytes();
    let digest = Digest::of(&both).to_string();
    add("whose manifest is also an index", blob(index_of(&digest, media::OCI_MANIFEST), &digest, &both), Refused);

    // Blobs.
    let wrong = blob(layout(&image), &missing, b"something else");
    add("with a blob of another digest", wrong, Refused);
    let mut spoiled = small();
    spoiled.blobs.get_mut(&spoiled.layers[0]).unwrap().push(0);
    add("with a layer of another digest", layout(&spoiled), Refused);
    let mut lacking = small();
    lacking.blobs.remove(&lacking.layers[0]);
    add("without its layer", layout(&lacking), Refused);
    let mut spoiled = small();
    let layer = spoiled.layers[0].clone();
    spoiled.blobs.insert(layer, b"no archive, and no stream either".to_vec());
    add("of Docker with a layer that is none", docker(&spoiled), Refused);
    let cut = layout(&image).tar();
    attacks.push(Attack {
        name: "archive cut short".to_owned(),
        archive: cut[..cut.len() / 2].to_vec(),
        fate: Refused,
    });
    attacks.push(Attack { name: "archive that is none".to_owned(), archive: vec![b'x'; 10_000], fate: Refused });
    attacks.push(Attack { name: "archive of nothing".to_owned(), archive: Vec::new(), fate: Refused });
    // Two gibibytes of nothing, in a part that makes no file.
    let bomb = gzip(&vec![0; 64 << 20]).repeat(32);
    let start = Layer::new().raw(&header(EntryType::new(b'Z'), b"x", 2 << 30), b"").tar();
    let archive = [gzip(&start[..512]), bomb].concat();
    attacks.push(Attack { name: "archive that is a bomb".to_owned(), archive, fate: Refused });
    attacks
}
