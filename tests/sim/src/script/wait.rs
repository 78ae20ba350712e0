//! Waiting in scripts: for something to come to pass, a minute at most.

use chronik_model::Offset;

use super::ask::LONG;
use super::harness;
use super::stage::{Answer, Stage, Words, duration, topic_partition};
use crate::broker::Broker;
use crate::kernel::Micros;
use crate::runner::Failure;
use crate::survey;

/// How often it is looked.
const LOOK: Micros = 1_000;

impl Stage {
    /// Runs until nothing is missing any more; answers what still is when time is up.
    pub(super) fn wait_for(&mut self, most: Micros, missing: impl Fn(&Self) -> Option<String>) -> Answer {
        let until = self.world.kernel.now + most;
        loop {
            let Some(what) = missing(self) else { return Ok(Vec::new()) };
            if self.world.kernel.now >= until {
                return Ok(vec![format!("timed out: {what}")]);
            }
            self.run(LOOK)?;
        }
    }

    /// `wait [TIME] CONDITION`.
    pub(super) fn wait(&mut self, rest: &str) -> Answer {
        let (first, behind) = rest.split_once(' ').unwrap_or((rest, ""));
        let (most, condition) = match duration(first) {
            Ok(most) => (most, behind.to_owned()),
            Err(_) => (LONG, rest.to_owned()),
        };
        // Said once before anything moves, so that a wrong word fails at once.
        self.missing(&condition)?;
        self.wait_for(most, |stage| stage.missing(&condition).unwrap_or_else(|failure| Some(failure.text)))
    }

    /// What is missing for a condition.
    fn missing(&self, condition: &str) -> Result<Option<String>, Failure> {
        let words = Words::new(condition);
        let missing = |there: bool, what: String| Ok(if there { None } else { Some(what) });
        match words.at(0)? {
            "leader" => {
                let Ok(partition) = self.committed(words.at(1)?) else { return Ok(Some("nobody knows it".to_owned())) };
                let state = partition.state;
                let leader = state.leader;
                let there = match words.at(2)? {
                    "none" => leader.is_none(),
                    "any" => leader.is_some(),
                    "not" => {
                        let not = self.node(words.at(3)?)?;
                        leader.is_some_and(|leader| leader != not)
                    }
                    name => leader == Some(self.node(name)?),
                };
                missing(there, format!("the leader is {leader:?}"))
            }
            what @ ("isr" | "replicas" | "adding") => {
                let Ok(partition) = self.committed(words.at(1)?) else { return Ok(Some("nobody knows it".to_owned())) };
                let mut wanted =
                    words.plain[2..].iter().map(|word| self.node(word)).collect::<Result<Vec<_>, Failure>>()?;
                let state = partition.state;
                let complete = what != "replicas" || !state.is_reassigning();
                let mut nodes = match what {
                    "isr" => state.isr,
                    "adding" => state.adding,
                    _ => state.replicas,
                };
                wanted.sort_unstable();
                nodes.sort_unstable();
                missing(complete && nodes == wanted, format!("{what} is [{}]", self.part_list(&nodes)))
            }
            "end" | "hw" => {
                let wanted: i64 = words.at(3)?.parse().map_err(|_| harness("an offset is missing".to_owned()))?;
                topic_partition(words.at(2)?)?;
                self.node(words.at(1)?)?;
                let Ok(replica) = self.replica(words.at(1)?, words.at(2)?) else {
                    return Ok(Some("it is not hosted there".to_owned()));
                };
                let is =
                    if words.at(0)? == "end" { replica.log().log_end() } else { replica.replica().high_watermark() };
                missing(is == Offset(wanted), format!("it is {is}"))
            }
            "controller" => {
                let leader = survey::quorum_leader(&self.world).map(|(leader, _)| leader);
                let there = match words.plain.get(1) {
                    None => leader.is_some(),
                    Some(&"not") => {
                        let not = self.node(words.at(2)?)?;
                        leader.is_some_and(|leader| leader != not)
                    }
                    Some(name) => leader == Some(self.node(name)?),
                };
                missing(there, format!("the leader of the quorum is {leader:?}"))
            }
            "active" | "fenced" => {
                let node = self.node(words.at(1)?)?;
                let Some((leader, _)) = survey::quorum_leader(&self.world) else {
                    return Ok(Some("the quorum has no leader".to_owned()));
                };
                let active =
                    survey::up(&self.world, leader).is_some_and(|broker| broker.metadata().read().is_active(node));
                missing(active == (words.at(0)? == "active"), format!("active: {active}"))
            }
            "registered" => {
                let node = self.node(words.at(1)?)?;
                let registered = survey::up(&self.world, node).is_some_and(Broker::is_registered);
                missing(registered, "its process is not registered".to_owned())
            }
            "down" | "up" => {
                let node = self.node(words.at(1)?)?;
                let up = self.world.hosts.get(&node).is_some_and(|host| host.process.is_some());
                missing(up == (words.at(0)? == "up"), format!("runs: {up}"))
            }
            "voter" => {
                let node = self.node(words.at(1)?)?;
                let voter = survey::quorum_leader(&self.world).is_some_and(|(_, status)| status.voters.contains(&node));
                missing(voter, "it has no vote".to_owned())
            }
            "held" => {
                let wanted = words.at(1)?;
                let held = self.world.kernel.rules.held();
                let there =
                    held.iter().any(|line| line.split(' ').next_back().is_some_and(|kind| kind.starts_with(wanted)));
                missing(there, format!("held are {held:?}"))
            }
            "well" => Ok(survey::complaints(&self.world, &self.world.budget.gone).into_iter().next()),
            other => Err(harness(format!("{other} is nothing to wait for"))),
        }
    }
}
