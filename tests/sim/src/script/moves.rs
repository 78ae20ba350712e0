//! Commands of a script that change who has a replica (KIP-455).

use chronik_model::NodeId;

use super::stage::{Answer, Stage, Words};
use crate::plan;
use crate::runner::Failure;

impl Stage {
    /// `reassign t-0 A B C`: asks for these replicas, once, and waits for nothing.
    pub(super) fn reassign(&mut self, rest: &str) -> Answer {
        let words = Words::new(rest);
        let partition = self.committed(words.at(0)?)?;
        let target = words.plain[1..].iter().map(|word| self.node(word)).collect::<Result<Vec<NodeId>, Failure>>()?;
        plan::ask_for_replicas(&mut self.world, &partition, Some(target));
        Ok(Vec::new())
    }

    /// `cancel t-0`: asks to end what is under way.
    pub(super) fn cancel(&mut self, word: &str) -> Answer {
        let partition = self.committed(word)?;
        plan::ask_for_replicas(&mut self.world, &partition, None);
        Ok(Vec::new())
    }

    /// Who has a replica, who comes and who goes.
    pub(super) fn moves(&self, word: &str) -> Answer {
        let state = self.committed(word)?.state;
        let mut line = format!("replicas=[{}]", self.part_list(&state.replicas));
        if !state.adding.is_empty() {
            line.push_str(&format!(" adding=[{}]", self.part_list(&state.adding)));
        }
        if !state.removing.is_empty() {
            line.push_str(&format!(" removing=[{}]", self.part_list(&state.removing)));
        }
        Ok(vec![line])
    }
}
