//! Lists of what there is, with the test that shows it: `attributes`, `elements`, `flags`.

use std::{fs, path::Path};

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// Returns the lines of a list, without comments.
pub fn lines(name: &str) -> Vec<String> {
    let text = read(&folder().join(name));
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

/// Returns two words and the rest of a line.
pub fn entry(line: &str) -> [&str; 3] {
    let words: Vec<&str> = line.splitn(3, ' ').collect();
    words.try_into().unwrap_or_else(|_| panic!("incomplete: {line}"))
}

/// Returns the text of a test: `case NAME`, `watching NAME`, `scenario NAME`, or `FILE::FUNCTION`.
pub fn text(test: &str) -> String {
    match test.split_once(' ') {
        Some(("case", name)) => files(&folder().join("cases").join(name)),
        Some(("watching", name)) => files(&folder().join("watching").join(name)),
        Some(("scenario", name)) => read(&folder().join("commands/scenarios").join(name)),
        _ => {
            let (file, function) = test.split_once("::").unwrap_or_else(|| panic!("not a test: {test}"));
            let text = read(&folder().join("tests").join(file).with_extension("rs"));
            assert!(text.contains(&format!("fn {function}()")), "there is no such test: {test}");
            text
        }
    }
}

fn files(folder: &Path) -> String {
    let files = fs::read_dir(folder).unwrap_or_else(|error| panic!("cannot read {}: {error}", folder.display()));
    let contents = files.flatten().filter_map(|file| fs::read(file.path()).ok());
    contents.map(|content| String::from_utf8_lossy(&content).into_owned()).collect()
}
