//! Writes that no rule matches: they invalidate only their own path, which is often an oversight. Counted by the
//! *shape* of their path, so that `/users/7` and `/users/8` are counted together.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::Method;
use serde::Serialize;

use crate::coalesce::shapes;

/// Shapes that are counted separately: an API has fewer, but clients can invent more.
const MOST: usize = 256;
/// Longest shape, bytes.
const LONGEST: usize = 200;

/// Their counts.
#[derive(Debug, Default)]
pub struct UnmatchedWrites(Mutex<Known>);

/// A copy of the counts, for the admin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Known {
    /// Writes by method and shape: `POST /users/{}/photo`.
    by_shape: BTreeMap<String, u64>,
    /// Writes of further shapes.
    others: u64,
}

impl UnmatchedWrites {
    /// Counts a write. Returns its shape if it is the first of that shape.
    pub fn count(&self, method: &Method, path: &str) -> Option<String> {
        let mut shape = format!("{method} ");
        shapes::write(path, &mut shape);
        // A path is ASCII, and so is a method.
        shape.truncate(LONGEST);
        let mut known = self.lock();
        if let Some(count) = known.by_shape.get_mut(&shape) {
            *count += 1;
            return None;
        }
        if known.by_shape.len() >= MOST {
            known.others += 1;
            return None;
        }
        known.by_shape.insert(shape.clone(), 1);
        Some(shape)
    }

    /// The counts so far.
    pub fn known(&self) -> Known {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Only numbers: a panic leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(writes.count(&Method::POST, path).as_deref(), expected, "{path}");
        }
        assert!(writes.count(&Method::PUT, "/users/7/photo").is_some());
        assert_eq!(writes.known().by_shape["POST /users/{}/photo"], 3);
    }

    #[test]
    fn the_number_of_shapes_is_bounded() {
        let writes = UnmatchedWrites::default();
        let word = |n: usize| n.to_string().bytes().map(|digit| char::from(digit + 49)).collect::<String>();
        (0..2 * MOST).for_each(|n| drop(writes.count(&Method::POST, &format!("/{}", word(n)))));
        writes.count(&Method::POST, &"/abc".repeat(1000));
        let known = writes.known();
        assert_eq!((known.by_shape.len(), known.others), (MOST, MOST as u64 + 1));
        assert!(known.by_shape.keys().all(|shape| shape.len() <= LONGEST));
    }
}
