//! Attacks by manifests, configurations, compressed streams and answers of registries.

use std::fs;

use rcompose_engine::image::{Digest, Limits, PullError, media, no_progress, pull};
use serde_json::{Value, json};

use crate::Fate::{self, Contained, Harmless, Refused};
use crate::image_support::{Answer, FakeServer, Layer, Setup, TestImage, gzip, honest, is_root, runtime};

/// Serves an image with a changed manifest, and expects the pull to fail with these words and to leave nothing.
fn refuse(what: &str, image: TestImage, expected: &str) {
    refuse_served(what, FakeServer::serving(image, |_| None), expected);
}

fn refuse_served(what: &str, server: FakeServer, expected: &str) {
    let mut setup = Setup::new();
    setup.options.limits = Limits { bytes: 8 << 20, ..Limits::default() };
    let reference = server.reference("evil");
    let error = runtime().block_on(pull(&setup.store, &reference, &setup.options, &no_progress())).expect_err(what);
    let text = error.to_string();
    assert!(text.contains(expected), "{what}: {text}");
    assert!(text.contains(&reference.to_string()), "{what}: {text}");
    assert!(setup.store.list().unwrap().is_empty(), "{what}");
    assert_eq!(setup.leftovers(), [""; 0], "{what}");
    let layers: Vec<_> = fs::read_dir(setup.data().join("layers"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.'))
        .collect();
    assert_eq!(layers, [""; 0], "{what}");
}

fn plain_image() -> TestImage {
    TestImage::new(&[(Layer::new().file("f", b"content").tar(), "gzip")])
}

fn with_manifest(change: impl FnOnce(&mut Value)) -> TestImage {
    let mut image = plain_image();
    let mut manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    change(&mut manifest);
    image.manifest = manifest.to_string().into_bytes();
    image
}

/// Replaces the configuration and points the manifest to it.
fn with_config(change: impl FnOnce(&mut Value)) -> TestImage {
    let mut image = plain_image();
    let mut manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    let old = manifest["config"]["digest"].as_str().unwrap().to_owned();
    let mut config: Value = serde_json::from_slice(&image.blobs.remove(&old).unwrap()).unwrap();
    change(&mut config);
    let config = config.to_string().into_bytes();
    let digest = Digest::of(&config).to_string();
    manifest["config"]["digest"] = json!(digest);
    manifest["config"]["size"] = json!(config.len());
    image.blobs.insert(digest, config);
    image.manifest = manifest.to_string().into_bytes();
    image
}

/// An image of archives with their compressed forms.
pub(crate) fn compressed(layers: Vec<(Vec<u8>, Vec<u8>)>) -> TestImage {
    let archives: Vec<_> = layers.iter().map(|(archive, _)| (archive.clone(), "")).collect();
    let mut image = TestImage::new(&archives);
    let mut manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    for (number, (_, stream)) in layers.into_iter().enumerate() {
        let digest = Digest::of(&stream).to_string();
        manifest["layers"][number]["digest"] = json!(digest);
        manifest["layers"][number]["size"] = json!(stream.len());
        image.blobs.remove(&image.layers[number]);
        image.layers[number].clone_from(&digest);
        image.blobs.insert(digest, stream);
    }
    image.manifest = manifest.to_string().into_bytes();
    image
}

/// Images that are wrong elsewhere than in what their layers hold.
pub(crate) fn attacks() -> Vec<(String, TestImage, Fate)> {
    let mut attacks = Vec::new();
    let mut manifest = |name: &str, fate: Fate, change: &dyn Fn(&mut Value)| {
        attacks.push((format!("manifest {name}"), with_manifest(|manifest| change(manifest)), fate));
    };
    manifest("with 10,000 layers", Refused, &|m| m["layers"] = json!(vec![m["layers"][0].clone(); 10_000]));
    manifest("with another one within", Contained, &|m| m["subject"] = m["config"].clone());
    manifest("whose layer is of an unknown type", Contained, &|m| m["layers"][0]["mediaType"] = json!("application/x"));
    manifest("whose layer says another compression", Contained, &|m| {
        m["layers"][0]["mediaType"] = json!(media::OCI_LAYER_ZSTD);
    });
    manifest("with foreign URLs", Contained, &|m| m["layers"][0]["urls"] = json!(["http://192.0.2.1/", "file:///"]));
    manifest("with inline data", Contained, &|m| m["layers"][0]["data"] = json!("ZXZpbA=="));
    for size in [json!(-1), json!(1.5), json!("1"), json!(null), json!(u64::MAX), json!(i64::MAX)] {
        manifest(&format!("whose layer has a size of {size}"), Refused, &|m| m["layers"][0]["size"] = size.clone());
        manifest(&format!("whose configuration has a size of {size}"), Refused, &|m| {
            m["config"]["size"] = size.clone();
        });
    }
    for digest in ["", "sha256:", "sha256:x", "sha256:/etc/passwd", "md5:0", &format!("SHA256:{}", "0".repeat(64))] {
        manifest(&format!("with a digest of {digest:?}"), Refused, &|m| m["layers"][0]["digest"] = json!(digest));
    }
    for field in ["config", "layers", "schemaVersion"] {
        manifest(&format!("without {field}"), Refused, &|m| drop(m.as_object_mut().unwrap().remove(field)));
        for value in [json!([]), json!({}), json!(null), json!("x"), json!(7)] {
            manifest(&format!("whose {field} is {value}"), Refused, &|m| m[field] = value.clone());
        }
    }
    manifest("of a million values", Refused, &|m| m["x"] = json!(vec![0; 1_000_000]));
    manifest("whose layer has a million values", Refused, &|m| m["layers"][0]["x"] = json!(vec![0; 1_000_000]));
    manifest("whose configuration is its layer", Refused, &|m| {
        m["config"]["digest"] = m["layers"][0]["digest"].clone();
    });
    manifest("whose layer is its configuration", Refused, &|m| m["layers"][0] = m["config"].clone());
    let twice = with_manifest(|_| ());
    let text = String::from_utf8(twice.manifest.clone()).unwrap();
    for (name, text) in [
        ("with two lists of layers", text.replacen("{\"schemaVersion\"", "{\"layers\":[],\"schemaVersion\"", 1)),
        ("that is not UTF-8", text.replace("application", "\u{fffd}")),
        ("with something behind it", format!("{text}{{}}")),
        ("that is deep", text.replacen('{', &format!("{{\"x\":{}", "[".repeat(100_000)), 1)),
    ] {
        let mut bytes = text.into_bytes();
        if name.contains("UTF-8") {
            bytes.iter_mut().filter(|byte| !byte.is_ascii()).for_each(|byte| *byte = 0xff);
        }
        attacks.push((format!("manifest {name}"), TestImage { manifest: bytes, ..twice.clone() }, Refused));
    }
    let mut config = |name: &str, fate: Fate, change: &dyn Fn(&mut Value)| {
        attacks.push((format!("configuration {name}"), with_config(|config| change(config)), fate));
    };
    config("of two million values", Refused, &|c| c["history"] = json!(vec![json!({}); 2_000_000]));
    config("of 7 MB of text", Contained, &|c| c["config"]["Labels"] = json!({"x": "y".repeat(7 << 20)}));
    config("of 9 MB", Refused, &|c| c["config"]["Labels"] = json!({"x": "y".repeat(9 << 20)}));
    for value in [json!([]), json!({}), json!(null), json!(7)] {
        config(&format!("whose root file system is {value}"), Refused, &|c| c["rootfs"] = value.clone());
        config(&format!("whose variables are {value}"), Harmless, &|c| c["config"]["Env"] = value.clone());
        config(&format!("that has {value}"), Harmless, &|c| c["config"] = value.clone());
    }
    config("whose diff id lies", Refused, &|c| c["rootfs"]["diff_ids"] = json!([Digest::of(b"other")]));
    config("whose volumes lead out", Contained, &|c| c["config"]["Volumes"] = json!({"/../../outside": {}, "": {}}));
    config("whose working directory is a descriptor", Contained, &|c| {
        c["config"]["WorkingDir"] = json!("/proc/self/fd/7");
    });

    // Streams.
    let archive = Layer::new().file("f", b"content").tar();
    let whole = gzip(&archive);
    let frame = zstd::encode_all(&archive[..], 1).unwrap();
    let members: Vec<u8> = archive.chunks(100).flat_map(gzip).collect();
    let frames: Vec<u8> = archive.chunks(100).flat_map(|chunk| zstd::encode_all(chunk, 1).unwrap()).collect();
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4][..], &frame].concat();
    let endless = [&[0x50, 0x2a, 0x4d, 0x18, 0xff, 0xff, 0xff, 0xff][..], &frame].concat();
    let within = gzip(&whole);
    let mut huge_name = whole.clone();
    huge_name[3] |= 8;
    huge_name.splice(10..10, vec![b'n'; 30 << 20]);
    let mut crc = whole.clone();
    let end = crc.len();
    crc[end - 8] ^= 1;
    for (name, stream, fate) in [
        ("of gzip members", members, Contained),
        ("of zstd frames", frames, Contained),
        ("that begins with a frame to skip", skippable, Contained),
        ("that begins with a frame to skip that never ends", endless, Refused),
        ("of gzip with garbage behind it", [&whole[..], b"garbage"].concat(), Refused),
        ("of zstd with garbage behind it", [&frame[..], b"garbage"].concat(), Refused),
        ("of gzip with zstd behind it", [&whole[..], &frame].concat(), Refused),
        ("of gzip cut short", whole[..whole.len() / 2].to_vec(), Refused),
        ("of gzip without its end", whole[..whole.len() - 8].to_vec(), Refused),
        ("of zstd cut short", frame[..frame.len() / 2].to_vec(), Refused),
        ("of gzip within gzip", within, Refused),
        ("of gzip with a name of 30 MB", huge_name, Harmless),
        ("of gzip with a wrong checksum", crc, Refused),
        ("of nothing", Vec::new(), Refused),
        ("of bzip2", b"BZh91AY&SY nothing of the kind".to_vec(), Refused),
        ("of zeros", vec![0; 100_000], Refused),
    ] {
        attacks.push((format!("stream {name}"), compressed(vec![(archive.clone(), stream)]), fate));
    }
    let mut zeros = archive.clone();
    zeros.resize(64 << 20, 0);
    for (name, stream) in [("gzip", gzip(&zeros)), ("zstd", zstd::encode_all(&zeros[..], 1).unwrap())] {
        attacks.push((format!("bomb of {name}"), compressed(vec![(zeros.clone(), stream)]), Refused));
    }
    let files = Layer::new().file("zeros", &vec![0; 12 << 20]).tar();
    attacks.push(("bomb of one file".to_owned(), TestImage::new(&[(files, "zstd")]), Refused));
    attacks
}

#[test]
fn hostile_manifests_are_refused() {
    refuse("a manifest that is also an index", with_manifest(|m| m["manifests"] = json!([])), "also an index");
    refuse(
        "a foreign layer",
        with_manifest(|m| {
            m["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
            m["layers"][0]["urls"] = json!(["http://127.0.0.1:1/layer"]);
        }),
        "foreign",
    );
    refuse(
        "a digest that is a path",
        with_manifest(|m| m["layers"][0]["digest"] = json!("sha256:../../../etc/passwd")),
        "invalid digest",
    );
    refuse(
        "a digest of another kind",
        with_manifest(|m| m["layers"][0]["digest"] = json!(format!("sha512:{}", "0".repeat(128)))),
        "unsupported digest",
    );
    refuse(
        "too many layers",
        with_manifest(|m| m["layers"] = json!(vec![m["layers"][0].clone(); 501])),
        "out of bounds",
    );
    refuse("no layers at all", with_manifest(|m| m["layers"] = json!([])), "does not fit");
    refuse("layers that overflow", with_manifest(|m| m["layers"][0]["size"] = json!(u64::MAX)), "out of bounds");
    refuse(
        "a chart",
        with_manifest(|m| m["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json")),
        "not a container image",
    );
    refuse("a huge configuration", with_manifest(|m| m["config"]["size"] = json!(1_u64 << 40)), "out of bounds");
    refuse("an old schema", with_manifest(|m| m["schemaVersion"] = json!(1)), "unsupported manifest");
    refuse("a type that is not its own", with_manifest(|m| m["mediaType"] = json!(media::OCI_INDEX)), "declared as");
    refuse("a missing blob", with_manifest(|m| m["layers"][0]["digest"] = json!(Digest::of(b"missing"))), "not found");
    refuse("a size that is too small", with_manifest(|m| m["layers"][0]["size"] = json!(10)), "instead of 10");
    refuse("a size that is too large", with_manifest(|m| m["layers"][0]["size"] = json!(100_000)), "instead of 100000");
    refuse("deep JSON", TestImage { manifest: vec![b'['; 100_000], ..plain_image() }, "cannot parse the manifest");
    refuse("no JSON", TestImage { manifest: b"hello".to_vec(), ..plain_image() }, "cannot parse the manifest");
    refuse("a manifest of 5 MB", TestImage { manifest: vec![b' '; 5 << 20], ..plain_image() }, "more than");

    refuse(
        "wrong diff id",
        with_config(|c| c["rootfs"]["diff_ids"] = json!([Digest::of(b"other")])),
        "does not unpack to",
    );
    refuse(
        "too many diff ids",
        with_config(|c| c["rootfs"]["diff_ids"] = json!([Digest::of(b"a"), Digest::of(b"b")])),
        "does not fit",
    );
    refuse("a diff id that is a path", with_config(|c| c["rootfs"]["diff_ids"] = json!(["../../x"])), "does not fit");
    refuse("no root file system", with_config(|c| c["rootfs"] = json!(null)), "image configuration");
    refuse("another kind of root", with_config(|c| c["rootfs"]["type"] = json!("snapshots")), "and not layers");
}

#[test]
fn hostile_content_is_refused() {
    if !is_root() {
        return;
    }
    let image = plain_image();
    let (layer, good) = (image.layers[0].clone(), image.clone());
    let spoiled = move |change: fn(&mut Vec<u8>)| {
        let mut image = good.clone();
        change(image.blobs.get_mut(&layer).unwrap());
        image
    };
    refuse("a changed byte", spoiled(|blob| *blob.last_mut().unwrap() ^= 1), "wrong digest");
    refuse("other content of the same size", spoiled(|blob| blob.fill(0)), "wrong digest");
    refuse("a blob that is longer", spoiled(|blob| blob.push(0)), "instead of");
    refuse(
        "a configuration of another digest",
        {
            let mut image = plain_image();
            let key = image.blobs.keys().find(|key| **key != image.layers[0]).unwrap().clone();
            let length = image.blobs[&key].len();
            image.blobs.insert(key, vec![b' '; length]);
            image
        },
        "wrong content",
    );
    for (what, archive) in [
        ("a layer that leads upwards", Layer::new().file("../../x", b"evil").tar()),
        ("a layer that is no archive", b"this is not an archive, but it is longer than a block. ".repeat(20)),
        ("a layer cut short", Layer::new().file("f", &[1; 5000]).tar()[..2000].to_vec()),
    ] {
        refuse(what, TestImage::new(&[(archive, "gzip")]), "cannot unpack layer");
    }
    let bomb = TestImage::new(&[(Layer::new().file("zeros", &vec![0; 64 << 20]).tar(), "gzip")]);
    refuse("a gzip bomb", bomb, "too large");
    // Zeros behind the end of the archive expand without making a file.
    let mut archive = Layer::new().file("f", b"x").tar();
    archive.resize(64 << 20, 0);
    refuse("a bomb behind the end", TestImage::new(&[(archive.clone(), "zstd")]), "expands to more");
    // The compressed bytes are right, but they stop in the middle of a stream.
    let whole = gzip(&archive[..4096]);
    let mut cut = TestImage::new(&[(archive[..4096].to_vec(), "gzip")]);
    let mut manifest: Value = serde_json::from_slice(&cut.manifest).unwrap();
    let short = whole[..whole.len() - 12].to_vec();
    manifest["layers"][0]["digest"] = json!(Digest::of(&short));
    manifest["layers"][0]["size"] = json!(short.len());
    cut.blobs.insert(Digest::of(&short).to_string(), short);
    cut.manifest = manifest.to_string().into_bytes();
    refuse("a stream cut short", cut, "cannot");
    refuse(
        "xz that is none",
        {
            let mut image = plain_image();
            let mut manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
            let blob = b"\xfd7zXZ\0\0\0\0\0\0\0\0".to_vec();
            manifest["layers"][0]["digest"] = json!(Digest::of(&blob));
            manifest["layers"][0]["size"] = json!(blob.len());
            image.blobs.insert(Digest::of(&blob).to_string(), blob);
            image.manifest = manifest.to_string().into_bytes();
            image
        },
        "cannot",
    );
}

#[test]
fn hostile_answers_are_refused() {
    let image = plain_image();
    let other = image.clone();
    refuse_served(
        "a declared digest that is wrong",
        FakeServer::serving(image.clone(), move |request| {
            request.path.contains("/manifests/").then(|| {
                let head =
                    format!("Content-Type: {}\r\nDocker-Content-Digest: {}\r\n", other.media_type, Digest::of(b"x"));
                Answer::Send(200, head, other.manifest.clone())
            })
        }),
        "wrong content",
    );
    let own = image.clone();
    refuse_served(
        "an index of itself",
        FakeServer::start(move |request| {
            if request.path.contains("/manifests/") {
                let entry = json!({"mediaType": media::OCI_MANIFEST, "digest": own.digest(), "size": 1,
                    "platform": {"os": "linux", "architecture": "amd64"}});
                let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
                return Answer::Send(200, format!("Content-Type: {}\r\n", media::OCI_INDEX), index.into_bytes());
            }
            honest(&own, request)
        }),
        "wrong content",
    );
    for (what, location, expected) in [
        ("a redirect to a file", "file:///etc/passwd", "redirects to nowhere"),
        ("a redirect without end", "/v2/evil/blobs/again", "redirects without end"),
        ("a redirect to another protocol", "gopher://x/", "redirects to nowhere"),
    ] {
        let server = FakeServer::serving(image.clone(), move |request| {
            request.path.contains("/blobs/").then(|| Answer::Send(307, format!("Location: {location}\r\n"), Vec::new()))
        });
        refuse_served(what, server, expected);
    }
    for (what, bytes) in [("no HTTP", &b"SSH-2.0-OpenSSH\r\n"[..]), ("endless headers", &[b'x'; 1_000_000][..])] {
        let bytes = bytes.to_vec();
        refuse_served(what, FakeServer::start(move |_| Answer::Raw(bytes.clone())), "unreachable");
    }
    let error = format!(r#"{{"errors":[{{"message":"\u001b[31m{}"}}]}}"#, "red ".repeat(1000));
    let server = FakeServer::start(move |_| Answer::Send(400, String::new(), error.clone().into_bytes()));
    let setup = Setup::new();
    let reference = server.reference("evil");
    let error = runtime().block_on(pull(&setup.store, &reference, &setup.options, &no_progress())).unwrap_err();
    assert!(matches!(error, PullError::Registry { .. }));
    let text = error.to_string();
    assert!(!text.contains('\x1b') && text.len() < 1000, "{text}");
}
