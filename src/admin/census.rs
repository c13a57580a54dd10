//! How many entries each family has. Counting walks all of them, so it is done at most once in two seconds, however
//! often and by however many it is asked for.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::trial;
use crate::metrics::NO_FAMILY;
use crate::rules::RuleSet;
use crate::running::Running;
use crate::stamp::Tag;
use crate::store::{KeyCounts, StoreError};

/// From the beginning of a count to that of the next.
const PAUSE: Duration = Duration::from_secs(2);

/// Entries after which counting in the store ends.
const LIMIT: u64 = 1_000_000;

/// What entries of families that the rules no longer have are counted as.
const FORMER: &str = "other";

type Counted = Result<Arc<KeyCounts>, StoreError>;

/// The latest count; none at first.
pub struct Census {
    /// Held while counting; whoever waits for it shares the result.
    turn: Arc<Semaphore>,
    /// When the latest count began, and its result. Guards only itself.
    latest: Arc<Mutex<Option<(Instant, Counted)>>>,
}

impl Default for Census {
    fn default() -> Census {
        Census { turn: Arc::new(Semaphore::new(1)), latest: Arc::default() }
    }
}

impl Census {
    /// Entries by family: those in the store, or those in memory without one.
    pub async fn counts(&self, running: &Arc<Running>) -> Counted {
        let turn = Arc::clone(&self.turn).acquire_owned().await;
        if let Some(latest) = self.latest() {
            return latest;
        }
        let (running, latest) = (Arc::clone(running), Arc::clone(&self.latest));
        let began = Instant::now();
        // In a task of its own: an asker that leaves must not make the next one begin again.
        let count = tokio::spawn(async move {
            let counted = count(&running).await.map(Arc::new);
            *latest.lock().unwrap_or_else(PoisonError::into_inner) = Some((began, counted.clone()));
            drop(turn);
            counted
        });
        count.await.unwrap_or_else(|_| Err(StoreError::Refused("the count was broken off".to_owned())))
    }

    fn latest(&self) -> Option<Counted> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.as_ref().filter(|(began, _)| began.elapsed() < PAUSE).map(|(_, counted)| counted.clone())
    }
}

async fn count(running: &Arc<Running>) -> Result<KeyCounts, StoreError> {
    let names = Names::of(&running.live().rules);
    match running.cache.store_handle() {
        Some(store) => {
            let mut counts = store.count_keys(LIMIT, &|label| names.of_label(label).to_owned()).await?;
            counts.by_family.remove(trial::LABEL);
            Ok(counts)
        }
        None => {
            let running = Arc::clone(running);
            let counted = tokio::task::spawn_blocking(move || in_memory(&running, &names)).await;
            counted.map_err(|_| StoreError::Refused("the count was broken off".to_owned()))
        }
    }
}

fn in_memory(running: &Running, names: &Names) -> KeyCounts {
    let mut by_family: BTreeMap<&str, u64> = BTreeMap::new();
    running.cache.memory().for_each(|resident| {
        *by_family.entry(names.of_tags(&resident.entry.tags)).or_default() += 1;
    });
    let by_family = by_family.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
    KeyCounts { by_family, complete: true }
}

/// The names of all families.
pub struct Names(HashSet<String>);

impl Names {
    /// Those of these rules.
    pub fn of(rules: &RuleSet) -> Names {
        rules.families().iter().map(|family| family.name.clone()).collect()
    }

    /// The family that an instance, a label or a family's own tag belongs to: the longest name that it begins with,
    /// up to a `:` or the end.
    pub fn owner<'n>(&'n self, text: &str) -> Option<&'n str> {
        let ends = text.match_indices(':').map(|(end, _)| end).chain([text.len()]);
        ends.filter_map(|end| self.0.get(&text[..end])).next_back().map(String::as_str)
    }

    /// The family of an entry by the readable part of its name in the store; `-` stands for none.
    fn of_label<'n>(&'n self, label: &str) -> &'n str {
        match label {
            "-" => NO_FAMILY,
            trial::LABEL => trial::LABEL,
            label => self.owner(label).unwrap_or(FORMER),
        }
    }

    /// The family of an entry by its tags: the longest that is a family's name.
    fn of_tags<'n>(&'n self, tags: &[Tag]) -> &'n str {
        let named = tags.iter().filter_map(|tag| self.0.get(tag.as_str())).max_by_key(|name| name.len());
        if let Some(name) = named {
            return name;
        }
        if tags.iter().all(|tag| !tag.is_of_family()) { NO_FAMILY } else { FORMER }
    }
}

impl FromIterator<String> for Names {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Names {
        Names(names.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        ["booking", "booking:stats", "user_details"].map(str::to_owned).into_iter().collect()
    }

    #[test]
    fn a_label_belongs_to_the_longest_family_that_it_begins_with() {
        let rows = [
            ("booking", "booking"),
            ("booking:7", "booking"),
            ("booking:stats", "booking:stats"),
            ("booking:stats:7:8", "booking:stats"),
            ("booking:statistics", "booking"),
            ("bookings:7", FORMER),
            ("user_details:42", "user_details"),
            ("user", FORMER),
            ("-", NO_FAMILY),
            (trial::LABEL, trial::LABEL),
        ];
        for (label, expected) in rows {
            assert_eq!(names().of_label(label), expected, "{label}");
        }
    }

    #[test]
    fn an_entry_belongs_to_the_longest_of_its_tags_that_is_a_family() {
        let rows: [(&[&str], &str); 5] = [
            (&["*", "uri:/b", "booking", "booking:stats", "booking:stats:7"], "booking:stats"),
            (&["*", "uri:/b", "booking", "booking:7"], "booking"),
            (&["*", "uri:/b"], NO_FAMILY),
            (&["*", "uri:/b", "group h/stock", "group /stock"], NO_FAMILY),
            (&["*", "uri:/b", "gone", "gone:7"], FORMER),
        ];
        for (tags, expected) in rows {
            let tags: Vec<Tag> = tags.iter().map(|tag| Tag::family(tag)).collect();
            assert_eq!(names().of_tags(&tags), expected, "{tags:?}");
        }
    }
}
