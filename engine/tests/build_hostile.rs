//! What the fuzz targets of builds do (`engine/fuzz`), on the stable toolchain: with the Dockerfiles and the `.dockerignore`
//! files of all cases, with mutations of them, and with archives made to get out.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;

#[path = "../fuzz/src/build.rs"]
#[expect(unreachable_pub, reason = "the module is public where it belongs")]
mod targets;

fn files(folder: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let mut paths: Vec<PathBuf> =
        fs::read_dir(&folder).expect("it can be listed").map(|entry| entry.expect("it can be listed").path()).collect();
    paths.sort();
    paths.iter().filter(|path| path.is_file()).map(|path| fs::read(path).expect("it can be read")).collect()
}

/// A part of one text is put into another, or taken out of it, or written twice.
fn mutation(texts: &[Vec<u8>], (one, from, to, other, at): &(Index, Index, Index, Index, Index)) -> Vec<u8> {
    let (one, mut other) = (one.get(texts), other.get(texts).clone());
    let (from, to) = (from.index(one.len() + 1), to.index(one.len() + 1));
    let part = &one[from.min(to)..from.max(to)];
    let at = at.index(other.len() + 1);
    other.splice(at..(at + part.len() / 2).min(other.len()), part.iter().copied());
    other
}

fn indexes() -> impl Strategy<Value = (Index, Index, Index, Index, Index)> {
    any::<(Index, Index, Index, Index, Index)>()
}

/// An archive of members: their names, and what they are.
fn archive(members: &[(String, Member)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, member) in members {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        // By its bytes: the library refuses such names.
        let bytes = name.as_bytes();
        header.as_old_mut().name[..bytes.len()].copy_from_slice(bytes);
        let (kind, link, data) = match member {
            Member::File => (tar::EntryType::Regular, "", &b"content"[..]),
            Member::Directory => (tar::EntryType::Directory, "", &b""[..]),
            Member::Symlink(target) => (tar::EntryType::Symlink, target.as_str(), &b""[..]),
            Member::HardLink(target) => (tar::EntryType::Link, target.as_str(), &b""[..]),
            Member::Device => (tar::EntryType::Char, "", &b""[..]),
        };
        header.set_entry_type(kind);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data).expect("memory can be written to");
    }
    builder.into_inner().expect("memory can be written to")
}

#[derive(Debug, Clone)]
enum Member {
    File,
    Directory,
    Symlink(String),
    HardLink(String),
    Device,
}

/// Names that lead somewhere else, or through one another.
fn name() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec!["a", "b", "..", ".", "", "victim", "root", "/"]);
    prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"))
}

fn member() -> impl Strategy<Value = Member> {
    prop_oneof![
        3 => Just(Member::File),
        2 => Just(Member::Directory),
        3 => name().prop_map(Member::Symlink),
        3 => name().prop_map(Member::HardLink),
        1 => Just(Member::Device),
    ]
}

#[test]
fn dockerfiles_of_all_cases() {
    let known: Vec<bool> =
        files("compose-tests/dockerfiles/cases").iter().map(|text| targets::dockerfile(text)).collect();
    assert!(known.iter().filter(|is_one| **is_one).count() > known.len() / 3, "most make a graph");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn dockerfiles_of_chance(mutations in indexes()) {
        targets::dockerfile(&mutation(&files("compose-tests/dockerfiles/cases"), &mutations));
    }

    #[test]
    fn bytes_of_chance(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        targets::dockerfile(&bytes);
        targets::ignore(&bytes);
        targets::context(&bytes);
    }

    #[test]
    fn patterns_of_chance(
        mutations in indexes(),
        paths in prop::collection::vec("[ab.*/!\\[\\]]{0,12}", 0..8),
    ) {
        let mut text = mutation(&files("compose-tests/dockerfiles/ignore"), &mutations);
        text.extend_from_slice(format!("\n\n{}", paths.join("\n")).as_bytes());
        targets::ignore(&text);
    }

    #[test]
    fn patterns_made_of_a_few_letters(
        patterns in prop::collection::vec("!?[ab*/?.]{1,8}", 1..6),
        paths in prop::collection::vec("[ab]{1,2}(/[ab.]{1,2}){0,3}", 1..8),
    ) {
        targets::ignore(format!("{}\n\n{}", patterns.join("\n"), paths.join("\n")).as_bytes());
    }

    #[test]
    fn archives_that_would_get_out(members in prop::collection::vec((name(), member()), 1..8)) {
        targets::context(&archive(&members));
    }
}
