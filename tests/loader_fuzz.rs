//! What the fuzz targets of the loader do (`compose-tests/fuzz`), on the stable toolchain: with the projects of all cases, with what
//! fuzzing found before, with mutations of them, and with generated projects.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rcompose::compose;

#[path = "../compose-tests/fuzz/src/targets.rs"]
#[expect(unreachable_pub, reason = "the module is public where it belongs")]
mod targets;

/// Cases of which Docker Compose prints something that it does not read back, and so does rcompose: a host that is there
/// twice, a network with an empty name, a port that is 0.
const LOSSY: &[&str] = &["own-merge-extra-hosts-same", "own-networks-top-11", "own-ports-one-35"];

fn tests_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("compose-tests")
}

fn listed(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a folder can be listed").path()).collect();
    paths.sort();
    paths
}

/// All files of a folder in one input.
fn input(folder: &Path) -> Vec<u8> {
    let mut input = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for path in listed(&next) {
            if path.is_dir() {
                open.push(path);
            } else if path.file_name().is_some_and(|name| name != "case.json") {
                let name = path.strip_prefix(folder).expect("it was listed there");
                input.extend_from_slice(format!("{}{}\n", targets::FILE, name.display()).as_bytes());
                input.extend(fs::read(&path).expect("a case can be read"));
                input.push(b'\n');
            }
        }
    }
    input
}

fn own_cases() -> Vec<Vec<u8>> {
    listed(&tests_folder().join("loader-cases")).iter().map(|folder| input(folder)).collect()
}

#[test]
fn what_was_found_before() {
    let seeds = |target: &str| -> Vec<Vec<u8>> {
        let paths = listed(&tests_folder().join("fuzz/seeds").join(target));
        paths.iter().map(|path| fs::read(path).expect("a seed can be read")).collect()
    };
    for seed in &seeds("project") {
        targets::project(seed);
    }
    for seed in &seeds("interpolate") {
        targets::interpolate(seed);
    }
    for seed in &seeds("dotenv") {
        targets::dotenv(seed);
    }
    for seed in &seeds("short") {
        targets::short(seed);
    }
}

/// What is printed loads again, to the same: own cases, and the comparison corpus where it is there.
#[test]
fn every_case_prints_what_loads_again() {
    let own = own_cases().iter().filter(|case| targets::project(case)).count();
    assert!(own > 4, "only {own} of the own cases load");
    let beside = tests_folder().join("../../shared/compose-corpus");
    let corpus = std::env::var_os("RCOMPOSE_CORPUS").map_or(beside, PathBuf::from).join("cases");
    let cases = listed(&corpus);
    let mut loaded = 0;
    let mut other = Vec::new();
    for case in &cases {
        match std::panic::catch_unwind(|| targets::project(&input(case))) {
            Ok(loads) => loaded += usize::from(loads),
            Err(_) => other.push(case.file_name().unwrap_or_default().to_string_lossy().into_owned()),
        }
    }
    other.retain(|name| !LOSSY.contains(&name.as_str()));
    assert!(other.is_empty(), "what is printed of these is another project: {other:?}");
    // The others are to be refused, or want variables and options.
    assert!(loaded >= cases.len() / 3, "only {loaded} of {} cases load", cases.len());
}

#[derive(Debug, Clone)]
enum Mutation {
    Delete(usize),
    Repeat(usize),
    Insert(usize, &'static str),
    Splice(usize, usize),
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let words = prop::sample::select(vec![
        "*a",
        "&a ",
        "<<: *a\n",
        "!reset ",
        "!override ",
        "null",
        "[]",
        "{}",
        "${A:-",
        "}",
        "$",
        "'",
        "\"",
        "\t",
        "\n",
        "- ",
        ": ",
        "#",
        "|\n",
        "\0",
        "\u{feff}",
        "x-a: 1\n",
        "extends: a\n",
        "include: [a.yaml]\n",
        "1e9",
        "-1",
        "0x10",
        "99999999999999999999",
        "é",
        "~",
        "? ",
        "---\n",
        "...\n",
        "=",
        "/",
        "%",
    ]);
    let one = prop_oneof![
        any::<usize>().prop_map(Mutation::Delete),
        any::<usize>().prop_map(Mutation::Repeat),
        (any::<usize>(), words).prop_map(|(at, word)| Mutation::Insert(at, word)),
        (any::<usize>(), any::<usize>()).prop_map(|(from, to)| Mutation::Splice(from, to)),
    ];
    prop::collection::vec(one, 1..6)
}

/// Changes an input by its lines and its bytes.
fn mutate(mut input: Vec<u8>, mutations: &[Mutation]) -> Vec<u8> {
    for mutation in mutations {
        let lines: Vec<Vec<u8>> = input.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        let line = |at: usize| lines.get(at % lines.len().max(1)).cloned().unwrap_or_default();
        let start = |at: usize| lines.iter().take(at % lines.len().max(1)).map(Vec::len).sum::<usize>();
        match mutation {
            Mutation::Delete(at) => drop(input.drain(start(*at)..start(*at) + line(*at).len())),
            Mutation::Repeat(at) => drop(input.splice(start(*at)..start(*at), line(*at))),
            Mutation::Insert(at, word) => {
                let at = at % (input.len() + 1);
                input.splice(at..at, word.bytes());
            }
            Mutation::Splice(from, to) => drop(input.splice(start(*to)..start(*to), line(*from))),
        }
    }
    input
}

prop_compose! {
    /// A service in YAML, one attribute a line. The texts have what YAML and interpolation find special.
    fn service()(
        image in "[a-z]{1,5}(:[a-z0-9]{1,3})?",
        command in prop::option::of("\\PC{0,12}"),
        values in prop::collection::btree_map("[A-Z_]{1,4}", any::<String>(), 0..3),
        labels in prop::collection::btree_map("[a-z.]{1,6}", "[ -~\n]{0,16}", 0..3),
        ports in prop::collection::vec((1_u16..65_535, 1_u16..65_535, prop::sample::select(vec!["", "/udp", "/tcp"])), 0..3),
        volumes in prop::collection::btree_set("/[a-z]{1,4}", 0..3),
        seconds in prop::option::of(0_u32..100_000),
        memory in prop::option::of(0_u64..1 << 40),
        cpus in prop::option::of(0.0_f32..64.0),
        retries in prop::option::of(0_u32..9),
    ) -> String {
        let quoted = |text: &str| serde_json::to_string(&text.replace('$', "$$")).expect("a text has a JSON form");
        let mut text = format!("image: {}\n", quoted(&image));
        let mut line = |line: String| writeln!(text, "    {line}").expect("a string takes all");
        if let Some(word) = command {
            line(format!("command: [{}]", quoted(&word)));
        }
        for (key, values) in [("environment", values), ("labels", labels)] {
            let values: Vec<String> = values
                .iter()
                .filter(|(_, value)| value.chars().all(|c| !c.is_control() || c == '\n'))
                .map(|(key, value)| format!("{key}: {}", quoted(value)))
                .collect();
            line(format!("{key}: {{{}}}", values.join(", ")));
        }
        let ports: Vec<String> = ports.iter().map(|(host, container, protocol)| format!("\"{host}:{container}{protocol}\"")).collect();
        line(format!("ports: [{}]", ports.join(", ")));
        let volumes: Vec<String> = volumes.iter().map(|target| format!("\"data:{target}:ro\"")).collect();
        line(format!("volumes: [{}]", volumes.join(", ")));
        if let Some(seconds) = seconds {
            line(format!("stop_grace_period: {seconds}s"));
        }
        if let Some(memory) = memory {
            line(format!("mem_limit: {memory}b"));
        }
        if let Some(cpus) = cpus {
            line(format!("cpus: {cpus}"));
        }
        if let Some(retries) = retries {
            line(format!("healthcheck: {{test: \"true\", retries: {retries}, interval: 1m30s}}"));
        }
        text
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// A generated project loads, and what is printed of it loads again, to the same.
    #[test]
    fn generated_projects_load_again(services in prop::collection::btree_map("[a-z][a-z0-9_.-]{0,4}", service(), 1..5)) {
        let mut file = "services:\n".to_owned();
        for (name, service) in &services {
            write!(file, "  {name:?}:\n    {service}").expect("a string takes all");
        }
        file.push_str("volumes: {data: {}}\n");
        prop_assert!(targets::project(file.as_bytes()), "{}", file);
    }

    /// Whatever becomes of a case: it loads or has faults, and nothing panics.
    #[test]
    fn mutated_projects_end(which in any::<prop::sample::Index>(), mutations in mutations()) {
        let cases = own_cases();
        targets::project(&mutate(which.get(&cases).clone(), &mutations));
    }

    #[test]
    fn any_text_ends(text in "\\PC{0,60}") {
        targets::interpolate(text.as_bytes());
        targets::dotenv(text.as_bytes());
        targets::short(text.as_bytes());
        targets::project(text.as_bytes());
    }
}
