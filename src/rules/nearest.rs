//! "Did you mean": the known names most similar to an unknown one.

/// At most three names that are similar enough, best first.
pub fn nearest<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> Vec<&'n str> {
    let typed: String = name.chars().take(100).flat_map(char::to_lowercase).collect();
    let mut near: Vec<(usize, &str)> =
        known.into_iter().filter_map(|known| distance(&typed, known).map(|far| (far, known))).collect();
    near.sort_unstable();
    near.dedup();
    // Next to a name one edit away, a name three edits away is unlikely.
    let best = near.first().map_or(0, |(far, _)| *far);
    near.into_iter().filter(|(far, _)| *far <= best + 1).take(3).map(|(_, known)| known).collect()
}

/// The edit distance; `None` if the names are too different.
fn distance(typed: &str, known: &str) -> Option<usize> {
    let edits = strsim::damerau_levenshtein(typed, &known.to_lowercase());
    let (short, long) = (typed.len().min(known.len()), typed.len().max(known.len()));
    // One is a prefix of the other: a shortened name, or a plural.
    let begins = short >= 3 && typed.as_bytes()[..short].eq_ignore_ascii_case(&known.as_bytes()[..short]);
    let allowed = if long <= 4 { long / 2 } else { long / 3 };
    (edits <= allowed || begins).then_some(edits)
}

/// `did you mean "a" or "b"?`, or `otherwise` if no name is similar.
pub fn did_you_mean(near: &[&str], otherwise: impl FnOnce() -> String) -> String {
    let quoted: Vec<String> = near.iter().map(|name| format!("{name:?}")).collect();
    if quoted.is_empty() { otherwise() } else { format!("did you mean {}?", quoted.join(" or ")) }
}

/// `a, b, c and 4 more`, or `none`.
pub fn listing<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    const SHOWN: usize = 12;
    let names: Vec<&str> = names.into_iter().collect();
    match names.len() {
        0 => "none".to_owned(),
        count if count <= SHOWN => names.join(", "),
        count => format!("{} and {} more", names[..SHOWN].join(", "), count - SHOWN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_names_come_first_and_far_ones_not_at_all() {
        let known = ["ttl", "ttl_policy", "path", "user_list", "user_stats"];
        let rows: [(&str, &[&str]); 5] = [
            ("tll", &["ttl"]),
            ("user_lists", &["user_list"]),
            ("User_Stat", &["user_stats"]),
            ("bananas", &[]),
            ("ttl_", &["ttl"]),
        ];
        for (typed, expected) in rows {
            assert_eq!(nearest(typed, known), expected, "{typed}");
        }
    }

    #[test]
    fn a_long_listing_is_cut() {
        let names: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        assert_eq!(listing(names.iter().map(String::as_str)), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 8 more");
    }
}
