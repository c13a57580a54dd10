//! Path shapes whose last response could be shared. Outside families, a follower waits without limit only on such shapes;
//! elsewhere for `collapse_wait`: long polls and event streams look like any other request until their response comes.
//!
//! What is remembered is the *shape* of a path, without its query: segments that hold a digit or are long count as the same,
//! since they are mostly identifiers. `/users/7` has the shape of `/users/8`.

use std::hash::{BuildHasher, Hasher, RandomState};

use quick_cache::sync::Cache;

/// How many shapes are remembered.
const MOST: usize = 10_000;
/// A segment of more bytes than this is taken for an identifier.
const WORD: usize = 32;

/// The shapes of paths whose last successful response could be shared.
#[derive(Debug)]
pub struct Shapes {
    shared: Cache<u64, ()>,
    /// Random in each process, so that no client can produce paths whose shapes collide.
    hasher: RandomState,
}

impl Shapes {
    /// Nothing is known.
    pub fn new() -> Shapes {
        Shapes { shared: Cache::new(MOST), hasher: RandomState::new() }
    }

    /// Whether the latest successful response of such a path was for sharing.
    pub fn is_shared(&self, path: &str) -> bool {
        self.shared.get(&self.shape(path)).is_some()
    }

    /// Remembers whether a successful response can be shared.
    pub fn note(&self, path: &str, is_shared: bool) {
        let shape = self.shape(path);
        match (is_shared, self.shared.get(&shape)) {
            (true, None) => self.shared.insert(shape, ()),
            (false, Some(())) => drop(self.shared.remove(&shape)),
            _ => {}
        }
    }

    fn shape(&self, path: &str) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        for segment in path.split('/') {
            hasher.write(if is_word(segment) { segment.as_bytes() } else { b"0" });
            hasher.write_u8(b'/');
        }
        hasher.finish()
    }
}

fn is_word(segment: &str) -> bool {
    segment.len() <= WORD && !segment.bytes().any(|byte| byte.is_ascii_digit())
}

/// Appends the shape of a path, for people: `/users/{}/photo`.
pub fn write(path: &str, out: &mut String) {
    for (at, segment) in path.split('/').enumerate() {
        if at > 0 {
            out.push('/');
        }
        out.push_str(if is_word(segment) { segment } else { "{}" });
    }
}

impl Default for Shapes {
    fn default() -> Shapes {
        Shapes::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_do_not_tell_shapes_apart() {
        let shapes = Shapes::new();
        shapes.note("/users/7/photo", true);
        let long = format!("/users/{}/photo", "x".repeat(WORD + 1));
        for (path, expected) in [
            ("/users/7/photo", true),
            ("/users/8/photo", true),
            ("/users/550e8400-e29b-41d4-a716-446655440000/photo", true),
            (&*long, true),
            ("/users/me/photo", false),
            ("/users/7", false),
            ("/users/7/photo/", false),
            ("/users7/photo", false),
            ("/", false),
            ("", false),
        ] {
            assert_eq!(shapes.is_shared(path), expected, "{path}");
        }
    }

    #[test]
    fn the_latest_response_counts() {
        let shapes = Shapes::new();
        for is_shared in [false, true, true, false, false, true] {
            shapes.note("/a", is_shared);
            assert_eq!(shapes.is_shared("/a"), is_shared);
        }
    }

    #[test]
    fn a_bounded_number_is_remembered() {
        let shapes = Shapes::new();
        let word =
            |n: usize| n.to_string().bytes().map(|digit| char::from(digit - b'0' + b'a')).collect::<String>();
        (0..3 * MOST).for_each(|n| shapes.note(&word(n), true));
        assert!(shapes.shared.len() <= MOST);
    }
}
