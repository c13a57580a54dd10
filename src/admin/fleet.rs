//! `GET /cache/fleet`: the state of this proxy, and what the store knows of the fleet.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::bypass::{self, BypassReport};
use super::report::Success;
use super::state::{AdminState, At};
use crate::cache::StoreState;
use crate::coherence::fleet::status::{FleetStatus, NoLease};
use crate::marks::Stamp;
use crate::store::fleet::{EpochState, Member, Roster};

/// The fleet as this proxy sees it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct FleetReport {
    /// `embedded`: there is no store, and no other proxy.
    mode: &'static str,
    /// `up`, `down: …`, `catching up: …`, or `none`.
    store: String,
    /// Pending invalidations that the store does not have yet, in tags. While there are any, requests go upstream.
    undelivered: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy: Option<ProxyReport>,
    /// Null while the store cannot be asked and has not been.
    epoch: Option<Epoch>,
    /// Null while the store cannot be asked.
    intents: Option<Intents>,
    /// Null while the store cannot be asked.
    members: Option<Vec<MemberReport>>,
    /// Families that are not cached because members follow different rules for them; `-` for the paths that no family claims.
    mixed_rules: BTreeSet<String>,
    /// The bypasses that this proxy follows.
    bypasses: Vec<BypassReport>,
}

/// This proxy.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
struct ProxyReport {
    id: String,
    coherence: &'static str,
    lease: String,
    /// In a strict proxy: whether the store has answered within a lease.
    lease_held: bool,
    /// Why not, as in the metric `larder_lease_lost_total`.
    reason: Option<&'static str>,
    /// The same for people.
    why: Option<String>,
    /// How long that has been so.
    since_seconds: f64,
    /// How long ago the store last answered a sync.
    synced_seconds_ago: Option<f64>,
    /// How far the clock of this machine is ahead of the store's; negative: behind.
    clock_ahead_seconds: f64,
    applied: Option<Position>,
}

/// An epoch and a sequence in it. Epochs are text: they are wider than numbers of JSON are exact.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
struct Position {
    epoch: String,
    sequence: u64,
}

/// The epoch, as of now or, while the store is away, as of the last sync.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
struct Epoch {
    /// The last sequence that was issued; null while the store is away.
    at: Option<Position>,
    /// Why it began.
    cause: String,
    began: String,
    age_seconds: f64,
    floor: u64,
    floor_age_seconds: f64,
    marks: u64,
    longest_lease: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
struct Intents {
    pending: u64,
    /// Abandoned by their proxies; another proxy carries them out.
    due: u64,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
struct MemberReport {
    id: String,
    is_this: bool,
    lease: String,
    /// By the clock of the store.
    synced_seconds_ago: f64,
    applied: Option<Position>,
    /// `same` as this proxy's, `other`, or `unknown`: it has not registered them.
    rules: &'static str,
}

/// The same in short, for detailed health.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct FleetSummary {
    lease_held: bool,
    reason: Option<&'static str>,
    why: Option<String>,
    epoch_cause: Option<String>,
    marks: Option<u64>,
    floor_age_seconds: Option<f64>,
    undelivered: usize,
    members: Option<usize>,
    intents_pending: Option<u64>,
    intents_due: Option<u64>,
}

/// The lease of this proxy and why it has none, epoch, members, writes under way
///
/// Answers while the store is away, too.
#[utoipa::path(get, path = "/cache/fleet", tag = "state", responses((status = 200, body = Success<FleetReport>)))]
pub async fn fleet(State(state): At) -> Json<Success<FleetReport>> {
    Json(Success::of(FleetReport::of(&state).await))
}

/// What detailed health says; `None` without a store.
pub async fn summary(state: &AdminState) -> Option<FleetSummary> {
    let FleetReport { undelivered, proxy, epoch, intents, members, .. } = FleetReport::of(state).await;
    let proxy = proxy?;
    Some(FleetSummary {
        lease_held: proxy.lease_held,
        reason: proxy.reason,
        why: proxy.why,
        epoch_cause: epoch.as_ref().map(|epoch| epoch.cause.clone()),
        marks: epoch.as_ref().map(|epoch| epoch.marks),
        floor_age_seconds: epoch.as_ref().map(|epoch| epoch.floor_age_seconds),
        undelivered,
        members: members.map(|members| members.len()),
        intents_pending: intents.map(|intents| intents.pending),
        intents_due: intents.map(|intents| intents.due),
    })
}

/// State of the store, for people.
pub fn state_of_store(state: StoreState) -> String {
    match state {
        StoreState::Embedded => "none: embedded".to_owned(),
        StoreState::Up => "up".to_owned(),
        StoreState::Down(reason) => format!("down: {reason}; requests go upstream"),
        StoreState::CatchingUp(tags) => format!("catching up: {tags} tags to go; requests go upstream"),
    }
}

impl FleetReport {
    async fn of(state: &AdminState) -> FleetReport {
        let cache = &state.running().cache;
        let roster = match cache.store_handle() {
            Some(store) => store.roster().await.ok(),
            None => None,
        };
        // After the request, which may have failed.
        let (store, undelivered) = (state_of_store(cache.store_state()), cache.undelivered());
        let report = FleetReport::new(cache.fleet(), roster, store, undelivered, cache.now());
        FleetReport { mixed_rules: cache.bypasses().mixed(), bypasses: bypass::reports(state), ..report }
    }

    fn new(
        report: Option<FleetStatus>,
        roster: Option<Roster>,
        store: String,
        undelivered: usize,
        now: SystemTime,
    ) -> FleetReport {
        let this = report.as_ref().map(|report| report.id.clone());
        let last = report.as_ref().and_then(|report| aged(report.epoch.as_ref()?, report.synced?));
        FleetReport {
            mode: if report.is_some() { "shared" } else { "embedded" },
            store,
            undelivered,
            epoch: match &roster {
                Some(roster) => roster.stamp.map(|stamp| Epoch::new(&roster.state, Some(stamp), now)),
                None => last.map(|state| Epoch::new(&state, None, now)),
            },
            intents: roster.as_ref().map(|roster| Intents { pending: roster.intents, due: roster.due }),
            members: roster.map(|roster| member_reports(&roster.members, this.as_deref())),
            proxy: report.map(ProxyReport::from),
            mixed_rules: BTreeSet::new(),
            bypasses: Vec::new(),
        }
    }
}

/// A time span that the store reported some time ago, as it is now.
fn aged(state: &EpochState, ago: Duration) -> Option<EpochState> {
    Some(EpochState {
        age: state.age.checked_add(ago)?,
        floor_age: state.floor_age.checked_add(ago)?,
        ..state.clone()
    })
}

fn member_reports(members: &[Member], this: Option<&str>) -> Vec<MemberReport> {
    let own = members.iter().find(|member| Some(&*member.id) == this).map(|member| &*member.rules);
    let report = |member: &Member| MemberReport {
        id: member.id.to_string(),
        is_this: Some(&*member.id) == this,
        lease: text(member.lease),
        synced_seconds_ago: seconds(member.synced),
        applied: member.applied.map(Position::from),
        rules: match own {
            _ if member.rules.starts_with('(') => "unknown",
            Some(own) if own == member.rules => "same",
            _ => "other",
        },
    };
    let mut member_reports: Vec<MemberReport> = members.iter().map(report).collect();
    member_reports.sort_by(|one, other| one.id.cmp(&other.id));
    member_reports
}

impl From<FleetStatus> for ProxyReport {
    fn from(report: FleetStatus) -> ProxyReport {
        ProxyReport {
            id: report.id.into(),
            coherence: report.coherence.word(),
            lease: text(report.lease),
            lease_held: report.no_lease.is_none(),
            reason: report.no_lease.as_ref().map(NoLease::label),
            why: report.no_lease.as_ref().map(ToString::to_string),
            since_seconds: seconds(report.since),
            synced_seconds_ago: report.synced.map(seconds),
            // Whole milliseconds: more is not known.
            clock_ahead_seconds: (-(report.store_clock_ahead / 1000)) as f64 / 1000.0,
            applied: report.applied.map(Position::from),
        }
    }
}

impl From<Stamp> for Position {
    fn from(stamp: Stamp) -> Position {
        Position { epoch: stamp.epoch.0.to_string(), sequence: stamp.sequence }
    }
}

impl Epoch {
    fn new(state: &EpochState, at: Option<Stamp>, now: SystemTime) -> Epoch {
        let began = now.checked_sub(state.age).unwrap_or(SystemTime::UNIX_EPOCH);
        Epoch {
            at: at.map(Position::from),
            cause: state.cause.clone(),
            began: humantime::format_rfc3339_seconds(began.max(SystemTime::UNIX_EPOCH)).to_string(),
            age_seconds: seconds(state.age),
            floor: state.floor,
            floor_age_seconds: seconds(state.floor_age),
            marks: state.marks,
            longest_lease: text(state.longest_lease),
        }
    }
}

/// To the millisecond.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

fn text(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Coherence;
    use crate::marks;

    fn state() -> EpochState {
        let secs = Duration::from_secs;
        EpochState {
            age: secs(60),
            cause: "marks lost".to_owned(),
            longest_lease: secs(1),
            floor: 7,
            floor_age: secs(50),
            marks: 3,
        }
    }

    fn report(no_lease: Option<NoLease>) -> FleetStatus {
        FleetStatus {
            id: "p1".into(),
            coherence: Coherence::Lease,
            lease: Duration::from_secs(1),
            no_lease,
            since: Duration::from_millis(1500),
            applied: Some(at(9)),
            epoch: Some(state()),
            synced: Some(Duration::from_secs(5)),
            store_clock_ahead: -3_600_500_900,
            longest_lease: Duration::from_secs(1),
        }
    }

    fn at(sequence: u64) -> Stamp {
        Stamp { epoch: marks::Epoch(u64::MAX), sequence }
    }

    #[test]
    fn the_fleet_is_told_whole() {
        let member = |id: &str, applied, rules: &str| Member {
            id: id.into(),
            lease: Duration::from_secs(1),
            synced: Duration::from_millis(250),
            applied,
            learned: 1,
            rules: rules.to_owned(),
        };
        let members =
            vec![member("p2", None, "a"), member("p1", Some(at(9)), "a b"), member("p3", None, "(unknown)")];
        let roster = Roster { stamp: Some(at(9)), state: state(), members, intents: 4, due: 1, revision: 1 };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let told = FleetReport::new(Some(report(None)), Some(roster), "up".to_owned(), 0, now);
        let stamp = json!({ "epoch": "18446744073709551615", "sequence": 9 });
        let listed = |id: &str, rules: &str, applied: serde_json::Value| {
            let is_this = id == "p1";
            json!({
                "id": id, "is_this": is_this, "lease": "1s", "synced_seconds_ago": 0.25, "applied": applied, "rules": rules,
            })
        };
        let expected = json!({
            "mode": "shared",
            "store": "up",
            "undelivered": 0,
            "proxy": {
                "id": "p1", "coherence": "lease", "lease": "1s", "lease_held": true, "reason": null, "why": null,
                "since_seconds": 1.5, "synced_seconds_ago": 5.0, "clock_ahead_seconds": 3600.5,
                "applied": stamp,
            },
            "epoch": {
                "at": stamp, "cause": "marks lost", "began": "1970-01-01T00:00:40Z", "age_seconds": 60.0,
                "floor": 7, "floor_age_seconds": 50.0, "marks": 3, "longest_lease": "1s",
            },
            "intents": { "pending": 4, "due": 1 },
            "members": [
                listed("p1", "same", stamp.clone()), listed("p2", "other", json!(null)), listed("p3", "unknown", json!(null)),
            ],
            "mixed_rules": [],
            "bypasses": [],
        });
        assert_eq!(serde_json::to_value(told).unwrap(), expected);
    }

    #[test]
    fn while_the_store_is_away_the_last_sync_is_told() {
        let no_lease = Some(NoLease::StoreAway("Redis is away: gone".to_owned()));
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let told = FleetReport::new(Some(report(no_lease)), None, "down".to_owned(), 2, now);
        let told = serde_json::to_value(told).unwrap();
        assert_eq!(
            (&told["proxy"]["lease_held"], &told["proxy"]["reason"]),
            (&json!(false), &json!("store-away"))
        );
        assert_eq!(told["proxy"]["why"], json!("Redis is away: gone"));
        assert_eq!((&told["epoch"]["age_seconds"], &told["epoch"]["at"]), (&json!(65.0), &json!(null)));
        assert_eq!((&told["members"], &told["undelivered"]), (&json!(null), &json!(2)));
    }
}
