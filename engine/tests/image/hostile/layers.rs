//! Attacks by what is in a layer's archive.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rcompose_engine::image::{Limits, UnpackError};
use tar::EntryType;

use super::Fate::{self, Contained, Harmless, Refused};
use super::world::World;
use crate::support::{Layer, is_root};

/// One layer.
pub(crate) struct Attack {
    pub(crate) name: String,
    pub(crate) archive: Vec<u8>,
    pub(crate) fate: Fate,
}

pub(crate) fn header(kind: EntryType, path: &[u8], size: u64) -> tar::Header {
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
pub(crate) fn pax_entry(
    layer: Layer,
    kind: EntryType,
    path: &[u8],
    link: &[u8],
    records: &[(&str, &[u8])],
    data: &[u8],
) -> Layer {
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

pub(crate) fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
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
pub(crate) fn plant(layer: Layer, kind: &str, path: &[u8], outside: &Path) -> Layer {
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
        "block device" => {
            let mut header = header(EntryType::Block, b"short", 0);
            header.set_device_major(8).unwrap();
            header.set_device_minor(0).unwrap();
            header.set_mode(0o6777);
            header.set_cksum();
            let records = pax(&[("path", path)]);
            layer.raw(&self::header(EntryType::XHeader, b"pax", records.len() as u64), &records).raw(&header, b"")
        }
        "setuid file" => {
            let mut header = header(EntryType::Regular, b"short", 4);
            header.set_mode(0o6777);
            header.set_uid(0);
            header.set_gid(0);
            header.set_cksum();
            let records = pax(&[("path", path)]);
            layer.raw(&self::header(EntryType::XHeader, b"pax", records.len() as u64), &records).raw(&header, b"evil")
        }
        "whiteout" => pax_entry(layer, EntryType::Regular, &whiteout, b"", &[], b""),
        "opaque" => pax_entry(layer, EntryType::Regular, &opaque, b"", &[], b""),
        _ => unreachable!("{kind}"),
    }
}

const KINDS: [&str; 10] = [
    "file",
    "directory",
    "symlink",
    "hard link",
    "fifo",
    "device",
    "block device",
    "setuid file",
    "whiteout",
    "opaque",
];

/// The layers so far.
#[derive(Default)]
struct Table {
    attacks: Vec<Attack>,
}

impl Table {
    fn add(&mut self, name: String, archive: impl Into<Vec<u8>>, fate: Fate) {
        self.attacks.push(Attack { name, archive: archive.into(), fate });
    }
}

impl From<Layer> for Vec<u8> {
    fn from(layer: Layer) -> Self {
        layer.tar()
    }
}

/// The layers. `world` is where they aim at.
pub(crate) fn attacks(world: &World) -> Vec<Attack> {
    let mut table = Table::default();
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
            table.add(format!("{kind} with a name {what}"), plant(Layer::new(), kind, path, &outside), *fate);
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
            table.add(format!("{kind} below a link {what}"), layer, Contained);
        }
    }
    let looping = Layer::new().symlink("parent", "other").symlink("other", "parent").file("parent/victim", b"evil");
    table.add("file below links that lead to each other".to_owned(), looping, Refused);
    let mut long = Layer::new();
    for number in 0..60 {
        long = long.symlink(&format!("l{number}"), &format!("l{}", number + 1));
    }
    table.add("file below a long chain of links".to_owned(), long.directory("l60").file("l0/victim", b"evil"), Refused);

    // A directory that becomes a link while it is in use.
    let swapped = pax_entry(
        Layer::new().directory("d").file("d/one", b"1"),
        EntryType::Symlink,
        b"d",
        outside.as_os_str().as_bytes(),
        &[],
        b"",
    );
    table.add("directory swapped for a link".to_owned(), swapped.file("d/victim", b"evil"), Contained);
    let through = pax_entry(Layer::new(), EntryType::Symlink, b"f", &absolute, &[], b"");
    table.add("file over a link to a file".to_owned(), through.file("f", b"evil"), Contained);
    let through = pax_entry(Layer::new(), EntryType::Symlink, b"d", outside.as_os_str().as_bytes(), &[], b"");
    table.add("directory over a link to a directory".to_owned(), through.directory("d"), Contained);
    let through = pax_entry(Layer::new(), EntryType::Symlink, b"f", &absolute, &[], b"")
        .entry("h", EntryType::Link, 0o777, "f", b"")
        .file("h", b"evil");
    table.add("file over a hard link to a link".to_owned(), through, Contained);

    // Hard links out.
    for (what, target) in [
        ("upwards", b"../../outside/victim".to_vec()),
        ("absolute", absolute.clone()),
        ("to /proc", [b"/proc/self/root", absolute.as_slice()].concat()),
        ("to nothing", b"missing".to_vec()),
        ("to the root", b"/".to_vec()),
        ("to nothing at all", b".".to_vec()),
    ] {
        table.add(
            format!("hard link {what}"),
            pax_entry(Layer::new(), EntryType::Link, b"stolen", &target, &[], b""),
            Refused,
        );
    }
    let below = pax_entry(Layer::new(), EntryType::Symlink, b"d", outside.as_os_str().as_bytes(), &[], b"");
    table.add(
        "hard link through a link".to_owned(),
        below.entry("stolen", EntryType::Link, 0o777, "d/victim", b""),
        Refused,
    );
    table.add(
        "hard link to a directory".to_owned(),
        Layer::new().directory("d").entry("stolen", EntryType::Link, 0o777, "d", b""),
        Refused,
    );
    table.add(
        "hard link to itself".to_owned(),
        Layer::new().file("f", b"x").entry("f", EntryType::Link, 0o644, "f", b""),
        Contained,
    );

    // Whiteouts of what is no name.
    for name in [".wh.", ".wh..", ".wh...", "a/.wh..", "a/.wh..."] {
        table.add(format!("whiteout {name:?}"), Layer::new().file(name, b""), Refused);
    }
    table.add("whiteout marker as a directory".to_owned(), Layer::new().directory(".wh..wh..opq"), Contained);
    table.add(
        "bookkeeping of aufs".to_owned(),
        Layer::new().file(".wh..wh.plnk/x", b"").file(".wh..wh.aufs", b""),
        Harmless,
    );

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
        table.add(format!("name {what}"), pax_entry(Layer::new(), EntryType::Regular, path, b"", &[], b"x"), *fate);
    }
    table.add("empty name".to_owned(), Layer::new().raw(&header(EntryType::Regular, b"", 0), b""), Refused);
    let long = vec![b'g'; 5000];
    let gnu_long = Layer::new()
        .raw(&header(EntryType::GNULongName, b"././@LongLink", long.len() as u64), &long)
        .raw(&header(EntryType::Regular, b"short", 0), b"");
    table.add("GNU name of 5,000 bytes".to_owned(), gnu_long, Refused);
    let long_target = pax_entry(Layer::new(), EntryType::Symlink, b"l", &vec![b't'; 5000], &[], b"");
    table.add("link target of 5,000 bytes".to_owned(), long_target, Refused);
    table.add("empty link target".to_owned(), Layer::new().symlink("l", ""), Refused);

    // Sizes and numbers that lie.
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let huge = Layer::new().raw(&header(kind, b"x", 1 << 42), b"").file("f", b"");
        table.add(format!("{kind:?} that claims 4 TiB"), huge, Refused);
    }
    table.add(
        "file that claims more than there is".to_owned(),
        Layer::new().raw(&header(EntryType::Regular, b"f", 1 << 40), b"x"),
        Refused,
    );
    table.add(
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
        table.add(format!("pax {key} of {value}"), layer, Refused);
    }
    let mut negative = header(EntryType::Regular, b"f", 0);
    negative.as_mut_bytes()[124..136].fill(0xff);
    negative.set_cksum();
    table.add("negative size".to_owned(), Layer::new().raw(&negative, b""), Refused);
    let mut garbage = header(EntryType::Regular, b"f", 0);
    garbage.as_mut_bytes()[100..108].copy_from_slice(b"zzzzzzz\0");
    garbage.set_cksum();
    table.add("mode that is no number".to_owned(), Layer::new().raw(&garbage, b""), Refused);
    let mut unsigned = header(EntryType::Regular, b"f", 0);
    unsigned.as_mut_bytes()[0] ^= 1;
    table.add("wrong checksum".to_owned(), Layer::new().raw(&unsigned, b""), Refused);
    for records in [
        &b"9999999999999999999999 path=x\n"[..],
        b"-5 path=x\n",
        b"5 path=x\n",
        b"0 path=x\n",
        b"\0\0\0",
        b"11 path=xx\n\n",
    ] {
        let layer = Layer::new().raw(&header(EntryType::XHeader, b"x", records.len() as u64), records).file("f", b"");
        table.add(format!("pax record {:?}", String::from_utf8_lossy(records)), layer, Refused);
    }
    let global = pax(&[("path", b"../../outside/victim")]);
    let layer =
        Layer::new().raw(&header(EntryType::XGlobalHeader, b"g", global.len() as u64), &global).file("f", b"fine");
    table.add("global pax path".to_owned(), layer, Contained);
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
        table.add(format!("sparse file {what}"), Layer::new().raw(&sparse, b"data"), Refused);
    }
    for map in ["0,1,", "5,1,0,1", "x", "1", "0,18446744073709551615"] {
        let records: [(&str, &[u8]); 3] = [
            ("GNU.sparse.map", map.as_bytes()),
            ("GNU.sparse.size", b"3"),
            ("GNU.sparse.name", b"../../outside/victim"),
        ];
        let layer = pax_entry(Layer::new(), EntryType::Regular, b"f", b"", &records, b"data");
        table.add(format!("pax sparse map {map:?}"), layer, Refused);
    }

    // Files in each other's way.
    for first in ["file", "directory", "symlink", "hard link", "fifo", "device", "whiteout"] {
        for second in ["file", "directory", "symlink", "hard link", "fifo", "device", "whiteout"] {
            let layer = plant(plant(Layer::new(), first, b"same", &outside), second, b"same", &outside);
            table.add(format!("{second} after {first} of one name"), layer, Contained);
        }
        let layer = plant(plant(Layer::new(), first, b"same", &outside), "file", b"same/below", &outside);
        table.add(format!("file below {first}"), layer, Harmless);
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
            table.add(format!("attribute {name} of a {kind:?}"), layer, Contained);
        }
    }
    let huge = vec![b'v'; 200_000];
    let layer = pax_entry(Layer::new(), EntryType::Regular, b"f", b"", &[("SCHILY.xattr.user.x", &huge)], b"");
    table.add("attribute of 200,000 bytes".to_owned(), layer, Refused);
    let layer = pax_entry(
        Layer::new(),
        EntryType::Regular,
        b"f",
        b"",
        &[("SCHILY.xattr.security.capability", b"nonsense")],
        b"",
    );
    table.add("capability that is none".to_owned(), layer, Refused);

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
    table.add("tree grown through links".to_owned(), deep, Harmless);

    more_attacks(&mut table, &outside);
    table.attacks
}

/// Extensions, sparse maps, duplicates and ends that are none.
fn more_attacks(table: &mut Table, outside: &Path) {
    // Whiteouts as what they are not.
    let stolen = Layer::new().file(".wh.gone", b"").entry("stolen", EntryType::Link, 0o644, "gone", b"");
    table.add("hard link to a whiteout".to_owned(), stolen, Harmless);
    let marker = Layer::new().file("d/.wh..wh..opq", b"").entry("x", EntryType::Link, 0o644, "d/.wh..wh..opq", b"");
    table.add("hard link to an opaque marker".to_owned(), marker, Refused);
    for kind in ["symlink", "hard link", "fifo", "device", "block device", "directory"] {
        for name in [".wh.victim", ".wh..wh..opq"] {
            table.add(format!("{kind} named {name}"), plant(Layer::new(), kind, name.as_bytes(), outside), Harmless);
        }
    }
    let whiteout = pax_entry(Layer::new(), EntryType::Symlink, b"victim", outside.as_os_str().as_bytes(), &[], b"");
    table.add("whiteout of a link that leads out".to_owned(), whiteout.file(".wh.victim", b""), Contained);
    let opaque = pax_entry(Layer::new(), EntryType::Symlink, b"d", outside.as_os_str().as_bytes(), &[], b"");
    table.add("whiteout of what is below a link".to_owned(), opaque.file("d/.wh.victim", b""), Contained);
    table.add("opaque root".to_owned(), Layer::new().file(".wh..wh..opq", b"").file("f", b"x"), Contained);
    for kind in ["symlink", "hard link", "fifo", "device", "file"] {
        table.add(format!("{kind} in place of the root"), plant(Layer::new(), kind, b"./", outside), Harmless);
    }

    // Devices whose numbers are none.
    for field in [329, 337] {
        let mut device = header(EntryType::Char, b"device", 0);
        device.as_mut_bytes()[field..field + 8].copy_from_slice(&[0x80, 0, 0, 1, 0, 0, 0, 0]);
        device.set_cksum();
        table.add(format!("device with a huge number at {field}"), Layer::new().raw(&device, b""), Refused);
    }

    // Extensions.
    for kind in [EntryType::GNULongName, EntryType::GNULongLink] {
        let nul = Layer::new().raw(&header(kind, b"x", 4), b"\0\0\0\0").file("f", b"");
        table.add(format!("{kind:?} of nothing but NUL"), nul, Harmless);
        let lonely = Layer::new().raw(&header(kind, b"x", 4), b"name");
        table.add(format!("{kind:?} before the end"), lonely, Harmless);
        let name = vec![b'n'; 700 << 10];
        let twice = Layer::new()
            .raw(&header(kind, b"x", name.len() as u64), &name)
            .raw(&header(kind, b"x", name.len() as u64), &name)
            .file("f", b"");
        table.add(format!("{kind:?} of 700 KiB, twice"), twice, Refused);
    }
    let up = b"../../outside/victim";
    let hidden = Layer::new()
        .raw(&header(EntryType::GNULongName, b"x", up.len() as u64), up)
        .raw(&header(EntryType::Regular, b"harmless", 4), b"evil");
    table.add("GNU name that leads upwards".to_owned(), hidden, Refused);
    let target = outside.join("victim");
    let target = target.as_os_str().as_bytes();
    let hidden = Layer::new()
        .raw(&header(EntryType::GNULongLink, b"x", target.len() as u64), target)
        .raw(&header(EntryType::Link, b"stolen", 0), b"");
    table.add("GNU hard link that leads out".to_owned(), hidden, Refused);
    let both = pax(&[("path", &up[..])]);
    let both = Layer::new()
        .raw(&header(EntryType::GNULongName, b"x", 4), b"fine")
        .raw(&header(EntryType::XHeader, b"x", both.len() as u64), &both)
        .raw(&header(EntryType::Regular, b"harmless", 4), b"evil");
    table.add("two names of which one leads upwards".to_owned(), both, Refused);
    let mut ustar = tar::Header::new_ustar();
    ustar.as_mut_bytes()[..6].copy_from_slice(b"victim");
    ustar.as_mut_bytes()[345..362].copy_from_slice(b"../../outside/sub");
    ustar.set_entry_type(EntryType::Regular);
    ustar.set_size(0);
    ustar.set_mode(0o666);
    ustar.set_cksum();
    table.add("ustar prefix that leads upwards".to_owned(), Layer::new().raw(&ustar, b""), Refused);
    let value = vec![b'v'; 900 << 10];
    let mut bomb = Layer::new();
    for number in 0..8 {
        let key = format!("SCHILY.xattr.user.x{number}");
        let records = pax(&[(key.as_str(), &value)]);
        bomb = bomb.raw(&header(EntryType::XHeader, b"x", records.len() as u64), &records);
    }
    table.add("attributes of 8 MB in headers of their own".to_owned(), bomb.file("f", b""), Refused);
    let mut headers = Layer::new();
    for _ in 0..3000 {
        headers = headers.raw(&header(EntryType::XHeader, b"x", 0), b"");
    }
    table.add("3,000 empty pax headers".to_owned(), headers.file("f", b""), Contained);
    for (key, value) in
        [("path", &b"a\0b"[..]), ("linkpath", b"a\0b"), ("size", b""), ("mtime", b"1.x"), ("uid", b"0x1")]
    {
        let layer = pax_entry(Layer::new(), EntryType::Regular, b"f", b"", &[(key, value)], b"");
        table.add(format!("pax {key} of {:?}", String::from_utf8_lossy(value)), layer, Refused);
    }
    for (what, kind, fate) in [
        ("file", EntryType::Regular, Refused),
        ("directory", EntryType::Directory, Contained),
        ("link", EntryType::Symlink, Harmless),
        ("thing of an unknown type", EntryType::new(b'Z'), Refused),
    ] {
        for size in ["18446744073709551615", "9223372036854775808", "9223372036854775807"] {
            let link = if kind == EntryType::Symlink { &b"x"[..] } else { b"" };
            let layer = pax_entry(Layer::new(), kind, b"f", link, &[("size", size.as_bytes())], b"");
            table.add(format!("{what} with a pax size of {size}"), layer, fate);
        }
    }
    for time in ["9223372036854775807", "-9223372036854775807", "1.99999999999999999999", "-0.5"] {
        let layer = pax_entry(Layer::new(), EntryType::Regular, b"f", b"", &[("mtime", time.as_bytes())], b"");
        table.add(format!("pax mtime of {time}"), layer, Harmless);
    }
    let long = format!("SCHILY.xattr.user.{}", "n".repeat(300));
    let layer = pax_entry(Layer::new(), EntryType::Regular, b"f", b"", &[(long.as_str(), b"v")], b"");
    table.add("attribute with a name of 300 bytes".to_owned(), layer, Refused);
    let layer = pax_entry(Layer::new(), EntryType::Regular, b"f", b"", &[("SCHILY.xattr.", b"v")], b"");
    table.add("attribute without a name".to_owned(), layer, Contained);
    let capability = b"\x01\0\0\x02\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\0";
    for kind in [EntryType::Symlink, EntryType::Fifo, EntryType::Char] {
        let records =
            [("SCHILY.xattr.security.capability", &capability[..]), ("SCHILY.xattr.trusted.overlay.opaque", b"y")];
        let layer = pax_entry(Layer::new(), kind, b"f", outside.as_os_str().as_bytes(), &records, b"");
        table.add(format!("capability of a {kind:?}"), layer, Harmless);
    }
    let global = pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/../../outside"), ("linkpath", b"/etc/passwd")]);
    let layer =
        Layer::new().raw(&header(EntryType::XGlobalHeader, b"g", global.len() as u64), &global).symlink("f", "fine");
    table.add("global attributes and targets".to_owned(), layer, Contained);
    let huge = Layer::new().raw(&header(EntryType::XGlobalHeader, b"g", 1 << 42), b"").file("f", b"");
    table.add("global header that claims 4 TiB".to_owned(), huge, Refused);

    // Sparse files.
    let mut endless = header(EntryType::GNUSparse, b"s", 0);
    let gnu = endless.as_gnu_mut().unwrap();
    gnu.isextended = [1];
    gnu.set_real_size(1 << 20);
    endless.set_cksum();
    let mut block = [0_u8; 512];
    for pair in block[..504].chunks_exact_mut(24) {
        pair.copy_from_slice(&[b"00000000000\0".as_slice(), b"00000000000\0"].concat());
    }
    block[504] = 1;
    let blocks = block.repeat(4000);
    let mut layer = Layer::new().raw(&endless, &blocks);
    table.add("sparse map without end".to_owned(), layer, Refused);
    let empty = [0_u8; 512];
    layer = Layer::new().raw(&endless, &empty);
    table.add("sparse map whose extension is empty".to_owned(), layer, Refused);
    for (what, map) in [
        ("of a billion segments", &b"1000000000\n"[..]),
        ("without numbers", b"x\n"),
        ("with an endless number", &[b'1'; 512]),
        ("beyond its data", b"4\n0\n"),
        ("that overlaps", b"2\n0\n5\n3\n5\n"),
        ("that is longer than the file", b"1\n0\n99999\n"),
        ("that overflows", b"1\n18446744073709551615\n5\n"),
    ] {
        let mut data = map.to_vec();
        data.resize(512, 0);
        data.extend_from_slice(b"data!");
        let records: [(&str, &[u8]); 4] = [
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"../../outside/victim"),
            ("GNU.sparse.realsize", b"10"),
        ];
        table.add(
            format!("pax 1.0 sparse map {what}"),
            pax_entry(Layer::new(), EntryType::Regular, b"f", b"", &records, &data),
            Refused,
        );
    }
    let records: [(&str, &[u8]); 3] =
        [("GNU.sparse.map", b"0,4"), ("GNU.sparse.size", b"4"), ("GNU.sparse.name", b"../../outside/victim")];
    let layer = pax_entry(Layer::new(), EntryType::Regular, b"f", b"", &records, b"data");
    table.add("sparse name that leads upwards".to_owned(), layer, Refused);

    // Many of the same.
    let mut many = Layer::new();
    for number in 0..3000 {
        let kind = ["file", "directory", "symlink", "fifo", "whiteout"][number % 5];
        many = plant(many, kind, b"same", outside);
    }
    table.add("3,000 entries of one name".to_owned(), many, Contained);
    let deep = "d/".repeat(2000);
    table.add(
        "directory 2,000 deep".to_owned(),
        pax_entry(Layer::new(), EntryType::Directory, deep.as_bytes(), b"", &[], b""),
        Harmless,
    );
    let mut nested = Layer::new().directory("d");
    for number in 0..300 {
        nested = nested.symlink("d", "elsewhere").directory("d").file(&format!("d/{number}"), b"x");
    }
    table.add("directory and link by turns".to_owned(), nested, Contained);

    // Ends.
    let mut lonely = Layer::new().file("f", b"x").tar();
    lonely.truncate(lonely.len() - 1024);
    table.add("archive without an end".to_owned(), lonely, Harmless);
    let mut hidden = Layer::new().file("f", b"x").tar();
    hidden.extend_from_slice(&Layer::new().file("../../outside/victim", b"evil").tar());
    table.add("second archive behind the end".to_owned(), hidden, Contained);
    table.add("garbage behind the end".to_owned(), [Layer::new().tar(), vec![0xff; 3000]].concat(), Contained);
    table.add("nothing at all".to_owned(), Layer::new(), Harmless);
    for length in [1, 100, 511, 513, 700] {
        let cut = Layer::new().file("f", &[1; 2000]).tar()[..length].to_vec();
        table.add(format!("archive of {length} bytes"), cut, Refused);
    }
}

/// Stacks of layers, bottom first, of which the upper ones count on what the lower ones have made.
pub(crate) fn stacks(world: &World) -> Vec<(String, Vec<Vec<u8>>)> {
    let outside = world.outside();
    let mut stacks = Vec::new();
    for (what, target) in [
        ("relative", b"../../../outside".to_vec()),
        ("absolute", outside.as_os_str().as_bytes().to_vec()),
        ("to /proc", [b"/proc/self/root", outside.as_os_str().as_bytes()].concat()),
    ] {
        for kind in KINDS {
            let lower = pax_entry(Layer::new(), EntryType::Symlink, b"parent", &target, &[], b"").tar();
            let upper = plant(Layer::new(), kind, b"parent/victim", &outside).tar();
            stacks.push((format!("{kind} below a link {what} of a lower layer"), vec![lower, upper]));
        }
    }
    let lower = Layer::new().directory("d").file("d/f", b"x").tar();
    let middle = Layer::new().file(".wh.d", b"").tar();
    let upper = plant(Layer::new(), "symlink", b"d", &outside).tar();
    stacks.push(("link in place of a directory of a lower layer".to_owned(), vec![lower, middle, upper]));
    // More layers than files may be open, each with something of its own.
    let many = (0..400).map(|number| Layer::new().file(&format!("f{number}"), b"x").tar()).collect();
    stacks.push(("400 layers".to_owned(), many));
    stacks
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
        if !attack.fate.is(result.is_err()) {
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
        let path = format!("{number:03}{}/", "n".repeat(200));
        names = pax_entry(names, EntryType::Directory, path.as_bytes(), b"", &[], b"");
    }
    too_large(names.tar());
    let mut sparse = header(EntryType::GNUSparse, b"s", 0);
    sparse.as_gnu_mut().unwrap().set_real_size(1 << 40);
    sparse.set_cksum();
    too_large(Layer::new().raw(&sparse, b"").tar());
}
