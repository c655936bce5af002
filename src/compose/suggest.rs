//! "Did you mean …?"

/// Nobody types names longer than this, and few projects have more of them.
const LONGEST: usize = 64;
const MOST: usize = 2_000;
const LARGEST_DIFFERENCE: usize = 16;

/// The candidate that is most like a word, if one is like it at all.
pub(crate) fn closest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    if word.len() > LONGEST {
        return None;
    }
    let lower = word.to_lowercase();
    candidates
        .into_iter()
        .take(MOST)
        // What differs that much in length is not alike; the distance is costly.
        .filter(|candidate| *candidate != word && candidate.len().abs_diff(word.len()) <= LARGEST_DIFFERENCE)
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
