//! The faults, and when they occur. A seed chooses some kinds; each fault ends by itself after a while, and all end before the
//! last part of a run.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::Rng;
use tokio::time::sleep;

use super::aside::Aside;
use super::proxy::{Proxy, Settings, Site, Target, Write};
use super::server::{Memory, Part};
use super::store::{Conduct, Link};
use super::world::World;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Slow,
    RequestsLost,
    RepliesLost,
    Stalled,
    Cut,
    Frozen,
    Killed,
    Left,
    Replaced,
    Saved,
    Restarted,
    Restored,
    RestartedEmpty,
    Flushed,
    MetaLost,
    MarksLost,
    MembersLost,
    IntentsLost,
    IntentTagsLost,
    GracesLost,
    RegistryLost,
    AllCoordinationLost,
    Evicted,
    Deposed,
    ReplicaAway,
    ServerAway,
    ServerHung,
    ClockBack,
    ClockForward,
    WallClockSet,
    MessagesLost,
    MessagesRepeated,
    MessagesLate,
    /// A proxy is stopped for longer than its lease, until an outage for all proxies has begun.
    FrozenBefore,
    /// In an outage for all proxies one of them gives up a sync, which the server carries out as soon as it is back, and takes a write
    /// that it delivers later.
    SyncLeftBehind,
    /// An epoch begins while the proxies that hold leases are away, and a new proxy takes writes in it.
    EpochUnseen,
}

impl Kind {
    /// The kinds that any run may have, without those of arranged scenarios.
    pub const ALL: [Kind; 33] = [
        Kind::Slow,
        Kind::RequestsLost,
        Kind::RepliesLost,
        Kind::Stalled,
        Kind::Cut,
        Kind::Frozen,
        Kind::Killed,
        Kind::Left,
        Kind::Replaced,
        Kind::Saved,
        Kind::Restarted,
        Kind::Restored,
        Kind::RestartedEmpty,
        Kind::Flushed,
        Kind::MetaLost,
        Kind::MarksLost,
        Kind::MembersLost,
        Kind::IntentsLost,
        Kind::IntentTagsLost,
        Kind::GracesLost,
        Kind::RegistryLost,
        Kind::AllCoordinationLost,
        Kind::Evicted,
        Kind::Deposed,
        Kind::ReplicaAway,
        Kind::ServerAway,
        Kind::ServerHung,
        Kind::ClockBack,
        Kind::ClockForward,
        Kind::WallClockSet,
        Kind::MessagesLost,
        Kind::MessagesRepeated,
        Kind::MessagesLate,
    ];

    /// Whether it needs a store that waits for a replica.
    pub fn needs_proof(self) -> bool {
        matches!(self, Kind::Deposed | Kind::ReplicaAway)
    }

    /// Whether the store may forget an intent, or take it for due before its write has ended.
    pub fn endangers_intents(self) -> bool {
        use Kind::*;
        matches!(
            self,
            Restored
                | RestartedEmpty
                | Flushed
                | IntentsLost
                | AllCoordinationLost
                | ClockForward
                | ClockBack
                | Deposed
        )
    }
}

/// The scenario of a seed: kinds of faults that do most harm together, and the clients and settings that some of them need to do harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// With any other kinds.
    Mixed(&'static [Kind]),
    /// Outages for all proxies, with few other faults beside them.
    OutageForAll,
    /// More writes between two syncs than the store keeps marks of, with nudges lost.
    DenseWrites,
    /// Soft writes in a row, with reads so rare that no proxy refetches within a grace.
    SoftWrites,
    /// Epochs that begin while the proxies that hold leases are away.
    EpochUnseen,
    /// Outages for all proxies, at whose end a sync is carried out late.
    SyncLeftBehind,
}

/// Whether a seed has an arranged scenario: five in 25 have. The runs of the other seeds stay as they were, so that recorded seeds stay
/// valid.
pub fn is_arranged(seed: u64) -> bool {
    matches!(seed % 25, 3 | 13 | 18 | 21 | 23)
}

impl Scenario {
    const ANY: [Scenario; 12] = [
        Scenario::Mixed(&[]),
        Scenario::Mixed(&[Kind::Slow, Kind::Flushed, Kind::MarksLost]),
        Scenario::Mixed(&[Kind::Left, Kind::Slow, Kind::MessagesLost]),
        Scenario::Mixed(&[Kind::MembersLost, Kind::MessagesLost]),
        Scenario::Mixed(&[Kind::MessagesLost, Kind::Slow, Kind::Stalled]),
        Scenario::Mixed(&[Kind::Saved, Kind::Restored, Kind::MessagesLost]),
        Scenario::Mixed(&[Kind::Killed, Kind::Frozen, Kind::RepliesLost]),
        Scenario::Mixed(&[Kind::MarksLost, Kind::Cut, Kind::MessagesLate]),
        Scenario::Mixed(&[Kind::Deposed, Kind::ReplicaAway, Kind::Saved]),
        Scenario::Mixed(&[Kind::Deposed, Kind::Slow, Kind::MessagesLost]),
        Scenario::Mixed(&[Kind::WallClockSet, Kind::MessagesLost, Kind::RepliesLost]),
        Scenario::OutageForAll,
    ];

    /// Scenarios that seldom show something are listed more than once.
    const ARRANGED: [Scenario; 8] = [
        Scenario::OutageForAll,
        Scenario::OutageForAll,
        Scenario::OutageForAll,
        Scenario::OutageForAll,
        Scenario::OutageForAll,
        Scenario::DenseWrites,
        Scenario::SoftWrites,
        Scenario::EpochUnseen,
    ];

    /// The scenario of a seed.
    pub fn of(seed: u64, world: &World) -> Scenario {
        match seed % 25 {
            21 => Scenario::SyncLeftBehind,
            _ if is_arranged(seed) => *world.pick(&Scenario::ARRANGED),
            _ => *world.pick(&Scenario::ANY),
        }
    }

    pub fn kinds(self) -> &'static [Kind] {
        match self {
            Scenario::Mixed(kinds) => kinds,
            Scenario::OutageForAll => &[
                Kind::ServerAway,
                Kind::ServerHung,
                Kind::ServerHung,
                Kind::WallClockSet,
                Kind::Replaced,
                Kind::FrozenBefore,
            ],
            Scenario::DenseWrites => &[Kind::MessagesLost, Kind::MessagesLate, Kind::Cut],
            Scenario::SoftWrites => &[],
            Scenario::EpochUnseen => &[Kind::EpochUnseen],
            Scenario::SyncLeftBehind => &[Kind::ServerHung, Kind::SyncLeftBehind],
        }
    }

    /// Whether kinds of faults that it does not name may come with it.
    pub fn is_mixed(self) -> bool {
        matches!(self, Scenario::Mixed(_))
    }
}

/// The fleet: a fixed number of places. A proxy that ends leaves its place to a new one.
pub struct Fleet {
    site: Arc<Site>,
    places: Vec<Mutex<Option<Arc<Proxy>>>>,
}

impl Fleet {
    pub fn start(site: &Arc<Site>, proxies: usize) -> Arc<Fleet> {
        let fleet = Fleet { site: Arc::clone(site), places: (0..proxies).map(|_| Mutex::new(None)).collect() };
        (0..proxies).for_each(|place| fleet.fill(place));
        Arc::new(fleet)
    }

    pub fn proxy(&self, place: usize) -> Option<Arc<Proxy>> {
        self.places[place].lock().unwrap().clone()
    }

    pub fn places(&self) -> usize {
        self.places.len()
    }

    pub fn any(&self, world: &World) -> Option<Arc<Proxy>> {
        self.proxy(world.draw(|chance| chance.random_range(0..self.places.len())))
    }

    pub fn all(&self) -> Vec<Arc<Proxy>> {
        (0..self.places.len()).filter_map(|place| self.proxy(place)).collect()
    }

    /// A new process in an empty place.
    fn fill(&self, place: usize) {
        let mut place_of = self.places[place].lock().unwrap();
        if place_of.is_none() {
            let name = format!("p{place}.{}", self.site.world.number());
            *place_of = Some(Proxy::start(&self.site, name));
        }
    }

    fn empty(&self, place: usize) -> Option<Arc<Proxy>> {
        let proxy = self.places[place].lock().unwrap().take()?;
        for (what, counter) in [
            ("carried out", &proxy.metrics.intents_carried_out),
            ("members expelled", &proxy.metrics.members_expelled),
            ("repeated", &proxy.metrics.invalidations_repeated),
        ] {
            self.site.world.count_many(what, counter.get());
        }
        Some(proxy)
    }

    /// Kills all proxies, and adds their metrics to the counts.
    pub fn end(&self) {
        (0..self.places.len()).filter_map(|place| self.empty(place)).for_each(|proxy| proxy.kill());
    }
}

/// Injects the faults of a run.
pub struct Chaos {
    world: Arc<World>,
    fleet: Arc<Fleet>,
    kinds: Vec<Kind>,
    is_away_for_all: bool,
}

/// Of the outages that all proxies notice, milliseconds.
const LONGEST_OUTAGE: u64 = 2500;

/// Of commands after an outage, milliseconds.
const SLOW_RETURN: u64 = 100;

impl Chaos {
    pub fn new(world: &Arc<World>, fleet: &Arc<Fleet>, kinds: Vec<Kind>) -> Chaos {
        let is_away_for_all = fleet.site.settings.is_away_for_all;
        world.have_clock_go_back(kinds.contains(&Kind::ClockBack));
        Chaos { world: Arc::clone(world), fleet: Arc::clone(fleet), kinds, is_away_for_all }
    }

    /// One fault after another.
    pub async fn inject(&self, pause: u64) {
        // An outage in a young epoch is one of its own kind.
        if self.is_away_for_all && self.world.happens(0.7) {
            self.recover().await;
        }
        loop {
            sleep(self.world.millis(pause / 4, pause)).await;
            let kind = *self.world.pick(&self.kinds);
            let is_outage = matches!(kind, Kind::ServerAway | Kind::ServerHung);
            if self.is_away_for_all && is_outage {
                self.have_outage(kind).await;
                continue;
            }
            let lasts = self.world.millis(20, 1200);
            self.world.tell(|| format!("fault: {kind:?} for {lasts:?}"));
            self.happen(kind, lasts);
        }
    }

    /// An outage for all proxies. The next one does not begin while this one ends, and as a rule not before all proxies have hits again: a
    /// proxy that trusts nothing stored cannot serve anything old.
    async fn have_outage(&self, kind: Kind) {
        let mut late = None;
        let mut kind = kind;
        if self.kinds.contains(&Kind::FrozenBefore) && self.world.happens(0.5) {
            late = self.freeze_before().await;
            // A proxy that continues in it has to notice at once.
            kind = Kind::ServerAway;
        }
        let lease = self.fleet.site.settings.lease.as_millis() as u64;
        let least = if self.world.happens(0.8) { lease + 500 } else { 600 };
        let lasts = self.world.millis(least, LONGEST_OUTAGE);
        self.world.tell(|| format!("fault: {kind:?} for all proxies, for {lasts:?}"));
        self.happen(kind, lasts);
        if self.kinds.contains(&Kind::SyncLeftBehind) {
            late = self.leave_sync_behind();
        }
        let before = self.world.millis(0, lasts.as_millis() as u64);
        sleep(before).await;
        if self.kinds.contains(&Kind::Replaced) && self.world.happens(0.4) {
            self.world.tell(|| "fault: Replaced in the outage".to_owned());
            self.happen(Kind::Replaced, lasts);
        }
        sleep(lasts - before).await;
        self.return_slowly(late.as_deref());
        if self.world.happens(0.7) {
            self.recover().await;
        }
    }

    /// Waits as long as proxies take to have hits again after an outage.
    async fn recover(&self) {
        let Settings { lease, limit, .. } = self.fleet.site.settings;
        sleep(lease + limit * 2 + Duration::from_millis(600)).await;
    }

    /// When the server is back, the commands of some proxies take longer than those of others. `late` is one of them.
    fn return_slowly(&self, late: Option<&Proxy>) {
        for link in self.world.links() {
            let is_late = late.is_some_and(|late| Arc::ptr_eq(&late.link, &link));
            let slowness = if is_late { SLOW_RETURN } else { *self.world.pick(&[2, 2, SLOW_RETURN]) };
            link.behave(|conduct| conduct.slowness = slowness);
            tokio::spawn(async move {
                sleep(Duration::from_millis(400)).await;
                link.behave(|conduct| {
                    let Conduct { slowness, late, latest, .. } = Conduct::GOOD;
                    (conduct.slowness, conduct.late, conduct.latest) = (slowness, late, latest);
                });
            });
        }
    }

    /// One proxy is stopped until an outage has begun: long enough for a waiting write to expel it, and too short for it to notice that it is
    /// no member any more.
    async fn freeze_before(&self) -> Option<Arc<Proxy>> {
        let proxy = self.fleet.any(&self.world)?;
        let lasts = self.fleet.site.settings.lease + self.world.millis(150, 300);
        self.world.tell(|| format!("fault: {} is frozen for {lasts:?}, until an outage begins", proxy.name()));
        self.world.count("frozen before an outage");
        proxy.freeze(true);
        if let Some(other) = self.fleet.all().into_iter().find(|other| !Arc::ptr_eq(other, &proxy)) {
            tokio::spawn(other.write(Write::hard(Target::One(0))));
        }
        let frozen = Arc::clone(&proxy);
        tokio::spawn(async move {
            sleep(lasts + Duration::from_millis(20)).await;
            frozen.freeze(false);
        });
        sleep(lasts).await;
        Some(proxy)
    }

    /// One proxy gives up what it has sent to a server that hangs, after it had time for a sync, and takes a write.
    fn leave_sync_behind(&self) -> Option<Arc<Proxy>> {
        let proxy = self.fleet.any(&self.world)?;
        self.world.tell(|| format!("fault: {} leaves a sync behind", proxy.name()));
        self.world.count("sync left behind");
        proxy.link.behave(|conduct| (conduct.late, conduct.latest) = (1.0, 10));
        let (gives_up, one) = (Arc::clone(&proxy), Arc::clone(&proxy));
        let after = self.fleet.site.settings.lease / 4;
        tokio::spawn(async move {
            sleep(after).await;
            gives_up.link.part("it does not answer");
            one.write(Write::hard(Target::One(0))).await;
        });
        Some(proxy)
    }

    /// Waits until each outage for all proxies has ended by itself.
    pub async fn outlast(&self) {
        if self.is_away_for_all {
            sleep(Duration::from_millis(LONGEST_OUTAGE)).await;
        }
    }

    /// Ends all faults.
    pub fn end(&self) {
        self.world.tell(|| "all faults end".to_owned());
        self.world.mend_clock();
        self.world.have_all_behave(|conduct| {
            *conduct = Conduct { dead: conduct.dead, cut: conduct.dead, ..Conduct::GOOD }
        });
        self.world.have_clock_go_back(false);
        self.retire();
        for link in self.world.links() {
            link.behave(|conduct| *conduct = Conduct { dead: conduct.dead, cut: conduct.dead, ..Conduct::GOOD });
            link.connect_later();
        }
        for place in 0..self.fleet.places.len() {
            if self.fleet.proxy(place).is_some_and(|proxy| proxy.has_left()) {
                self.fleet.empty(place).iter().for_each(|proxy| proxy.kill());
            }
            self.fleet.fill(place);
        }
        self.fleet.all().iter().for_each(|proxy| proxy.freeze(false));
    }

    fn happen(&self, kind: Kind, lasts: Duration) {
        match kind {
            Kind::Frozen => self.freeze(lasts),
            // See `have_outage`.
            Kind::FrozenBefore | Kind::SyncLeftBehind => {}
            Kind::EpochUnseen => self.begin_unseen(lasts),
            Kind::Killed | Kind::Left => {
                let place = self.world.draw(|chance| chance.random_range(0..self.fleet.places.len()));
                self.depart(kind, place, lasts);
            }
            // The others continue, and know the marks that this one knows.
            Kind::Replaced => self.depart(kind, 0, lasts / 8),
            Kind::ClockBack | Kind::ClockForward => {
                let by = self.world.draw(|chance| chance.random_range(1..3_000_000));
                self.world.set_clock(if kind == Kind::ClockBack { -by } else { by });
            }
            Kind::ServerAway => self.away(lasts),
            Kind::ServerHung => self.hang(lasts),
            Kind::WallClockSet => self.set_wall_clock(),
            Kind::Deposed => self.depose(lasts),
            Kind::ReplicaAway => self.lose_replica(lasts),
            Kind::Saved | Kind::Restarted | Kind::Restored | Kind::RestartedEmpty => self.restart(kind),
            Kind::Slow
            | Kind::RequestsLost
            | Kind::RepliesLost
            | Kind::Stalled
            | Kind::Cut
            | Kind::MessagesLost
            | Kind::MessagesRepeated
            | Kind::MessagesLate => self.disturb(kind, lasts),
            Kind::Flushed
            | Kind::MetaLost
            | Kind::MarksLost
            | Kind::MembersLost
            | Kind::IntentsLost
            | Kind::IntentTagsLost
            | Kind::GracesLost
            | Kind::RegistryLost
            | Kind::AllCoordinationLost
            | Kind::Evicted => self.lose(kind),
        }
    }

    fn freeze(&self, lasts: Duration) {
        let Some(proxy) = self.fleet.any(&self.world) else { return };
        proxy.freeze(true);
        tokio::spawn(async move {
            sleep(lasts).await;
            proxy.freeze(false);
        });
    }

    /// A proxy is killed or leaves, and another takes its place. One that leaves gets requests until it has ended.
    fn depart(&self, kind: Kind, place: usize, lasts: Duration) {
        let fleet = Arc::clone(&self.fleet);
        tokio::spawn(async move {
            if kind == Kind::Left {
                let Some(proxy) = fleet.proxy(place) else { return };
                Arc::clone(&proxy).leave().await;
                sleep(lasts).await;
                // Another may have its place by now.
                if !fleet.proxy(place).is_some_and(|there| Arc::ptr_eq(&there, &proxy)) {
                    return;
                }
            }
            let Some(proxy) = fleet.empty(place) else { return };
            proxy.kill();
            drop(proxy);
            sleep(lasts).await;
            fleet.fill(place);
        });
    }

    /// Members are lost while all proxies with leases are away, and the first proxy that notices is a new one, which has seen no other epoch. It
    /// gets writes at once.
    fn begin_unseen(&self, lasts: Duration) {
        let lost = *self.world.pick(&[Kind::MembersLost, Kind::AllCoordinationLost, Kind::Flushed]);
        let links = self.world.links();
        for link in &links {
            link.behave(|conduct| conduct.stalled = true);
        }
        self.lose(lost);
        if let Some(proxy) = self.fleet.empty(0) {
            proxy.kill();
        }
        self.fleet.fill(0);
        if let Some(newcomer) = self.fleet.proxy(0) {
            for register in 0..self.fleet.site.registers {
                let write = Write::hard(Target::One(register));
                tokio::spawn(Arc::clone(&newcomer).write(write));
            }
        }
        self.world.count("epoch unseen");
        tokio::spawn(async move {
            sleep(lasts).await;
            for link in links {
                link.behave(|conduct| conduct.stalled = false);
            }
        });
    }

    /// No proxy reaches the server.
    fn away(&self, lasts: Duration) {
        self.world.have_all_behave(|conduct| conduct.cut = true);
        let world = Arc::clone(&self.world);
        tokio::spawn(async move {
            sleep(lasts).await;
            world.have_all_behave(|conduct| conduct.cut = conduct.dead);
            world.links().iter().for_each(Link::connect_later);
        });
    }

    /// No proxy gets an answer; the server carries out what was sent when it goes on.
    fn hang(&self, lasts: Duration) {
        self.world.have_all_behave(|conduct| conduct.stalled = true);
        let links = if self.is_away_for_all { self.world.links() } else { vec![] };
        // Some proxies notice sooner than others, and have sent commands by then.
        for link in links {
            let latest = *self.world.pick(&[10, 10, Conduct::GOOD.latest]);
            link.behave(|conduct| conduct.latest = latest);
            if self.world.happens(0.8) {
                let notices = self.world.millis(20, 150);
                tokio::spawn(async move {
                    sleep(notices).await;
                    link.part("it does not answer");
                });
            }
        }
        let world = Arc::clone(&self.world);
        tokio::spawn(async move {
            sleep(lasts).await;
            world.have_all_behave(|conduct| conduct.stalled = false);
        });
    }

    /// One machine's wall clock is set, or the machine was suspended.
    fn set_wall_clock(&self) {
        let by = self.world.draw(|chance| chance.random_range(-3_000_000..3_000_000));
        let Some(proxy) = self.fleet.any(&self.world) else { return };
        proxy.set_wall_clock(by);
        self.world.count("wall clock set");
    }

    fn restart(&self, kind: Kind) {
        let with = match kind {
            Kind::Saved => return self.world.server().save(),
            Kind::Restored => Memory::Snapshot,
            Kind::RestartedEmpty => Memory::Nothing,
            _ => Memory::Everything,
        };
        if matches!(with, Memory::Nothing) {
            *self.world.aside.lock().unwrap() = Aside::default();
        }
        let run = self.world.draw(Rng::random);
        let before = self.world.server().run;
        self.world.server().restart(run, with);
        if self.world.is_followed(before) {
            self.world.have_replica_follow(Some(run));
        }
        for link in self.world.links().into_iter().filter(|link| link.run() == Some(before)) {
            link.part("the server is another");
            link.connect_later();
        }
    }

    /// A replica becomes the primary, with the present data or with those of long before, and some proxies do not notice. The other replica
    /// follows the former primary for a while.
    fn depose(&self, lasts: Duration) {
        if self.world.deposed().is_some() {
            return;
        }
        let run = self.world.draw(Rng::random);
        let before = self.world.server().run;
        let with = *self.world.pick(&[Memory::Everything, Memory::Snapshot]);
        let share = *self.world.pick(&[0.3, 0.6]);
        self.world.depose(run, with);
        self.world.count("deposed");
        for link in self.world.links() {
            let is_behind = self.world.happens(share);
            link.behave(|conduct| conduct.behind = is_behind);
            if !is_behind && link.run() == Some(before) {
                link.part("another server is the primary");
                link.connect_later();
            }
        }
        let (world, followed_for) = (Arc::clone(&self.world), self.world.millis(0, lasts.as_millis() as u64));
        tokio::spawn(async move {
            sleep(followed_for).await;
            if world.is_followed(before) {
                world.have_replica_follow(Some(run));
            }
        });
        let world = Arc::clone(&self.world);
        tokio::spawn(async move {
            sleep(lasts).await;
            if world.deposed() == Some(before) {
                retire(&world);
            }
        });
    }

    fn lose_replica(&self, lasts: Duration) {
        self.world.have_replica_follow(None);
        let world = Arc::clone(&self.world);
        tokio::spawn(async move {
            sleep(lasts).await;
            if world.has_no_follower() {
                let present = world.server().run;
                world.have_replica_follow(Some(present));
            }
        });
    }

    fn retire(&self) {
        retire(&self.world);
        let present = self.world.server().run;
        self.world.have_replica_follow(Some(present));
    }

    fn disturb(&self, kind: Kind, lasts: Duration) {
        let links = self.world.links();
        let share_of_links = *self.world.pick(&[0.4, 1.0]);
        for link in links {
            if self.world.happens(share_of_links) {
                self.disturb_link(link, kind, lasts);
            }
        }
    }

    fn disturb_link(&self, link: Arc<Link>, kind: Kind, lasts: Duration) {
        let share = *self.world.pick(&[0.1, 0.5, 1.0]);
        let slowness = *self.world.pick(&[15, 50, 150]);
        link.behave(|conduct| match kind {
            Kind::Slow => conduct.slowness = slowness,
            Kind::RequestsLost => conduct.requests_lost = share,
            Kind::RepliesLost => conduct.replies_lost = share,
            Kind::Stalled => conduct.stalled = true,
            Kind::Cut => conduct.cut = true,
            Kind::MessagesLost => conduct.messages_lost = share,
            Kind::MessagesRepeated => conduct.messages_repeated = share,
            _ => conduct.message_slowness = 800,
        });
        tokio::spawn(async move {
            sleep(lasts).await;
            link.behave(|conduct| *conduct = Conduct { dead: conduct.dead, cut: conduct.dead, ..Conduct::GOOD });
            link.connect_later();
        });
    }

    fn lose(&self, kind: Kind) {
        let place = self.world.draw(|chance| chance.random_range(0..4));
        let mut server = self.world.server();
        match kind {
            Kind::Flushed => {
                server.flush();
                *self.world.aside.lock().unwrap() = Aside::default();
            }
            Kind::MetaLost => server.lose(Part::Meta),
            Kind::MarksLost => server.lose(Part::Marks),
            Kind::MembersLost => server.lose(Part::Members),
            Kind::IntentsLost => server.lose(Part::Intents),
            Kind::IntentTagsLost => server.lose(Part::IntentTags),
            Kind::GracesLost => server.lose(Part::Graces),
            Kind::RegistryLost => server.lose(Part::Registry),
            Kind::AllCoordinationLost => {
                [Part::Meta, Part::Marks, Part::Members, Part::Intents, Part::Registry]
                    .into_iter()
                    .for_each(|part| server.lose(part));
            }
            _ => server.evict(place),
        }
    }
}

/// No proxy takes the deposed server for the primary any more.
fn retire(world: &Arc<World>) {
    let Some(run) = world.deposed() else { return };
    world.retire();
    for link in world.links() {
        link.behave(|conduct| conduct.behind = false);
        if link.run() == Some(run) {
            link.part("the server was deposed");
            link.connect_later();
        }
    }
}
