//! The commands about the log of invalidations, a stream. `invalidate.lua` adds records to it too.

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value};

use super::connections::RedisConnections;
use super::namespace::Namespace;
use crate::store::log::{KEPT, LONGEST, LogContent, LogEntry, LogPosition};

/// Field of an entry with a record; `invalidate.lua` uses the same.
const RECORD: &str = "record";
/// Field with the sequence that its invalidation took; `invalidate.lua` uses the same.
const SEQUENCE: &str = "sequence";
/// Field of an entry with waits.
const WAITS: &str = "waits";

impl Namespace {
    pub(super) async fn append_log(
        &self,
        connections: &RedisConnections,
        contents: &[LogContent],
    ) -> RedisResult<()> {
        if contents.is_empty() {
            return Ok(());
        }
        let mut pipe = redis::pipe();
        for content in contents {
            let add = pipe.cmd("XADD").arg(&self.log).arg("MAXLEN").arg("~").arg(KEPT).arg("*");
            match content {
                LogContent::Record(text, sequence) => add.arg(RECORD).arg(text).arg(SEQUENCE).arg(*sequence),
                LogContent::Waits(text) => add.arg(WAITS).arg(text),
            };
            pipe.ignore();
        }
        pipe.query_async(&mut connections.marks()).await
    }

    pub(super) async fn log_before(
        &self,
        connections: &RedisConnections,
        before: Option<LogPosition>,
        most: usize,
    ) -> RedisResult<Vec<LogEntry>> {
        let from = before.map_or_else(|| "+".to_owned(), |before| format!("({before}"));
        let mut range = redis::cmd("XREVRANGE");
        range.arg(&self.log).arg(from).arg("-").arg("COUNT").arg(most);
        entries(&range, connections.marks()).await
    }

    pub(super) async fn log_after(
        &self,
        connections: &RedisConnections,
        after: LogPosition,
        most: usize,
    ) -> RedisResult<Vec<LogEntry>> {
        let mut range = redis::cmd("XRANGE");
        range.arg(&self.log).arg(format!("({after}")).arg("+").arg("COUNT").arg(most);
        entries(&range, connections.marks()).await
    }
}

async fn entries(range: &redis::Cmd, mut marks: MultiplexedConnection) -> RedisResult<Vec<LogEntry>> {
    let found: Vec<(Value, Vec<Value>)> = range.query_async(&mut marks).await?;
    // Anything may stand there: what Larder has not written is left out.
    Ok(found.into_iter().filter_map(|(position, fields)| entry(&position, &fields)).collect())
}

fn entry(position: &Value, fields: &[Value]) -> Option<LogEntry> {
    let texts: Vec<&str> = fields.iter().map(text).collect::<Option<_>>()?;
    let content = match texts[..] {
        [RECORD, record, SEQUENCE, sequence] => LogContent::Record(record.to_owned(), sequence.parse().ok()?),
        [WAITS, waits] => LogContent::Waits(waits.to_owned()),
        _ => return None,
    };
    Some(LogEntry { position: LogPosition::parse(text(position)?)?, content })
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) if bytes.len() <= LONGEST => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    #[test]
    fn entries_that_larder_has_not_written_are_left_out() {
        let position = bulk("5-0");
        let read = |fields: &[&str]| entry(&position, &fields.iter().map(|it| bulk(it)).collect::<Vec<_>>());
        let record = read(&["record", "{}", "sequence", "7"]).unwrap();
        assert_eq!(record.content, LogContent::Record("{}".to_owned(), 7));
        assert_eq!(read(&["waits", "{}"]).unwrap().content, LogContent::Waits("{}".to_owned()));
        let long = "x".repeat(LONGEST + 1);
        for fields in
            [&["record", "{}"][..], &[], &["record", "{}", "sequence", "x"], &["a", "b"], &["waits", &long]]
        {
            assert_eq!(read(fields), None, "{fields:?}");
        }
        assert_eq!(entry(&bulk("x"), &[bulk("waits"), bulk("{}")]), None);
        assert_eq!(entry(&position, &[Value::Nil]), None);
    }
}
