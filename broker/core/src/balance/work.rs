//! The board on which a plan is made: every partition with the replicas it shall have, and counts that follow.
//!
//! Brokers and partitions are numbered by id and by name, so that everything walks them alike.

use std::collections::{BTreeMap, BTreeSet};

use chronik_model::NodeId;

use super::{Cluster, Election, Move, Partition};

/// A broker on the board.
pub(super) struct Place<'a> {
    pub(super) node: NodeId,
    pub(super) rack: Option<&'a str>,
    /// May get replicas and leaderships.
    pub(super) target: bool,
    pub(super) cordoned: bool,
    pub(super) live: bool,
    /// Partitions that shall be here.
    pub(super) hosts: BTreeSet<usize>,
    /// Partitions of which this shall be the preferred leader.
    pub(super) leads: BTreeSet<usize>,
}

/// A partition on the board.
pub(super) struct Piece<'a> {
    pub(super) of: &'a Partition,
    /// Number of its topic.
    pub(super) topic: usize,
    /// Where it is or is about to be, as it was found.
    pub(super) home: Vec<usize>,
    /// Where it shall be.
    pub(super) target: Vec<usize>,
    /// May be changed by this plan.
    pub(super) movable: bool,
    /// A reassignment that is left alone.
    pub(super) in_flight: bool,
    /// Has to leave a cordoned broker.
    pub(super) urgent: bool,
}

/// The board.
pub(super) struct Work<'a> {
    pub(super) places: Vec<Place<'a>>,
    pub(super) pieces: Vec<Piece<'a>>,
    /// Replicas of a topic on a broker, both by number.
    pub(super) spread: BTreeMap<(usize, usize), usize>,
}

impl<'a> Work<'a> {
    pub(super) fn new(cluster: &'a Cluster) -> Self {
        let mut places: BTreeMap<NodeId, Place<'a>> = BTreeMap::new();
        let place = |node, rack, live: bool, cordoned: bool| Place {
            node,
            rack,
            target: live && !cordoned,
            cordoned,
            live,
            hosts: BTreeSet::new(),
            leads: BTreeSet::new(),
        };
        for broker in &cluster.brokers {
            places.insert(broker.node, place(broker.node, broker.rack.as_deref(), broker.live, broker.cordoned));
        }
        for node in cluster.partitions.iter().flat_map(|partition| &partition.replicas) {
            // A replica of a broker that is not registered stays where it is, like that of a dead one.
            places.entry(*node).or_insert_with(|| place(*node, None, false, false));
        }
        let numbers: BTreeMap<NodeId, usize> =
            places.keys().enumerate().map(|(number, node)| (*node, number)).collect();
        let mut work = Self { places: places.into_values().collect(), pieces: Vec::new(), spread: BTreeMap::new() };
        let mut sorted: Vec<&Partition> = cluster.partitions.iter().collect();
        sorted.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        let mut topic = 0;
        for (position, partition) in sorted.iter().enumerate() {
            if position > 0 && sorted[position - 1].topic != partition.topic {
                topic += 1;
            }
            work.put(partition, topic, &numbers);
        }
        work
    }

    fn put(&mut self, partition: &'a Partition, topic: usize, numbers: &BTreeMap<NodeId, usize>) {
        let kept = partition.replicas.iter().filter(|node| !partition.removing.contains(node));
        let home: Vec<usize> = kept.filter_map(|node| numbers.get(node).copied()).collect();
        let reassigning = !partition.adding.is_empty() || !partition.removing.is_empty();
        let added = partition.adding.iter().filter_map(|node| numbers.get(node));
        let misled = added.into_iter().any(|place| self.places[*place].cordoned);
        let in_flight = reassigning && !misled;
        let piece = Piece {
            of: partition,
            topic,
            target: home.clone(),
            movable: !in_flight && partition.leader.is_some() && !home.is_empty(),
            in_flight,
            urgent: home.iter().any(|place| self.places[*place].cordoned),
            home,
        };
        let number = self.pieces.len();
        for (position, place) in piece.target.iter().enumerate() {
            self.places[*place].hosts.insert(number);
            *self.spread.entry((topic, *place)).or_default() += 1;
            if position == 0 {
                self.places[*place].leads.insert(number);
            }
        }
        self.pieces.push(piece);
    }

    pub(super) fn in_flight(&self) -> usize {
        self.pieces.iter().filter(|piece| piece.in_flight).count()
    }

    /// Brokers that may get something.
    pub(super) fn targets(&self) -> Vec<usize> {
        (0..self.places.len()).filter(|place| self.places[*place].target).collect()
    }

    /// Replicas of `topic` on `place`.
    pub(super) fn spread(&self, topic: usize, place: usize) -> usize {
        self.spread.get(&(topic, place)).copied().unwrap_or(0)
    }

    /// Pairs of replicas of `piece` in one rack, if `to` took the place of `from`.
    pub(super) fn conflicts(&self, piece: usize, swap: Option<(usize, usize)>) -> usize {
        let target = &self.pieces[piece].target;
        let rack = |place: usize| {
            let place = swap.filter(|(from, _)| *from == place).map_or(place, |(_, to)| to);
            self.places[place].rack
        };
        let pairs = target.iter().enumerate().flat_map(|(n, a)| target[n + 1..].iter().map(move |b| (*a, *b)));
        pairs.filter(|(a, b)| rack(*a).is_some() && rack(*a) == rack(*b)).count()
    }

    /// Puts `to` in the place of `from`, which is in the target of `piece`.
    pub(super) fn replace(&mut self, piece: usize, from: usize, to: usize) {
        let topic = self.pieces[piece].topic;
        let Some(position) = self.pieces[piece].target.iter().position(|place| *place == from) else { return };
        self.pieces[piece].target[position] = to;
        self.places[from].hosts.remove(&piece);
        self.places[to].hosts.insert(piece);
        if let Some(count) = self.spread.get_mut(&(topic, from)) {
            *count = count.saturating_sub(1);
        }
        *self.spread.entry((topic, to)).or_default() += 1;
        if position == 0 {
            self.places[from].leads.remove(&piece);
            self.places[to].leads.insert(piece);
        }
    }

    /// Makes `to`, which is in the target of `piece`, its preferred leader.
    pub(super) fn prefer(&mut self, piece: usize, to: usize) {
        let Some(position) = self.pieces[piece].target.iter().position(|place| *place == to) else { return };
        let from = self.pieces[piece].target[0];
        // The others keep their order: who is next in line stays next in line.
        self.pieces[piece].target[..=position].rotate_right(1);
        self.places[from].leads.remove(&piece);
        self.places[to].leads.insert(piece);
    }

    fn nodes(&self, places: &[usize]) -> Vec<NodeId> {
        places.iter().map(|place| self.places[*place].node).collect()
    }

    /// Moves that copy, urgent ones first, and those that only change the order.
    pub(super) fn moves(&self) -> (Vec<Move>, Vec<Move>) {
        let mut changed: Vec<&Piece<'_>> = self.pieces.iter().filter(|piece| piece.target != piece.home).collect();
        changed.sort_by_key(|piece| !piece.urgent);
        let describe = |piece: &&Piece<'_>| Move {
            topic: piece.of.topic.clone(),
            topic_id: piece.of.topic_id,
            partition: piece.of.partition,
            epoch: piece.of.epoch,
            from: self.nodes(&piece.home),
            to: self.nodes(&piece.target),
        };
        changed.iter().map(describe).partition(|change| change.copies().next().is_some())
    }

    /// Partitions whose preferred leader is in sync and does not lead; those that will move are left out.
    pub(super) fn elections(&self) -> Vec<Election> {
        let wanted = |piece: &&Piece<'_>| {
            let Some(first) = piece.target.first() else { return false };
            let place = &self.places[*first];
            piece.movable
                && piece.target == piece.home
                && place.target
                && piece.of.leader != Some(place.node)
                && piece.of.isr.contains(&place.node)
        };
        let pieces = self.pieces.iter().filter(wanted);
        pieces.map(|piece| Election { topic: piece.of.topic.clone(), partition: piece.of.partition }).collect()
    }
}
