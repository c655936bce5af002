//! Unpacks a generated corpus of hostile layers and images. Each is refused or contained: a tree of sentinels around
//! the store stays as it was, nothing is left behind, and memory stays bounded.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::large_stack_arrays,
    clippy::needless_pass_by_value,
    clippy::format_push_string,
    reason = "helpers of tests fail by panicking, and say on the terminal what they skip"
)]

mod image_support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use image_support::{Answer, FakeServer, Layer, Setup, TestImage, gzip, honest, is_root, runtime};
use rcompose_engine::image::{Digest, Limits, PullError, UnpackError, media, no_progress, pull, unpack};
use serde_json::{Value, json};
use tar::EntryType;

/// What must become of an attack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// It is an error.
    Refused,
    /// It is no error, and stays within the layer.
    Contained,
    /// Either will do.
    Harmless,
}
use Fate::{Contained, Harmless, Refused};

struct Attack {
    name: String,
    archive: Vec<u8>,
    fate: Fate,
}

/// The world around a layer: sentinels beside and above it.
struct World {
    directory: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("rcompose-hostile-").tempdir().unwrap();
        let world = Self { directory };
        fs::create_dir_all(world.outside().join("sub/deep")).unwrap();
        fs::write(world.victim(), "victim").unwrap();
        fs::set_permissions(world.victim(), fs::Permissions::from_mode(0o640)).unwrap();
        fs::write(world.outside().join("sub/deep/file"), "deep").unwrap();
        symlink("victim", world.outside().join("link")).unwrap();
        // The layer's neighbours in the store.
        fs::create_dir_all(world.directory.path().join("layers/neighbour")).unwrap();
        fs::write(world.directory.path().join("layers/neighbour/file"), "neighbour").unwrap();
        world
    }

    fn outside(&self) -> PathBuf {
        self.directory.path().join("outside")
    }

    fn victim(&self) -> PathBuf {
        self.outside().join("victim")
    }

    /// Describes everything but the layer and the trash.
    fn snapshot(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut rest = vec![self.directory.path().to_owned()];
        while let Some(path) = rest.pop() {
            if path.ends_with("layers/root") || path.ends_with("layers/trash") {
                continue;
            }
            let metadata = fs::symlink_metadata(&path).unwrap();
            let mut text = format!("{:o} {}:{}", metadata.mode(), metadata.uid(), metadata.gid());
            if metadata.is_dir() {
                rest.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                // Making the layer's own directories changes the time of the one that holds them.
                if !path.ends_with("layers") {
                    text += &format!(" {}.{}", metadata.mtime(), metadata.mtime_nsec());
                }
            } else if metadata.is_symlink() {
                text += &format!(" -> {}", fs::read_link(&path).unwrap().display());
            } else {
                text += &format!(" {} {:?}", metadata.nlink(), fs::read(&path).unwrap());
                text += &format!(" {}.{}", metadata.mtime(), metadata.mtime_nsec());
            }
            found.insert(path, text);
        }
        found
    }

    fn unpack(&self, archive: &[u8], limits: &Limits) -> Result<(), UnpackError> {
        let (root, trash) = (self.directory.path().join("layers/root"), self.directory.path().join("layers/trash"));
        for path in [&root, &trash] {
            fs::create_dir_all(path).unwrap();
        }
        let result = {
            let (root, trash) = (File::open(&root).unwrap(), File::open(&trash).unwrap());
            unpack(archive, root.as_fd(), trash.as_fd(), limits).map(|_| ())
        };
        // Nothing in the layer may be the same file as something outside.
        let victim = fs::metadata(self.victim()).unwrap();
        let mut rest = vec![root.clone()];
        while let Some(path) = rest.pop() {
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            assert_ne!((metadata.dev(), metadata.ino()), (victim.dev(), victim.ino()), "{}", path.display());
            if metadata.is_dir() {
                rest.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        assert_eq!(fs::read_dir(&trash).unwrap().count(), 0, "the trash is emptied");
        for path in [&root, &trash] {
            fs::remove_dir_all(path).unwrap();
        }
        result
    }
}

fn header(kind: EntryType, path: &[u8], size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    let length = path.len().min(100);
    header.as_mut_bytes()[..length].copy_from_slice(&path[..length]);
    header.set_entry_type(kind);
    header.set_mode(0o666);
    header.set_uid(1234);
    header.set_gid(1234);
    header.set_mtime(1);
    header.set_size(size);
    header.set_cksum();
    header
}

/// An entry whose name, target and further records are in pax headers, so that they can be anything.
fn pax_entry(layer: Layer, kind: EntryType, path: &[u8], link: &[u8], records: &[(&str, &[u8])], data: &[u8]) -> Layer {
    let mut all: Vec<(&str, &[u8])> = vec![("path", path)];
    if !link.is_empty() {
        all.push(("linkpath", link));
    }
    all.extend_from_slice(records);
    let records = pax(&all);
    layer
        .raw(&header(EntryType::XHeader, b"pax", records.len() as u64), &records)
        .raw(&header(kind, b"short", data.len() as u64), data)
}

fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length.to_string().len() + rest != length {
            length += 1;
        }
        bytes.extend_from_slice(format!("{length} {key}=").as_bytes());
        bytes.extend_from_slice(value);
        bytes.push(b'\n');
    }
    bytes
}

/// Adds an entry of some kind under a name.
fn plant(layer: Layer, kind: &str, path: &[u8], outside: &Path) -> Layer {
    let (directory, name) = match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => path.split_at(slash + 1),
        None => (&b""[..], path),
    };
    let whiteout = [directory, b".wh.", name].concat();
    let opaque = [directory, b".wh..wh..opq"].concat();
    let target = outside.as_os_str().as_bytes();
    match kind {
        "file" => pax_entry(layer, EntryType::Regular, path, b"", &[], b"evil"),
        "directory" => pax_entry(layer, EntryType::Directory, path, b"", &[], b""),
        "symlink" => pax_entry(layer, EntryType::Symlink, path, target, &[], b""),
        "hard link" => pax_entry(layer.file("own", b"own"), EntryType::Link, path, b"own", &[], b""),
        "fifo" => pax_entry(layer, EntryType::Fifo, path, b"", &[], b""),
        "device" => pax_entry(layer, EntryType::Char, path, b"", &[], b""),
        "whiteout" => pax_entry(layer, EntryType::Regular, &whiteout, b"", &[], b""),
        "opaque" => pax_entry(layer, EntryType::Regular, &opaque, b"", &[], b""),
        _ => unreachable!("{kind}"),
    }
}

const KINDS: [&str; 8] = ["file", "directory", "symlink", "hard link", "fifo", "device", "whiteout", "opaque"];

fn attacks(world: &World) -> Vec<Attack> {
    let mut attacks = Vec::new();
    let mut add = |name: String, layer: Layer, fate: Fate| attacks.push(Attack { name, archive: layer.tar(), fate });
    let outside = world.outside();
    let absolute = world.victim().as_os_str().as_bytes().to_vec();

    // Names that lead out.
    let mut names: Vec<(&str, Vec<u8>, Fate)> = vec![
        ("upwards", b"../../outside/victim".to_vec(), Refused),
        ("upwards from a directory", b"a/b/../../../../outside/victim".to_vec(), Refused),
        ("dot and upwards", b"./.././../outside/victim".to_vec(), Refused),
        ("absolute", absolute.clone(), Contained),
        ("doubly absolute", [b"//", absolute.as_slice()].concat(), Contained),
    ];
    names.push(("far upwards", [&b"../".repeat(40)[..], &absolute[1..]].concat(), Refused));
    for (what, path, fate) in &names {
        for kind in KINDS {
            add(format!("{kind} with a name {what}"), plant(Layer::new(), kind, path, &outside), *fate);
        }
    }

    // Parents that are links.
    let links: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("relative", vec![b"../../outside".to_vec()]),
        ("absolute", vec![outside.as_os_str().as_bytes().to_vec()]),
        ("upwards", vec![b"..".to_vec()]),
        ("to the root", vec![b"/".to_vec()]),
        ("to /proc", vec![[b"/proc/self/root", outside.as_os_str().as_bytes()].concat()]),
        ("to the working directory", vec![b"/proc/self/cwd".to_vec()]),
        ("in a chain", vec![b"parent1".to_vec(), b"../../outside".to_vec()]),
    ];
    for (what, chain) in &links {
        for kind in KINDS {
            let mut layer = Layer::new();
            for (number, target) in chain.iter().enumerate() {
                let name = if number == 0 { "parent".to_owned() } else { format!("parent{number}") };
                layer = pax_entry(layer, EntryType::Symlink, name.as_bytes(), target, &[], b"");
            }
            let layer = plant(layer, kind, b"parent/victim", &outside);
            add(format!("{kind} below a link {what}"), layer, Contained);
        }
    }
    let looping = Layer::new().symlink("parent", "other").symlink("other", "parent").file("parent/victim", b"evil");
    add("file below links that lead to each other".to_owned(), looping, Refused);
    let mut long = Layer::new();
    for number in 0..60 {
        long = long.symlink(&format!("l{number}"), &format!("l{}", number + 1));
    }
    add("file below a long chain of links".to_owned(), long.directory("l60").file("l0/victim", b"evil"), Refused);

    // A directory that becomes a link while it is in use.
    let swapped = pax_entry(
        Layer::new().directory("d").file("d/one", b"1"),
        EntryType::Symlink,
        b"d",
        outside.as_os_str().as_bytes(),
        &[],
        b"",
    );
    add("directory swapped for a link".to_owned(), swapped.file("d/victim", b"evil"), Contained);
    let through = pax_entry(Layer::new(), EntryType::Symlink, b"f", &absolute, &[], b"");
    add("file over a link to a file".to_owned(), through.file("f", b"evil"), Contained);
    let through = pax_entry(Layer::new(), EntryType::Symlink, b"d", outside.as_os_str().as_bytes(), &[], b"");
    add("directory over a link to a directory".to_owned(), through.directory("d"), Contained);
    let through = pax_entry(Layer::new(), EntryType::Symlink, b"f", &absolute, &[], b"")
        .entry("h", EntryType::Link, 0o777, "f", b"")
        .file("h", b"evil");
    add("file over a hard link to a link".to_owned(), through, Contained);

    // Hard links out.
    for (what, target) in [
        ("upwards", b"../../outside/victim".to_vec()),
        ("absolute", absolute.clone()),
        ("to /proc", [b"/proc/self/root", absolute.as_slice()].concat()),
        ("to nothing", b"missing".to_vec()),
        ("to the root", b"/".to_vec()),
        ("to nothing at all", b".".to_vec()),
    ] {
        add(
            format!("hard link {what}"),
            pax_entry(Layer::new(), EntryType::Link, b"stolen", &target, &[], b""),
            Refused,
        );
    }
    let below = pax_entry(Layer::new(), EntryType::Symlink, b"d", outside.as_os_str().as_bytes(), &[], b"");
    add("hard link through a link".to_owned(), below.entry("stolen", EntryType::Link, 0o777, "d/victim", b""), Refused);
    add(
        "hard link to a directory".to_owned(),
        Layer::new().directory("d").entry("stolen", EntryType::Link, 0o777, "d", b""),
        Refused,
    );
    add(
        "hard link to itself".to_owned(),
        Layer::new().file("f", b"x").entry("f", EntryType::Link, 0o644, "f", b""),
        Contained,
    );

    // Whiteouts of what is no name.
    for name in [".wh.", ".wh..", ".wh...", "a/.wh..", "a/.wh..."] {
        add(format!("whiteout {name:?}"), Layer::new().file(name, b""), Refused);
    }
    add("whiteout marker as a directory".to_owned(), Layer::new().directory(".wh..wh..opq"), Contained);
    add("bookkeeping of aufs".to_owned(), Layer::new().file(".wh..wh.plnk/x", b"").file(".wh..wh.aufs", b""), Harmless);

    // Names that are none.
    let names: [(&str, Vec<u8>, Fate); 6] = [
        ("of 5,000 bytes", vec![b'n'; 5000], Refused),
        ("of 5,000 bytes in many components", b"abcdefghi/".repeat(500), Refused),
        ("with a component of 256 bytes", vec![b'n'; 256], Refused),
        ("with a NUL", b"a\0b".to_vec(), Refused),
        ("that is only slashes", b"///".to_vec(), Contained),
        ("that is not UTF-8", b"\xff\xfe\x01\x7f".to_vec(), Contained),
    ];
    for (what, path, fate) in &names {
        add(format!("name {what}"), pax_entry(Layer::new(), EntryType::Regular, path, b"", &[], b"x"), *fate);
    }
    add("empty name".to_owned(), Layer::new().raw(&header(EntryType::Regular, b"", 0), b""), Refused);
    let long = vec![b'g'; 5000];
    let gnu_long = Layer::new()
        .raw(&header(EntryType::GNULongName, b"././@LongLink", long.len() as u64), &long)
        .raw(&header(EntryType::Regular, b"short", 0), b"");
    add("GNU name of 5,000 bytes".to_owned(), gnu_long, Refused);
    let long_target = pax_entry(Layer::new(), EntryType::Symlink, b"l", &vec![b't'; 5000], &[], b"");
    add("link target of 5,000 bytes".to_owned(), long_target, Refused);
    add("empty link target".to_owned(), Layer::new().symlink("l", ""), Refused);

    // Sizes and numbers that lie.
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let huge = Layer::new().raw(&header(kind, b"x", 1 << 42), b"").file("f", b"");
        add(format!("{kind:?} that claims 4 TiB"), huge, Refused);
    }
    add(
        "file that claims more than there is".to_owned(),
        Layer::new().raw(&header(EntryType::Regular, b"f", 1 << 40), b"x"),
        Refused,
    );
    add(
        "file that claims all there could be".to_owned(),
        Layer::new().raw(&header(EntryType::Regular, b"f", (1 << 63) - 1), b"x"),
        Refused,
    );
    for (key, value) in [
        ("size", "99999999999999999999"),
        ("size", "-1"),
        ("uid", "-1"),
        ("uid", "4294967295"),
        ("gid", "x"),
        ("mtime", "x"),
    ] {
        let layer = pax_entry(Layer::new(), EntryType::Regular, b"f", b"", &[(key, value.as_bytes())], b"x");
        add(format!("pax {key} of {value}"), layer, Refused);
    }
    let mut negative = header(EntryType::Regular, b"f", 0);
    negative.as_mut_bytes()[124..136].fill(0xff);
    negative.set_cksum();
    add("negative size".to_owned(), Layer::new().raw(&negative, b""), Refused);
    let mut garbage = header(EntryType::Regular, b"f", 0);
    garbage.as_mut_bytes()[100..108].copy_from_slice(b"zzzzzzz\0");
    garbage.set_cksum();
    add("mode that is no number".to_owned(), Layer::new().raw(&garbage, b""), Refused);
    let mut unsigned = header(EntryType::Regular, b"f", 0);
    unsigned.as_mut_bytes()[0] ^= 1;
    add("wrong checksum".to_owned(), Layer::new().raw(&unsigned, b""), Refused);
    for records in [
        &b"9999999999999999999999 path=x\n"[..],
        b"-5 path=x\n",
        b"5 path=x\n",
        b"0 path=x\n",
        b"\0\0\0",
        b"11 path=xx\n\n",
    ] {
        let layer = Layer::new().raw(&header(EntryType::XHeader, b"x", records.len() as u64), records).file("f", b"");
        add(format!("pax record {:?}", String::from_utf8_lossy(records)), layer, Refused);
    }
    let global = pax(&[("path", b"../../outside/victim")]);
    let layer =
        Layer::new().raw(&header(EntryType::XGlobalHeader, b"g", global.len() as u64), &global).file("f", b"fine");
    add("global pax path".to_owned(), layer, Contained);
    for (what, real, offset, length) in [
        ("beyond its end", 10, 100, 4),
        ("of 8 EiB", i64::MAX as u64, 0, 4),
        ("that overlaps", 100, 0, 4),
        ("that overflows", u64::MAX, u64::MAX - 1, 4),
    ] {
        let mut sparse = header(EntryType::GNUSparse, b"s", 4);
        let gnu = sparse.as_gnu_mut().unwrap();
        gnu.sparse[0].set_offset(offset);
        gnu.sparse[0].set_length(length);
        if what == "that overlaps" {
            gnu.sparse[1].set_offset(2);
            gnu.sparse[1].set_length(4);
        }
        gnu.set_real_size(real);
        sparse.set_cksum();
        add(format!("sparse file {what}"), Layer::new().raw(&sparse, b"data"), Refused);
    }
    for map in ["0,1,", "5,1,0,1", "x", "1", "0,18446744073709551615"] {
        let records: [(&str, &[u8]); 3] = [
            ("GNU.sparse.map", map.as_bytes()),
            ("GNU.sparse.size", b"3"),
            ("GNU.sparse.name", b"../../outside/victim"),
        ];
        let layer = pax_entry(Layer::new(), EntryType::Regular, b"f", b"", &records, b"data");
        add(format!("pax sparse map {map:?}"), layer, Refused);
    }

    // Files in each other's way.
    for first in ["file", "directory", "symlink", "hard link", "fifo", "device", "whiteout"] {
        for second in ["file", "directory", "symlink", "hard link", "fifo", "device", "whiteout"] {
            let layer = plant(plant(Layer::new(), first, b"same", &outside), second, b"same", &outside);
            add(format!("{second} after {first} of one name"), layer, Contained);
        }
        let layer = plant(plant(Layer::new(), first, b"same", &outside), "file", b"same/below", &outside);
        add(format!("file below {first}"), layer, Harmless);
    }

    // Attributes that steer overlayfs or security modules.
    for name in [
        "trusted.overlay.redirect",
        "trusted.overlay.opaque",
        "trusted.overlay.metacopy",
        "user.overlay.opaque",
        "security.selinux",
        "security.ima",
        "trusted.x",
    ] {
        let key = format!("SCHILY.xattr.{name}");
        for kind in [EntryType::Regular, EntryType::Directory] {
            let layer = pax_entry(Layer::new(), kind, b"f", b"", &[(key.as_str(), b"/../../outside")], b"");
            add(format!("attribute {name} of a {kind:?}"), layer, Contained);
        }
    }
    let huge = vec![b'v'; 200_000];
    let layer = pax_entry(Layer::new(), EntryType::Regular, b"f", b"", &[("SCHILY.xattr.user.x", &huge)], b"");
    add("attribute of 200,000 bytes".to_owned(), layer, Refused);
    let layer = pax_entry(
        Layer::new(),
        EntryType::Regular,
        b"f",
        b"",
        &[("SCHILY.xattr.security.capability", b"nonsense")],
        b"",
    );
    add("capability that is none".to_owned(), layer, Refused);

    // Trees that are deeper than paths may be, by links back to where they grew.
    let mut deep = Layer::new();
    let piece = ["d"; 100].join("/");
    deep = deep.directory(&piece[..99]);
    for number in 0..40 {
        let link = format!("s{number}");
        let target = if number == 0 { piece[..99].to_owned() } else { format!("s{}/{}", number - 1, &piece[..90]) };
        deep = deep.symlink(&link, target.trim_end_matches('/'));
        deep = deep.file(&format!("{link}/x"), b"x");
    }
    add("tree grown through links".to_owned(), deep, Harmless);
    attacks
}

#[test]
fn every_hostile_layer_is_refused_or_contained() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let before = world.snapshot();
    let attacks = attacks(&world);
    assert!(attacks.len() >= 100, "{} attacks", attacks.len());
    let limits = Limits { bytes: 64 << 20, entries: 10_000, names: 1 << 20 };
    let mut wrong = Vec::new();
    for attack in &attacks {
        let result = world.unpack(&attack.archive, &limits);
        let as_expected = match attack.fate {
            Refused => result.is_err(),
            Contained => result.is_ok(),
            Harmless => true,
        };
        if !as_expected {
            wrong.push(format!("{}: expected {:?}, got {result:?}", attack.name, attack.fate));
        }
        assert_eq!(world.snapshot(), before, "{}", attack.name);
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), attacks.len(), wrong.join("\n"));
    println!("{} attacks on unpacking", attacks.len());
}

#[test]
fn bombs_end_at_the_limits() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let limits = Limits { bytes: 8 << 20, entries: 1000, names: 64 << 10 };
    let too_large = |archive: Vec<u8>| {
        let error = world.unpack(&archive, &limits).unwrap_err();
        assert!(matches!(error, UnpackError::TooLarge { .. }), "{error}");
    };
    let mut files = Layer::new();
    for number in 0..1001 {
        files = files.file(&format!("f{number}"), b"");
    }
    too_large(files.tar());
    too_large(Layer::new().file("zeros", &vec![0; 9 << 20]).tar());
    let mut pieces = Layer::new();
    for number in 0..9 {
        pieces = pieces.file(&format!("f{number}"), &vec![0; 1 << 20]);
    }
    too_large(pieces.tar());
    let mut names = Layer::new();
    for number in 0..500 {
        let path = format!("{number:0200}/");
        names = pax_entry(names, EntryType::Directory, path.as_bytes(), b"", &[], b"");
    }
    too_large(names.tar());
    let mut sparse = header(EntryType::GNUSparse, b"s", 0);
    sparse.as_gnu_mut().unwrap().set_real_size(1 << 40);
    sparse.set_cksum();
    too_large(Layer::new().raw(&sparse, b"").tar());
}

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
    refuse("deep JSON", TestImage { manifest: vec![b'['; 1_000_000], ..plain_image() }, "cannot parse the manifest");
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
        "xz",
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
        "compressed with xz",
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

#[test]
fn memory_stays_bounded_whatever_a_layer_claims() {
    if !is_root() {
        return;
    }
    // 200 MB in one layer, of bytes that compress to next to nothing, through the whole pull.
    let archive = Layer::new().file("zeros", &vec![0; 200 << 20]).tar();
    let image = TestImage::new(&[(archive, "gzip")]);
    let server = FakeServer::serving(image, |_| None);
    let setup = Setup::new();
    let peak = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    // Forget the peak that making the image cost.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = peak();
    runtime().block_on(pull(&setup.store, &server.reference("big"), &setup.options, &no_progress())).unwrap();
    let grown = peak().saturating_sub(before);
    // Other tests of this binary run beside this one; alone it is about 3 MB.
    assert!(grown < 128 << 10, "the pull took {grown} KiB");
}
