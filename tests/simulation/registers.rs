//! The registers of upstream, whose values count the writes, and for each the newest value that was acknowledged.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::requests::{Cookie, UpstreamRead};
use super::world::World;

pub type Register = usize;
pub type Value = u64;

/// Registers, the newest values of some of them.
pub type Values = Vec<(Register, Value)>;

/// Upstream. It carries out every request that was sent, even if the proxy dies.
pub struct Upstream {
    world: Arc<World>,
    values: Arc<Mutex<Vec<Value>>>,
    /// What was written, and when: reads are answered by replicas that may not have it for so long.
    written: Arc<Mutex<Vec<(Instant, Values)>>>,
    lag: Duration,
    /// The most that a request takes on each way, milliseconds.
    slowness: u64,
}

/// What upstream answers to a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Value(Value),
    /// The caller may read.
    Granted,
    /// The caller may not.
    Refused,
}

/// What upstream answers to a write.
pub enum Written {
    /// The last is the value in the answer: that of the first register after this write, or after later ones.
    Done(Values, Value),
    /// It changed nothing.
    Refused,
    /// It was carried out, and the answer was lost.
    Unanswered(Values),
    /// Nothing was sent.
    Unreachable,
}

impl Upstream {
    pub fn new(world: &Arc<World>, registers: usize, slowness: u64, lag: Duration) -> Upstream {
        let (values, written) = (Arc::new(Mutex::new(vec![0; registers])), Arc::default());
        Upstream { world: Arc::clone(world), values, written, lag, slowness }
    }

    /// As a replica has it.
    fn replicated(&self, register: Register) -> Value {
        let late = self.world.millis(0, self.lag.as_millis() as u64);
        let seen = |at: Instant| at + late <= Instant::now();
        let written = self.written.lock().unwrap();
        let known = written.iter().filter(|(at, _)| seen(*at)).flat_map(|(_, values)| values);
        known.filter(|(written, _)| *written == register).map(|(_, value)| *value).max().unwrap_or(0)
    }

    pub fn value(&self, register: Register) -> Value {
        self.values.lock().unwrap()[register]
    }

    /// The value that upstream has at some moment between request and response; `None` if there is no response.
    pub async fn answer(&self, read: UpstreamRead) -> Option<Answer> {
        let (there, back) = self.ways();
        sleep(there).await;
        let answer = match read {
            UpstreamRead::Value(register) => Answer::Value(self.read(register)),
            UpstreamRead::ValueFor(_, cookie) | UpstreamRead::Check(cookie) if !self.is_of_session(cookie) => {
                Answer::Refused
            }
            UpstreamRead::ValueFor(register, _) => Answer::Value(self.read(register)),
            UpstreamRead::Check(_) => Answer::Granted,
        };
        sleep(back).await;
        (!self.world.happens(0.03)).then_some(answer)
    }

    fn read(&self, register: Register) -> Value {
        let value = if self.lag.is_zero() { self.value(register) } else { self.replicated(register) };
        if value < self.value(register) {
            self.world.count("lagging answer");
        }
        value
    }

    fn is_of_session(&self, cookie: Cookie) -> bool {
        self.value(cookie.session) == cookie.version
    }

    /// The longest that [`Upstream::write`] takes.
    pub fn limit(&self) -> Duration {
        Duration::from_millis(2 * self.slowness)
    }

    /// Counts these registers up; if `only_if` says so, only while a register has this value.
    pub async fn write(&self, registers: Vec<Register>, only_if: Option<(Register, Value)>) -> Written {
        if self.world.happens(0.02) {
            return Written::Unreachable;
        }
        let (give, take) = oneshot::channel();
        let (there, back) = self.ways();
        let (world, values) = (Arc::clone(&self.world), Arc::clone(&self.values));
        let log = Arc::clone(&self.written);
        tokio::spawn(async move {
            sleep(there).await;
            if world.happens(0.05) {
                let _ = give.send(Written::Refused);
                return;
            }
            let is_refused = only_if.is_some_and(|(register, value)| values.lock().unwrap()[register] != value);
            if is_refused {
                let _ = give.send(Written::Refused);
                return;
            }
            let written = count_up(&mut values.lock().unwrap(), &registers);
            log.lock().unwrap().push((Instant::now(), written.clone()));
            world.tell(|| format!("upstream: {written:?}"));
            sleep(back).await;
            let is_lost = world.happens(0.05);
            // Some APIs answer with what they have written, others read it again.
            let again = written.len() % 2 == 1 && written[0].1.is_multiple_of(2);
            let shown = if again { values.lock().unwrap()[written[0].0] } else { written[0].1 };
            let _ = give.send(if is_lost { Written::Unanswered(written) } else { Written::Done(written, shown) });
        });
        take.await.unwrap_or(Written::Refused)
    }

    fn ways(&self) -> (Duration, Duration) {
        (self.world.millis(0, self.slowness), self.world.millis(0, self.slowness))
    }
}

fn count_up(values: &mut [Value], registers: &[Register]) -> Values {
    let mut written = vec![];
    for register in registers {
        values[*register] += 1;
        written.push((*register, values[*register]));
    }
    written
}

/// The lowest value that a read may return, by register.
#[derive(Debug)]
pub struct Floor(Mutex<Vec<Value>>);

impl Floor {
    pub fn new(registers: usize) -> Floor {
        Floor(Mutex::new(vec![0; registers]))
    }

    pub fn raise(&self, values: &Values) {
        let mut least = self.0.lock().unwrap();
        for (register, value) in values {
            least[*register] = least[*register].max(*value);
        }
    }

    pub fn of(&self, register: Register) -> Value {
        self.0.lock().unwrap()[register]
    }
}
