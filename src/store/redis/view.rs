//! Reads entries and marks, and checks that what was read is complete.
//!
//! # Why a read needs no script
//!
//! A lookup is one pipeline on one connection: `GETRANGE` entry, `HGET` seq, `ZMSCORE` marks, `HSETNX` meta, `HMGET` meta.
//! Commands of other clients may run between them. Suppose that a write that was acknowledged before the lookup began took
//! sequence *q* and invalidates the entry, whose stamp is (*e*, *s*) with *s* < *q*. Its mark was set before `GETRANGE` ran.
//! One of these holds:
//!
//! - nothing happened since: `ZMSCORE` returns *q*, and the entry is not current;
//! - the mark was trimmed before `ZMSCORE` ran: the script that trimmed it raised the floor to at least *q* in the same
//!   step, and `HMGET` runs later. This is why the marks are read before meta;
//! - the set was flushed, evicted or deleted: the sentinel is missing, and a new epoch is started. If another client has
//!   started one before `ZMSCORE` ran, `HMGET` runs later and returns another epoch than *e*;
//! - meta was lost: a field is missing, and a new epoch is started; likewise if a field holds what no Larder writes there, or
//!   a key is of another type;
//! - the server is not the one that issued *q* (restarted, restored from a snapshot, a promoted replica): its `run_id`
//!   differs from the one in meta, which the script that issues sequences has written there. The `run_id` compared with was
//!   read on this connection, and a connection never outlives the process at its other end;
//! - the server was demoted to a replica while connected, or takes no writes (full, cut off from its replicas): a write
//!   that was acknowledged elsewhere might never show here. `HSETNX` is a write that changes nothing in a complete
//!   namespace; such a server refuses it, and the lookup fails.
//!
//! The stamp of a fetch that begins after the reply is the epoch that was read last, and the sequence that was read
//! *before* the marks: it must not cover an invalidation that the marks do not show. Otherwise an inflight fetch with this
//! stamp would look recent enough to a reader after that write, while the stale entry that it validates was judged
//! without it. If an epoch began in between, the sequence is below the new epoch's floor, and no entry with it is current.
//!
//! If no tag was ever soft-invalidated (`soft_invalidated` is not in meta), soft marks are not read. Otherwise `HMGET` graces and
//! `TIME` run before `ZMSCORE`, which reads hard and soft marks at one moment. In between a grace may have ended and another
//! one begun: then the soft mark is judged by the end of the first. A lost grace counts as ended, so it needs no sentinel.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, Pipeline, RedisResult, Value, from_redis_value};

use super::connections::RedisConnections;
use super::errors::malformed_reply;
use super::namespace::{Namespace, ReadCommands};
use super::{SENTINEL, SOFT};
use crate::entry::ENCODING_MAX;
use crate::marks::{Epoch, MarksView, Sequence, Stamp, Tag};
use crate::store::LookupReply;

/// `epoch`, `seq`, `floor`, `run_id`, `soft_invalidated` of meta.
pub(super) type Meta = [Option<Bytes>; 5];

/// Replies to the commands of [`Namespace::add_marks`]. Other clients may have written anything there; empty where a key is
/// of another type.
#[derive(Debug, Clone, Default)]
pub(super) struct MarksRead {
    /// The last sequence issued before the marks were read.
    pub(super) before: Option<Bytes>,
    /// Scores of the sentinel, the root tag and the tags; then, if requested, of the soft marks of the root tag and the tags.
    pub(super) marks: Vec<Option<f64>>,
    /// Time left of the grace of each requested soft mark.
    pub(super) left: Vec<Duration>,
    pub(super) meta: Meta,
}

/// Replies of a pipeline, in order; each may be an error.
pub(super) struct Answers(std::vec::IntoIter<RedisResult<Value>>);

impl Answers {
    pub(super) async fn of(pipe: &mut Pipeline, connection: &mut MultiplexedConnection) -> RedisResult<Answers> {
        let answers: Vec<RedisResult<Value>> = pipe.ignore_errors().query_async(connection).await?;
        Ok(Answers(answers.into_iter()))
    }

    /// The next one.
    pub(super) fn next<T: FromRedisValue>(&mut self) -> RedisResult<T> {
        let value = self.0.next().unwrap_or_else(|| Err(malformed_reply("fewer replies than commands")))?;
        Ok(from_redis_value(value)?)
    }

    /// The next one; `None` if the key is of another type.
    pub(super) fn next_or_other<T: FromRedisValue>(&mut self) -> RedisResult<Option<T>> {
        match self.next() {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.code() == Some("WRONGTYPE") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The replies to [`Namespace::add_marks`].
    pub(super) fn next_read(&mut self) -> RedisResult<MarksRead> {
        let before = self.next_or_other()?.flatten();
        let marks = self.next_or_other()?.unwrap_or_default();
        let _: Option<Value> = self.next_or_other()?;
        let meta: Vec<Option<Bytes>> = self.next_or_other()?.unwrap_or_default();
        Ok(MarksRead { before, marks, left: Vec::new(), meta: meta.try_into().unwrap_or_default() })
    }

    /// The reply to `GETRANGE`, which is empty if there is no entry.
    pub(super) fn next_entry(&mut self) -> RedisResult<Option<Bytes>> {
        let entry: Option<Bytes> = self.next_or_other()?;
        Ok(entry.map_or_else(|| Some(Bytes::new()), |bytes| (!bytes.is_empty()).then_some(bytes)))
    }
}

impl Namespace {
    pub(super) async fn lookup(
        &self,
        connections: &RedisConnections,
        mut entries: MultiplexedConnection,
        key: &str,
        tags: &[Tag],
    ) -> RedisResult<LookupReply> {
        let (entry, read) = self.read(&mut entries, Some(&self.entry(key)), tags).await?;
        Ok(LookupReply { entry, view: self.view_or_begin(connections, &read).await? })
    }

    pub(super) async fn view(&self, connections: &RedisConnections, tags: &[Tag]) -> RedisResult<MarksView> {
        let (_, read) = self.read(&mut connections.marks(), None, tags).await?;
        self.view_or_begin(connections, &read).await
    }

    /// Reads an entry, then the marks; both again if there turn out to be soft marks.
    pub(super) async fn read(
        &self,
        connection: &mut MultiplexedConnection,
        name: Option<&str>,
        tags: &[Tag],
    ) -> RedisResult<(Option<Bytes>, MarksRead)> {
        let first = || {
            let mut pipe = Pipeline::with_capacity(8);
            if let Some(name) = name {
                add_entry(&mut pipe, name);
            }
            pipe
        };
        if !self.soft.load(Relaxed) {
            let mut pipe = first();
            self.add_marks(&mut pipe, tags.iter(), false);
            let mut answers = Answers::of(&mut pipe, connection).await?;
            let entry = name.map_or(Ok(None), |_| answers.next_entry())?;
            let read = answers.next_read()?;
            if read.meta[4].is_none() {
                return Ok((entry, read));
            }
            self.soft.store(true, Relaxed);
        }
        let mut pipe = first();
        pipe.cmd("HMGET").arg(&self.graces).arg("*");
        for tag in tags {
            pipe.arg(tag.as_str());
        }
        pipe.cmd("TIME");
        self.add_marks(&mut pipe, tags.iter(), true);
        let mut answers = Answers::of(&mut pipe, connection).await?;
        let entry = name.map_or(Ok(None), |_| answers.next_entry())?;
        let ends: Option<Vec<Option<Bytes>>> = answers.next_or_other()?;
        let (seconds, micros): (u64, u64) = answers.next()?;
        let read = answers.next_read()?;
        // A new epoch has no soft marks.
        self.soft.store(read.meta[4].is_some(), Relaxed);
        let now = seconds * 1_000_000 + micros;
        // Lost graces have ended.
        let ends = ends.unwrap_or_else(|| vec![None; tags.len() + 1]);
        let left =
            ends.iter().map(|end| Duration::from_micros(number(end).unwrap_or(0).saturating_sub(now))).collect();
        Ok((entry, MarksRead { left, ..read }))
    }

    /// Adds the commands that read the marks of `tags` and of the root tag, and with `softly` their soft marks. The module
    /// documentation explains their order.
    pub(super) fn add_marks<'t>(
        &self,
        pipe: &mut Pipeline,
        tags: impl Iterator<Item = &'t Tag> + Clone,
        softly: bool,
    ) {
        let bytes: usize = tags.clone().map(|tag| tag.as_str().len()).sum();
        let mut marks = Cmd::with_capacity(16, self.marks.len() + bytes + 64);
        marks.arg("ZMSCORE").arg(&self.marks).arg(SENTINEL).arg("*");
        for tag in tags.clone() {
            marks.arg(tag.as_str());
        }
        if softly {
            marks.arg(format!("{SOFT}*"));
            for tag in tags {
                marks.arg(format!("{SOFT}{tag}"));
            }
        }
        let ReadCommands { sequence, write, meta } = &self.read;
        pipe.add_command(sequence.clone()).add_command(marks);
        pipe.add_command(write.clone()).add_command(meta.clone());
    }

    pub(super) async fn view_or_begin(
        &self,
        connections: &RedisConnections,
        read: &MarksRead,
    ) -> RedisResult<MarksView> {
        match view_of(read, connections.run_id()) {
            Some(view) => Ok(view),
            None => self.begin(connections).await,
        }
    }
}

/// The view of what was read. None if marks or meta are incomplete, or were written under another run of the server.
pub(super) fn view_of(MarksRead { before, marks, left, meta }: &MarksRead, run_id: &str) -> Option<MarksView> {
    let (sentinel, marks) = marks.split_first()?;
    let [epoch, sequence, floor, issuer, _] = meta;
    if sentinel.is_none() || issuer.as_deref()? != run_id.as_bytes() {
        return None;
    }
    let stamp = Stamp { epoch: Epoch(number(epoch)?), sequence: number(before)?.min(number(sequence)?) };
    let (hard, soft) = marks.split_at(marks.len().checked_sub(left.len())?);
    // Scores are whole numbers below 2^53, exact as floats.
    let floor = number(floor).filter(|floor| *floor <= stamp.sequence)?;
    let newest = hard.iter().flatten().map(|score| *score as Sequence).fold(floor, Sequence::max);
    let soft = soft.iter().zip(left).filter_map(|(score, left)| Some(((*score)? as Sequence, *left)));
    Some(soft.fold(MarksView::hard(stamp, newest), |view, (mark, left)| view.soft(mark, left)))
}

pub(super) async fn get_entry(name: String, mut node: MultiplexedConnection) -> RedisResult<Option<Bytes>> {
    let mut pipe = redis::pipe();
    add_entry(&mut pipe, &name);
    Answers::of(&mut pipe, &mut node).await?.next_entry()
}

/// Reads the longest possible entry and one byte more, which shows that a value is too long.
pub(super) fn add_entry(pipe: &mut Pipeline, name: &str) {
    pipe.cmd("GETRANGE").arg(name).arg(0).arg(ENCODING_MAX);
}

/// A decimal number as the scripts write it.
fn number(field: &Option<Bytes>) -> Option<u64> {
    std::str::from_utf8(field.as_deref()?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WHOLE: [&str; 4] = ["18446744073709551615", "1763690000123456", "1763690000000000", "a1"];

    fn meta(fields: [&str; 4]) -> Meta {
        let [epoch, seq, floor, run_id] = fields.map(|field| (!field.is_empty()).then(|| field.to_owned().into()));
        [epoch, seq, floor, run_id, None]
    }

    fn read(marks: &[Option<f64>], fields: [&str; 4]) -> MarksRead {
        MarksRead {
            before: Some(Sequence::MAX.to_string().into()),
            marks: marks.to_vec(),
            left: Vec::new(),
            meta: meta(fields),
        }
    }

    /// What the view says when the sentinel and these marks were read.
    fn newest(marks: &[Option<f64>]) -> Sequence {
        let marks = [&[Some(f64::INFINITY)], marks].concat();
        view_of(&read(&marks, WHOLE), "a1").unwrap().newest
    }

    #[test]
    fn a_view_is_the_highest_of_floor_and_marks() {
        let before = 1_763_690_000_000_020;
        let earlier = MarksRead { before: Some(before.to_string().into()), ..read(&[Some(f64::INFINITY)], WHOLE) };
        assert_eq!(view_of(&earlier, "a1").unwrap().stamp.sequence, before, "read before the marks");
        let view = view_of(&read(&[Some(f64::INFINITY), None], WHOLE), "a1").unwrap();
        assert_eq!(view.stamp, Stamp { epoch: Epoch(u64::MAX), sequence: 1_763_690_000_123_456 });
        assert_eq!(view.newest, 1_763_690_000_000_000, "the floor");
        assert_eq!(newest(&[None, Some(1_763_690_000_123_455.0), Some(3.0)]), 1_763_690_000_123_455);
    }

    #[test]
    fn soft_marks_stand_beside_the_hard_ones_until_their_graces_are_over() {
        const SECOND: Duration = Duration::from_secs(1);
        const NONE: Duration = Duration::ZERO;
        let at = |sequence: Sequence| Some((1_763_690_000_000_000 + sequence) as f64);
        type Row = ([Option<f64>; 2], [Duration; 2], Sequence, Option<(Sequence, Duration)>);
        let rows: [Row; 5] = [
            ([None, None], [NONE, NONE], 5, None),
            ([None, at(7)], [NONE, SECOND], 5, Some((7, SECOND))),
            ([at(9), at(7)], [SECOND * 2, SECOND], 5, Some((9, SECOND))),
            ([at(9), at(7)], [SECOND * 2, NONE], 7, Some((9, SECOND * 2))),
            ([at(9), at(7)], [NONE, NONE], 9, None),
        ];
        for (soft, left, newest, pending) in rows {
            let marks = [&[Some(f64::INFINITY), None, at(5)], &soft[..]].concat();
            let view = view_of(&MarksRead { left: left.to_vec(), ..read(&marks, WHOLE) }, "a1").unwrap();
            assert_eq!(view.newest, 1_763_690_000_000_000 + newest, "{soft:?} {left:?}");
            let found = view.soft.map(|soft| (soft.newest - 1_763_690_000_000_000, soft.left));
            assert_eq!(found, pending, "{soft:?} {left:?}");
        }
    }

    #[test]
    fn incomplete_marks_or_meta_give_no_view() {
        let sentinel = [Some(f64::INFINITY), Some(5.0)];
        assert!(view_of(&read(&sentinel, WHOLE), "a1").is_some());
        assert!(view_of(&read(&sentinel, WHOLE), "b2").is_none(), "another run of the server");
        assert!(view_of(&read(&[None, Some(5.0)], WHOLE), "a1").is_none(), "no sentinel");
        assert!(view_of(&read(&[], WHOLE), "a1").is_none(), "no marks at all");
        for field in 0..4 {
            let mut fields = WHOLE;
            for broken in ["", "x", "-1", "1e3", "99999999999999999999"] {
                fields[field] = broken;
                let found = view_of(&read(&sentinel, fields), "a1");
                assert!(found.is_none(), "field {field} is missing, no number, or another run");
            }
        }
    }

    proptest! {
        #[test]
        fn no_mark_is_lost_in_a_view(marks in prop::collection::vec(prop::option::of(0_u64..1 << 53), 0..9)) {
            let scores: Vec<_> = marks.iter().map(|mark| mark.map(|sequence| sequence as f64)).collect();
            let expected = marks.into_iter().flatten().fold(1_763_690_000_000_000, Sequence::max);
            prop_assert_eq!(newest(&scores), expected);
        }
    }
}
