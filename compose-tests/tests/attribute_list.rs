//! The list of attributes and their tests (`compose-tests/attributes`) is true.

use std::{fs, path::Path};

#[test]
fn every_attribute_has_a_test_that_speaks_of_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut silent = Vec::new();
    for line in read(&folder.join("attributes")).lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        let mut next = || words.next().unwrap_or_else(|| panic!("incomplete: {line}"));
        let (attribute, _state) = (next(), next());
        let text = match next() {
            "case" => {
                let files = fs::read_dir(folder.join("cases").join(next())).expect("there is such a case").flatten();
                files.filter(|file| file.path().is_file()).map(|file| read(&file.path())).collect()
            }
            test => {
                let (file, function) = test.split_once("::").unwrap_or_else(|| panic!("not a test: {line}"));
                let text = read(&folder.join("tests").join(file).with_extension("rs"));
                assert!(text.contains(&format!("fn {function}()")), "there is no such test: {line}");
                text
            }
        };
        let key = attribute.trim_end_matches(".*").rsplit('.').next().unwrap_or(attribute);
        if !text.contains(key) {
            silent.push(line.to_owned());
        }
    }
    assert!(silent.is_empty(), "{silent:#?}");
}
