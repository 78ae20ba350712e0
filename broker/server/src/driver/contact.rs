//! Whether what this broker knows of the cluster can be believed: when the controller last answered it, and with what.
//!
//! A broker that was cut off knows nothing wrong but much that is old, and raft tells it of a leader again before it has
//! caught up. So contact is lost with every change of the leader, with the connection to it, and when it answers that it
//! does not lead; and it is good again only once the leader has answered a heartbeat and this broker has applied what the
//! leader had applied by then. `heartbeat` and the Raft thread write it, [`super::Shared::ready`] reads it.
//!
//! A leader that is merely slow, as one whose disk stalls for a moment, keeps all brokers waiting at once. If each of them
//! were unready, there would be none: silence loses contact only when the session has expired in it.
//!
//! What never happens: an answer of an earlier leader counts as contact with the present one.

use chronik_model::{NodeId, RaftIndex};
use chronik_node::quorum::Reign;
use parking_lot::Mutex;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Contact {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    reign: Option<Reign>,
    /// Since when there is no contact; `None` before anything was known.
    lost_ms: Option<u64>,
    good: Option<Good>,
}

/// Contact since the first answer after it was lost.
#[derive(Debug)]
struct Good {
    /// When the heartbeat that was answered last had been sent.
    sent_ms: u64,
    /// How long its answer counts.
    session_ms: u64,
    /// What the last answer said.
    fenced: bool,
    /// What the leader had applied at the first answer.
    caught_up_at: RaftIndex,
}

/// What the leader answered to a heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answered {
    /// When the heartbeat was sent.
    pub sent_ms: u64,
    /// How long a session lasts without another.
    pub session_ms: u64,
    /// This broker is fenced.
    pub fenced: bool,
    /// What the leader had applied.
    pub applied: RaftIndex,
}

impl State {
    fn lose(&mut self, now_ms: u64) {
        if self.good.take().is_some() || self.lost_ms.is_none() {
            self.lost_ms = Some(now_ms);
        }
    }
}

impl Contact {
    /// This leader is known now, or none.
    pub fn led_by(&self, reign: Option<Reign>, now_ms: u64) {
        let mut state = self.state.lock();
        if state.reign != reign {
            state.reign = reign;
            state.lose(now_ms);
        }
    }

    /// The connection to `peer` broke.
    pub fn disconnected(&self, peer: NodeId, now_ms: u64) {
        let mut state = self.state.lock();
        if state.reign.is_some_and(|(leader, _)| leader == peer) {
            state.lose(now_ms);
        }
    }

    /// A heartbeat could not be sent, or was not answered by a leader that knows this broker.
    pub fn lost(&self, now_ms: u64) {
        self.state.lock().lose(now_ms);
    }

    /// The leader that was asked has answered.
    pub fn answered(&self, asked: Reign, answer: Answered) {
        let mut state = self.state.lock();
        if state.reign != Some(asked) {
            return;
        }
        let Answered { sent_ms, session_ms, fenced, applied } = answer;
        let caught_up_at = state.good.as_ref().map_or(applied, |good| good.caught_up_at);
        state.good = Some(Good { sent_ms, session_ms, fenced, caught_up_at });
    }

    /// Whether a broker that has applied `applied` may be believed.
    ///
    /// # Errors
    /// Why not, in one sentence.
    pub fn check(&self, now_ms: u64, applied: RaftIndex) -> Result<(), String> {
        let state = self.state.lock();
        let Some(good) = &state.good else {
            return Err(state.lost_ms.map_or_else(
                || "the controller has not answered yet".into(),
                |since| format!("no contact with the controller for {} ms", now_ms.saturating_sub(since)),
            ));
        };
        let silent_ms = now_ms.saturating_sub(good.sent_ms);
        if silent_ms > good.session_ms {
            return Err(format!("no contact with the controller for {silent_ms} ms"));
        }
        if good.fenced {
            return Err("fenced: the controller has not let this broker in yet".into());
        }
        if applied < good.caught_up_at {
            return Err(format!(
                "catching up after contact was lost: metadata applied up to {applied}, the controller has {}",
                good.caught_up_at
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEADER: Reign = (NodeId(2), 7);

    fn answer(sent_ms: u64, applied: u64) -> Answered {
        Answered { sent_ms, session_ms: 3_000, fenced: false, applied: RaftIndex(applied) }
    }

    fn check(contact: &Contact, now_ms: u64, applied: u64) -> String {
        contact.check(now_ms, RaftIndex(applied)).err().unwrap_or_default()
    }

    #[test]
    fn a_leader_that_is_only_known_is_no_contact_until_it_has_answered_and_we_have_what_it_had() {
        let contact = Contact::default();
        assert_eq!(check(&contact, 0, 5), "the controller has not answered yet");
        contact.led_by(Some(LEADER), 10);
        assert_eq!(check(&contact, 30, 5), "no contact with the controller for 20 ms");
        contact.answered(LEADER, answer(40, 9));
        assert!(check(&contact, 50, 8).contains("up to 8, the controller has 9"));
        assert_eq!(check(&contact, 50, 9), "");
        // Later answers ask for no more: the broker is in the stream of entries.
        contact.answered(LEADER, answer(540, 100));
        assert_eq!(check(&contact, 550, 9), "");
    }

    #[test]
    fn contact_is_lost_with_the_leader_its_connection_a_failed_heartbeat_and_with_time() {
        let contact = Contact::default();
        contact.led_by(Some(LEADER), 0);
        for (number, lose) in [
            (1, (|contact| contact.led_by(None, 100)) as fn(&Contact)),
            (2, |contact| contact.led_by(Some((NodeId(3), 8)), 100)),
            (3, |contact| contact.lost(100)),
            (4, |contact| contact.disconnected(NodeId(2), 100)),
        ] {
            contact.led_by(Some(LEADER), 0);
            contact.answered(LEADER, answer(50, 9));
            assert_eq!(check(&contact, 60, 9), "");
            contact.disconnected(NodeId(1), 90);
            assert_eq!(check(&contact, 95, 9), "", "it is another's connection");
            lose(&contact);
            assert_eq!(check(&contact, 150, 9), "no contact with the controller for 50 ms", "{number}");
            contact.lost(140);
            assert_eq!(check(&contact, 150, 9), "no contact with the controller for 50 ms", "since the first loss");
            contact.led_by(Some(LEADER), 160);
            contact.answered(LEADER, answer(170, 20));
            assert!(check(&contact, 180, 9).contains("catching up"), "{number}");
            contact.lost(190);
        }
        contact.answered(LEADER, answer(1_000, 9));
        assert_eq!(check(&contact, 4_000, 9), "");
        assert_eq!(check(&contact, 4_001, 9), "no contact with the controller for 3001 ms");
    }

    #[test]
    fn the_answer_of_an_earlier_leader_is_no_contact_with_the_present_one() {
        let contact = Contact::default();
        contact.led_by(Some(LEADER), 0);
        contact.led_by(Some((NodeId(3), 8)), 10);
        contact.answered(LEADER, answer(5, 9));
        assert!(check(&contact, 20, 9).contains("no contact"));
        contact.led_by(None, 30);
        contact.answered(LEADER, answer(5, 9));
        assert!(check(&contact, 40, 9).contains("no contact"));
    }

    #[test]
    fn a_broker_is_fenced_when_the_controller_says_so_whatever_its_own_state_says() {
        let contact = Contact::default();
        contact.led_by(Some(LEADER), 0);
        contact.answered(LEADER, Answered { fenced: true, ..answer(5, 9) });
        assert!(check(&contact, 10, 9).contains("fenced"));
        contact.answered(LEADER, answer(20, 11));
        assert_eq!(check(&contact, 30, 9), "");
    }
}
