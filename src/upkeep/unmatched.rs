//! Writes that no rule matches: they invalidate only their own path, which is often an oversight. Counted by the
//! *shape* of their path, so that `/users/7` and `/users/8` are counted together. After some of them the reads of each family are
//! counted for a while, without looking at who reads: a family that is often read after such a write may be what it changes.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use http::Method;
use serde::Serialize;

use super::shapes;
use crate::mutex::lock;

/// Shapes that are counted separately: an API has fewer, but clients can invent more.
const MOST: usize = 256;
/// Longest shape, and longest path that is remembered, bytes.
const LONGEST: usize = 200;
/// How long after a write the reads of each family are counted.
pub const READS_WITHIN: Duration = Duration::from_secs(5);
/// Writes of a shape after which reads are counted.
const FOLLOWED: u32 = 20;
/// Writes after which reads are being counted at a time.
const AT_A_TIME: usize = 8;
/// Families whose reads after a shape are remembered.
const FAMILIES: usize = 50;

/// Their counts.
#[derive(Debug, Default)]
pub struct UnmatchedWrites(Mutex<UnmatchedCounts>);

#[derive(Debug, Default)]
struct UnmatchedCounts {
    by_shape: BTreeMap<String, ShapeWrites>,
    others: u64,
    /// Writes after which reads are being counted.
    followed: usize,
}

/// The writes of one shape.
#[derive(Debug, Clone)]
struct ShapeWrites {
    count: u64,
    last: LastWrite,
    reads: BTreeMap<String, u64>,
    /// After so many writes reads were counted, or are.
    followed: u32,
    is_followed: bool,
}

/// A write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastWrite {
    pub time: SystemTime,
    pub path: String,
    /// Of upstream's response; 0: there was none.
    pub status: u16,
}

/// A write that was counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountedWrite {
    /// `POST /users/{}/photo`
    pub shape: String,
    /// It is the first of its shape.
    pub is_first: bool,
    /// The reads after it are to be counted for [`READS_WITHIN`], and given to [`UnmatchedWrites::followed`].
    pub is_followed: bool,
}

/// The writes of one shape, for the admin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnmatchedShape {
    pub method: String,
    /// `/users/{}/photo`
    pub shape: String,
    pub count: u64,
    pub last: LastWrite,
    /// Reads of each family shortly after some of these writes.
    pub reads: BTreeMap<String, u64>,
}

/// A copy of the counts, for the admin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Known {
    /// Writes by method and shape: `POST /users/{}/photo`.
    by_shape: BTreeMap<String, u64>,
    /// Writes of further shapes.
    others: u64,
}

impl UnmatchedWrites {
    /// Counts a write. `None` if it is of another shape than those that are counted separately.
    pub fn count(&self, method: &Method, path: &str, status: u16, time: SystemTime) -> Option<CountedWrite> {
        let mut shape = String::with_capacity(LONGEST);
        shape.push_str(method.as_str());
        shape.push(' ');
        shapes::write(path, &mut shape);
        // A path is ASCII, and so is a method.
        shape.truncate(LONGEST);
        let last = LastWrite { time, path: path[..path.len().min(LONGEST)].to_owned(), status };
        let mut state = lock(&self.0);
        let (may_follow, is_full) = (state.followed < AT_A_TIME, state.by_shape.len() >= MOST);
        let is_first = !state.by_shape.contains_key(&shape);
        if is_first && is_full {
            state.others += 1;
            return None;
        }
        let nothing = || ShapeWrites {
            count: 0,
            last: last.clone(),
            reads: BTreeMap::new(),
            followed: 0,
            is_followed: false,
        };
        let seen = state.by_shape.entry(shape.clone()).or_insert_with(nothing);
        seen.count += 1;
        seen.last = last;
        let is_followed = may_follow && !seen.is_followed && seen.followed < FOLLOWED;
        if is_followed {
            seen.is_followed = true;
            seen.followed += 1;
            state.followed += 1;
        }
        Some(CountedWrite { shape, is_first, is_followed })
    }

    /// Adds the reads between a write and now. Both are the reads of each family since the start.
    pub fn followed(&self, shape: &str, before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) {
        let mut state = lock(&self.0);
        state.followed = state.followed.saturating_sub(1);
        let Some(seen) = state.by_shape.get_mut(shape) else { return };
        seen.is_followed = false;
        for (family, reads) in now {
            let since = reads.saturating_sub(before.get(family).copied().unwrap_or(0));
            let has_room = seen.reads.len() < FAMILIES || seen.reads.contains_key(family);
            if since > 0 && has_room {
                *seen.reads.entry(family.clone()).or_default() += since;
            }
        }
    }

    /// The counts so far.
    pub fn known(&self) -> Known {
        let state = lock(&self.0);
        let by_shape = state.by_shape.iter().map(|(shape, seen)| (shape.clone(), seen.count)).collect();
        Known { by_shape, others: state.others }
    }

    /// All shapes, those with the most writes first, and the number of writes of further shapes.
    pub fn shapes(&self) -> (Vec<UnmatchedShape>, u64) {
        let state = lock(&self.0);
        let shape = |(text, seen): (&String, &ShapeWrites)| {
            let (method, shape) = text.split_once(' ')?;
            let ShapeWrites { count, last, reads, .. } = seen.clone();
            Some(UnmatchedShape { method: method.to_owned(), shape: shape.to_owned(), count, last, reads })
        };
        let mut all: Vec<_> = state.by_shape.iter().filter_map(shape).collect();
        all.sort_by_key(|it| std::cmp::Reverse(it.count));
        (all, state.others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(writes: &UnmatchedWrites, method: &Method, path: &str) -> Option<CountedWrite> {
        writes.count(method, path, 200, SystemTime::UNIX_EPOCH)
    }

    fn first_shape(writes: &UnmatchedWrites, path: &str) -> Option<String> {
        count(writes, &Method::POST, path).filter(|counted| counted.is_first).map(|counted| counted.shape)
    }

    #[test]
    fn writes_are_counted_by_method_and_shape_and_returned_once() {
        let writes = UnmatchedWrites::default();
        let long = format!("/users/{}/photo", "x".repeat(40));
        for (path, expected) in [
            ("/users/7/photo", Some("POST /users/{}/photo")),
            ("/users/8/photo", None),
            (&*long, None),
            ("/users/me/photo", Some("POST /users/me/photo")),
            ("/", Some("POST /")),
        ] {
            assert_eq!(first_shape(&writes, path).as_deref(), expected, "{path}");
        }
        assert!(count(&writes, &Method::PUT, "/users/7/photo").unwrap().is_first);
        assert_eq!(writes.known().by_shape["POST /users/{}/photo"], 3);
        let (shapes, others) = writes.shapes();
        assert_eq!(
            (shapes[0].shape.as_str(), shapes[0].last.path.as_str(), others),
            ("/users/{}/photo", &*long, 0)
        );
    }

    #[test]
    fn the_number_of_shapes_is_bounded() {
        let writes = UnmatchedWrites::default();
        let word = |n: usize| n.to_string().bytes().map(|digit| char::from(digit + 49)).collect::<String>();
        (0..2 * MOST).for_each(|n| drop(count(&writes, &Method::POST, &format!("/{}", word(n)))));
        count(&writes, &Method::POST, &"/abc".repeat(1000));
        let known = writes.known();
        assert_eq!((known.by_shape.len(), known.others), (MOST, MOST as u64 + 1));
        assert!(known.by_shape.keys().all(|shape| shape.len() <= LONGEST));
    }

    #[test]
    fn reads_after_a_write_are_counted_by_family() {
        let writes = UnmatchedWrites::default();
        let reads = |a, b| BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b)]);
        let counted = count(&writes, &Method::POST, "/x/1").unwrap();
        assert!(counted.is_followed);
        assert!(!count(&writes, &Method::POST, "/x/2").unwrap().is_followed, "one at a time for each shape");
        writes.followed(&counted.shape, &reads(10, 5), &reads(13, 5));
        assert!(count(&writes, &Method::POST, "/x/3").unwrap().is_followed);
        writes.followed(&counted.shape, &reads(13, 5), &reads(14, 6));
        assert_eq!(writes.shapes().0[0].reads, reads(4, 1));
        let all = (0..2 * AT_A_TIME).map(|n| format!("/{}", "abcdefghijklmnopqrstuvwxyz".repeat(n + 1)));
        let followed = all.filter(|path| count(&writes, &Method::PUT, path).unwrap().is_followed).count();
        assert!(followed <= AT_A_TIME);
        for _ in 0..2 * FOLLOWED {
            if count(&writes, &Method::POST, "/y/1").is_some_and(|counted| counted.is_followed) {
                writes.followed("POST /y/{}", &reads(0, 0), &reads(1, 0));
            }
        }
        assert!(writes.shapes().0.iter().all(|shape| shape.reads.get("a").is_none_or(|reads| *reads <= 20)));
    }
}
