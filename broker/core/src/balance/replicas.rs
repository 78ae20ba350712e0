//! Where replicas shall be: off cordoned brokers, racks apart, counts even.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use chronik_model::TopicName;

use super::Blocked;
use super::work::Work;

/// One step of a chain: this partition's replica goes from one broker to another.
#[derive(Clone, Copy)]
struct Step {
    piece: usize,
    from: usize,
    to: usize,
}

impl Work<'_> {
    /// Finds every replica of a cordoned broker another place. How many partitions stay there, and for each topic why, also
    /// why reassignments under way do not end.
    pub(super) fn empty_cordoned(&mut self) -> (usize, Vec<Blocked>) {
        let mut blocked: BTreeMap<TopicName, Blocked> = BTreeMap::new();
        let mut stuck = 0;
        for piece in 0..self.pieces.len() {
            let p = &self.pieces[piece];
            let (topic, partition) = (p.of.topic.clone(), p.of.partition);
            if p.in_flight {
                let added = p.target.iter().map(|place| &self.places[*place]);
                let dead =
                    added.filter(|place| !place.live && p.of.adding.contains(&place.node)).map(|place| place.node);
                if let Some(broker) = dead.min() {
                    blocked.entry(topic.clone()).or_insert(Blocked::AddedNotAlive { topic, partition, broker });
                }
                continue;
            }
            if !p.urgent {
                continue;
            }
            if !p.movable {
                stuck += 1;
                blocked.entry(topic.clone()).or_insert(Blocked::NoLeader { topic, partition });
                continue;
            }
            let leaving: Vec<usize> = p.target.iter().copied().filter(|place| self.places[*place].cordoned).collect();
            let mut stays = false;
            for from in leaving {
                match self.best_target(piece, from) {
                    Some(to) => self.replace(piece, from, to),
                    None => {
                        stays = true;
                        blocked.entry(topic.clone()).or_insert_with(|| self.why_not(piece));
                    }
                }
            }
            stuck += usize::from(stays);
        }
        (stuck, blocked.into_values().collect())
    }

    fn why_not(&self, piece: usize) -> Blocked {
        let of = self.pieces[piece].of;
        let replication_factor = self.pieces[piece].target.len();
        let left = self.places.iter().filter(|place| !place.cordoned).count();
        let dead = self.places.iter().filter(|place| !place.cordoned && !place.live).map(|place| place.node);
        if left < replication_factor {
            return Blocked::ReplicationFactorTooHigh { topic: of.topic.clone(), replication_factor, brokers: left };
        }
        Blocked::BrokersNotAlive { topic: of.topic.clone(), brokers: dead.collect() }
    }

    /// Who should take the replica of `piece` that `from` has: racks apart, who has the records already, who has least.
    fn best_target(&self, piece: usize, from: usize) -> Option<usize> {
        let target = &self.pieces[piece].target;
        let (topic, of) = (self.pieces[piece].topic, self.pieces[piece].of);
        let free = self.targets().into_iter().filter(|place| !target.contains(place));
        free.min_by_key(|to| {
            let place = &self.places[*to];
            let copies = !of.replicas.contains(&place.node);
            (self.conflicts(piece, Some((from, *to))), copies, place.hosts.len(), self.spread(topic, *to), place.node)
        })
    }

    /// Takes replicas of one partition out of a rack that they share, while another rack has room.
    pub(super) fn part_racks(&mut self) {
        for piece in 0..self.pieces.len() {
            if !self.pieces[piece].movable {
                continue;
            }
            loop {
                let now = self.conflicts(piece, None);
                if now == 0 {
                    break;
                }
                let leader = self.pieces[piece].of.leader;
                let candidates = self.pieces[piece].target.iter().copied().filter(|from| self.places[*from].live);
                let best = candidates
                    .filter_map(|from| self.best_target(piece, from).map(|to| (from, to)))
                    .map(|(from, to)| {
                        let place = &self.places[from];
                        let key = (
                            self.conflicts(piece, Some((from, to))),
                            leader == Some(place.node),
                            Reverse(place.hosts.len()),
                            place.node,
                        );
                        (key, from, to)
                    })
                    .min();
                match best {
                    Some(((left, ..), from, to)) if left < now => self.replace(piece, from, to),
                    _ => break,
                }
            }
        }
    }

    /// Moves replicas from brokers with many to brokers with few until they differ by one, or nothing helps any more.
    pub(super) fn even_replicas(&mut self) {
        loop {
            let mut order = self.targets();
            order.sort_by_key(|place| (Reverse(self.places[*place].hosts.len()), self.places[*place].node));
            let chain = order.iter().find_map(|from| {
                self.shortcut(*from, &order).map(|step| vec![step]).or_else(|| self.chain(*from, &order))
            });
            let Some(chain) = chain else { return };
            if !self.follow(&chain) {
                return;
            }
        }
    }

    fn differ(&self, many: usize, few: usize) -> bool {
        self.places[many].hosts.len() >= self.places[few].hosts.len() + 2
    }

    /// One move to the emptiest broker that can take something of `from`.
    fn shortcut(&self, from: usize, order: &[usize]) -> Option<Step> {
        let few = order.iter().rev().copied().filter(|to| self.differ(from, *to));
        let mut steps = few.filter_map(|to| self.step(from, to));
        steps.next()
    }

    /// The best replica to go from `from` to `to`, if one may.
    fn step(&self, from: usize, to: usize) -> Option<Step> {
        let may = self.places[from].hosts.iter().copied().filter(|piece| self.may_go(*piece, from, to));
        let piece = may.min_by_key(|piece| {
            let p = &self.pieces[*piece];
            // First what costs no further copy, as this plan moved it here or away from there. Then replicas that do not
            // lead, of topics that are denser here than there, and small ones.
            let copies = i32::from(!p.home.contains(&to)) - i32::from(!p.home.contains(&from));
            let topic = (self.spread(p.topic, from) as i64) - (self.spread(p.topic, to) as i64);
            (
                copies,
                p.of.leader == Some(self.places[from].node),
                p.target.first() == Some(&from),
                Reverse(topic),
                p.of.bytes.unwrap_or(u64::MAX),
                *piece,
            )
        })?;
        Some(Step { piece, from, to })
    }

    fn may_go(&self, piece: usize, from: usize, to: usize) -> bool {
        let p = &self.pieces[piece];
        p.movable
            && p.target.contains(&from)
            && !p.target.contains(&to)
            && self.conflicts(piece, Some((from, to))) <= self.conflicts(piece, None)
    }

    /// The shortest chain of moves from `from` to a broker with at least two replicas less; the brokers between keep
    /// their counts.
    fn chain(&self, from: usize, order: &[usize]) -> Option<Vec<Step>> {
        if !order.iter().any(|to| self.differ(from, *to)) {
            return None;
        }
        let mut came: BTreeMap<usize, Step> = BTreeMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(here) = queue.pop_front() {
            for to in order.iter().rev().copied() {
                if to == from || came.contains_key(&to) {
                    continue;
                }
                let Some(step) = self.step(here, to) else { continue };
                came.insert(to, step);
                if self.differ(from, to) {
                    let mut chain = Vec::new();
                    let mut at = to;
                    while let Some(step) = came.get(&at).filter(|_| at != from) {
                        chain.push(*step);
                        at = step.from;
                    }
                    // A partition that the chain moves twice might not be allowed its second step after the first.
                    let mut pieces: Vec<usize> = chain.iter().map(|step| step.piece).collect();
                    pieces.sort_unstable();
                    pieces.dedup();
                    return (pieces.len() == chain.len()).then_some(chain);
                }
                queue.push_back(to);
            }
        }
        None
    }

    /// Makes the moves of a chain, its end first; `false` if one of them was not possible.
    fn follow(&mut self, chain: &[Step]) -> bool {
        for step in chain {
            if !self.may_go(step.piece, step.from, step.to) {
                return false;
            }
            self.replace(step.piece, step.from, step.to);
        }
        true
    }
}
