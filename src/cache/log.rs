//! Reads the log of invalidations of the whole fleet, and passes on what other proxies have invalidated to those who watch.

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::sleep;

use super::Cache;
use crate::store::fleet::Message;
use crate::store::log::{LogContent, LogEntry, LogPosition};
use crate::store::{Store, StoreError};
use crate::upkeep::invalidation_log::{InvalidationRecord, UnsentEntry, Waits};

/// Entries of the stream that are read at a time.
const STEP: usize = 200;
/// Most steps of one question.
const STEPS: usize = 10;
/// Entries after a position that are looked at for the waits of records before it.
const AHEAD: usize = 50;
/// Pause between two looks for what other proxies have added, and after a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// How long waits are collected before they are sent together.
const TOGETHER: Duration = Duration::from_millis(250);

/// A part of the log.
#[derive(Debug, Default)]
pub struct LogPage {
    /// The latest first.
    pub records: Vec<InvalidationRecord>,
    /// Where to go on; `None`: there are no older ones.
    pub older: Option<String>,
    /// False: Redis does not answer, and these are the records of this proxy alone.
    pub is_of_fleet: bool,
}

impl Cache {
    /// The latest records that are wanted, at most `most`: before `before`, which is [`LogPage::older`] of the page before. Looks
    /// at a bounded part of the log, so that a page may have fewer and still not be the last.
    ///
    /// # Errors
    ///
    /// `before` is no position.
    pub async fn read_log(
        &self,
        before: Option<&str>,
        most: usize,
        is_wanted: impl Fn(&InvalidationRecord) -> bool,
    ) -> Result<LogPage, NoPosition> {
        let Some(shared) = &self.shared else {
            let is_id = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            if before.is_some_and(|text| !is_id(text)) {
                return Err(NoPosition);
            }
            return Ok(self.recent_page(before, most, is_wanted, true));
        };
        let position = before.map(|text| LogPosition::parse(text).ok_or(NoPosition)).transpose()?;
        match read(&*shared.store, position, most, &is_wanted).await {
            Ok(page) => Ok(page),
            Err(error) => {
                tracing::debug!(%error, "the log of invalidations cannot be read");
                Ok(self.recent_page(None, most, is_wanted, false))
            }
        }
    }

    /// A page of what this proxy has in memory. `before`: the id of the last record of the page before.
    fn recent_page(
        &self,
        before: Option<&str>,
        most: usize,
        is_wanted: impl Fn(&InvalidationRecord) -> bool,
        is_of_fleet: bool,
    ) -> LogPage {
        let mut page = LogPage { is_of_fleet, ..LogPage::default() };
        let recent = self.log.recent();
        let start = before.map_or(0, |id| {
            let at = recent.iter().position(|record| record.id == id);
            at.map_or(recent.len(), |at| at + 1)
        });
        for (at, record) in recent.iter().enumerate().skip(start).filter(|(_, record)| is_wanted(record)) {
            page.records.push(InvalidationRecord::clone(record));
            if page.records.len() >= most {
                page.older = (is_of_fleet && at + 1 < recent.len()).then(|| record.id.clone());
                break;
            }
        }
        page
    }

    /// Sends to Redis what it lacks of the log, and passes on to subscribers what other proxies add. Until it is dropped.
    pub async fn follow_log(&self) {
        let Some(shared) = &self.shared else { return std::future::pending().await };
        let (store, mut messages) = (&*shared.store, shared.store.messages());
        let mut last = None;
        loop {
            tokio::select! {
                () = self.log.has_unsent() => {
                    sleep(TOGETHER).await;
                    self.send_log(store).await;
                }
                () = invalidated(&mut messages), if self.log.events.is_watched() => {
                    last = self.pass_on(store, last).await;
                }
                () = self.log.events.begun() => last = self.pass_on(store, last).await,
                () = sleep(PAUSE) => {
                    last = match self.log.events.is_watched() {
                        true => self.pass_on(store, last).await,
                        false => None,
                    };
                }
            }
        }
    }

    async fn send_log(&self, store: &dyn Store) {
        let unsent = self.log.take_unsent();
        let (mut contents, mut waits) = (Vec::new(), Waits::new());
        for one in &unsent {
            match one {
                UnsentEntry::Record(text) => contents.push(LogContent::Record(text.clone(), 0)),
                UnsentEntry::Wait(id, wait_ms) => drop(waits.insert(id.clone(), *wait_ms)),
            }
        }
        if !waits.is_empty() {
            contents.push(LogContent::Waits(serde_json::to_string(&waits).unwrap_or_default()));
        }
        if let Err(error) = store.append_log(&contents).await {
            tracing::debug!(%error, "the log of invalidations cannot be written; it is tried again");
            self.log.put_back(unsent);
            sleep(PAUSE).await;
        }
    }

    /// Passes on what other proxies have added after `last`. Without it, nothing: it only finds out where the log ends.
    async fn pass_on(&self, store: &dyn Store, last: Option<LogPosition>) -> Option<LogPosition> {
        let Some(last) = last else {
            let latest = store.log_before(None, 1).await.ok()?;
            return Some(latest.first().map_or_else(LogPosition::default, |entry| entry.position));
        };
        let found = store.log_after(last, STEP).await.unwrap_or_default();
        for entry in &found {
            match &entry.content {
                LogContent::Record(..) => {
                    if let Some(record) = record(entry).filter(|record| record.proxy != self.log.proxy()) {
                        self.log.events.invalidated(&record);
                    }
                }
                LogContent::Waits(text) => {
                    // Those of this proxy were told with their records.
                    let waits = waits(text).into_iter().filter(|(id, _)| !self.log.is_recent(id));
                    waits.for_each(|(id, wait_ms)| self.log.events.waited(&id, wait_ms));
                }
            }
        }
        Some(found.last().map_or(last, |entry| entry.position))
    }
}

/// The text is no position in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoPosition;

/// Waits until a proxy has invalidated something, or messages were missed.
async fn invalidated(messages: &mut Receiver<Message>) {
    loop {
        match messages.recv().await {
            Ok(Message::Nudge { .. }) | Err(RecvError::Lagged(_)) => return,
            Ok(_) => {}
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

async fn read(
    store: &dyn Store,
    before: Option<LogPosition>,
    most: usize,
    is_wanted: &impl Fn(&InvalidationRecord) -> bool,
) -> Result<LogPage, StoreError> {
    let (mut page, mut all_waits) = (LogPage { is_of_fleet: true, ..LogPage::default() }, Waits::new());
    if let Some(before) = before {
        // A wait comes after its record, so that it may be on the page before.
        for entry in store.log_after(before, AHEAD).await? {
            note_waits(&entry, &mut all_waits);
        }
    }
    let (mut from, mut seen) = (before, HashSet::new());
    for _ in 0..STEPS {
        let entries = store.log_before(from, STEP).await?;
        for entry in &entries {
            if page.records.len() >= most {
                return Ok(page);
            }
            page.older = Some(entry.position.to_string());
            note_waits(entry, &mut all_waits);
            let Some(mut record) = record(entry).filter(|record| is_wanted(record)) else { continue };
            // One that was sent again after an error may be there twice.
            if seen.insert(record.id.clone()) {
                record.wait_ms = record.wait_ms.or_else(|| all_waits.get(&record.id).copied());
                page.records.push(record);
            }
        }
        if entries.len() < STEP {
            page.older = None;
            return Ok(page);
        }
        from = entries.last().map(|entry| entry.position);
    }
    Ok(page)
}

fn note_waits(entry: &LogEntry, all: &mut Waits) {
    if let LogContent::Waits(text) = &entry.content {
        all.extend(waits(text));
    }
}

fn waits(text: &str) -> Waits {
    serde_json::from_str(text).unwrap_or_default()
}

fn record(entry: &LogEntry) -> Option<InvalidationRecord> {
    let LogContent::Record(text, sequence) = &entry.content else { return None };
    let record: InvalidationRecord = serde_json::from_str(text).ok()?;
    Some(InvalidationRecord { sequence: *sequence, ..record })
}
