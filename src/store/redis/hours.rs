//! The commands about reads by the hour: a sorted set for each hour, whose members are reads and whose scores are hits.

use redis::RedisResult;

use super::connections::RedisConnections;
use super::namespace::Namespace;
use crate::store::hours::{DAYS, Hour, KEPT, LONGEST};

impl Namespace {
    fn hour(&self, hour: Hour) -> String {
        format!("{{{}}}:hour:{hour}", self.name)
    }

    pub(super) async fn add_hits(
        &self,
        connections: &RedisConnections,
        hour: Hour,
        reads: &[(String, u32)],
    ) -> RedisResult<()> {
        if reads.is_empty() {
            return Ok(());
        }
        let (name, mut pipe) = (self.hour(hour), redis::pipe());
        for (read, hits) in reads {
            pipe.cmd("ZINCRBY").arg(&name).arg(*hits).arg(read).ignore();
        }
        // All but the highest scores.
        pipe.cmd("ZREMRANGEBYRANK").arg(&name).arg(0).arg(-(KEPT as i64) - 1).ignore();
        pipe.cmd("EXPIRE").arg(&name).arg(DAYS * 86_400).ignore();
        pipe.query_async(&mut connections.marks()).await
    }

    pub(super) async fn hits_in(
        &self,
        connections: &RedisConnections,
        hours: &[Hour],
    ) -> RedisResult<Vec<(String, u64)>> {
        if hours.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for hour in hours {
            pipe.cmd("ZREVRANGE").arg(self.hour(*hour)).arg(0).arg(KEPT - 1).arg("WITHSCORES");
        }
        let found: Vec<Vec<(Vec<u8>, f64)>> = pipe.query_async(&mut connections.marks()).await?;
        let reads = found.into_iter().flatten().filter_map(|(read, hits)| {
            // Anything may stand there: what is no text is left out.
            let read = String::from_utf8(read).ok().filter(|read| read.len() <= LONGEST)?;
            Some((read, hits.max(0.0) as u64))
        });
        Ok(reads.collect())
    }
}
