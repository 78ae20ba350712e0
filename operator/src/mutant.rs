//! Deliberate defects: each a named switch, each a bug that an operator of this kind once had or could have.
//!
//! The operator's simulation proves that it would notice: it turns one of them on and must fail within a budget of seeds. Production
//! code reads `if mutant!(ShrinkUndrained) { … }`, one line per site. Without the feature `mutants` [`active`] is the constant `false`
//! and nothing of a site is left in the binary; only the simulation's own feature of the same name turns it on. The selection
//! belongs to a thread.

#[cfg(feature = "mutants")]
use std::cell::Cell;

/// Whether this build can be made to misbehave at all.
pub const COMPILED_IN: bool = cfg!(feature = "mutants");

macro_rules! mutants {
    ($( #[doc = $defect:literal] $name:ident $kebab:literal; )+) => {
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

            /// What is wrong with it.
            #[must_use]
            pub const fn defect(self) -> &'static str {
                match self { $(Self::$name => $defect.trim_ascii()),+ }
            }
        }
    };
}

mutants! {
    /// A broker is taken away while it still holds replicas.
    ShrinkUndrained "shrink-undrained";
    /// A broker is taken away while it is a voter, and removed from the quorum afterwards.
    RemoveVoterLate "remove-voter-late";
    /// The StatefulSet shrinks by two.
    ShrinkByTwo "shrink-by-two";
    /// A broker is restarted while another has not returned.
    RollTwo "roll-two";
    /// Nobody asks whether a broker may be stopped.
    SkipRestartGate "skip-restart-gate";
    /// Node drains may always evict a broker.
    EvictAlways "evict-always";
    /// The leader of the quorum is restarted first, and leads while it is.
    LeaderFirst "leader-first";
    /// A learner becomes a voter however far behind it is.
    PromoteLagging "promote-lagging";
    /// The claims go when the StatefulSet shrinks, also when all brokers are stopped.
    DeleteClaims "delete-claims";
    /// A drain that was taken back leaves its broker cordoned.
    LeaveCordoned "leave-cordoned";
    /// The disk of a removed broker is not marked.
    ForgetRetired "forget-retired";
    /// The status is written in every pass.
    WriteEveryPass "write-every-pass";
    /// The time since which a gate holds is that of the pass.
    SinceNow "since-now";
    /// What is paused is changed all the same.
    IgnorePaused "ignore-paused";
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

/// Whether the named mutant is on: `if mutant!(ShrinkUndrained) { … }`.
#[macro_export]
macro_rules! mutant {
    ($name:ident) => {
        $crate::mutant::active($crate::mutant::Mutant::$name)
    };
}

#[cfg(test)]
mod tests {
    use super::{COMPILED_IN, Mutant, active, reached, select};

    #[test]
    fn every_mutant_is_found_by_its_name_and_only_a_build_with_mutants_misbehaves() {
        for mutant in Mutant::ALL.iter().copied() {
            assert_eq!(Mutant::from_name(mutant.name()), Some(mutant));
            assert!(!active(mutant), "nothing is on by itself");
            assert_eq!(select(Some(mutant)), COMPILED_IN);
            assert_eq!(active(mutant), COMPILED_IN);
            assert_eq!(reached(), u64::from(COMPILED_IN));
            assert!(select(None));
        }
        assert_eq!(Mutant::from_name("no-such-mutant"), None);
        assert!(!crate::mutant!(ShrinkUndrained));
    }
}
