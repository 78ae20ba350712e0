//! A world: machines with disks and clocks, broker processes on them, clients, and an oracle that watches.
//!
//! [`World::run_until`] takes events from the kernel one after the other and hands each to the process it is for. After
//! each event the oracle looks at the broker that was touched. Faults are methods here; the plan of a seed, or a
//! scenario, calls them. A paused or slow machine keeps its events in order until it goes on.

use std::collections::BTreeMap;

use chronik_log::disk::MemDisk;
use chronik_model::NodeId;

use crate::broker::{BootError, Broker, BrokerConfig};
use crate::client::Client;
use crate::kernel::{Clock, Ctx, Event, Kernel, Micros};
use crate::net::{KEEPALIVE, LinkEvent};
use crate::oracle::{Oracle, Violation};
use crate::plan::{Budget, Operator, Plan};
use crate::proto::{Address, Packet};
use crate::trace::{Detail, Trace};

/// Exit code of a broker that must not be started again as it is (its storage is refused).
pub const EXIT_REFUSED: i32 = 78;

/// How a process comes to stop in the middle of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Doom {
    /// Changes of the disk until then; the last one does not happen.
    pub changes: u64,
    /// The machine loses its power; otherwise the process is killed.
    pub power: bool,
    /// Whatever the budget says.
    pub forced: bool,
    /// The budget said no at least once.
    pub declined: bool,
}

/// A machine: what outlives a broker process.
#[derive(Debug)]
pub struct Host {
    /// Its disk.
    pub disk: MemDisk,
    /// Settings of the broker on it.
    pub config: BrokerConfig,
    /// The process, if it runs.
    pub process: Option<Broker>,
    /// Number of the run, counted from 1.
    pub run: u64,
    /// Its clock.
    pub clock: Clock,
    /// Stopped by SIGSTOP: events wait here.
    paused: Option<Vec<Event>>,
    /// The disk is at work until then; events wait.
    busy_until: Micros,
    /// Microseconds that each sync costs; 0 = a fast disk.
    pub sync_cost: Micros,
    /// How earlier runs ended: `None` for a kill.
    pub exits: Vec<Option<i32>>,
    /// When its process stops in the middle of an event.
    pub doom: Option<Doom>,
    /// Whether a supervisor starts the process again after it ended by itself, as Kubernetes does.
    pub supervised: bool,
}

impl Host {
    /// Whether the process is stopped by SIGSTOP.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// Whether a process runs and is not paused.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.process.is_some() && self.paused.is_none()
    }
}

/// Everything.
#[derive(Debug)]
pub struct World {
    /// Time, chance, network, story.
    pub kernel: Kernel,
    /// Machines by broker id.
    pub hosts: BTreeMap<NodeId, Host>,
    /// Clients by id.
    pub clients: BTreeMap<u32, Client>,
    /// The judge.
    pub oracle: Oracle,
    /// What the seed wants to happen; without steps in scenarios.
    pub plan: Plan,
    /// What faults may still do.
    pub budget: Budget,
    /// Who changes members and racks.
    pub operator: Operator,
    /// How much the operator proposed.
    pub proposals: u64,
    /// What arrived for clients that are not there: scripts read their answers here.
    pub letters: Vec<(Address, Packet)>,
    /// A process that ends by itself in the present event, and its exit code.
    ending: Option<(NodeId, i32)>,
    /// A process that stopped in the middle of the present event.
    doomed: Option<NodeId>,
}

impl World {
    /// An empty world.
    #[must_use]
    pub fn new(seed: u64, detail: Detail, oracle: Oracle, plan: Plan) -> Self {
        Self {
            kernel: Kernel::new(seed, Trace::new(detail)),
            hosts: BTreeMap::new(),
            clients: BTreeMap::new(),
            oracle,
            plan,
            budget: Budget::default(),
            operator: Operator::default(),
            proposals: 0,
            letters: Vec::new(),
            ending: None,
            doomed: None,
        }
    }

    /// A new machine with an empty disk; nothing runs on it yet.
    pub fn add_host(&mut self, config: BrokerConfig) {
        let node = config.node;
        let host = Host {
            disk: MemDisk::new(),
            config,
            process: None,
            run: 0,
            clock: Clock::default(),
            paused: None,
            busy_until: 0,
            sync_cost: 0,
            exits: Vec::new(),
            doom: None,
            supervised: true,
        };
        self.hosts.insert(node, host);
    }

    /// Serves events until `until`.
    ///
    /// # Errors
    /// The first broken invariant.
    pub fn run_until(&mut self, until: Micros) -> Result<(), Violation> {
        while self.step(until)? {}
        self.kernel.now = self.kernel.now.max(until);
        Ok(())
    }

    /// Serves the next event; false when there is none until `until`.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn step(&mut self, until: Micros) -> Result<bool, Violation> {
        let Some(event) = self.kernel.next(until) else { return Ok(false) };
        let touched = self.dispatch(event);
        let doomed = self.doomed.take();
        for node in [touched, doomed.filter(|doomed| touched != Some(*doomed))].into_iter().flatten() {
            self.oracle.after_event(node, &self.hosts, &mut self.kernel)?;
        }
        if let Some(node) = doomed {
            self.ending = None;
            self.kernel.trace.world(self.kernel.now, || format!("b{node} stops in the middle of an event"));
            crate::plan::stopped(self, node);
        }
        // Only now: what a process did in its last event is seen too.
        if let Some((node, code)) = self.ending.take() {
            self.ended(node, Some(code));
        }
        Ok(true)
    }

    /// Hands the event over; the broker that was touched, if one was.
    fn dispatch(&mut self, event: Event) -> Option<NodeId> {
        let event = self.admit(event)?;
        match event {
            Event::Deliver { from, to: Address::Broker(node), packet } => {
                self.kernel.trace.packet(self.kernel.now, from, Address::Broker(node), &packet);
                self.call(node, |broker, ctx| broker.on_packet(ctx, from, packet))
            }
            Event::Deliver { from, to: to @ Address::Client(id), packet } => {
                self.kernel.trace.packet(self.kernel.now, from, to, &packet);
                if to == crate::plan::OPERATOR {
                    crate::plan::answered(self, &packet);
                    return None;
                }
                let Some(client) = self.clients.get_mut(&id) else {
                    self.letters.push((from, packet));
                    return None;
                };
                client.on_packet(&mut client_ctx(&mut self.kernel, id), from, packet, &mut self.oracle.history);
                None
            }
            Event::Timer { to: Address::Client(id), timer, .. } => {
                let client = self.clients.get_mut(&id)?;
                client.on_timer(&mut client_ctx(&mut self.kernel, id), timer, &mut self.oracle.history);
                None
            }
            Event::Timer { to: Address::Broker(node), timer, .. } => {
                self.kernel.trace.mix(u64::from(timer.kind) << 48 | u64::from(node.0.unsigned_abs()) << 32 | timer.key);
                self.call(node, |broker, ctx| broker.on_timer(ctx, timer))
            }
            Event::Link { to, event, .. } => self.call(to, |broker, ctx| broker.on_link(ctx, event)),
            Event::Attempt(a, b) => {
                self.attempt(a, b);
                None
            }
            Event::KeepAlive(a, b) => {
                self.keep_alive(a, b);
                None
            }
            Event::Boot(node) => {
                self.boot(node);
                Some(node)
            }
            Event::Fault(step) => {
                crate::plan::perform(self, step);
                None
            }
        }
    }

    /// The event, if it can be served now. What is for a process that stands still or waits for its disk is kept for
    /// later; what is for a process that is gone is dropped.
    fn admit(&mut self, event: Event) -> Option<Event> {
        let (node, wanted) = match &event {
            Event::Deliver { to: Address::Broker(node), .. } => (*node, None),
            Event::Timer { to: Address::Broker(node), run, .. } | Event::Link { to: node, run, .. } => {
                (*node, Some(*run))
            }
            _ => return Some(event),
        };
        let host = self.hosts.get_mut(&node)?;
        if host.process.is_none() {
            // The machine is there, the process is not: whoever asks is refused. Raft messages just vanish.
            if let Event::Deliver { from, to, packet: Packet::Request { id, .. } } = event {
                self.kernel.send(to, from, Packet::Refused { id });
            }
            return None;
        }
        if wanted.is_some_and(|run| run != host.run) {
            return None;
        }
        if let Some(waiting) = &mut host.paused {
            waiting.push(event);
            return None;
        }
        if host.busy_until > self.kernel.now {
            let wait = host.busy_until - self.kernel.now;
            self.kernel.after(wait, event);
            return None;
        }
        Some(event)
    }

    fn call(&mut self, node: NodeId, act: impl FnOnce(&mut Broker, &mut Ctx<'_>)) -> Option<NodeId> {
        let doom = self.arm(node);
        let host = self.hosts.get_mut(&node)?;
        let broker = host.process.as_mut()?;
        let (run, clock) = (host.run, host.clock);
        let doomed = doom.clone();
        let mut ctx = Ctx { me: Address::Broker(node), run, clock, exit: None, doom, kernel: &mut self.kernel };
        act(broker, &mut ctx);
        let exit = ctx.exit;
        if self.disarm(node, doomed) {
            self.doomed = Some(node);
        }
        self.charge(node);
        self.ending = exit.map(|code| (node, code));
        Some(node)
    }

    /// The disk of a process that may stop in the middle of what it does now.
    fn arm(&mut self, node: NodeId) -> Option<MemDisk> {
        let doom = self.hosts.get(&node)?.doom?;
        let allowed = !doom.power || doom.forced || crate::plan::may_cut_power(self, node);
        let host = self.hosts.get_mut(&node)?;
        if allowed {
            host.disk.stop_at(Some(doom.changes));
            return Some(host.disk.clone());
        }
        if !doom.declined {
            host.doom = Some(Doom { declined: true, ..doom });
            self.budget.declined += 1;
            self.kernel.trace.world(self.kernel.now, || format!("declined for now: the power of b{node} goes"));
        }
        None
    }

    /// Whether it did stop.
    fn disarm(&mut self, node: NodeId, disk: Option<MemDisk>) -> bool {
        let Some(disk) = disk else { return false };
        let left = disk.stop_at(None);
        if let Some(host) = self.hosts.get_mut(&node)
            && let Some(doom) = &mut host.doom
        {
            doom.changes = left.unwrap_or(doom.changes);
        }
        disk.is_stopped()
    }

    /// The disk takes its time: the process does nothing else meanwhile.
    fn charge(&mut self, node: NodeId) {
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let syncs = host.disk.take_cost().syncs;
        if host.sync_cost > 0 && syncs > 0 {
            host.busy_until = self.kernel.now + host.sync_cost * syncs;
        }
    }

    /// Starts the process of `node`, if none runs.
    pub fn boot(&mut self, node: NodeId) {
        if self.hosts.get(&node).is_none_or(|host| host.process.is_some()) {
            return;
        }
        let doom = self.arm(node);
        let doomed = doom.clone();
        let Some(host) = self.hosts.get_mut(&node) else { return };
        host.run += 1;
        host.busy_until = 0;
        let mut ctx = Ctx {
            me: Address::Broker(node),
            run: host.run,
            clock: host.clock,
            exit: None,
            doom,
            kernel: &mut self.kernel,
        };
        let booted = Broker::boot(&mut ctx, &host.config, &host.disk);
        if self.disarm(node, doomed) {
            drop(booted);
            self.kernel.trace.world(self.kernel.now, || format!("b{node} stops while it starts"));
            if let Some(host) = self.hosts.get_mut(&node) {
                host.exits.push(None);
                let _spent = host.disk.take_cost();
            }
            crate::plan::stopped(self, node);
            return;
        }
        let Some(host) = self.hosts.get_mut(&node) else { return };
        match booted {
            Ok(broker) => {
                host.process = Some(broker);
                let run = host.run;
                self.kernel.trace.world(self.kernel.now, || format!("b{node} started (run {run})"));
                self.charge(node);
                let peers: Vec<NodeId> = self.hosts.keys().copied().filter(|peer| *peer != node).collect();
                for peer in peers {
                    let soon = 500 + self.kernel.streams.schedule.below(20_000);
                    self.kernel.after(soon, Event::Attempt(node, peer));
                }
            }
            Err(BootError::Refused(reason)) => {
                self.kernel.trace.world(self.kernel.now, || format!("b{node} refuses its storage: {reason}"));
                host.exits.push(Some(EXIT_REFUSED));
                self.oracle.storage_refused(node, &reason);
            }
            Err(BootError::Temporary(reason)) => {
                self.kernel.trace.world(self.kernel.now, || format!("b{node} cannot start: {reason}"));
                host.exits.push(Some(75));
                if host.supervised {
                    self.kernel.after(1_000_000, Event::Boot(node));
                }
            }
        }
    }

    /// The process is gone. Peers learn it from their connections.
    fn ended(&mut self, node: NodeId, code: Option<i32>) {
        let Some(host) = self.hosts.get_mut(&node) else { return };
        if host.process.take().is_none() {
            return;
        }
        host.paused = None;
        host.exits.push(code);
        let supervised = host.supervised;
        self.kernel.trace.world(self.kernel.now, || match code {
            Some(code) => format!("b{node} ended with exit code {code}"),
            None => format!("b{node} killed"),
        });
        self.oracle.process_ended(node, code);
        for peer in self.kernel.net.peers_of(node) {
            self.kernel.net.set_link(node, peer, false);
            if self.kernel.net.path(node, peer) {
                self.tell(peer, LinkEvent::Lost(node), 300);
                self.kernel.after(600, Event::Attempt(peer, node));
            } else {
                // Nobody tells the peer; its keepalive will.
                self.kernel.after(KEEPALIVE, Event::KeepAlive(peer, node));
            }
        }
        // A clean stop (0) stays stopped until somebody starts it: that is what a stop is for.
        if supervised && code.is_some_and(|code| code != 0 && code != EXIT_REFUSED) {
            self.kernel.after(500_000, Event::Boot(node));
        }
    }

    fn tell(&mut self, to: NodeId, event: LinkEvent, after: Micros) {
        if let Some(host) = self.hosts.get(&to).filter(|host| host.process.is_some()) {
            let run = host.run;
            self.kernel.after(after, Event::Link { to, run, event });
        }
    }

    /// `a` tries to reach `b`.
    fn attempt(&mut self, a: NodeId, b: NodeId) {
        let runs = |world: &Self, node| world.hosts.get(&node).is_some_and(|host| host.process.is_some());
        if !runs(self, a) || self.kernel.net.linked(a, b) {
            return;
        }
        let open = self.kernel.net.path(a, b);
        let found = open && self.kernel.net.look_up(a, b);
        if found && runs(self, b) && self.hosts.get(&b).is_some_and(Host::is_up) {
            self.kernel.net.look_up(b, a);
            self.kernel.net.worked(a, b);
            self.kernel.net.worked(b, a);
            self.kernel.net.set_link(a, b, true);
            let hint = |world: &Self, node| world.hosts.get(&node)?.process.as_ref()?.known_leader();
            let (hint_a, hint_b) = (hint(self, a), hint(self, b));
            self.tell(a, LinkEvent::Connected(b, hint_b), 400);
            self.tell(b, LinkEvent::Connected(a, hint_a), 300);
            return;
        }
        if open && !runs(self, b) && self.hosts.contains_key(&b) {
            // The machine answers that nobody listens.
            let was_connected = found && self.kernel.net.has_worked(a, b);
            self.tell(a, LinkEvent::Refused { peer: b, was_connected }, 300);
        }
        let pause = 50_000 + self.kernel.streams.schedule.below(950_000);
        self.kernel.after(pause, Event::Attempt(a, b));
    }

    /// A connection whose path is cut, or whose other end is dead or stands still, is given up.
    fn keep_alive(&mut self, a: NodeId, b: NodeId) {
        let alive = |world: &Self, node| world.hosts.get(&node).is_some_and(Host::is_up);
        let fine = self.kernel.net.path(a, b) && alive(self, a) && alive(self, b);
        if fine && self.kernel.net.linked(a, b) {
            return;
        }
        self.kernel.net.set_link(a, b, false);
        for (me, peer) in [(a, b), (b, a)] {
            self.tell(me, LinkEvent::Lost(peer), 1);
            self.kernel.after(2, Event::Attempt(me, peer));
        }
    }

    // Faults.

    /// SIGKILL: what was written stays in the page cache.
    pub fn kill(&mut self, node: NodeId) {
        if self.hosts.get(&node).is_some_and(|host| host.process.is_some()) {
            self.ended(node, None);
        }
    }

    /// Power loss: what was not synced is lost in any subset.
    pub fn power_cut(&mut self, node: NodeId) {
        self.kill(node);
        self.oracle.power_lost(node);
        let seed = self.kernel.streams.disk.next_u64();
        if let Some(host) = self.hosts.get(&node) {
            self.kernel.trace.world(self.kernel.now, || format!("b{node} loses its power"));
            host.disk.crash(seed);
        }
    }

    /// SIGTERM.
    pub fn stop(&mut self, node: NodeId) {
        self.kernel.trace.world(self.kernel.now, || format!("b{node} is told to stop"));
        let Some(host) = self.hosts.get_mut(&node) else { return };
        if host.paused.is_some() {
            return;
        }
        if host.process.is_none() {
            return;
        }
        self.call(node, Broker::begin_stop);
        if self.doomed.is_some() {
            return;
        }
        if let Some((_, code)) = self.ending.take() {
            self.oracle.last_look(node, &self.hosts, self.kernel.now);
            self.ended(node, Some(code));
        }
    }

    /// SIGSTOP.
    pub fn pause(&mut self, node: NodeId) {
        let Some(host) = self.hosts.get_mut(&node) else { return };
        if host.process.is_none() || host.paused.is_some() {
            return;
        }
        host.paused = Some(Vec::new());
        self.kernel.trace.world(self.kernel.now, || format!("b{node} stands still"));
        for peer in self.kernel.net.peers_of(node) {
            self.kernel.after(KEEPALIVE, Event::KeepAlive(node, peer));
        }
    }

    /// SIGCONT.
    pub fn resume(&mut self, node: NodeId) {
        let Some(waiting) = self.hosts.get_mut(&node).and_then(|host| host.paused.take()) else { return };
        self.kernel.trace.world(self.kernel.now, || format!("b{node} goes on"));
        for event in waiting {
            self.kernel.after(1, event);
        }
    }

    /// Packets from `a` to `b` are lost from now on.
    pub fn cut(&mut self, a: NodeId, b: NodeId) {
        self.kernel.trace.world(self.kernel.now, || format!("b{a} -> b{b} is cut"));
        self.kernel.net.cuts.insert((a, b));
        if self.kernel.net.linked(a, b) {
            self.kernel.after(KEEPALIVE, Event::KeepAlive(a, b));
        }
    }

    /// Packets from `a` to `b` arrive again.
    pub fn mend(&mut self, a: NodeId, b: NodeId) {
        self.kernel.trace.world(self.kernel.now, || format!("b{a} -> b{b} is open"));
        self.kernel.net.cuts.remove(&(a, b));
    }

    /// All connections of `node` break and are made again.
    pub fn reset_links(&mut self, node: NodeId) {
        self.kernel.trace.world(self.kernel.now, || format!("b{node}: connections reset"));
        for peer in self.kernel.net.peers_of(node) {
            self.kernel.net.set_link(node, peer, false);
            self.tell(node, LinkEvent::Lost(peer), 1);
            self.tell(peer, LinkEvent::Lost(node), 200);
            self.kernel.after(400, Event::Attempt(peer, node));
        }
        // What clients asked may have been read and be done all the same; its answer finds nobody.
        for (id, client) in &self.clients {
            for request in client.waits_for(node) {
                let packet = Packet::Refused { id: request };
                self.kernel
                    .after(200, Event::Deliver { from: Address::Broker(node), to: Address::Client(*id), packet });
            }
        }
    }

    /// A new address; the name service tells it `lag` later.
    pub fn move_address(&mut self, node: NodeId) {
        let address = self.kernel.net.address.entry(node).or_default();
        *address += 1;
        let address = *address;
        self.kernel.trace.world(self.kernel.now, || format!("b{node} has address {address}"));
    }

    /// The name service knows the present address.
    pub fn publish_address(&mut self, node: NodeId) {
        let address = self.kernel.net.address.get(&node).copied().unwrap_or(0);
        self.kernel.net.published.insert(node, address);
    }

    /// The disk is empty; the process must be down.
    pub fn wipe(&mut self, node: NodeId) {
        self.kill(node);
        if let Some(host) = self.hosts.get_mut(&node) {
            self.kernel.trace.world(self.kernel.now, || format!("b{node}: disk wiped"));
            host.disk = MemDisk::new();
            self.oracle.disk_lost(node);
        }
    }
}

fn client_ctx(kernel: &mut Kernel, id: u32) -> Ctx<'_> {
    Ctx { me: Address::Client(id), run: 0, clock: Clock::default(), exit: None, doom: None, kernel }
}
