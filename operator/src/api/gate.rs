//! What may hold a change back: a closed list, for the status, the metrics' labels and the events' reasons alike.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Defines the enum with its texts in one place.
macro_rules! gates {
    ($($(#[doc = $doc:literal])+ $name:ident => $remedy:literal,)+) => {
        /// What holds a change back.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum Gate {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Gate {
            /// Every gate.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The name that users see.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// What it means, in one sentence.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),+).trim_ascii(),)+
                }
            }

            /// What a user does about it.
            #[must_use]
            pub fn remedy(self) -> &'static str {
                match self {
                    $(Self::$name => $remedy,)+
                }
            }
        }
    };
}

gates! {
    /// The specification contradicts itself or what exists.
    SpecInvalid => "Correct the specification; the message, or the condition SpecValid, says what is wrong.",
    /// `paused` is set: the operator only looks.
    Paused => "Set spec.paused to false.",
    /// A person has to approve the restarts.
    ManualApproval => "Annotate the ChronikCluster with chronik.io/approved-revision=<status.template.pendingRevision>.",
    /// `scaleDown.policy` is Block.
    ScaleDownPolicyBlock => "Set spec.scaleDown.policy to Drain, or raise spec.replicas again.",
    /// Another change is under way, and only one happens at a time.
    OperationInProgress => "Nothing; it begins when the other one is done.",
    /// The StatefulSet has not been observed by Kubernetes, or its pods do not match it yet.
    StatefulSetNotObserved => "Nothing if it passes within seconds; otherwise look at the StatefulSet's events.",
    /// A pod is not ready or does not exist yet.
    PodNotReady => "kubectl describe pod: unschedulable, image, or what /readyz of the broker lacks.",
    /// A pod that was told to end still exists.
    PodNotGone => "Nothing if it passes within the termination grace period; otherwise look at the pod's node.",
    /// A broker does not answer, so nothing about it can be assumed.
    BrokerStateUnknown => "See whether the pod runs and whether the operator can reach its port 9192 (network policies).",
    /// The metadata quorum has no leader that is known.
    NoQuorumLeader => "A majority of the voters must run and reach each other; ask chronik-broker doctor.",
    /// A member of the metadata quorum is not caught up.
    QuorumNotCaughtUp => "Nothing while it catches up; otherwise ask chronik-broker doctor on that broker.",
    /// Stopping this broker would take the majority of the voters away.
    WouldLoseMajority => "Bring the other voters back first.",
    /// Removing this voter would leave too few healthy voters.
    VotersWouldLoseMajority => "Bring the other voters back first.",
    /// A partition would lose its leader or fall below min.insync.replicas.
    UnderReplicated => "Nothing while replicas catch up; otherwise ask chronik-broker doctor which broker lags.",
    /// A topic has more replicas than brokers would remain.
    ReplicationFactorTooHigh => "Reduce the replicas of that topic (kafka-reassign-partitions) or raise spec.replicas again.",
    /// The remaining brokers have too little disk for what would move to them.
    InsufficientDisk => "Raise spec.storage.size, delete data, or raise spec.replicas again.",
    /// Replicas still have to be copied away from the broker.
    ReplicasNotMoved => "Nothing while status.rebalance progresses; raise spec.rebalance.throttle to go faster.",
    /// The broker still leads partitions.
    LeadersNotMoved => "Nothing while replicas catch up; otherwise ask chronik-broker doctor which replica is not in sync.",
    /// The brokers refuse what the operator asks.
    BrokerRefused => "Read the message: it is the broker's own reason.",
    /// The storage class does not let volumes grow.
    StorageClassNotExpandable => "Set allowVolumeExpansion: true on the storage class, or move to another cluster.",
    /// A volume is still growing.
    StorageResizePending => "Nothing while the storage driver works; otherwise look at the claim's events.",
    /// Kubernetes does not let the operator make or change an object: a quota, an admission policy, a missing permission.
    KubernetesRefused => "Read the message: it is what the API server says. Raise the quota, correct the policy or the operator's role.",
    /// An object of this name exists and belongs to somebody else.
    NameTaken => "Rename the ChronikCluster or delete the other object.",
}

impl std::fmt::Display for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
