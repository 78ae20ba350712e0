//! Simulated time: the queue of everything that is going to happen, and what a process may ask of its surroundings.
//!
//! [`crate::world::World`] takes one event after the other; whoever is called gets a [`Ctx`]. Equal times are served in the
//! order in which they were asked for, so a run is decided by its seed alone. Four random streams, so that one more
//! message does not change which disk block is torn.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use chronik_log::disk::{MemDisk, SplitMix64};
use chronik_model::{NodeId, Uuid};

use crate::net::{LinkEvent, Network};
use crate::proto::{Address, Packet};
use crate::rules::Rules;
use crate::trace::Trace;

/// Simulated time in microseconds since the world began.
pub type Micros = u64;

/// Wall-clock time (ms since 1970) at which every world begins.
pub const EPOCH_WALL_MS: i64 = 1_767_225_600_000;

/// Something that a process wants to be told later. The meaning of the numbers is the process' own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Timer {
    /// What kind.
    pub kind: u16,
    /// Which one of the kind.
    pub key: u64,
}

/// What is going to happen.
#[derive(Clone, Debug)]
pub enum Event {
    /// A packet arrives.
    Deliver {
        /// Sender.
        from: Address,
        /// Receiver.
        to: Address,
        /// What.
        packet: Packet,
    },
    /// A timer of one run of a process fires.
    Timer {
        /// Whose.
        to: Address,
        /// Which run of it: timers of dead processes do nothing.
        run: u64,
        /// What was asked for.
        timer: Timer,
    },
    /// News of a link.
    Link {
        /// Who is told.
        to: NodeId,
        /// Which run of it.
        run: u64,
        /// What.
        event: LinkEvent,
    },
    /// Two brokers try to connect.
    Attempt(NodeId, NodeId),
    /// A connection without a path is given up, unless the path came back.
    KeepAlive(NodeId, NodeId),
    /// A broker process starts.
    Boot(NodeId),
    /// The next step of the fault plan; its meaning is the plan's.
    Fault(usize),
}

/// The four sources of chance.
#[derive(Clone, Debug)]
pub struct Streams {
    /// Order and times of faults, time between tries, ids.
    pub schedule: SplitMix64,
    /// Latency, loss, repetition.
    pub network: SplitMix64,
    /// What crashes lose and which blocks rot.
    pub disk: SplitMix64,
    /// What clients do.
    pub workload: SplitMix64,
}

impl Streams {
    /// All four from one seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut root = SplitMix64::new(seed ^ 0x005e_edc1_u64);
        let mut next = || SplitMix64::new(root.next_u64());
        Self { schedule: next(), network: next(), disk: next(), workload: next() }
    }
}

/// What waits, by time and then by the order in which it was asked for. The events lie still in their places; only
/// their keys are sorted, because half of what a world does is to put something here and to take it out again.
#[derive(Debug, Default)]
struct Queue {
    sequence: u64,
    order: BinaryHeap<Reverse<(Micros, u64, usize)>>,
    places: Vec<Option<Event>>,
    free: Vec<usize>,
}

impl Queue {
    fn push(&mut self, at: Micros, event: Event) {
        self.sequence += 1;
        let place = match self.free.pop() {
            Some(place) => {
                self.places[place] = Some(event);
                place
            }
            None => {
                self.places.push(Some(event));
                self.places.len() - 1
            }
        };
        self.order.push(Reverse((at, self.sequence, place)));
    }

    /// The first that is due by `until`, and when.
    fn pop(&mut self, until: Micros) -> Option<(Micros, Event)> {
        let Reverse((at, _, place)) = *self.order.peek()?;
        if at > until {
            return None;
        }
        self.order.pop();
        self.free.push(place);
        Some((at, self.places[place].take()?))
    }
}

/// Time, chance, network and story of one world.
#[derive(Debug)]
pub struct Kernel {
    /// Now.
    pub now: Micros,
    queue: Queue,
    /// Chance.
    pub streams: Streams,
    /// Who reaches whom.
    pub net: Network,
    /// What happened.
    pub trace: Trace,
    /// Events served so far.
    pub events: u64,
    /// What scripts want lost or held.
    pub rules: Rules,
}

impl Kernel {
    /// A world's kernel.
    #[must_use]
    pub fn new(seed: u64, trace: Trace) -> Self {
        Self {
            now: 0,
            queue: Queue::default(),
            streams: Streams::new(seed),
            net: Network::default(),
            trace,
            events: 0,
            rules: Rules::default(),
        }
    }

    /// Lets `event` happen `after` microseconds from now.
    pub fn after(&mut self, after: Micros, event: Event) {
        self.queue.push(self.now.saturating_add(after), event);
    }

    /// The next event that happens no later than `until`; time moves to it.
    pub fn next(&mut self, until: Micros) -> Option<Event> {
        let (at, event) = self.queue.pop(until)?;
        self.now = self.now.max(at);
        self.events += 1;
        Some(event)
    }

    /// Nothing waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.order.is_empty()
    }

    /// Events that wait (bounded queues: invariant 12).
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.order.len()
    }

    /// Puts a packet on the network.
    pub fn send(&mut self, from: Address, to: Address, packet: Packet) {
        if self.rules.stop(from, to, &packet) {
            self.trace.lost(self.now, from, to, &packet);
            return;
        }
        self.transmit(from, to, packet);
    }

    /// Puts a packet on the network that no rule stops any more.
    pub fn transmit(&mut self, from: Address, to: Address, packet: Packet) {
        let fate = self.net.fate(from, to, &packet, &mut self.streams.network);
        let Some((first, second)) = fate.delays() else {
            self.trace.lost(self.now, from, to, &packet);
            return;
        };
        let again = second.map(|delay| (delay, packet.clone()));
        self.after(first, Event::Deliver { from, to, packet });
        if let Some((delay, packet)) = again {
            self.after(delay, Event::Deliver { from, to, packet });
        }
    }
}

/// The clock of one machine: offset and drift against simulated time, changed by faults.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// Wall clock minus true time.
    pub wall_offset_ms: i64,
    /// Parts per million that this machine's clocks run too fast.
    pub drift_ppm: i64,
}

/// What a process sees of the world while it is called.
#[derive(Debug)]
pub struct Ctx<'a> {
    /// The process itself.
    pub me: Address,
    /// Which run of it.
    pub run: u64,
    /// Its machine's clock.
    pub clock: Clock,
    /// Set by a process that ends by itself: the exit code.
    pub exit: Option<i32>,
    /// The disk at one of whose next changes the process stops: then nothing leaves it any more.
    pub doom: Option<MemDisk>,
    /// Everything else. Processes use the methods of `Ctx`; clients may draw from `kernel.streams.workload`.
    pub kernel: &'a mut Kernel,
}

impl Ctx<'_> {
    /// Monotonic milliseconds of this machine. Never 0.
    #[must_use]
    pub fn mono_ms(&self) -> u64 {
        let true_ms = self.kernel.now / 1_000;
        let drift = i128::from(true_ms) * i128::from(self.clock.drift_ppm) / 1_000_000;
        1_000 + u64::try_from(i128::from(true_ms) + drift).unwrap_or(0)
    }

    /// Wall-clock milliseconds of this machine.
    #[must_use]
    pub fn wall_ms(&self) -> i64 {
        EPOCH_WALL_MS + i64::try_from(self.mono_ms()).unwrap_or(0) + self.clock.wall_offset_ms
    }

    /// Whether the process has stopped in the middle of this event: nothing leaves it any more.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.doom.as_ref().is_some_and(MemDisk::is_stopped)
    }

    /// Sends; to oneself too (then it arrives a little later).
    pub fn send(&mut self, to: Address, packet: Packet) {
        if !self.is_stopped() {
            self.kernel.send(self.me, to, packet);
        }
    }

    /// Asks to be told `after_ms` from now.
    pub fn timer(&mut self, after_ms: u64, timer: Timer) {
        let event = Event::Timer { to: self.me, run: self.run, timer };
        self.kernel.after(after_ms * 1_000, event);
    }

    /// Asks to be told when this machine's monotonic clock says `at_ms` (at once if it is past; never within the same
    /// microsecond, so that nothing spins).
    pub fn timer_at(&mut self, at_ms: u64, timer: Timer) {
        let wait = at_ms.saturating_sub(self.mono_ms());
        let event = Event::Timer { to: self.me, run: self.run, timer };
        // Rounded up: a timer never fires before its millisecond.
        self.kernel.after((wait * 1_000).max(1), event);
    }

    /// A random number below `bound` from the schedule's stream: jitter, ids.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.kernel.streams.schedule.below(bound)
    }

    /// A new id.
    pub fn uuid(&mut self) -> Uuid {
        let (high, low) = (self.kernel.streams.schedule.next_u64(), self.kernel.streams.schedule.next_u64());
        Uuid::from_u128(u128::from(high) << 64 | u128::from(low) | 1)
    }

    /// Tells the story. `text` is only made when somebody reads it or the hash needs it.
    pub fn note(&mut self, text: impl FnOnce() -> String) {
        self.kernel.trace.note(self.kernel.now, self.me, text);
    }

    /// This process ends now, by itself.
    pub fn exit(&mut self, code: i32) {
        self.exit = Some(code);
    }
}

#[cfg(test)]
mod tests {
    use chronik_log::disk::Disk as _;

    use super::*;
    use crate::trace::Detail;

    #[test]
    fn nothing_leaves_a_process_that_has_stopped_in_the_middle_of_an_event() {
        let disk = MemDisk::new();
        let mut kernel = Kernel::new(1, Trace::new(Detail::Hash));
        let (me, to) = (Address::Broker(NodeId(1)), Address::Client(1));
        let doom = Some(disk.clone());
        let mut ctx = Ctx { me, run: 1, clock: Clock::default(), exit: None, doom, kernel: &mut kernel };
        disk.stop_at(Some(2));
        disk.create("a").expect("not yet");
        ctx.send(to, Packet::Refused { id: 1 });
        assert_eq!(ctx.kernel.waiting(), 1, "it is on its way");
        assert!(disk.create("b").is_err());
        ctx.send(to, Packet::Refused { id: 2 });
        assert_eq!(ctx.kernel.waiting(), 1);
    }
}
