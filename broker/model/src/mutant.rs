//! Deliberate defects: each a named switch, each a bug that a system of this kind once had or could have.
//!
//! The simulator proves that it would notice: it turns one of them on and must fail within a budget of seeds. Production
//! code reads `if mutant!(SkipVoteSync) { … }`, one line per site. Without the feature `mutants` [`active`] is the
//! constant `false` and nothing of a site is left in the binary; only the simulator's own feature of the same name
//! turns it on. The selection belongs to a thread, so that clusters of several threads do not disturb each other.

#[cfg(feature = "mutants")]
use std::cell::Cell;

/// Whether this build can be made to misbehave at all.
pub const COMPILED_IN: bool = cfg!(feature = "mutants");

macro_rules! mutants {
    ($( #[doc = $defect:literal] $name:ident $kebab:literal caught by [$($invariant:literal),*]; )+) => {
        /// A deliberate defect.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[allow(missing_docs)]
        pub enum Mutant {
            $( #[doc = $defect] $name, )+
        }

        impl Mutant {
            /// All of them, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Its name on a command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $kebab),+ }
            }

            /// What is wrong, in one sentence.
            #[must_use]
            pub const fn defect(self) -> &'static str {
                match self { $(Self::$name => $defect.trim_ascii()),+ }
            }

            /// The invariants of the reliability document that it breaks, the likeliest first; none where it is
            /// for a scenario script to notice, and seeds are not asked.
            #[must_use]
            pub const fn invariants(self) -> &'static [u8] {
                match self { $(Self::$name => &[$($invariant),*]),+ }
            }
        }
    };
}

mutants! {
    // The metadata quorum.
    /// A Raft batch that changes only term or vote is written and not synced.
    SkipVoteSync "skip-vote-sync" caught by [2, 1];
    /// Raft entries are written and not synced before they are promised.
    SkipRaftSync "skip-raft-sync" caught by [1, 2, 10];
    /// Messages that promise something leave before the batch is written.
    SendBeforePersist "send-before-persist" caught by [2, 1];
    /// The vote, and the term beyond that of the last entry, are not taken over at restart.
    ForgetVote "forget-vote" caught by [2];
    /// A vote is granted again within a term after it was given to another.
    VoteTwice "vote-twice" caught by [2];
    /// A damaged record of the Raft log ends it, wherever it is, and what follows is thrown away.
    TrustShortRaftLog "trust-short-raft-log" caught by [1, 10];
    /// A Raft log that lost an end which was durable is taken for one that a power cut tore.
    TrustLostEnd "trust-lost-end" caught by [];
    /// The members written to the Raft log are not taken over at restart.
    ForgetMembers "forget-members" caught by [13, 2];
    /// A leader answers linearizable reads without asking a majority.
    StaleRead "stale-read" caught by [];
    /// The clock of elections and heartbeats is always due at once: a broker that spins.
    SpinTicks "spin-ticks" caught by [12];
    /// Messages that may leave once all is written are dropped where there was nothing to write.
    DropUnwritten "drop-unwritten" caught by [];
    /// A leader that hears no majority goes on leading.
    NoCheckQuorum "no-check-quorum" caught by [];
    /// A state image that the leader sent is taken as installed and the old state stays.
    InstallKeepsState "install-keeps-state" caught by [10];

    // The metadata state.
    /// A proposal that was retried is applied each time it is committed.
    ApplyTwice "apply-twice" caught by [];
    /// A restored snapshot does not know which index it was taken at.
    SnapshotForgetsApplied "snapshot-forgets-applied" caught by [10];
    /// A restored snapshot forgets which proposals were applied.
    SnapshotForgetsProposals "snapshot-forgets-proposals" caught by [10];
    /// The leader epoch stays the same when another leader is elected.
    ReuseLeaderEpoch "reuse-leader-epoch" caught by [2, 3];
    /// A fenced broker can be elected.
    ElectFenced "elect-fenced" caught by [13, 8];
    /// Without an eligible replica any replica that is alive is elected.
    ElectUnclean "elect-unclean" caught by [1, 8];
    /// Of those that were distrusted, the first to return is elected, however long its log is.
    ElectFirstBack "elect-first-back" caught by [1, 8];
    /// A broker that restarted uncleanly, or with another disk, keeps its place among the eligible replicas.
    TrustUncleanRestart "trust-unclean-restart" caught by [8, 1];
    /// Leader and controller take a follower for in sync whose earlier registration was.
    StaleBrokerEpoch "stale-broker-epoch" caught by [];
    /// An AlterPartition of an older partition epoch is accepted.
    IgnorePartitionEpoch "ignore-partition-epoch" caught by [];
    /// A broker that is silent or gone is never fenced.
    FenceNobody "fence-nobody" caught by [13];
    /// A broker that registers again after a restart gets its old epoch.
    ReuseBrokerEpoch "reuse-broker-epoch" caught by [];
    /// Replicas that a reassignment adds pass for in sync, and so it is complete as soon as it begins.
    CompleteBeforeSync "complete-before-sync" caught by [8, 1];
    /// A cancelled reassignment takes all earlier replicas for in sync.
    CancelTrustsAll "cancel-trusts-all" caught by [8, 1];
    /// Who leaves the in-sync set below its minimum does not stay eligible, as before KIP-966.
    ForgetEligible "forget-eligible" caught by [8, 13];
    /// A broker that restarted uncleanly leaves the in-sync sets and stays among the eligible replicas.
    UncleanStaysEligible "unclean-stays-eligible" caught by [];
    /// The controller lets a fenced broker into an in-sync set.
    AdmitFenced "admit-fenced" caught by [];
    /// The controller lets a broker that is shutting down into an in-sync set.
    AdmitLeaving "admit-leaving" caught by [];
    /// A new leader of the quorum takes the sessions of all brokers for expired.
    NoFreshSession "no-fresh-session" caught by [];

    // The partition replica.
    /// A replica that was removed by a reassignment holds the high watermark back still.
    RemovedStillCounts "removed-still-counts" caught by [];
    /// A broker whose replica was removed by a reassignment keeps it.
    KeepRemovedReplica "keep-removed-replica" caught by [13];
    /// A produce with acks=all is acknowledged as soon as the leader has it.
    AckBeforeIsr "ack-before-isr" caught by [1];
    /// The high watermark is the leader's log end.
    WatermarkFromLogEnd "watermark-from-log-end" caught by [4, 1, 3];
    /// An in-sync replica that has not fetched in this leadership does not hold the high watermark back.
    WatermarkIgnoresSilent "watermark-ignores-silent" caught by [1, 4];
    /// The leader counts with a smaller in-sync set before the controller committed it.
    ShrinkBeforeCommit "shrink-before-commit" caught by [1, 8];
    /// A follower joins the in-sync set wherever its log ends.
    ExpandTooEarly "expand-too-early" caught by [1, 8];
    /// The high watermark moves and appends are admitted with too few replicas in sync.
    IgnoreMinIsr "ignore-min-isr" caught by [1];
    /// Records above the high watermark are served to consumers.
    ServeUncommitted "serve-uncommitted" caught by [4];
    /// The leader does not compare epochs with a follower.
    NoDivergenceCheck "no-divergence-check" caught by [3, 1];
    /// A new follower cuts its log at the high watermark, as before KIP-101.
    TruncateToWatermark "truncate-to-watermark" caught by [1, 3];
    /// A follower acts on the answer to an earlier request.
    StaleAnswer "stale-answer" caught by [];
    /// A follower keeps what it has of a shared epoch, also where the leader's records of it end before.
    KeepLongerLog "keep-longer-log" caught by [13, 3];
    /// The high watermark is taken from an answer before the records are there.
    WatermarkBeforeRecords "watermark-before-records" caught by [5, 4];
    /// A follower joins the in-sync set without what was committed before its leader led.
    JoinAtWatermark "join-at-watermark" caught by [];
    /// A fetch that a follower sent before it registered again counts.
    CountStaleFetch "count-stale-fetch" caught by [];
    /// The leader knows a follower by the epoch of its last fetch and the furthest position of any.
    MixedProgress "mixed-progress" caught by [];
    /// A change of the in-sync set goes on being in flight when newer metadata has come.
    PendingStays "pending-stays" caught by [];
    /// The high watermark is not looked at when the in-sync set changes.
    WatermarkAwaitsFetch "watermark-awaits-fetch" caught by [];
    /// The leader epoch that a fetch believes in is not compared.
    IgnoreLeaderEpoch "ignore-leader-epoch" caught by [];
    /// The end of an epoch is told and used without the epoch that it is the end of, as before KIP-279.
    EndWithoutEpoch "end-without-epoch" caught by [];
    /// A follower takes an answer that was asked for in an earlier leader epoch.
    AnswerOfAnyEpoch "answer-of-any-epoch" caught by [];
    /// A follower takes the watermark of an answer that says that its log is another one, and cuts it afterwards.
    MarksOfDivergence "marks-of-divergence" caught by [];
    /// A follower forgets the epoch of its last record when an answer brings no records.
    EmptyAnswerForgetsEpoch "empty-answer-forgets-epoch" caught by [];

    // The partition log.
    /// New files are synced and their names are not, in the Raft log and in partition logs.
    SkipDirSync "skip-dir-sync" caught by [11, 1];
    /// A flush tells success without a sync.
    SkipLogSync "skip-log-sync" caught by [1, 11];
    /// A failed sync, of the Raft log or of a partition log, is tried again and its success believed.
    RetryFailedSync "retry-failed-sync" caught by [1, 10, 11];
    /// Recovery takes a batch with a wrong checksum.
    SkipRecoveryCrc "skip-recovery-crc" caught by [3, 11];
    /// The mark of an orderly shutdown is left in place when the broker starts, so that a later crash passes for one.
    KeepCleanMarker "keep-clean-marker" caught by [3, 11];
    /// Recovery and truncation drop what is known about producers.
    ForgetProducers "forget-producers" caught by [6];
    /// A gap in the sequence of a producer is accepted.
    AcceptSequenceGap "accept-sequence-gap" caught by [6];
    /// A repeated batch of a producer is appended again.
    AppendDuplicate "append-duplicate" caught by [6];
    /// A truncation leaves the leader epochs behind its end in the cache.
    KeepEpochsOnTruncate "keep-epochs-on-truncate" caught by [3, 13];
    /// A truncation leaves the producers as they were.
    KeepProducersOnTruncate "keep-producers-on-truncate" caught by [1, 6];
    /// With durable acknowledgements, one leaves before the records are synced.
    AckBeforeSync "ack-before-sync" caught by [1];
    /// The log of an earlier topic of the same name is taken over.
    TrustTopicName "trust-topic-name" caught by [11, 3];
    /// A restored high watermark may lie behind the log end.
    UnclampedWatermark "unclamped-watermark" caught by [5];
    /// A log begins where its first segment does, whatever was noted.
    TrustFirstSegment "trust-first-segment" caught by [];
    /// The mark of an orderly shutdown is taken away when the logs are loaded, not before.
    MarkerGoesLast "marker-goes-last" caught by [];
    /// A failed write is refused, and the next one is tried as if nothing had been.
    AppendAfterError "append-after-error" caught by [];
    /// A new leader notes its epoch when it writes its first record.
    EpochWithFirstRecord "epoch-with-first-record" caught by [];
    /// The file of leader epochs is renamed into place without a sync.
    EpochsWithoutSync "epochs-without-sync" caught by [];

    // Groups.
    /// A committed offset is answered before its record is replicated.
    CommitBeforeReplicated "commit-before-replicated" caught by [9];
    /// An offset commit of an earlier generation is accepted.
    StaleGeneration "stale-generation" caught by [9];
    /// A new coordinator does not read the offsets of its partition.
    ForgetOffsets "forget-offsets" caught by [9];
    /// A new coordinator serves from what is not committed yet.
    CoordinateUncommitted "coordinate-uncommitted" caught by [];
}

impl Mutant {
    /// The mutant of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|mutant| mutant.name() == name)
    }
}

#[cfg(feature = "mutants")]
thread_local! {
    static SELECTED: Cell<Option<Mutant>> = const { Cell::new(None) };
    static REACHED: Cell<u64> = const { Cell::new(0) };
}

/// Turns one mutant on for this thread, or all off, and counts its sites anew. Answers whether that is now in force:
/// `false` only for a mutant in a build without them.
#[must_use]
pub fn select(mutant: Option<Mutant>) -> bool {
    #[cfg(feature = "mutants")]
    {
        SELECTED.set(mutant);
        REACHED.set(0);
    }
    COMPILED_IN || mutant.is_none()
}

/// The mutant that is on for this thread.
#[must_use]
pub fn selected() -> Option<Mutant> {
    #[cfg(feature = "mutants")]
    return SELECTED.get();
    #[cfg(not(feature = "mutants"))]
    None
}

/// How often this thread came by the selected mutant since it was selected. A mutant that survived without being
/// reached says something about the workload, not about the oracle.
#[must_use]
pub fn reached() -> u64 {
    #[cfg(feature = "mutants")]
    return REACHED.get();
    #[cfg(not(feature = "mutants"))]
    0
}

/// Whether a mutant is on; asked by [`mutant!`](crate::mutant!).
#[cfg(feature = "mutants")]
#[must_use]
pub fn active(mutant: Mutant) -> bool {
    let on = SELECTED.get() == Some(mutant);
    if on {
        REACHED.set(REACHED.get() + 1);
    }
    on
}

/// Never: this build has no mutants.
#[cfg(not(feature = "mutants"))]
#[must_use]
#[inline(always)]
pub const fn active(_mutant: Mutant) -> bool {
    false
}

/// Whether the named mutant is on: `if mutant!(SkipVoteSync) { … }`.
#[macro_export]
macro_rules! mutant {
    ($name:ident) => {
        $crate::mutant::active($crate::mutant::Mutant::$name)
    };
}

#[cfg(test)]
mod tests {
    use super::{COMPILED_IN, Mutant, active, reached, select, selected};

    #[test]
    fn every_mutant_is_found_by_its_name_and_no_two_share_one() {
        for (at, mutant) in Mutant::ALL.iter().enumerate() {
            assert_eq!(Mutant::from_name(mutant.name()), Some(*mutant));
            assert!(!Mutant::ALL[..at].iter().any(|other| other.name() == mutant.name()), "{}", mutant.name());
            let kebab = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(mutant.name().chars().all(kebab), "{}", mutant.name());
            assert!(mutant.invariants().iter().all(|number| (1..=14).contains(number)));
        }
        assert_eq!(Mutant::from_name("no-such-mutant"), None);
    }

    #[test]
    #[allow(clippy::disallowed_methods)] // It is about threads.
    fn only_a_build_with_mutants_misbehaves_and_only_in_the_thread_that_asked() {
        let mutant = Mutant::ALL[0];
        assert!(!active(mutant), "nothing is on by itself");
        assert_eq!(select(Some(mutant)), COMPILED_IN);
        assert_eq!(active(mutant), COMPILED_IN);
        assert!(!active(Mutant::ALL[1]));
        assert_eq!(reached(), u64::from(COMPILED_IN));
        let elsewhere = std::thread::spawn(move || (active(mutant), selected())).join();
        assert_eq!(elsewhere.ok(), Some((false, None)));
        assert!(select(None));
        assert!(!active(mutant));
        assert!(!crate::mutant!(SkipVoteSync));
    }
}
