//! What goes wrong, and when. A seed chooses some kinds of faults; each goes by itself after a while, and in the end all
//! of them do.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::Rng;
use tokio::time::sleep;

use super::proxy::{Proxy, Site};
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
}

impl Kind {
    pub const ALL: [Kind; 32] = [
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

    /// Kinds that do most harm together.
    pub const THEMES: [&[Kind]; 12] = [
        &[],
        &[Kind::Slow, Kind::Flushed, Kind::MarksLost],
        &[Kind::Left, Kind::Slow, Kind::MessagesLost],
        &[Kind::MembersLost, Kind::MessagesLost],
        &[Kind::MessagesLost, Kind::Slow, Kind::Stalled],
        &[Kind::Saved, Kind::Restored, Kind::MessagesLost],
        &[Kind::Killed, Kind::Frozen, Kind::RepliesLost],
        &[Kind::MarksLost, Kind::Cut, Kind::MessagesLate],
        &[Kind::Deposed, Kind::ReplicaAway, Kind::Saved],
        &[Kind::Deposed, Kind::Slow, Kind::MessagesLost],
        &[Kind::WallClockSet, Kind::MessagesLost, Kind::RepliesLost],
        Kind::FOR_ALL,
    ];

    /// Outages that everybody has, with few other faults beside them.
    pub const FOR_ALL: &[Kind] = &[Kind::ServerAway, Kind::ServerHung, Kind::WallClockSet, Kind::Replaced];

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

/// The fleet: proxies come and go, places stay.
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

    /// All counted, nobody left.
    pub fn end(&self) {
        (0..self.places.len()).filter_map(|place| self.empty(place)).for_each(|proxy| proxy.kill());
    }
}

/// Lets faults happen.
pub struct Chaos {
    world: Arc<World>,
    fleet: Arc<Fleet>,
    kinds: Vec<Kind>,
    is_away_for_all: bool,
}

/// Of the outages that everybody has and notices, milliseconds.
const LONGEST_OUTAGE: u64 = 2500;

impl Chaos {
    pub fn new(world: &Arc<World>, fleet: &Arc<Fleet>, kinds: Vec<Kind>) -> Chaos {
        let is_away_for_all = fleet.site.settings.is_away_for_all;
        world.have_clock_go_back(kinds.contains(&Kind::ClockBack));
        Chaos { world: Arc::clone(world), fleet: Arc::clone(fleet), kinds, is_away_for_all }
    }

    /// One fault after another.
    pub async fn reign(&self, pause: u64) {
        loop {
            sleep(self.world.millis(pause / 4, pause)).await;
            let kind = *self.world.pick(&self.kinds);
            let is_outage = matches!(kind, Kind::ServerAway | Kind::ServerHung);
            let is_for_all = self.is_away_for_all && is_outage;
            let lasts =
                if is_for_all { self.world.millis(600, LONGEST_OUTAGE) } else { self.world.millis(20, 1200) };
            self.world.tell(|| format!("fault: {kind:?} for {lasts:?}"));
            self.happen(kind, lasts);
            if is_for_all {
                if self.kinds.contains(&Kind::Replaced) && self.world.happens(0.4) {
                    let before = self.world.millis(0, lasts.as_millis() as u64);
                    sleep(before).await;
                    self.world.tell(|| "fault: Replaced in the outage".to_owned());
                    self.happen(Kind::Replaced, lasts);
                    sleep(lasts - before).await;
                } else {
                    // The next one does not begin while this one ends.
                    sleep(lasts).await;
                }
            }
        }
    }

    /// Until each outage that everybody has has ended by itself.
    pub async fn outlast(&self) {
        if self.is_away_for_all {
            sleep(Duration::from_millis(LONGEST_OUTAGE)).await;
        }
    }

    /// All is well again.
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
            Kind::Killed | Kind::Left => {
                let place = self.world.draw(|chance| chance.random_range(0..self.fleet.places.len()));
                self.depart(kind, place, lasts);
            }
            // The others go on, and have seen what this one has.
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

    /// A proxy goes, and another comes in its place. One that leaves may be asked to the end.
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

    /// Nobody reaches the server.
    fn away(&self, lasts: Duration) {
        self.world.have_all_behave(|conduct| conduct.cut = true);
        let world = Arc::clone(&self.world);
        tokio::spawn(async move {
            sleep(lasts).await;
            world.have_all_behave(|conduct| conduct.cut = conduct.dead);
            world.links().iter().for_each(Link::connect_later);
        });
    }

    /// Nobody gets an answer; what was sent is carried out when the server goes on.
    fn hang(&self, lasts: Duration) {
        self.world.have_all_behave(|conduct| conduct.stalled = true);
        let world = Arc::clone(&self.world);
        tokio::spawn(async move {
            sleep(lasts).await;
            world.have_all_behave(|conduct| conduct.stalled = false);
        });
    }

    /// One machine's wall clock: it was suspended, or somebody set it.
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

    /// A replica becomes the primary, as it was a moment ago or long before, and some proxies do not come to know. The other
    /// replica follows the one before for a while.
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
            if world.is_followed_by_nobody() {
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
            Kind::Flushed => server.flush(),
            Kind::MetaLost => server.lose(Part::Meta),
            Kind::MarksLost => server.lose(Part::Marks),
            Kind::MembersLost => server.lose(Part::Members),
            Kind::IntentsLost => server.lose(Part::Intents),
            Kind::IntentTagsLost => server.lose(Part::IntentTags),
            Kind::GracesLost => server.lose(Part::Graces),
            Kind::AllCoordinationLost => {
                [Part::Meta, Part::Marks, Part::Members, Part::Intents]
                    .into_iter()
                    .for_each(|part| server.lose(part));
            }
            _ => server.evict(place),
        }
    }
}

/// Nobody takes the deposed server for the primary any more.
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
