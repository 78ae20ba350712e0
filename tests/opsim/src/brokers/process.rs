//! Processes and their disks: boot, founding, joining, exit.

use std::collections::{BTreeMap, BTreeSet};

use super::{Brokers, Id};
use crate::rng::Rng;

/// What a volume holds.
#[derive(Clone, Default, Debug)]
pub struct Volume {
    /// Directory id; empty = nothing was ever written.
    pub directory: String,
    /// The cluster that wrote it.
    pub cluster: String,
    /// Length of its metadata log; 0 = none.
    pub raft_index: u64,
    /// Records by partition.
    pub logs: BTreeMap<usize, u64>,
    /// Size in GiB.
    pub capacity: u64,
    /// Of these in use.
    pub used: u64,
    /// How many old identities were moved aside.
    pub aside: u32,
}

impl Volume {
    /// Whether a broker with this disk stops at once.
    #[must_use]
    pub const fn full(&self) -> bool {
        self.used >= self.capacity
    }

    /// Whether the operator calls the cluster degraded because of it.
    #[must_use]
    pub const fn almost_full(&self) -> bool {
        self.used * 10 >= self.capacity * 9
    }
}

/// The mounted `cluster.yaml`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ClusterFile {
    /// Identity.
    pub cluster: String,
    /// Who founds.
    pub bootstrap_voters: BTreeSet<Id>,
    /// Nobody founds.
    pub join: bool,
    /// Whom one can ask.
    pub peers: BTreeSet<Id>,
    /// Directories that begin anew.
    pub retired: BTreeSet<String>,
}

/// What a process is doing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Run {
    /// Reading its disk.
    Booting {
        /// Done then.
        until: u64,
    },
    /// Waits for a majority of the founders.
    Founding,
    /// Asks to be let in.
    Joining,
    /// Serves.
    Serving,
    /// Leaves in good order.
    Stopping {
        /// Gone then.
        until: u64,
    },
    /// Has ended by itself.
    Crashed(&'static str),
}

/// The process of a broker.
#[derive(Clone, Debug)]
pub struct Process {
    /// What it does.
    pub run: Run,
    /// Uid of the claim of its disk.
    pub volume: String,
    /// Of this run.
    pub incarnation: String,
    /// Of its software.
    pub version: String,
    /// Ends at once: a bad setting.
    pub faulty: bool,
    /// The operator gets no answer until then; the other brokers do.
    pub unreachable_until: u64,
    /// The control secret at its start.
    pub token: String,
    /// As mounted at its start.
    pub file: ClusterFile,
    /// When it started.
    pub since: u64,
}

impl Brokers {
    /// Starts the process of `id` on a disk.
    pub fn start(&mut self, now: u64, id: Id, process: Process, rng: &mut Rng) {
        let (low, high) = self.pace.boot_ms;
        let until = now + rng.between(low, high);
        self.tell(format!("broker {id} boots"));
        self.homes.insert(id, process.volume.clone());
        self.processes.insert(id, Process { run: Run::Booting { until }, since: now, ..process });
    }

    /// SIGTERM.
    pub fn terminate(&mut self, now: u64, id: Id, rng: &mut Rng) {
        let (low, high) = self.pace.stop_ms;
        let Some(process) = self.processes.get_mut(&id) else { return };
        match process.run {
            Run::Stopping { .. } => return,
            Run::Serving => process.run = Run::Stopping { until: now + rng.between(low, high) },
            _ => process.run = Run::Stopping { until: now },
        }
        self.tell(format!("broker {id} shuts down"));
        self.leave(now, id);
    }

    /// SIGKILL, or its node is gone. Answers whether there was one.
    pub fn kill(&mut self, id: Id) -> bool {
        let was = self.processes.remove(&id).is_some();
        if was {
            self.tell(format!("broker {id} is dead"));
        }
        was
    }

    /// Destroys a disk.
    pub fn destroy(&mut self, volume: &str) {
        if let Some(gone) = self.volumes.remove(volume)
            && !gone.directory.is_empty()
        {
            self.tell(format!("the disk {} is gone", gone.directory));
            self.check_data();
        }
    }

    pub(super) fn run_processes(&mut self, now: u64, rng: &mut Rng) {
        let ids: Vec<Id> = self.processes.keys().copied().collect();
        for id in ids {
            let Some(process) = self.processes.get(&id) else { continue };
            match process.run {
                Run::Booting { until } if until <= now => {
                    let next = self.booted(id, rng);
                    self.set_run(id, next);
                }
                Run::Founding => self.try_to_found(now, id, rng),
                Run::Joining => self.try_to_join(id),
                Run::Stopping { until } if until <= now => drop(self.kill(id)),
                Run::Serving => {
                    let volume = self.volumes.get(&process.volume);
                    if volume.is_none_or(Volume::full) {
                        self.set_run(id, Run::Crashed("its disk is full"));
                    }
                }
                _ => {}
            }
        }
    }

    fn set_run(&mut self, id: Id, run: Run) {
        self.tell(format!("broker {id}: {run:?}"));
        if let Some(process) = self.processes.get_mut(&id) {
            process.run = run;
        }
    }

    /// The start-up order of a broker, as far as its identity goes.
    fn booted(&mut self, id: Id, rng: &mut Rng) -> Run {
        let Some(process) = self.processes.get(&id) else { return Run::Crashed("no process") };
        let file = process.file.clone();
        let Some(volume) = self.volumes.get_mut(&process.volume) else { return Run::Crashed("no disk") };
        if process.faulty {
            return Run::Crashed("a bad setting");
        }
        if volume.full() {
            return Run::Crashed("its disk is full");
        }
        if file.retired.contains(&volume.directory) {
            let aside = volume.aside + 1;
            *volume = Volume { capacity: volume.capacity, used: volume.used, aside, ..Volume::default() };
        }
        if volume.directory.is_empty() {
            volume.directory = format!("dir-{id}-{:08x}", rng.draw() >> 32);
            volume.cluster.clone_from(&file.cluster);
        } else if volume.cluster != file.cluster {
            return Run::Crashed("its disk belongs to another cluster");
        }
        if volume.raft_index > 0 {
            return Run::Serving;
        }
        if !file.join && file.bootstrap_voters.contains(&id) { Run::Founding } else { Run::Joining }
    }

    /// Founders vote for one another; a majority of them with empty disks is enough. One whose cluster exists already is
    /// taken in by it as the voter it is.
    fn try_to_found(&mut self, now: u64, id: Id, rng: &mut Rng) {
        if self.quorum.leader.is_some() && self.quorum.is_member(id) {
            self.set_run(id, Run::Serving);
            return;
        }
        let Some(founders) = self.processes.get(&id).map(|p| p.file.bootstrap_voters.clone()) else { return };
        let waiting = |voter: &Id| {
            let process = self.processes.get(voter);
            process.is_some_and(|p| p.run == Run::Founding && p.file.bootstrap_voters == founders)
        };
        let together: Vec<Id> = founders.iter().copied().filter(waiting).collect();
        if together.len() * 2 <= founders.len() {
            return;
        }
        self.foundings += 1;
        if self.foundings > 1 {
            self.broken(format!(
                "{together:?} founded a second cluster; the first had voters {:?}",
                self.quorum.voters
            ));
            return;
        }
        self.tell(format!("{together:?} found the cluster of {founders:?}"));
        self.quorum.found(founders);
        for voter in together {
            let home = self.homes.get(&voter).cloned().unwrap_or_default();
            if let Some(volume) = self.volumes.get_mut(&home) {
                volume.raft_index = 1;
            }
            self.set_run(voter, Run::Serving);
        }
        self.elect(now, rng);
    }

    fn try_to_join(&mut self, id: Id) {
        let Some(process) = self.processes.get(&id) else { return };
        let knows_somebody = process.file.peers.iter().any(|peer| *peer != id && self.serves(*peer));
        if self.quorum.leader.is_none() || !knows_somebody {
            return;
        }
        if !self.quorum.is_member(id) {
            if !self.quorum.free() {
                return;
            }
            self.quorum.learners.insert(id);
            self.tell(format!("{id} is a learner"));
            self.commit();
        }
        self.set_run(id, Run::Serving);
    }

    /// The disk of a broker, running or not.
    #[must_use]
    pub fn disk(&self, id: Id) -> Option<&Volume> {
        self.homes.get(&id).and_then(|uid| self.volumes.get(uid))
    }

    pub(super) fn disk_mut(&mut self, id: Id) -> Option<&mut Volume> {
        self.homes.get(&id).and_then(|uid| self.volumes.get_mut(uid))
    }
}
