//! Who shall be the preferred leader: equally many partitions for each broker, by another order of the same replicas.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use super::work::Work;

/// One step of a chain: this partition shall prefer another broker.
#[derive(Clone, Copy)]
struct Step {
    piece: usize,
    from: usize,
    to: usize,
}

impl Work<'_> {
    /// Lets brokers that lead few partitions be preferred where others lead many.
    pub(super) fn even_leaders(&mut self) {
        loop {
            let mut order = self.targets();
            order.sort_by_key(|place| (Reverse(self.places[*place].leads.len()), self.places[*place].node));
            let Some(chain) = order.iter().find_map(|from| self.leader_chain(*from, &order)) else { return };
            for step in chain {
                self.prefer(step.piece, step.to);
            }
        }
    }

    /// The best partition to prefer `to` instead of `from`, if there is one.
    fn leader_step(&self, from: usize, to: usize) -> Option<Step> {
        let may = self.places[from].leads.iter().copied().filter(|piece| {
            let p = &self.pieces[*piece];
            p.movable && p.target.contains(&to)
        });
        let piece = may.min_by_key(|piece| {
            let p = &self.pieces[*piece];
            let node = self.places[to].node;
            // First what costs nothing: partitions that change anyway, or that `to` leads already.
            let unchanged = p.target == p.home;
            (unchanged && p.of.leader != Some(node), p.of.leader != Some(node), !p.of.isr.contains(&node), *piece)
        })?;
        Some(Step { piece, from, to })
    }

    /// The shortest chain to a broker that is preferred by at least two partitions less.
    fn leader_chain(&self, from: usize, order: &[usize]) -> Option<Vec<Step>> {
        let differ = |to: usize| self.places[from].leads.len() >= self.places[to].leads.len() + 2;
        if !order.iter().any(|to| differ(*to)) {
            return None;
        }
        let mut came: BTreeMap<usize, Step> = BTreeMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(here) = queue.pop_front() {
            for to in order.iter().rev().copied() {
                if to == from || came.contains_key(&to) {
                    continue;
                }
                let Some(step) = self.leader_step(here, to) else { continue };
                came.insert(to, step);
                if differ(to) {
                    let mut chain = Vec::new();
                    let mut at = to;
                    while let Some(step) = came.get(&at).filter(|_| at != from) {
                        chain.push(*step);
                        at = step.from;
                    }
                    return Some(chain);
                }
                queue.push_back(to);
            }
        }
        None
    }
}
