//! The lists of attributes and their tests (`compose-tests/attributes`, `compose-tests/elements`) are true.

use compose_tests::lists;

#[test]
fn every_attribute_has_a_test_that_speaks_of_it() {
    let mut silent = Vec::new();
    for line in ["attributes", "elements"].into_iter().flat_map(lists::lines) {
        let [attribute, _state, test] = lists::entry(&line);
        let key = attribute.trim_end_matches(".*").rsplit('.').next().unwrap_or(attribute);
        if !lists::text(test).contains(key) {
            silent.push(line);
        }
    }
    assert!(silent.is_empty(), "{silent:#?}");
}
