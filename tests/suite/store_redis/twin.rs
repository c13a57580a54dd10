//! The simulated store of `tests/simulation` against the scripts that it is a twin of: random calls, losses and restarts
//! get the same answers from both. Sequences and epochs are compared by their order, not by value.

use larder::store::fleet::{
    Again, EpochState, FleetBypass, Generation, Invalidated, Message, Registration, Registry, Roster, Synced,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

#[path = "../../simulation/server.rs"]
mod server;

use server::{CallerIdentity, Memory, Part, Server};

/// A grace, or the time until a repetition is due, that is over at the next step; and one that no test outlives.
const SHORT: Duration = Duration::from_micros(1);
const LONG: Duration = Duration::from_secs(3600);

/// What a step may take at most. Time is compared with this accuracy.
const STEP: Duration = Duration::from_secs(36);

/// What an answer is made of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    Epoch(u64),
    Sequence(u64),
    /// The number of a member's sync.
    Sync(u64),
    Text(String),
}

/// What one of the two has answered, and what it was asked with.
#[derive(Default)]
struct Side {
    items: Vec<Item>,
    stamps: Vec<Stamp>,
    holders: Vec<Holder>,
    generations: Vec<Generation>,
    /// Of the registry.
    revisions: Vec<u64>,
}

impl Side {
    fn stamp(&mut self, stamp: Stamp) {
        self.stamps.push(stamp);
        self.items.extend([Item::Epoch(stamp.epoch.0), Item::Sequence(stamp.sequence)]);
    }

    fn text(&mut self, text: impl Into<String>) {
        self.items.push(Item::Text(text.into()));
    }

    fn tags(&mut self, tags: &[Tag]) {
        tags.iter().for_each(|tag| self.text(tag.as_str()));
    }

    fn view(&mut self, view: MarksView) {
        self.stamp(view.stamp);
        self.items.push(Item::Sequence(view.newest));
        if let Some(soft) = view.soft {
            self.items.push(Item::Sequence(soft.newest));
            self.text(format!("soft, {}", length(soft.left)));
        }
    }

    fn state(&mut self, state: &EpochState) {
        self.text(format!("{} marks, longest lease {:?}", state.marks, state.longest_lease));
        self.text(format!("began: {}, {}", state.cause, length(state.age)));
        self.items.push(Item::Sequence(state.floor));
    }

    fn roster(&mut self, roster: &Roster) {
        roster.stamp.iter().for_each(|stamp| self.stamp(*stamp));
        self.state(&roster.state);
        let mut members = roster.members.clone();
        members.sort_by(|a, b| a.id.cmp(&b.id));
        for member in members {
            self.text(format!("{} with {:?}, {}", member.id, member.lease, length(member.synced)));
            member.applied.iter().for_each(|stamp| self.stamp(*stamp));
            self.text(format!("rules: {}, learned: {}", member.rules, member.learned > 0));
        }
        self.text(format!("{} intents, {} due", roster.intents, roster.due));
    }

    fn invalidated(&mut self, invalidated: Invalidated) {
        let Invalidated { taken, mut holders, epoch_age, longest_lease } = invalidated;
        self.text(format!("{}, longest lease {longest_lease:?}", length(epoch_age)));
        self.stamp(taken.stamp);
        self.items.push(Item::Sequence(taken.previous));
        self.items.extend(taken.latest.map(Item::Sequence));
        holders.sort_by(|a, b| a.id.cmp(&b.id));
        for holder in holders {
            self.text(format!("{} holds for {:?}", holder.id, holder.lease));
            self.items.push(Item::Sync(holder.syncs));
            self.holders.push(holder);
        }
    }

    fn synced(&mut self, synced: &Synced) {
        self.stamp(synced.stamp);
        self.text(if synced.marks.is_some() { "marks" } else { "no marks" });
        for (tag, sequence) in synced.marks.iter().flatten() {
            self.text(tag.as_str());
            self.items.push(Item::Sequence(*sequence));
        }
        for (soft, sequence) in &synced.soft {
            self.text(format!("{} soft, {}", soft.tag, length(soft.grace)));
            self.items.push(Item::Sequence(*sequence));
        }
        self.state(&synced.state);
        self.generation(synced.generation);
        let mut behind: Vec<&str> = synced.behind.iter().map(|holder| &*holder.id).collect();
        behind.sort_unstable();
        self.text(format!("{} others", synced.others));
        self.text(format!("behind: {behind:?}, unknown: {:?}", synced.unknown_proxies));
        self.generations.push(synced.generation);
        self.registry(&synced.registry);
        // Those that are due at the same time are told by name; times differ a little on both sides.
        let mut due = synced.due.clone();
        due.sort_by(|a, b| a.id.cmp(&b.id));
        for intent in &due {
            self.text(format!("due: {}", intent.id));
            self.tags(&intent.tags);
        }
    }

    fn registry(&mut self, registry: &Registry) {
        self.revisions.push(registry.revision);
        let Some(content) = &registry.content else { return self.text("the registry is as known") };
        let mut others = content.others.clone();
        others.sort_unstable();
        self.text(format!("rules of others: {others:?}, or before: {:?}", content.last));
        let mut bypasses: Vec<&str> = content.bypasses.iter().map(|bypass| &*bypass.family).collect();
        bypasses.sort_unstable();
        self.text(format!("{} have not learned; bypasses: {bypasses:?}", content.unlearned));
    }

    fn generation(&mut self, generation: Generation) {
        self.items.push(Item::Epoch(generation.epoch.0));
        self.text(format!("generation {}", generation.number));
    }

    fn message(&mut self, message: &Message) {
        match message {
            Message::Nudge { by, stamp, previous, tags } => {
                self.text(format!("nudge by {by}"));
                self.stamp(*stamp);
                self.items.push(Item::Sequence(*previous));
                self.text(format!("{tags:?}"));
            }
            Message::Applied { id, stamp } => {
                self.text(format!("applied by {id}"));
                self.stamp(*stamp);
            }
            Message::Raised(generation) | Message::Seen(generation) => self.generation(*generation),
            Message::Revised(_) => self.text("revised"),
            Message::Learned(_) => self.text("learned"),
            Message::Fetched { lock, stored } => self.text(format!("fetched {lock}: {stored}")),
        }
    }

    /// With sequences as their places in the order of all, and epochs in that of their coming.
    fn ranked(&self) -> Vec<Item> {
        let mut all = self.items.clone();
        all.sort_unstable();
        all.dedup();
        let place = |item: &Item| all.partition_point(|other| other < item) as u64;
        let [first_sequence, first_sync] = [Item::Sequence(0), Item::Sync(0)].map(|least| place(&least));
        let mut epochs = vec![];
        let rank = |item: &Item| match item {
            Item::Sequence(_) => Item::Sequence(place(item) - first_sequence),
            Item::Sync(_) => Item::Sync(place(item) - first_sync),
            Item::Epoch(epoch) => {
                let known = epochs.iter().position(|other| other == epoch).unwrap_or_else(|| {
                    epochs.push(*epoch);
                    epochs.len() - 1
                });
                Item::Epoch(known as u64)
            }
            Item::Text(text) => Item::Text(text.clone()),
        };
        self.items.iter().map(rank).collect()
    }
}

/// Of times that both measure by clocks of their own.
fn length(time: Duration) -> &'static str {
    if time < STEP { "short" } else { "long" }
}

/// Both of them, and chance.
struct Both {
    server: RedisServer,
    store: RedisStore,
    twin: Server,
    /// Of the twin; each call takes a millisecond.
    clock: u64,
    real: Side,
    simulated: Side,
    chance: StdRng,
    /// Repetitions that were recorded.
    repetitions: Vec<String>,
    /// How often time has passed.
    passed: u64,
}

const LEASES: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(60)];

const MARKS_MAX: u64 = 6;

impl Both {
    async fn start(seed: u64) -> Both {
        let server = RedisServer::start();
        let store = open(&StoreConfig { marks_max: MARKS_MAX, ..config(&server.url()) });
        store.connect_once().await.expect("the server is there");
        let (twin, chance) = (Server::new(1, MARKS_MAX as usize), StdRng::seed_from_u64(seed));
        let (real, simulated) = Default::default();
        let mut both = Both {
            server,
            store,
            twin,
            clock: 1_700_000_000_000_000,
            real,
            simulated,
            chance,
            repetitions: vec![],
            passed: 0,
        };
        // As every client that connects does.
        let caller = both.caller();
        both.twin.begin(&caller);
        both
    }

    fn caller(&mut self) -> CallerIdentity {
        self.clock += 1000;
        CallerIdentity { run: self.twin.run, candidate: self.clock, now: self.clock }
    }

    fn one_of<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.chance.random_range(0..from.len())].clone()
    }

    fn tags(&mut self) -> Vec<Tag> {
        let names = ["*", "user", "user:1", "user:2", "list", "uri:/x", "a\nb", "stats", "stats:9"];
        let count = self.one_of(&[0, 1, 1, 2, 3]);
        let mut tags: Vec<Tag> = (0..count).map(|_| Tag::family(self.one_of(&names))).collect();
        tags.sort();
        tags.dedup();
        tags
    }

    /// A place in what both were given before.
    fn place(&mut self, count: usize) -> Option<usize> {
        (count > 0).then(|| self.chance.random_range(0..count))
    }

    async fn step(&mut self) {
        match self.chance.random_range(0..100) {
            0..20 => self.view().await,
            20..43 => self.invalidate().await,
            43..45 => self.roster().await,
            45..70 => self.sync().await,
            70..80 => self.record().await,
            80..84 => self.forget().await,
            84..87 => self.expel().await,
            87..89 => self.dismiss().await,
            89..91 => self.leave().await,
            91 => self.keep().await,
            92 => self.set_bypass().await,
            93..94 => self.let_time_pass(),
            94..99 => self.lose(),
            _ => self.restart().await,
        }
    }

    async fn view(&mut self) {
        let (tags, caller) = (self.tags(), self.caller());
        self.real.view(self.store.view(&tags).await.unwrap());
        let graces = self.twin.graces(&tags, caller.now);
        let (before, scores) = (self.twin.sequence(), self.twin.scores(&tags, true));
        self.twin.touch();
        let view = self.twin.view_of(before, scores, &graces, self.twin.meta(), caller.run);
        self.simulated.view(view.unwrap_or_else(|| self.twin.begin(&caller)));
    }

    async fn invalidate(&mut self) {
        let (tags, caller) = (self.tags(), self.caller());
        let intent = self.one_of(&[None, None, Some("w1"), Some("w2"), Some("w3")]);
        let intent = intent.map(str::to_owned).or_else(|| self.a_repetition());
        let soft: Vec<SoftInvalidation> = match self.one_of(&[false, false, true]) {
            true => self.soft(&tags),
            false => vec![],
        };
        let again: Vec<Again> = match self.one_of(&[0, 0, 1, 2]) {
            0 => vec![],
            count => {
                [SHORT, LONG][..count].iter().map(|after| Again { after: *after, tags: self.tags() }).collect()
            }
        };
        let by = self.one_of(&["", "p1", "p2", "p3"]);
        let watched = self.tags();
        let cause =
            Cause { by, intent: intent.as_deref(), soft: &soft, again: &again, watched: &watched, record: "" };
        self.repetitions.extend(again.iter().map(|again| again.id().to_string()));
        self.real.invalidated(self.store.invalidate(&tags, &cause).await.unwrap());
        self.simulated.invalidated(self.twin.invalidate(&tags, &cause, &caller));
    }

    /// Tags that are not invalidated, with graces.
    fn soft(&mut self, hard: &[Tag]) -> Vec<SoftInvalidation> {
        let tags = self.tags().into_iter().filter(|tag| !hard.contains(tag));
        tags.collect::<Vec<_>>()
            .into_iter()
            .map(|tag| SoftInvalidation { tag, grace: self.one_of(&[SHORT, LONG, LONG * 2]) })
            .collect()
    }

    /// One that may be carried out now and then.
    fn a_repetition(&mut self) -> Option<String> {
        let place = self.place(self.repetitions.len())?;
        self.one_of(&[false, false, true]).then(|| self.repetitions[place].clone())
    }

    async fn roster(&mut self) {
        let caller = self.caller();
        self.real.roster(&self.store.roster().await.unwrap());
        self.simulated.roster(&self.twin.roster(&caller));
    }

    /// A long time: every time that was kept is over.
    fn let_time_pass(&mut self) {
        let ended: Vec<String> = self.server.run(&["HKEYS", "{test}:graces"]);
        for tag in ended {
            self.server.run::<()>(&["HSET", "{test}:graces", &tag, "1"]);
        }
        let due: Vec<String> = self.server.run(&["ZRANGEBYSCORE", "{test}:intents", "-inf", "(+inf"]);
        for intent in due {
            self.server.run::<()>(&["ZADD", "{test}:intents", "1", &intent]);
        }
        for field in ["lease_at", "born", "last_sync"] {
            if self.server.run::<bool>(&["HEXISTS", "{test}:meta", field]) {
                self.server.run::<()>(&["HSET", "{test}:meta", field, "1"]);
            }
        }
        self.twin.outlive_everything();
        self.passed += 1;
    }

    async fn sync(&mut self) {
        let caller = self.caller();
        let (id, lease) = (self.one_of(&["p1", "p2", "p3"]), self.one_of(&LEASES));
        let applied = self.place(self.real.stamps.len());
        let seen = self.place(self.real.generations.len());
        let (serves_memory, asks_who_is_behind) = (self.one_of(&[true, true, false]), self.one_of(&[true, false]));
        let learned = self.place(self.real.revisions.len());
        let (number, rules) = (self.one_of(&[1, 1, 2]), self.one_of(&["", "aa", "aa bb"]));
        let (is_settled, asks) = (self.one_of(&[true, false]), self.one_of(&[true, false, false]));
        let registration = |side: &Side| Registration {
            number,
            rules: rules.into(),
            is_settled,
            learned: learned.map_or(0, |place| side.revisions[place]),
            asks,
        };
        let me = |side: &Side| Membership {
            registration: registration(side),
            id: id.into(),
            applied: applied.map(|place| side.stamps[place]),
            lease,
            serves_memory,
            period: lease,
            seen: seen.map(|place| side.generations[place]),
            asks_who_is_behind,
        };
        self.real.synced(&self.store.sync(&me(&self.real)).await.unwrap());
        self.simulated.synced(&self.twin.sync(&me(&self.simulated), &caller));
    }

    async fn record(&mut self) {
        let (tags, caller) = (self.tags(), self.caller());
        let intent = Intent { id: self.one_of(&["w1", "w2", "w3", "w4"]).into(), tags };
        let within = self.one_of(&[Duration::ZERO, PATIENCE * 100]);
        self.real.view(self.store.record(&intent, within).await.unwrap());
        self.simulated.view(self.twin.record(&intent, within, &caller));
    }

    async fn forget(&mut self) {
        let intent = self.one_of(&["w1", "w2", "w3", "w4"]);
        self.store.forget(intent).await.unwrap();
        self.twin.forget(intent);
    }

    async fn expel(&mut self) {
        let Some(place) = self.place(self.real.holders.len()) else { return };
        let expelled = self.store.expel(&self.real.holders[place]).await.unwrap();
        self.real.text(format!("expelled: {expelled}"));
        let expelled = self.twin.expel(&self.simulated.holders[place]);
        self.simulated.text(format!("expelled: {expelled}"));
    }

    async fn dismiss(&mut self) {
        let (Some(place), Some(seen)) =
            (self.place(self.real.holders.len()), self.place(self.real.generations.len()))
        else {
            return;
        };
        let caller = self.caller();
        let generation = self.real.generations[seen];
        let dismissed = self.store.dismiss(&self.real.holders[place], generation).await.unwrap();
        self.real.text(format!("dismissed: {dismissed}"));
        let generation = self.simulated.generations[seen];
        let dismissed = self.twin.dismiss(&self.simulated.holders[place], generation, &caller);
        self.simulated.text(format!("dismissed: {dismissed}"));
    }

    async fn leave(&mut self) {
        let id = self.one_of(&["p1", "p2", "p3"]);
        let caller = self.caller();
        self.store.leave(id).await.unwrap();
        self.twin.leave(id, &caller);
    }

    async fn set_bypass(&mut self) {
        let (family, caller) = (self.one_of(&["a", "b"]), self.caller());
        let until = self.one_of(&[0, 1, caller.now * 2]);
        let bypass = FleetBypass { family: family.to_owned(), until, by: "ops".to_owned() };
        let was_one = self.store.set_bypass(&bypass).await.unwrap().map(|(was_one, _)| was_one);
        self.real.text(format!("bypassed before: {was_one:?}"));
        let was_one = self.twin.set_bypass(&bypass, &caller).map(|(was_one, _)| was_one);
        self.simulated.text(format!("bypassed before: {was_one:?}"));
    }

    async fn keep(&mut self) {
        let (text, kept) = (format!("{}", self.clock), self.one_of(&[KEY, "other:0:v1"]));
        let until = self.clock + 3_600_000_000;
        let entry = Bytes::from(text);
        if self.one_of(&[true, false]) {
            let is_new = self.store.put_new(kept, entry.clone(), PATIENCE * 100).await.unwrap();
            self.real.text(format!("new: {is_new}"));
            let is_new = self.twin.put_new(kept, entry, self.clock, until);
            self.simulated.text(format!("new: {is_new}"));
        } else {
            self.store.put(kept, entry.clone(), PATIENCE * 100).await.unwrap();
            self.twin.put(kept, entry, until);
        }
        self.real.text(format!("{:?}", self.store.get(KEY).await.unwrap()));
        self.simulated.text(format!("{:?}", self.twin.entry(KEY, self.clock)));
        self.real.text(format!("{}", self.store.remove("other:0:v1").await.unwrap()));
        self.simulated.text(format!("{}", self.twin.remove("other:0:v1")));
    }

    fn lose(&mut self) {
        let keys = ["meta", "marks", "members", "intents", "intent_tags", "graces", "registry"];
        let parts = [
            Part::Meta,
            Part::Marks,
            Part::Members,
            Part::Intents,
            Part::IntentTags,
            Part::Graces,
            Part::Registry,
        ];
        match self.chance.random_range(0..10) {
            0 => {
                self.server.flush_all();
                self.twin.flush();
            }
            1 => {
                self.server.save();
                self.twin.save();
            }
            _ => {
                let place = self.chance.random_range(0..keys.len());
                self.server.run::<()>(&["DEL", &format!("{{test}}:{}", keys[place])]);
                self.twin.lose(parts[place]);
            }
        }
    }

    async fn restart(&mut self) {
        self.server.restart();
        self.twin.restart(self.clock, Memory::Snapshot);
        let caller = self.caller();
        let store = &self.store;
        self.real.view(recovered(store, async || store.view(&[]).await).await);
        self.simulated.view(self.twin.begin(&caller));
        self.twin.published.clear();
    }
}

#[tokio::test]
async fn the_simulated_store_answers_as_the_scripts_do() {
    let (mut promoted, mut kept, mut hardened, mut passed, mut silences) = (0, 0, 0, 0, 0);
    for seed in 0..12 {
        let mut both = Both::start(seed).await;
        for step in 0..150 {
            both.step().await;
            assert_eq!(both.real.items.len(), both.simulated.items.len(), "seed {seed}, step {step}");
        }
        for (place, (real, simulated)) in both.real.ranked().iter().zip(both.simulated.ranked()).enumerate() {
            assert_eq!(*real, simulated, "seed {seed}: the {place}th of {:?}", both.real.items.len());
        }
        assert!(both.twin.trimmed > 0 && both.twin.begun.len() > 1, "seed {seed}: hardly anything happens");
        promoted += both.twin.promoted;
        kept += both.twin.kept_ends;
        hardened += both.twin.hardened;
        passed += both.passed;
        silences += both.twin.silences;
    }
    assert!(silences > 0, "no silence");
    assert!(promoted > 0 && kept > 0 && hardened > 0 && passed > 0, "{promoted} {kept} {hardened} {passed}");
}

#[tokio::test]
async fn the_simulated_store_tells_the_fleet_what_the_scripts_do() {
    let mut both = Both::start(7).await;
    let channel = "{test}:fleet";
    eventually("the channel has a subscriber", || {
        both.server.run::<(String, u64)>(&["PUBSUB", "NUMSUB", channel]).1 == 1
    })
    .await;
    let mut messages = both.store.messages();
    for _ in 0..120 {
        both.invalidate().await;
        both.sync().await;
    }
    let (mut real, mut simulated) = (Side::default(), Side::default());
    for message in std::mem::take(&mut both.twin.published) {
        simulated.message(&message);
        real.message(&timeout(PATIENCE, messages.recv()).await.expect("as many messages").unwrap());
    }
    assert_eq!(real.ranked(), simulated.ranked());
    assert!(messages.try_recv().is_err(), "no more than these");
}
