//! Readers and writers. Each sends its requests to one proxy for a while, so that a proxy that hangs delays its own clients and
//! no others; readers mostly read what was just written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::connection::{Connection, Head, Loss};
use crate::ledger::{Event, Ledger, Read, Run, Scope, Stale};
use crate::proxies::Directory;
use crate::registers::{TOOK, UPSTREAM, VERSION};

/// The longest that a client stays with one proxy.
const STAY: Duration = Duration::from_secs(2);

/// The longest pause between two requests of a reader.
const READ_PAUSE: Duration = Duration::from_millis(4);

/// The longest pause between two requests of a writer.
pub const WRITE_PAUSE: Duration = Duration::from_millis(20);

/// The same with `--rules again`: seldom enough that what is not invalidated once more is seen to be old.
pub const WRITE_PAUSE_AGAIN: Duration = Duration::from_millis(1500);

/// Stale reads whose history is kept.
const HISTORIES: usize = 5;

/// What all clients share.
pub struct World {
    pub directory: Arc<Directory>,
    pub ledger: Arc<Ledger>,
    pub over: AtomicBool,
    /// Hits that had to show an acknowledged write.
    pub telling_hits: AtomicU64,
    /// Reads that broke the promise.
    pub stale: AtomicU64,
    /// Some reads are of responses that only authorized callers may get.
    authorize: bool,
    /// The latest version of each register that was acknowledged, for the cookies of such reads.
    known: Vec<AtomicU64>,
    /// Where upstream is, which its answers say.
    upstream: String,
    /// The longest pause between two requests of a writer.
    write_pause: Duration,
    /// The register that was acknowledged last.
    latest: AtomicUsize,
}

/// What clients saw.
#[derive(Debug, Default)]
pub struct Tally {
    pub reads: u64,
    pub hits: u64,
    /// Of these reads and hits, those that ended within a fault.
    pub in_faults: (u64, u64),
    pub writes: u64,
    pub acknowledged: u64,
    /// Acknowledged with `detail=store-away`, by a proxy whose invalidations had not reached the others yet; of these…
    pub kept: u64,
    /// …by a proxy that alone was cut off.
    pub alone: u64,
    /// By kind; reads and writes apart.
    pub errors: BTreeMap<String, u64>,
    pub histories: Vec<String>,
    /// How long acknowledged writes took beyond upstream's own time.
    pub waits: Vec<Duration>,
}

impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.reads += other.reads;
        self.hits += other.hits;
        self.in_faults.0 += other.in_faults.0;
        self.in_faults.1 += other.in_faults.1;
        self.writes += other.writes;
        self.acknowledged += other.acknowledged;
        self.kept += other.kept;
        self.alone += other.alone;
        for (kind, count) in other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
        let room = HISTORIES.saturating_sub(self.histories.len());
        self.histories.extend(other.histories.into_iter().take(room));
        self.waits.extend(other.waits);
    }

    fn failed(&mut self, what: &str, why: &str) {
        *self.errors.entry(format!("{what}: {why}")).or_default() += 1;
    }
}

impl World {
    pub fn new(
        directory: Arc<Directory>,
        ledger: Arc<Ledger>,
        upstream: String,
        (write_pause, authorize): (Duration, bool),
    ) -> World {
        let known = (0..ledger.len()).map(|_| AtomicU64::new(0)).collect();
        World {
            authorize,
            known,
            directory,
            ledger,
            over: AtomicBool::new(false),
            telling_hits: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            upstream,
            write_pause,
            latest: AtomicUsize::new(0),
        }
    }

    /// Reads until the run is over.
    pub fn read_on(&self, number: usize, seed: u64) -> Tally {
        let mut client = Client::new(self, number, seed);
        while !self.over.load(SeqCst) {
            client.read();
            client.pause(READ_PAUSE);
        }
        client.tally
    }

    /// Writes until the run is over.
    pub fn write_on(&self, number: usize, seed: u64) -> Tally {
        let mut client = Client::new(self, number, seed);
        while !self.over.load(SeqCst) {
            client.write();
            client.pause(self.write_pause);
        }
        client.tally
    }
}

struct Client<'a> {
    world: &'a World,
    random: StdRng,
    proxy: usize,
    leaves: Instant,
    connection: Option<Connection>,
    tally: Tally,
}

/// What a read is for.
#[derive(Clone, Copy)]
enum Target {
    Register(usize),
    /// The same under another path, which only a rule invalidates.
    MarksView(usize),
    /// The same for all callers whose cookies say this version of the register, as long as that is its version.
    Authorized(usize, u64),
    Sum,
}

impl<'a> Client<'a> {
    fn new(world: &'a World, number: usize, seed: u64) -> Client<'a> {
        let random = StdRng::seed_from_u64(seed);
        let proxy = number % world.directory.len();
        Client { world, random, proxy, leaves: Instant::now() + STAY, connection: None, tally: Tally::default() }
    }

    fn pause(&mut self, most: Duration) {
        thread::sleep(self.random.random_range(Duration::ZERO..most));
    }

    fn read(&mut self) {
        let target = self.target();
        match self.try_read(target) {
            Ok((Some(content), read)) => self.judge(target, &content, &read),
            Ok((None, _)) => {}
            Err(loss) => self.lost("read", loss),
        }
    }

    fn try_read(&mut self, target: Target) -> Result<(Option<String>, Read), Loss> {
        let path = match target {
            Target::Register(register) => format!("/r/{register}"),
            Target::MarksView(register) if self.random.random() => format!("/v/{register}"),
            Target::MarksView(register) => format!("/q?k={register}"),
            Target::Authorized(register, _) => format!("/a/{register}"),
            Target::Sum => "/sum".to_owned(),
        };
        let cookies = match target {
            Target::Authorized(register, version) => Some(format!("register={register}; version={version}")),
            _ => None,
        };
        let mut connection = self.connect()?;
        let head = self.ask(&mut connection, "GET", &path, cookies.as_deref(), "")?;
        let content = connection.content(&head)?;
        let by_rule = !matches!(target, Target::Register(_));
        let read = Read { began: head.began, by: connection.run, hit: head.shows("hit"), by_rule };
        self.keep(connection, &head);
        if let Target::Authorized(_, version) = target {
            // From the cache it shows that the proxy takes this version for the present one. Upstream answers for itself.
            return Ok((read.hit.then(|| version.to_string()), read));
        }
        if head.status != 200 {
            self.tally.failed("read", &head.status.to_string());
        }
        Ok(((head.status == 200).then_some(content), read))
    }

    fn target(&mut self) -> Target {
        let latest = self.world.latest.load(SeqCst);
        if self.world.authorize && self.random.random_bool(0.4) {
            let register = if self.random.random_bool(0.5) { latest } else { self.any_register() };
            let known = self.world.known[register].load(SeqCst);
            let old = self.random.random_range(0..2);
            return Target::Authorized(register, known.saturating_sub(old));
        }
        match self.random.random_range(0..10) {
            0 => Target::Sum,
            1..=2 => Target::Register(latest),
            3..=4 => Target::MarksView(latest),
            5..=7 => Target::Register(self.any_register()),
            _ => Target::MarksView(self.any_register()),
        }
    }

    fn any_register(&mut self) -> usize {
        self.random.random_range(0..self.world.ledger.len())
    }

    fn judge(&mut self, target: Target, content: &str, read: &Read) {
        self.tally.reads += 1;
        self.tally.hits += u64::from(read.hit);
        let ledger = &self.world.ledger;
        if ledger.is_in_fault() {
            self.tally.in_faults.0 += 1;
            self.tally.in_faults.1 += u64::from(read.hit);
        }
        let versions: Vec<u64> =
            content.split(',').map(|version| version.parse().expect("upstream's own")).collect();
        let judged = match target {
            Target::Register(register) | Target::MarksView(register) | Target::Authorized(register, _) => {
                ledger.check(register, versions[0], read)
            }
            Target::Sum => ledger.check_all(&versions, read),
        };
        match judged {
            Ok(0) => {}
            Ok(_) => drop(self.world.telling_hits.fetch_add(u64::from(read.hit), SeqCst)),
            Err(stale) => self.stale(&stale, read, target),
        }
    }

    fn stale(&mut self, stale: &Stale, read: &Read, target: Target) {
        self.world.stale.fetch_add(1, SeqCst);
        if self.tally.histories.len() < HISTORIES {
            let what = match target {
                Target::Register(_) => "",
                Target::MarksView(_) => "in its view, ",
                Target::Authorized(..) => "of a caller with that version, ",
                Target::Sum => "in the list, ",
            };
            self.tally.histories.push(format!("{what}{}", self.world.ledger.history(stale, read)));
        }
    }

    fn write(&mut self) {
        let register = self.any_register();
        self.tally.writes += 1;
        if let Err(loss) = self.try_write(register) {
            self.lost("write", loss);
        }
    }

    fn try_write(&mut self, register: usize) -> Result<(), Loss> {
        let ledger = &self.world.ledger;
        let mut connection = self.connect()?;
        ledger.note(register, Event::WriteBegan(connection.run));
        let was_alone = self.world.directory.is_alone(self.proxy);
        // One of the cookies of those whose authorization it ends.
        let cookies = self.world.authorize.then(|| format!("register={register}"));
        let (path, json) = self.written(register);
        let head = self.ask(&mut connection, "PUT", &path, cookies.as_deref(), &json).inspect_err(|_| {
            ledger.note(register, Event::WriteFailed(connection.run));
        })?;
        // At once: the content is still on its way.
        match (200..300).contains(&head.status) {
            true => self.acknowledged(register, &head, connection.run, was_alone),
            false => {
                ledger.note(register, Event::WriteFailed(connection.run));
                self.tally.failed("write", &head.status.to_string());
            }
        }
        connection.content(&head)?;
        self.keep(connection, &head);
        Ok(())
    }

    /// The path and the content of a write, one of which names the register; with `/by/response` for Larder the response
    /// does. A long content is copied while it is sent.
    fn written(&mut self, register: usize) -> (String, String) {
        match self.random.random_range(0..8) {
            0..4 => (format!("/r/{register}"), String::new()),
            4 => ("/by/content".to_owned(), format!("{}{{\"k\":{register}}}", " ".repeat(100 << 10))),
            5 => ("/by/content".to_owned(), format!("{{\"k\":\"{register}\"}}")),
            _ => (format!("/by/response?k={register}"), String::new()),
        }
    }

    fn acknowledged(&mut self, register: usize, head: &Head, run: Run, was_alone: bool) {
        let number = |name| head.field(name).and_then(|value| value.parse().ok()).expect("upstream's own field");
        let directory = &self.world.directory;
        let is_kept = head.shows("detail=store-away");
        let is_alone = was_alone || directory.is_alone(self.proxy);
        let scope = match (is_kept, is_alone) {
            (false, _) => Scope::Everywhere,
            (true, false) => Scope::Kept,
            (true, true) => Scope::Only(run),
        };
        if !is_kept {
            directory.delivered(self.proxy, head.began);
        }
        self.world.ledger.acknowledge(register, number(VERSION), run, scope);
        self.world.known[register].fetch_max(number(VERSION), SeqCst);
        self.world.latest.store(register, SeqCst);
        let took = Duration::from_micros(number(TOOK));
        self.tally.waits.push(head.began.elapsed().saturating_sub(took));
        self.tally.acknowledged += 1;
        self.tally.kept += u64::from(is_kept);
        self.tally.alone += u64::from(is_kept && is_alone);
    }

    fn connect(&mut self) -> Result<Connection, Loss> {
        if Instant::now() >= self.leaves {
            self.proxy = self.random.random_range(0..self.world.directory.len());
            self.leaves = Instant::now() + self.random.random_range(STAY / 4..STAY);
            self.connection = None;
        }
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => Connection::open(self.world.directory.place(self.proxy)),
        }
    }

    /// Where a proxy of this run was killed, one of another run may listen by now.
    fn ask(
        &self,
        connection: &mut Connection,
        method: &str,
        path: &str,
        cookies: Option<&str>,
        json: &str,
    ) -> Result<Head, Loss> {
        let head = connection.ask(method, path, cookies, json)?;
        let is_of_this_run = head.field(UPSTREAM) == Some(&self.world.upstream);
        if (200..300).contains(&head.status) && !is_of_this_run { Err("foreign") } else { Ok(head) }
    }

    fn keep(&mut self, connection: Connection, head: &Head) {
        self.connection = (!head.is_last()).then_some(connection);
    }

    /// The proxy is gone, perhaps to be back soon.
    fn lost(&mut self, what: &str, loss: Loss) {
        self.tally.failed(what, loss);
        self.pause(READ_PAUSE * 5);
    }
}

/// Waits until each register was answered once by each proxy, so that the run begins with a warm cache.
pub fn warm(directory: &Directory, registers: usize) {
    for place in (0..directory.len()).map(|proxy| directory.place(proxy)) {
        let mut connection = Connection::open(place).expect("it has just begun to listen");
        let paths = (0..registers)
            .flat_map(|register| [format!("/r/{register}"), format!("/v/{register}"), format!("/q?k={register}")]);
        let paths = paths.chain(["/sum".to_owned()]);
        for path in paths {
            let head = connection.ask("GET", &path, None, "").expect("nothing is wrong yet");
            connection.content(&head).expect("nothing is wrong yet");
        }
    }
}
