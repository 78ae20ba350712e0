//! The way to one peer: a task that connects, greets, and moves messages from the queue to the stream, in order.
//!
//! Life: connect -> greeting accepted -> connected: the queue is open -> the stream ends -> everything still queued is
//! dropped -> one attempt at once -> attempts that begin at growing jittered distances, cut short when discovery changes
//! the address or the peer greets us. While not connected, sends are refused at once, so nothing stale is ever delivered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chronik_consensus::chunks;
use chronik_consensus::mirror::RaftMessage;
use chronik_model::NodeId;
use parking_lot::Mutex;
use prost::Message as _;
use rand::Rng as _;
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::connect::{self, ConnectError};
use super::greeting::{self, Greeting, RefusedGreeting};
use super::status::{Counters, LinkStatus, type_name};
use super::{Inner, PeerEvent, SendOutcome};
use crate::peer::proto::peer_client::PeerClient;
use crate::peer::proto::{self, Frame, Reply, frame, refusal, reply};

/// Time without messages after which an empty frame is sent.
const QUIET: Duration = Duration::from_secs(1);
/// Most messages and bytes in one frame.
const FRAME: (usize, usize) = (256, 1 << 20);

struct State {
    name: &'static str,
    since: Instant,
    error: Option<(&'static str, String)>,
    remote: Option<String>,
    greeting: Option<Greeting>,
}

/// One peer's queue and task.
pub(super) struct Link {
    peer: NodeId,
    queue: mpsc::Sender<RaftMessage>,
    connected: AtomicBool,
    was_connected: AtomicBool,
    connects: AtomicU64,
    /// Monotonic; 0 = never.
    last_sent: AtomicU64,
    transfers: AtomicU64,
    sending_snapshot: AtomicBool,
    sent: Counters,
    /// When the last stream came up.
    up_since: Mutex<Instant>,
    state: Mutex<State>,
    channel: watch::Sender<Option<Channel>>,
    kicked: Notify,
}

impl Link {
    /// Starts the task of `peer`.
    pub(super) fn spawn(inner: &Arc<Inner>, peer: NodeId) -> Arc<Self> {
        let (queue, messages) = mpsc::channel(inner.config.queue_messages);
        let link = Arc::new(Self {
            peer,
            queue,
            connected: AtomicBool::new(false),
            was_connected: AtomicBool::new(false),
            connects: AtomicU64::new(0),
            last_sent: AtomicU64::new(0),
            transfers: AtomicU64::new(0),
            sending_snapshot: AtomicBool::new(false),
            sent: Counters::default(),
            up_since: Mutex::new(Instant::now()),
            state: Mutex::new(State {
                name: "connecting",
                since: Instant::now(),
                error: None,
                remote: None,
                greeting: None,
            }),
            channel: watch::Sender::new(None),
            kicked: Notify::new(),
        });
        let (task, inner) = (Arc::clone(&link), Arc::clone(inner));
        let runtime = inner.runtime.clone();
        runtime.spawn(async move { task.run(&inner, messages).await });
        link
    }

    pub(super) fn send(&self, message: RaftMessage) -> SendOutcome {
        if !self.connected.load(Ordering::Acquire) {
            self.sent.drop_one();
            return SendOutcome::NotConnected;
        }
        tracing::trace!(peer = %self.peer, kind = type_name(&message), index = message.index, "message out");
        match self.queue.try_send(message) {
            Ok(()) => SendOutcome::Queued,
            Err(_) => {
                self.sent.drop_one();
                SendOutcome::QueueFull
            }
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    pub(super) fn channel(&self) -> Option<Channel> {
        self.channel.borrow().clone()
    }

    pub(super) fn watch_channel(&self) -> watch::Receiver<Option<Channel>> {
        self.channel.subscribe()
    }

    /// Ends a pause between attempts.
    pub(super) fn kick(&self) {
        self.kicked.notify_one();
    }

    pub(super) fn status(&self) -> LinkStatus {
        let state = self.state.lock();
        let greeting = state.greeting.as_ref();
        LinkStatus {
            state: state.name,
            state_ms: u64::try_from(state.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            last_error: state.error.as_ref().map(|(_, text)| text.clone()),
            last_error_kind: state.error.as_ref().map(|(kind, _)| *kind),
            remote: state.remote.clone(),
            connects: self.connects.load(Ordering::Relaxed),
            queued: self.queue.max_capacity() - self.queue.capacity(),
            last_sent_ms_ago: match self.last_sent.load(Ordering::Relaxed) {
                0 => None,
                at => Some(crate::replication::mono_ms().saturating_sub(at)),
            },
            send_dropped: self.sent.dropped(),
            sent: self.sent.by_type(),
            peer_term: greeting.map(|g| g.position.term),
            peer_leader: greeting.and_then(|g| g.position.leader).map(|id| id.0),
            peer_bootstrap_voters: greeting
                .map(|g| g.position.bootstrap_voters.iter().map(|id| id.0).collect())
                .unwrap_or_default(),
            peer_incarnation: greeting.map(|g| g.incarnation.to_string()),
            ..LinkStatus::default()
        }
    }

    async fn run(&self, inner: &Arc<Inner>, mut messages: mpsc::Receiver<RaftMessage>) {
        let mut closing = inner.closing.subscribe();
        let mut attempt = 0_u32;
        let mut short_lived = 0_u32;
        loop {
            let begun = Instant::now();
            let ended = tokio::select! {
                ended = self.once(inner, &mut messages) => ended,
                _ = closing.wait_for(|closing| *closing) => return,
            };
            self.down(&mut messages);
            // An attempt that got no answer was a pause itself; what a connection lived was none.
            let spent = if ended.is_err() { begun.elapsed() } else { Duration::ZERO };
            match ended {
                Ok(reason) => {
                    tracing::info!(peer = %self.peer, %reason, "stream to the peer ended");
                    self.set_state("down", Some(("socket", reason)));
                    inner.sink.event(PeerEvent::Lost(self.peer));
                    // The next attempt comes at once: a killed process refuses it, and that is worth knowing early.
                    // Not so when the peer lets us in and throws us out again and again.
                    let lived = self.up_since.lock().elapsed();
                    short_lived = if lived < inner.config.backoff.1 { short_lived.saturating_add(1) } else { 0 };
                    attempt = short_lived.saturating_sub(1);
                    if attempt == 0 {
                        continue;
                    }
                }
                Err(error) => {
                    self.failed(inner, &error, attempt);
                    attempt = attempt.saturating_add(1);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(rest(pause(inner.config.backoff, attempt), inner.config.backoff.0, spent)) => {}
                () = self.kicked_after(inner.config.backoff.0) => {}
                _ = closing.wait_for(|closing| *closing) => return,
            }
        }
    }

    /// Every question to a peer that is down kicks; together they must not make a storm.
    async fn kicked_after(&self, least: Duration) {
        tokio::time::sleep(least).await;
        self.kicked.notified().await;
    }

    fn failed(&self, inner: &Inner, error: &ConnectError, attempt: u32) {
        let refused = matches!(error, ConnectError::Refused(_));
        if attempt == 0 {
            tracing::info!(peer = %self.peer, %error, "peer cannot be reached");
        } else {
            tracing::debug!(peer = %self.peer, %error, attempt, "peer cannot be reached");
        }
        let changed = self.set_state("down", Some((kind(error), error.to_string())));
        if let ConnectError::Greeting(refusal) = error {
            if changed {
                tracing::error!(peer = %self.peer, reason = ?refusal.reason, "{}", refusal.message);
            }
            if refusal.reason == refusal::Reason::DuplicateNode {
                let message = refusal.message.clone();
                inner.sink.event(PeerEvent::Duplicate { peer: self.peer, message });
            }
        }
        if let Some(discovery) = &inner.discovery {
            discovery.kick();
        }
        let was_connected = self.was_connected.load(Ordering::Relaxed);
        inner.sink.event(PeerEvent::Unreachable { peer: self.peer, refused, was_connected });
    }

    /// Nothing queued for the broken stream may reach the next one.
    fn down(&self, messages: &mut mpsc::Receiver<RaftMessage>) {
        self.connected.store(false, Ordering::Release);
        self.channel.send_replace(None);
        while messages.try_recv().is_ok() {
            self.sent.drop_one();
        }
    }

    /// One connection from beginning to end. `Ok` when it was up, with the reason of its end.
    async fn once(
        &self,
        inner: &Arc<Inner>,
        messages: &mut mpsc::Receiver<RaftMessage>,
    ) -> Result<String, ConnectError> {
        self.set_state("connecting", None);
        let (channel, remote) = connect::channel(inner, self.peer).await?;
        let (frames, outgoing) = mpsc::channel(4);
        let greeted = self.greet(inner, channel.clone(), &frames, outgoing);
        let (greeting, replies) = match tokio::time::timeout(inner.config.connect_timeout, greeted).await {
            Ok(result) => result.map_err(|error| match error {
                ConnectError::Protocol { problem, .. } => {
                    ConnectError::Protocol { address: remote.to_string(), problem }
                }
                other => other,
            })?,
            Err(_) => return Err(ConnectError::Timeout(remote.to_string())),
        };
        {
            let mut state = self.state.lock();
            state.remote = Some(remote.to_string());
            state.greeting = Some(greeting.clone());
        }
        self.set_state("connected", None);
        while messages.try_recv().is_ok() {
            self.sent.drop_one();
        }
        self.connects.fetch_add(1, Ordering::Relaxed);
        self.was_connected.store(true, Ordering::Relaxed);
        *self.up_since.lock() = Instant::now();
        self.channel.send_replace(Some(channel));
        self.connected.store(true, Ordering::Release);
        tracing::info!(peer = %self.peer, %remote, term = greeting.position.term, "connected to the peer");
        inner.sink.event(PeerEvent::Connected(self.peer, Box::new(greeting)));
        Ok(self.pump(messages, &frames, replies).await)
    }

    async fn greet(
        &self,
        inner: &Arc<Inner>,
        channel: Channel,
        frames: &mpsc::Sender<Frame>,
        outgoing: mpsc::Receiver<Frame>,
    ) -> Result<(Greeting, Streaming<Reply>), ConnectError> {
        let protocol = |problem: String| ConnectError::Protocol { address: String::new(), problem };
        let cluster_id = inner.cluster_id.read().clone();
        let position = inner.sink.position();
        let hello = greeting::ours(&inner.identity, cluster_id.as_ref(), &position, Some(self.peer));
        let first = Frame { kind: Some(frame::Kind::Hello(hello)) };
        frames.send(first).await.map_err(|error| protocol(error.to_string()))?;
        let mut client = PeerClient::new(channel)
            .max_decoding_message_size(inner.config.max_frame_bytes)
            .max_encoding_message_size(inner.config.max_frame_bytes);
        let answer = client.raft(ReceiverStream::new(outgoing)).await.map_err(|status| protocol(status.to_string()))?;
        let mut replies = answer.into_inner();
        match replies.message().await.map_err(|status| protocol(status.to_string()))?.and_then(|reply| reply.kind) {
            Some(reply::Kind::Hello(hello)) => {
                let meant = Some(self.peer);
                let greeting = greeting::check(&inner.identity, cluster_id.as_ref(), &position, &hello, meant)?;
                Ok((greeting, replies))
            }
            Some(reply::Kind::Refusal(refusal)) => Err(RefusedGreeting::new(refusal.reason(), refusal.message).into()),
            None => Err(protocol("no greeting".into())),
        }
    }

    /// Moves messages until the stream ends; says why it ended.
    async fn pump(
        &self,
        messages: &mut mpsc::Receiver<RaftMessage>,
        frames: &mpsc::Sender<Frame>,
        mut replies: Streaming<Reply>,
    ) -> String {
        let mut batch = Vec::with_capacity(FRAME.0);
        loop {
            let received = tokio::select! {
                received = messages.recv_many(&mut batch, FRAME.0) => received,
                ended = replies.message() => return ended_by(ended),
                // Lets the peer tell a quiet stream from a dead one.
                () = tokio::time::sleep(QUIET) => {
                    let _full_is_not_quiet = frames.try_send(Frame { kind: None });
                    continue;
                }
            };
            if received == 0 {
                return "the queue was closed".into();
            }
            self.last_sent.store(crate::replication::mono_ms(), Ordering::Relaxed);
            let mut pending = proto::Messages::default();
            let mut bytes = 0;
            let mut frames_ready = Vec::new();
            for message in batch.drain(..) {
                self.sent.count(&message);
                let encoded = message.encode();
                if bytes > 0 && bytes + encoded.len() > FRAME.1 {
                    frames_ready.push(std::mem::take(&mut pending));
                    bytes = 0;
                }
                bytes += encoded.len();
                pending.messages.push(encoded);
            }
            frames_ready.push(pending);
            for messages in frames_ready {
                let frame = Frame { kind: Some(frame::Kind::Messages(messages)) };
                tokio::select! {
                    sent = frames.send(frame) => if sent.is_err() { return "the stream was closed".into() },
                    ended = replies.message() => return ended_by(ended),
                }
            }
        }
    }

    /// Sends a snapshot in pieces in a task of its own; one at a time.
    pub(super) fn send_snapshot(self: &Arc<Self>, inner: &Arc<Inner>, message: RaftMessage) {
        let peer = self.peer;
        let Some(channel) = self.channel().filter(|_| !self.sending_snapshot.swap(true, Ordering::AcqRel)) else {
            self.sent.drop_one();
            inner.sink.event(PeerEvent::SnapshotSent { peer, ok: false });
            return;
        };
        self.sent.count(&message);
        let (link, inner) = (Arc::clone(self), Arc::clone(inner));
        let runtime = inner.runtime.clone();
        runtime.spawn(async move {
            let result = link.stream_snapshot(&inner, channel, message).await;
            link.sending_snapshot.store(false, Ordering::Release);
            match &result {
                Ok(()) => tracing::info!(%peer, "snapshot delivered"),
                Err(problem) => tracing::warn!(%peer, %problem, "snapshot not delivered"),
            }
            inner.sink.event(PeerEvent::SnapshotSent { peer, ok: result.is_ok() });
        });
    }

    async fn stream_snapshot(&self, inner: &Inner, channel: Channel, message: RaftMessage) -> Result<(), String> {
        let cluster_id = inner.cluster_id.read().clone();
        let hello = greeting::ours(&inner.identity, cluster_id.as_ref(), &inner.sink.position(), Some(self.peer));
        let mut first = Some(hello);
        let transfer = self.transfers.fetch_add(1, Ordering::Relaxed);
        let pieces = chunks::split(message, transfer, inner.config.snapshot_chunk_bytes);
        let stream = futures::stream::iter(
            pieces.map(move |chunk| proto::SnapshotChunk { hello: first.take(), data: chunk.encode_to_vec().into() }),
        );
        let mut client = PeerClient::new(channel).max_encoding_message_size(inner.config.max_frame_bytes);
        client.snapshot(stream).await.map(drop).map_err(|status| status.to_string())
    }

    /// Sets the state; whether the error is another one than before.
    fn set_state(&self, name: &'static str, error: Option<(&'static str, String)>) -> bool {
        let mut state = self.state.lock();
        if state.name != name {
            state.name = name;
            state.since = Instant::now();
        }
        match error {
            Some(error) => {
                let changed = state.error.as_ref() != Some(&error);
                state.error = Some(error);
                changed
            }
            None => {
                if name == "connected" {
                    state.error = None;
                }
                false
            }
        }
    }
}

fn ended_by(ended: Result<Option<Reply>, tonic::Status>) -> String {
    match ended {
        Ok(None) => "the peer closed the stream".into(),
        Ok(Some(_)) => "the peer said something unexpected".into(),
        Err(status) => status.to_string(),
    }
}

/// The pause before attempt `attempt`: doubles from the lower to the upper bound, half of it random.
fn pause((least, most): (Duration, Duration), attempt: u32) -> Duration {
    let full = least.saturating_mul(1 << attempt.min(10)).clamp(least, most);
    full.mul_f64(rand::rng().random_range(0.5..=1.0)).max(least)
}

/// What is left of a pause after `spent` of it, but never less than `least`.
fn rest(pause: Duration, least: Duration, spent: Duration) -> Duration {
    pause.saturating_sub(spent).max(least)
}

fn kind(error: &ConnectError) -> &'static str {
    match error {
        ConnectError::Unregistered(_) => "unregistered",
        ConnectError::Dns(_) => "dns",
        ConnectError::Refused(_) => "refused",
        ConnectError::Timeout(_) => "timeout",
        ConnectError::Socket { .. } => "socket",
        ConnectError::Protocol { .. } => "protocol",
        ConnectError::Greeting(refused) => match refused.reason {
            refusal::Reason::WrongCluster => "wrong_cluster",
            refusal::Reason::WrongNode => "wrong_node",
            refusal::Reason::DuplicateNode => "duplicate_node",
            refusal::Reason::VotersDiffer => "voters_differ",
            refusal::Reason::Protocol | refusal::Reason::Unspecified => "protocol",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_an_attempt_took_is_part_of_the_pause_after_it() {
        let ms = Duration::from_millis;
        assert_eq!(rest(ms(800), ms(50), ms(0)), ms(800));
        assert_eq!(rest(ms(800), ms(50), ms(300)), ms(500));
        assert_eq!(rest(ms(800), ms(50), ms(1000)), ms(50));
    }
}
