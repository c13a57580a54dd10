//! The commands of the sweeper. A step is a few pipelines to one server, and each command in it is about one key, so that
//! in a cluster it runs where the keys are.

use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisResult};

use super::connections::RedisConnections;
use super::errors::malformed_reply;
use super::fleet::millis;
use super::namespace::Namespace;
use super::view::{Answers, MarksRead, view_of};
use crate::entry::Preface;
use crate::marks::{MarksView, Tag};
use crate::store::sweep::{Dated, Judged, KeyStats, Specimen, Survey, WalkPosition};

/// Bytes of an entry that are read at first: most stamps and tags end within these.
const BEGINNING: usize = 512;

/// Most bytes of an entry that are read.
const BEGINNING_MAX: usize = 64 << 10;

/// Most bytes of key statistics that are read: some ten thousand families.
const KEY_STATS_MAX: usize = 1 << 20;

const UNLINK_IF: &str = include_str!("../unlink_if.lua");

impl Namespace {
    pub(super) async fn hold_sweep(
        &self,
        connections: &RedisConnections,
        id: &str,
        lasting: Duration,
    ) -> RedisResult<bool> {
        self.hold(connections, &self.sweeper, id, lasting).await
    }

    pub(super) async fn hold_warming(
        &self,
        connections: &RedisConnections,
        id: &str,
        lasting: Duration,
    ) -> RedisResult<bool> {
        self.hold(connections, &self.warmer, id, lasting).await
    }

    /// Takes or renews a lease that one proxy at a time holds.
    async fn hold(
        &self,
        connections: &RedisConnections,
        lease: &str,
        id: &str,
        lasting: Duration,
    ) -> RedisResult<bool> {
        let mut call = self.hold_sweep.key(lease);
        call.arg(id).arg(millis(lasting)).invoke_async(&mut connections.marks()).await
    }

    pub(super) async fn survey(
        &self,
        connections: &RedisConnections,
        from: WalkPosition,
        keys: u64,
    ) -> RedisResult<Survey> {
        let nodes = connections.nodes();
        let is_whole = connections.are_all_nodes_connected();
        let Some(node) = nodes.get(from.node) else { return Ok(Survey { is_whole, ..Survey::default() }) };
        let (cursor, names) = self.scan(node.clone(), from.cursor, keys).await?;
        let next = match cursor {
            0 => WalkPosition { node: from.node + 1, cursor: 0 },
            cursor => WalkPosition { cursor, ..from },
        };
        let specimens = self.read_prefixes(node.clone(), names).await?;
        Ok(Survey { specimens, next: Some(next).filter(|next| next.node < nodes.len()), is_whole })
    }

    async fn read_prefixes(
        &self,
        mut node: MultiplexedConnection,
        names: Vec<Bytes>,
    ) -> RedisResult<Vec<Specimen>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut lengths = redis::pipe();
        for name in &names {
            lengths.cmd("STRLEN").arg(&name[..]);
        }
        let lengths: Vec<u64> = lengths.query_async(&mut node).await?;
        let mut beginnings = redis::pipe();
        names.iter().for_each(|name| get_range(&mut beginnings, name, BEGINNING));
        let beginnings: Vec<Bytes> = beginnings.query_async(&mut node).await?;
        let met = names.into_iter().zip(lengths).zip(beginnings).filter_map(|((name, bytes), beginning)| {
            let label = self.label(&name)?.into_owned();
            Some(Specimen { name, label, bytes, beginning })
        });
        // The value of a removed key is empty.
        let mut specimens: Vec<Specimen> = met.filter(|specimen| !specimen.beginning.is_empty()).collect();
        read_longer_prefixes(&mut node, &mut specimens).await?;
        Ok(specimens)
    }

    pub(super) async fn views(
        &self,
        connections: &RedisConnections,
        sets: &[&[Tag]],
    ) -> RedisResult<Vec<MarksView>> {
        let mut pipe = redis::pipe();
        // Soft-invalidated entries stay, so soft marks are not read.
        self.add_marks(&mut pipe, sets.iter().copied().flatten(), false);
        let all = Answers::of(&mut pipe, &mut connections.marks()).await?.next_read()?;
        // All views share the sentinel and the root tag. There are none if the key is of another type.
        let Some((common, mut rest)) = all.marks.split_at_checked(2) else {
            return Ok(vec![self.begin(connections).await?; sets.len()]);
        };
        let mut views = Vec::with_capacity(sets.len());
        for set in sets {
            let Some((own, others)) = rest.split_at_checked(set.len()) else {
                return Err(malformed_reply("fewer marks than requested"));
            };
            rest = others;
            let (before, meta) = (all.before.clone(), all.meta.clone());
            let read = MarksRead { before, marks: [common, own].concat(), left: Vec::new(), meta };
            match view_of(&read, connections.run_id()) {
                Some(view) => views.push(view),
                None => return Ok(vec![self.begin(connections).await?; sets.len()]),
            }
        }
        Ok(views)
    }

    pub(super) async fn unlink(
        &self,
        connections: &RedisConnections,
        at: WalkPosition,
        judged: &[Judged],
    ) -> RedisResult<u64> {
        let nodes = connections.nodes();
        let Some(mut node) = nodes.into_iter().nth(at.node).filter(|_| !judged.is_empty()) else { return Ok(0) };
        let mut pipe = redis::pipe();
        for Judged { name, beginning } in judged {
            pipe.cmd("EVAL").arg(UNLINK_IF).arg(1).arg(&name[..]).arg(&beginning[..]);
        }
        let removed: Vec<u64> = pipe.query_async(&mut node).await?;
        Ok(removed.iter().sum())
    }

    pub(super) async fn store_key_stats(
        &self,
        connections: &RedisConnections,
        key_stats: &KeyStats,
        lasting: Duration,
    ) -> RedisResult<()> {
        // Its maps have texts for keys, and its numbers are whole.
        let text = serde_json::to_string(key_stats).expect("key statistics can be written as JSON");
        let mut call = self.store_key_stats.key(&self.key_stats);
        call.arg(text).arg(millis(lasting)).invoke_async(&mut connections.marks()).await
    }

    pub(super) async fn key_stats(&self, connections: &RedisConnections) -> RedisResult<Option<Dated>> {
        let mut pipe = redis::pipe();
        pipe.cmd("GETRANGE").arg(&self.key_stats).arg(0).arg(KEY_STATS_MAX).cmd("TIME");
        let mut answers = Answers::of(&mut pipe, &mut connections.marks()).await?;
        let kept: Option<Bytes> = answers.next_or_other()?;
        let now = answers.next()?;
        // Statistics of another version, or not from a Larder, are ignored.
        Ok(kept.and_then(|kept| dated(std::str::from_utf8(&kept).ok()?, now)))
    }
}

fn dated(kept: &str, (seconds, micros): (u64, u64)) -> Option<Dated> {
    let (at, key_stats) = kept.split_once(' ')?;
    let now = Duration::from_secs(seconds) + Duration::from_micros(micros);
    let age = now.saturating_sub(Duration::from_micros(at.parse().ok()?));
    Some(Dated { key_stats: serde_json::from_str(key_stats).ok()?, age })
}

fn get_range(pipe: &mut Pipeline, name: &[u8], length: usize) {
    pipe.cmd("GETRANGE").arg(name).arg(0).arg(length - 1);
}

/// Reads more of those whose stamp and tags are longer than what was read.
async fn read_longer_prefixes(node: &mut MultiplexedConnection, specimens: &mut [Specimen]) -> RedisResult<()> {
    let wanting = |specimen: &Specimen| match Preface::of(&specimen.beginning) {
        Preface::Wanting(length) => Some(length.min(BEGINNING_MAX)),
        Preface::Whole { .. } | Preface::Foreign => None,
    };
    let mut pipe = redis::pipe();
    let longer: Vec<&mut Specimen> = specimens
        .iter_mut()
        .filter(|specimen| match wanting(specimen) {
            Some(length) => {
                get_range(&mut pipe, &specimen.name, length);
                true
            }
            None => false,
        })
        .collect();
    if longer.is_empty() {
        return Ok(());
    }
    let beginnings: Vec<Bytes> = pipe.query_async(node).await?;
    longer.into_iter().zip(beginnings).for_each(|(specimen, beginning)| specimen.beginning = beginning);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_stats_have_an_age_and_malformed_ones_are_ignored() {
        let key_stats = KeyStats { by: "p1".to_owned(), removed: 3, ..KeyStats::default() };
        let text = format!("5000000 {}", serde_json::to_string(&key_stats).unwrap());
        let known = dated(&text, (7, 500_000)).unwrap();
        assert_eq!(known, Dated { key_stats, age: Duration::from_millis(2500) });
        assert_eq!(dated(&text, (4, 0)).unwrap().age, Duration::ZERO, "the clock was set back");
        for text in ["", "5", "5 {}", "x {}", "5 []"] {
            assert_eq!(dated(text, (7, 0)), None, "{text}");
        }
    }
}
