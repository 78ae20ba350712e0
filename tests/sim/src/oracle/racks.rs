//! Racks: what was assigned to a broker stays, over restarts, registrations and changes of leaders, until another is assigned.
//!
//! An assignment that was answered is in force; one that was not may be, and may come to be so at any later time. Another
//! value, or none after one was answered, is a loss of committed metadata.

use std::collections::{BTreeMap, BTreeSet};

use chronik_model::NodeId;

use super::Violation;
use crate::kernel::Micros;

#[derive(Debug)]
struct Assignment {
    node: NodeId,
    rack: Option<String>,
    asked: Micros,
    done: Option<Micros>,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Racks {
    /// Those that are or may be in force.
    assignments: BTreeMap<u64, Assignment>,
    /// Who has been assigned one.
    assigned: BTreeSet<NodeId>,
}

impl Racks {
    /// Somebody asks for this, under a number of its own.
    pub fn asked(&mut self, number: u64, node: NodeId, rack: Option<String>, now: Micros) {
        self.assignments.insert(number, Assignment { node, rack, asked: now, done: None });
    }

    /// It is done, somebody was told. What was done before it was asked for is over.
    pub fn done(&mut self, number: u64, now: Micros) {
        let Some(assignment) = self.assignments.get_mut(&number) else { return };
        assignment.done = Some(now);
        let (node, asked) = (assignment.node, assignment.asked);
        self.assigned.insert(node);
        self.assignments.retain(|_, one| one.node != node || one.done.is_none_or(|done| done >= asked));
    }

    /// What metadata says that are as new as anything that was answered.
    ///
    /// # Errors
    /// Nobody asked for that, or it was replaced since.
    pub fn see(&self, node: NodeId, rack: Option<&str>) -> Result<(), Violation> {
        let never = rack.is_none() && !self.assigned.contains(&node);
        if never || self.assignments.values().any(|one| one.node == node && one.rack.as_deref() == rack) {
            return Ok(());
        }
        let known: Vec<String> = self
            .assignments
            .values()
            .filter(|one| one.node == node)
            .map(|one| format!("{:?} asked for at {} ms, done {:?}", one.rack, one.asked / 1_000, one.done))
            .collect();
        let text = format!("b{node} is in rack {rack:?}, which nobody assigned last: {}", known.join("; "));
        Err(Violation { invariant: 10, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);

    fn rack(name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    #[test]
    fn what_was_assigned_and_answered_stays_until_another_is() {
        let mut racks = Racks::default();
        assert!(racks.see(A, None).is_ok());
        assert!(racks.see(A, Some("x")).is_err(), "nobody asked");
        racks.asked(1, A, rack("x"), 10);
        assert!(racks.see(A, None).is_ok() && racks.see(A, Some("x")).is_ok(), "nobody knows yet");
        racks.done(1, 20);
        assert!(racks.see(A, Some("x")).is_ok() && racks.see(A, None).is_err());
        racks.asked(2, A, rack("y"), 30);
        assert!(racks.see(A, Some("x")).is_ok() && racks.see(A, Some("y")).is_ok());
        racks.done(2, 40);
        assert!(racks.see(A, Some("y")).is_ok() && racks.see(A, Some("x")).is_err());
    }

    #[test]
    fn of_two_at_the_same_time_either_may_be_the_last_and_an_unanswered_one_may_come_late() {
        let mut racks = Racks::default();
        racks.asked(1, A, rack("x"), 10);
        racks.asked(2, A, rack("y"), 11);
        racks.asked(3, A, rack("z"), 12);
        racks.done(1, 20);
        racks.done(2, 21);
        for name in ["x", "y", "z"] {
            assert!(racks.see(A, Some(name)).is_ok(), "{name}");
        }
        racks.asked(4, A, None, 30);
        racks.done(4, 31);
        assert!(racks.see(A, None).is_ok() && racks.see(A, Some("z")).is_ok());
        assert!(racks.see(A, Some("x")).is_err() && racks.see(A, Some("y")).is_err());
    }
}
