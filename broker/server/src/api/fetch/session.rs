//! Fetch sessions (KIP-227): what a client asked for is remembered, so that requests and answers name only changes.
//!
//! [`SessionCache::open`] turns a request's session fields into a [`FetchContext`] that lists what to read;
//! [`FetchContext::close_round`] decides which partitions the answer names. One cache per listener. A partition
//! appears in an incremental answer only with records, an error, a divergence, or a changed high watermark or log
//! start; after an error its remembered watermark is -1, so that it is named again once it works.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chronik_model::{ErrorCode, PartitionIndex, TopicId, TopicName};
use parking_lot::Mutex;

/// A topic as a request named it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum TopicRef {
    /// By name (before v13).
    Name(TopicName),
    /// By id (v13 and later).
    Id(TopicId),
}

/// Identity of a partition within a session.
pub type SessionKey = (TopicRef, PartitionIndex);

/// One partition that is to be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Topic as the request named it.
    pub topic: TopicRef,
    /// Its partition.
    pub partition: PartitionIndex,
    /// First offset wanted.
    pub fetch_offset: i64,
    /// Bytes wanted at most from this partition.
    pub max_bytes: i32,
    /// Leader epoch the client knows, -1 for none.
    pub current_leader_epoch: i32,
    /// Epoch of the last record the client has, -1 for none.
    pub last_fetched_epoch: i32,
    /// Log start of a follower, -1 from a consumer.
    pub log_start_offset: i64,
}

impl Wanted {
    fn key(&self) -> SessionKey {
        (self.topic.clone(), self.partition)
    }
}

/// What the session needs to know about one partition of the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoundResult {
    /// Whether records are returned.
    pub has_records: bool,
    /// Whether it carries an error.
    pub has_error: bool,
    /// Whether it carries a diverging epoch, snapshot or preferred replica: always sent.
    pub must_send: bool,
    /// High watermark in the answer.
    pub high_watermark: i64,
    /// Log start offset in the answer.
    pub log_start_offset: i64,
}

#[derive(Debug)]
struct Remembered {
    wanted: Wanted,
    high_watermark: i64,
    log_start_offset: i64,
}

#[derive(Debug)]
struct Session {
    by_id: bool,
    epoch: i32,
    /// Reading order; a partition that returned records goes to the end (fairness).
    order: BTreeMap<u64, Remembered>,
    places: HashMap<SessionKey, u64>,
    next_place: u64,
    last_used_ms: u64,
    privileged: bool,
    /// Partitions in all sessions of the cache, this one's among them.
    in_cache: Arc<AtomicUsize>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.in_cache.fetch_sub(self.order.len(), Ordering::Relaxed);
    }
}

impl Session {
    fn insert(&mut self, wanted: Wanted) {
        let key = wanted.key();
        if let Some(known) = self.places.get(&key).and_then(|place| self.order.get_mut(place)) {
            known.wanted = wanted;
            return;
        }
        let place = self.next_place;
        self.next_place += 1;
        self.places.insert(key, place);
        self.order.insert(place, Remembered { wanted, high_watermark: -1, log_start_offset: -1 });
        self.in_cache.fetch_add(1, Ordering::Relaxed);
    }

    fn remove(&mut self, key: &SessionKey) {
        if let Some(place) = self.places.remove(key)
            && self.order.remove(&place).is_some()
        {
            self.in_cache.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn wanted(&self) -> Vec<Wanted> {
        self.order.values().map(|remembered| remembered.wanted.clone()).collect()
    }

    /// Records what is sent; true when an incremental answer has to name the partition.
    fn note(&mut self, key: &SessionKey, result: &RoundResult) -> bool {
        let Some(place) = self.places.get(key).copied() else { return true };
        let Some(known) = self.order.get_mut(&place) else { return true };
        let mut named = result.has_records || result.must_send;
        if result.has_error {
            known.high_watermark = -1;
            named = true;
        } else {
            named |= known.high_watermark != result.high_watermark;
            named |= known.log_start_offset != result.log_start_offset;
            known.high_watermark = result.high_watermark;
            known.log_start_offset = result.log_start_offset;
        }
        if result.has_records
            && let Some(known) = self.order.remove(&place)
        {
            self.order.insert(self.next_place, known);
            self.places.insert(key.clone(), self.next_place);
            self.next_place += 1;
        }
        named
    }
}

/// Bounds of a [`SessionCache`].
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// `max.incremental.fetch.session.cache.slots`.
    pub slots: usize,
    /// `min.incremental.fetch.session.eviction.ms`: a session used more recently is never evicted.
    pub min_eviction_ms: u64,
    /// Partitions that all sessions together may remember: what a client asks for need not exist.
    pub max_partitions: usize,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self { slots: 1000, min_eviction_ms: 120_000, max_partitions: 1_000_000 }
    }
}

#[derive(Debug, Default)]
struct Sessions {
    by_id: HashMap<i32, Arc<Mutex<Session>>>,
    next_id: i32,
}

/// All sessions of a listener.
#[derive(Debug)]
pub struct SessionCache {
    limits: SessionLimits,
    sessions: Mutex<Sessions>,
    partitions: Arc<AtomicUsize>,
}

/// Session fields of one request.
#[derive(Debug)]
pub struct SessionRequest {
    /// Session id of the request, 0 for none.
    pub id: i32,
    /// Session epoch: 0 asks for a new session, -1 for none, others continue.
    pub epoch: i32,
    /// Whether topics are named by id (v13 and later).
    pub by_id: bool,
    /// Whether the request comes from a follower.
    pub follower: bool,
    /// Partitions named by the request.
    pub wanted: Vec<Wanted>,
    /// Partitions to leave out from now on.
    pub forgotten: Vec<SessionKey>,
}

/// What to read for one request and how to answer.
#[derive(Debug)]
pub struct FetchContext {
    /// Partitions to read, in order.
    pub wanted: Vec<Wanted>,
    session: Option<(i32, Arc<Mutex<Session>>)>,
    incremental: bool,
}

impl FetchContext {
    /// The session id for the answer, 0 without a session.
    #[must_use]
    pub fn session_id(&self) -> i32 {
        self.session.as_ref().map_or(0, |(id, _)| *id)
    }

    /// Whether the answer may leave out unchanged partitions.
    #[must_use]
    pub fn is_incremental(&self) -> bool {
        self.incremental
    }

    /// Remembers what the answer says about each of `self.wanted` and returns which ones it has to name.
    #[must_use]
    pub fn close_round(&self, results: &[RoundResult]) -> Vec<bool> {
        let Some((_, session)) = &self.session else { return vec![true; results.len()] };
        let mut session = session.lock();
        self.wanted
            .iter()
            .zip(results)
            .map(|(wanted, result)| session.note(&wanted.key(), result) || !self.incremental)
            .collect()
    }

    /// Whether any of `results` would be named: an incremental answer that names nothing need not be sent early.
    #[must_use]
    pub fn partitions(&self) -> usize {
        self.wanted.len()
    }
}

impl SessionCache {
    /// An empty cache; `first_id` is where session ids start, so that ids of an earlier run are not taken for ours.
    #[must_use]
    pub fn new(limits: SessionLimits, first_id: i32) -> Self {
        let sessions = Mutex::new(Sessions { by_id: HashMap::new(), next_id: first_id.max(1) });
        Self { limits, sessions, partitions: Arc::default() }
    }

    /// Number of sessions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.lock().by_id.len()
    }

    /// Whether there is no session.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Applies the session fields of a request.
    ///
    /// # Errors
    /// `FetchSessionIdNotFound`, `InvalidFetchSessionEpoch`, or `FetchSessionTopicIdError` when a session that began
    /// with names continues with ids or the reverse.
    pub fn open(&self, request: SessionRequest, now_ms: u64) -> Result<FetchContext, ErrorCode> {
        let sessionless = |wanted| FetchContext { wanted, session: None, incremental: false };
        match request.epoch {
            -1 => {
                if request.id != 0 {
                    self.sessions.lock().by_id.remove(&request.id);
                }
                Ok(sessionless(request.wanted))
            }
            0 => {
                if request.id != 0 {
                    self.sessions.lock().by_id.remove(&request.id);
                }
                if request.wanted.is_empty() {
                    return Ok(sessionless(request.wanted));
                }
                let mut session = Session {
                    by_id: request.by_id,
                    epoch: 1,
                    order: BTreeMap::new(),
                    places: HashMap::new(),
                    next_place: 0,
                    last_used_ms: now_ms,
                    privileged: request.follower,
                    in_cache: Arc::clone(&self.partitions),
                };
                for wanted in &request.wanted {
                    session.insert(wanted.clone());
                }
                if self.is_over_limit() {
                    return Ok(sessionless(request.wanted));
                }
                let session = Arc::new(Mutex::new(session));
                let id = self.admit(&session, request.follower, now_ms);
                Ok(FetchContext { wanted: request.wanted, session: id.map(|id| (id, session)), incremental: false })
            }
            epoch => {
                let shared =
                    self.sessions.lock().by_id.get(&request.id).cloned().ok_or(ErrorCode::FetchSessionIdNotFound)?;
                let mut session = shared.lock();
                if session.by_id != request.by_id {
                    return Err(ErrorCode::FetchSessionTopicIdError);
                }
                if session.epoch != epoch {
                    return Err(ErrorCode::InvalidFetchSessionEpoch);
                }
                for key in &request.forgotten {
                    session.remove(key);
                }
                for wanted in request.wanted {
                    session.insert(wanted);
                }
                if self.is_over_limit() {
                    // The client begins anew and, while there is no room, goes on without a session.
                    drop(session);
                    self.sessions.lock().by_id.remove(&request.id);
                    return Err(ErrorCode::FetchSessionIdNotFound);
                }
                session.epoch = if epoch == i32::MAX { 1 } else { epoch + 1 };
                session.last_used_ms = now_ms;
                let wanted = session.wanted();
                drop(session);
                if wanted.is_empty() {
                    self.sessions.lock().by_id.remove(&request.id);
                    return Ok(sessionless(wanted));
                }
                Ok(FetchContext { wanted, session: Some((request.id, shared)), incremental: true })
            }
        }
    }

    fn is_over_limit(&self) -> bool {
        self.partitions.load(Ordering::Relaxed) > self.limits.max_partitions
    }

    /// Finds a place for a new session; `None` when all others are in use.
    fn admit(&self, session: &Arc<Mutex<Session>>, privileged: bool, now_ms: u64) -> Option<i32> {
        let mut sessions = self.sessions.lock();
        if sessions.by_id.len() >= self.limits.slots {
            // A follower's session pushes a consumer's out at any age, never the reverse.
            let evict = sessions
                .by_id
                .iter()
                .map(|(id, other)| {
                    let other = other.lock();
                    (other.privileged, other.last_used_ms, *id)
                })
                .min()
                .filter(|(other_privileged, last_used_ms, _)| {
                    (privileged && !other_privileged)
                        || (privileged == *other_privileged
                            && now_ms.saturating_sub(*last_used_ms) >= self.limits.min_eviction_ms)
                })?;
            sessions.by_id.remove(&evict.2);
        }
        let id = loop {
            let id = sessions.next_id;
            sessions.next_id = if id == i32::MAX { 1 } else { id + 1 };
            if !sessions.by_id.contains_key(&id) {
                break id;
            }
        };
        sessions.by_id.insert(id, Arc::clone(session));
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(partition: i32, offset: i64) -> Wanted {
        Wanted {
            topic: TopicRef::Name("t".into()),
            partition: PartitionIndex(partition),
            fetch_offset: offset,
            max_bytes: 1000,
            current_leader_epoch: -1,
            last_fetched_epoch: -1,
            log_start_offset: -1,
        }
    }

    fn request(id: i32, epoch: i32, wanted: Vec<Wanted>) -> SessionRequest {
        SessionRequest { id, epoch, by_id: false, follower: false, wanted, forgotten: Vec::new() }
    }

    fn result(high_watermark: i64) -> RoundResult {
        RoundResult { has_records: false, has_error: false, must_send: false, high_watermark, log_start_offset: 0 }
    }

    fn cache(slots: usize) -> SessionCache {
        SessionCache::new(SessionLimits { slots, min_eviction_ms: 1000, max_partitions: 3 }, 1)
    }

    #[test]
    fn a_session_remembers_partitions_and_names_only_what_changed() {
        let cache = cache(10);
        let full = cache.open(request(0, 0, vec![wanted(0, 5), wanted(1, 6)]), 0).unwrap();
        let id = full.session_id();
        assert!(id != 0 && !full.is_incremental());
        assert_eq!(full.close_round(&[result(5), result(6)]), [true, true]);
        let next = cache.open(request(id, 1, vec![]), 1).unwrap();
        assert_eq!(next.wanted, vec![wanted(0, 5), wanted(1, 6)]);
        assert_eq!(next.close_round(&[result(5), result(7)]), [false, true]);
        let next = cache.open(request(id, 2, vec![wanted(0, 9)]), 2).unwrap();
        assert_eq!(next.wanted[0].fetch_offset, 9, "an updated partition replaces what was asked before");
        assert_eq!(next.close_round(&[result(5), result(7)]), [false, false]);
    }

    #[test]
    fn a_partition_is_named_again_after_its_error_is_gone() {
        let cache = cache(10);
        let full = cache.open(request(0, 0, vec![wanted(0, 0)]), 0).unwrap();
        let _ = full.close_round(&[result(5)]);
        let next = cache.open(request(full.session_id(), 1, vec![]), 0).unwrap();
        assert_eq!(next.close_round(&[RoundResult { has_error: true, ..result(-1) }]), [true]);
        let next = cache.open(request(full.session_id(), 2, vec![]), 0).unwrap();
        assert_eq!(next.close_round(&[result(5)]), [true]);
    }

    #[test]
    fn partitions_with_records_go_to_the_end_of_the_reading_order() {
        let cache = cache(10);
        let full = cache.open(request(0, 0, vec![wanted(0, 0), wanted(1, 0)]), 0).unwrap();
        let _ = full.close_round(&[RoundResult { has_records: true, ..result(1) }, result(1)]);
        let next = cache.open(request(full.session_id(), 1, vec![]), 0).unwrap();
        let order: Vec<i32> = next.wanted.iter().map(|wanted| wanted.partition.0).collect();
        assert_eq!(order, [1, 0]);
    }

    #[test]
    fn unknown_sessions_and_wrong_epochs_are_refused_with_kafkas_errors() {
        let cache = cache(10);
        assert_eq!(cache.open(request(7, 1, vec![]), 0).unwrap_err(), ErrorCode::FetchSessionIdNotFound);
        let id = cache.open(request(0, 0, vec![wanted(0, 0)]), 0).unwrap().session_id();
        assert_eq!(cache.open(request(id, 2, vec![]), 0).unwrap_err(), ErrorCode::InvalidFetchSessionEpoch);
        let by_id = SessionRequest { by_id: true, ..request(id, 1, vec![]) };
        assert_eq!(cache.open(by_id, 0).unwrap_err(), ErrorCode::FetchSessionTopicIdError);
        assert!(cache.open(request(id, 1, vec![]), 0).is_ok(), "a refused request leaves the session as it was");
    }

    #[test]
    fn forgetting_the_last_partition_or_a_final_epoch_ends_the_session() {
        let cache = cache(10);
        let id = cache.open(request(0, 0, vec![wanted(0, 0)]), 0).unwrap().session_id();
        let forget = SessionRequest { forgotten: vec![wanted(0, 0).key()], ..request(id, 1, vec![]) };
        assert_eq!(cache.open(forget, 0).unwrap().session_id(), 0);
        assert!(cache.is_empty());
        let id = cache.open(request(0, 0, vec![wanted(0, 0)]), 0).unwrap().session_id();
        assert_eq!(cache.open(request(id, -1, vec![wanted(0, 0)]), 0).unwrap().session_id(), 0);
        assert!(cache.is_empty());
    }

    #[test]
    fn a_full_cache_serves_without_a_session_and_evicts_only_old_or_unprivileged_ones() {
        let cache = cache(1);
        let first = cache.open(request(0, 0, vec![wanted(0, 0)]), 0).unwrap().session_id();
        assert_eq!(cache.open(request(0, 0, vec![wanted(0, 0)]), 500).unwrap().session_id(), 0);
        let follower = SessionRequest { follower: true, ..request(0, 0, vec![wanted(0, 0)]) };
        let id = cache.open(follower, 501).unwrap().session_id();
        assert!(id != 0 && id != first);
        assert_eq!(cache.open(request(0, 0, vec![wanted(0, 0)]), 90_000).unwrap().session_id(), 0);
        assert_eq!(cache.len(), 1);
    }
    #[test]
    fn sessions_remember_no_more_partitions_than_the_limit_whoever_asks() {
        let cache = cache(10);
        let id = cache.open(request(0, 0, vec![wanted(0, 0), wanted(1, 0)]), 0).unwrap().session_id();
        assert_ne!(id, 0);
        let other = cache.open(request(0, 0, vec![wanted(0, 0), wanted(1, 0)]), 0).unwrap();
        assert_eq!((other.session_id(), other.wanted.len()), (0, 2), "it is served, but not remembered");
        assert!(cache.open(request(id, 1, vec![wanted(2, 0), wanted(1, 5)]), 0).is_ok(), "three are within the limit");
        let grown = cache.open(request(id, 2, vec![wanted(3, 0)]), 0);
        assert_eq!(grown.unwrap_err(), ErrorCode::FetchSessionIdNotFound);
        assert!(cache.is_empty());
        let again = cache.open(request(0, 0, vec![wanted(0, 0), wanted(1, 0), wanted(2, 0)]), 0).unwrap();
        assert_ne!(again.session_id(), 0, "what ended makes room");
        let forget = SessionRequest { forgotten: vec![wanted(0, 0).key()], ..request(again.session_id(), 1, vec![]) };
        assert!(cache.open(forget, 0).is_ok());
        assert!(cache.open(request(again.session_id(), 2, vec![wanted(7, 0)]), 0).is_ok(), "so does what is forgotten");
    }
}
