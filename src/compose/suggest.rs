//! "Did you mean …?"

/// The candidate that is most like a word, if one is like it at all.
pub(crate) fn closest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let lower = word.to_lowercase();
    candidates
        .into_iter()
        .filter(|candidate| *candidate != word)
        .map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| {
            *distance <= 1 + candidate.len().min(word.len()) / 4
                || (word.len() >= 4 && candidate.replace('_', "") == lower.replace(['_', '-'], ""))
        })
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::closest;

    #[test]
    fn typing_errors_are_recognised() {
        let keys = ["environment", "ports", "depends_on", "image", "volumes"];
        assert_eq!(closest("enviroment", keys), Some("environment"));
        assert_eq!(closest("port", keys), Some("ports"));
        assert_eq!(closest("dependsOn", keys), Some("depends_on"));
        assert_eq!(closest("depends-on", keys), Some("depends_on"));
        assert_eq!(closest("something", keys), None);
    }
}
