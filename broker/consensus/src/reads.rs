//! Linearizable reads that wait for their index.
//!
//! A read is asked of raft when it arrives, and again every few ticks until it is answered: raft drops what reaches a
//! leader before it committed an entry of its own term, and messages get lost. The context that travels names the
//! node, its run and the read, so that an answer to another node or to an earlier run is never taken for ours.

use std::collections::BTreeMap;

use bytes::Buf;

use crate::types::ReadToken;

#[derive(Debug)]
pub(crate) struct Reads {
    node: u64,
    incarnation: u64,
    next: u64,
    /// Waiting reads and the tick at which they were last asked.
    waiting: BTreeMap<ReadToken, u64>,
}

impl Reads {
    pub(crate) fn new(node: u64, incarnation: u64) -> Self {
        Self { node, incarnation, next: 1, waiting: BTreeMap::new() }
    }

    pub(crate) fn begin(&mut self, tick: u64) -> ReadToken {
        let token = ReadToken(self.next);
        self.next += 1;
        self.waiting.insert(token, tick);
        token
    }

    pub(crate) fn forget(&mut self, token: ReadToken) {
        self.waiting.remove(&token);
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn context(&self, token: ReadToken) -> Vec<u8> {
        [self.node, self.incarnation, token.0].iter().flat_map(|n| n.to_be_bytes()).collect()
    }

    /// The waiting read that `context` answers. One answer settles it.
    pub(crate) fn answered(&mut self, mut context: &[u8]) -> Option<ReadToken> {
        if context.len() != 24 || context.get_u64() != self.node || context.get_u64() != self.incarnation {
            return None;
        }
        let token = ReadToken(context.get_u64());
        self.waiting.remove(&token).map(|_| token)
    }

    /// Reads last asked before `tick - every`; they count as asked now.
    pub(crate) fn take_due(&mut self, tick: u64, every: u64) -> Vec<ReadToken> {
        let mut due = Vec::new();
        for (token, asked) in &mut self.waiting {
            if tick >= *asked + every {
                *asked = tick;
                due.push(*token);
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_another_node_run_or_read_is_not_ours() {
        let mut reads = Reads::new(1, 77);
        let token = reads.begin(0);
        assert_eq!(reads.answered(&Reads::new(2, 77).context(token)), None);
        assert_eq!(reads.answered(&Reads::new(1, 78).context(token)), None);
        assert_eq!(reads.answered(&reads.context(ReadToken(99))), None);
        assert_eq!(reads.answered(b"short"), None);
        let context = reads.context(token);
        assert_eq!(reads.answered(&context), Some(token));
        assert_eq!(reads.answered(&context), None, "once");
    }

    #[test]
    fn unanswered_reads_are_asked_again() {
        let mut reads = Reads::new(1, 0);
        let token = reads.begin(10);
        assert!(reads.take_due(12, 3).is_empty());
        assert_eq!(reads.take_due(13, 3), vec![token]);
        assert!(reads.take_due(14, 3).is_empty());
        reads.forget(token);
        assert!(reads.take_due(20, 3).is_empty());
    }
}
