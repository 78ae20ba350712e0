//! Settings of the whole cluster: telling the brokers what is in force from now on, without a restart.
//!
//! Brokers keep these in their metadata, one value for all. What `spec.config` names is set whenever it differs, so a value that
//! somebody else gave such a setting does not last; a name that is taken out of `spec.config` goes back to what is built in. Which names
//! were the operator's is remembered in the status, before the first of them is set: settings that others made are never touched. Whoever
//! founds takes them from the mounted file, so nothing is told before the founding is complete.
//!
//! One call for each setting: a value that is refused keeps none of the others back. No failure here keeps anything else from being
//! done; the condition `SettingsApplied` says what is missing, and a refused value is held against the specification.

use std::collections::{BTreeMap, BTreeSet};

use super::{Error, Pass, doing};
use crate::api::{ChronikClusterStatus, Gate};
use crate::build::config::cluster_settings;
use crate::observed::{ClusterFacts, Told};
use crate::plan::{Hold, View};
use crate::ports::{BrokerError, Brokers, Event, Kube};

/// The brokers will never take the value.
const REFUSED: &str = "Refused";
/// Something is on its way; nobody has to be told.
const WAITING: &str = "Waiting";

/// Brokers that can hold replicas: all that are registered, but for one that is being removed.
fn lasting(cluster: &ClusterFacts, wanted: i32) -> i32 {
    let leaving = |(node, broker): &(&crate::observed::NodeId, &crate::observed::RegisteredFacts)| {
        broker.cordoned && node.0 > wanted
    };
    i32::try_from(cluster.brokers.iter().filter(|broker| !leaving(broker)).count()).unwrap_or(i32::MAX)
}

/// What has to be told: name and value, None = as built in. `ours` = what was set from here and not taken back, as far as is known: a
/// call without an answer may still come to effect, so what the brokers say of these is not relied on.
fn differences(
    wanted: &BTreeMap<String, String>,
    ours: &[String],
    known: &BTreeMap<String, String>,
) -> Vec<(String, Option<String>)> {
    let changed = wanted.iter().filter(|(name, value)| known.get(*name) != Some(value));
    let gone = ours.iter().filter(|name| !wanted.contains_key(*name));
    changed
        .map(|(name, value)| (name.clone(), Some(value.clone())))
        .chain(gone.map(|name| (name.clone(), None)))
        .collect()
}

impl<K: Kube, B: Brokers> Pass<'_, K, B> {
    /// Remembers in the status whatever will be set, then sets what differs.
    pub(super) async fn apply_settings(&mut self, view: &View) -> Result<(), Error> {
        let spec = &self.observed.cluster.spec;
        let leader = view.leader().filter(|_| view.founded).map(|(_, cluster)| cluster);
        let brokers = leader.map_or(spec.replicas, |cluster| lasting(cluster, spec.replicas));
        let wanted = cluster_settings(spec, brokers);
        self.remember_settings(&wanted).await?;
        let Some(cluster) = leader else { return Ok(()) };
        let mut problem = None;
        let differ = differences(&wanted, &self.status.settings, &cluster.defaults);
        if !differ.is_empty() {
            // Whoever was shown an old object must not bring back what was taken back since.
            let version = self.kube.apply_status(self.key, &self.uid, &self.resource_version, &self.written).await;
            self.resource_version = version.map_err(doing("writing the status"))?;
        }
        for (name, value) in differ {
            let Some(at) = self.leader_address(view) else { break };
            self.broker_calls += 1;
            match self.brokers.set_default(&at, &name, value.as_deref()).await {
                Ok(()) => {
                    let note = match value {
                        Some(value) => format!("{name} is {value} on all brokers, without a restart"),
                        None => {
                            self.status.settings.retain(|ours| *ours != name);
                            format!("{name} is as built in on all brokers, without a restart")
                        }
                    };
                    let (reason, action) = ("ChangedSetting".to_owned(), "ApplySettings".to_owned());
                    self.kube.publish(&self.observed.cluster, &Event { warning: false, reason, action, note }).await;
                }
                Err(BrokerError::Refused(why)) => {
                    problem.get_or_insert(Told { done: false, reason: REFUSED, message: format!("config: {why}") });
                }
                Err(error @ (BrokerError::Unreachable(_) | BrokerError::Retry(_))) => {
                    problem.get_or_insert(Told { done: false, reason: WAITING, message: format!("{name}: {error}") });
                    break;
                }
            }
        }
        let message = format!("{} settings of the whole cluster", wanted.len());
        self.told_settings = Some(problem.unwrap_or(Told { done: true, reason: "Applied", message }));
        Ok(())
    }

    /// Writes down which settings are the operator's before it sets one.
    async fn remember_settings(&mut self, wanted: &BTreeMap<String, String>) -> Result<(), Error> {
        if wanted.keys().all(|name| self.status.settings.contains(name)) {
            return Ok(());
        }
        let all: BTreeSet<&String> = self.status.settings.iter().chain(wanted.keys()).collect();
        self.status.settings = all.into_iter().cloned().collect();
        let ahead = ChronikClusterStatus { settings: self.status.settings.clone(), ..self.written.clone() };
        self.write_status(ahead).await
    }

    /// A value that brokers refuse is a mistake in the specification.
    pub(super) fn refused_setting(&self) -> Option<Hold> {
        let told = self.told_settings.as_ref().filter(|told| told.reason == REFUSED)?;
        Some(Hold { gate: Gate::SpecInvalid, message: told.message.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::{NodeId, RegisteredFacts};

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_differs_is_set_what_is_gone_is_reset_and_what_others_set_stays() {
        let wanted = map(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let known = map(&[("a", "1"), ("b", "other"), ("old", "9"), ("theirs", "7")]);
        let ours = ["a", "b", "old"].map(str::to_owned);
        let set = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
        let expected = [set("b", Some("2")), set("c", Some("3")), set("old", None)];
        assert_eq!(differences(&wanted, &ours, &known), expected);
        let after = map(&[("a", "1"), ("b", "2"), ("c", "3"), ("theirs", "7")]);
        assert_eq!(differences(&wanted, &ours, &after), [set("old", None)], "until that was answered");
        assert_eq!(differences(&wanted, &ours[..2], &after), [], "converged");
    }

    #[test]
    fn a_broker_that_is_being_removed_does_not_count_and_one_that_somebody_cordoned_does() {
        let broker = |node, cordoned| (NodeId(node), RegisteredFacts { cordoned, ..RegisteredFacts::default() });
        let brokers = [broker(1, false), broker(2, true), broker(3, true)].into();
        let cluster = ClusterFacts { brokers, ..ClusterFacts::default() };
        assert_eq!((lasting(&cluster, 3), lasting(&cluster, 2)), (3, 2));
    }
}
