//! One connection: a task that reads ahead, starts requests in order and writes answers in order.
//!
//! All states live in one struct and one poll function, so that an idle connection costs no buffer and no second
//! task. Only the oldest request is polled (plus the newest when the next one must wait for it): what finishes early
//! just stays finished until its turn.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, Sleep};

use super::answers::Held;
use super::listener::stopped;
use super::{ConnectionInfo, Limits, NetMetrics, Response, ResponseFuture, Service, Started};

/// Bytes asked of the socket at once while no large frame is under way.
const READ_CHUNK: usize = 16 * 1024;
/// Slices handed to one vectored write.
const MAX_SLICES: usize = 64;
/// Frames up to this size are not counted against the listener's memory: connections times requests bound them.
const UNCOUNTED_BYTES: usize = 4 * 1024;

type Acquiring = Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>;

enum Answer {
    Waiting(ResponseFuture),
    Ready(Response),
}

struct Slot {
    answer: Answer,
    frame_bytes: usize,
    /// Bytes of the answer that are counted already.
    counted: usize,
    _memory: Option<OwnedSemaphorePermit>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Closed {
    #[error("the peer closed the connection")]
    Eof,
    #[error("drained")]
    Drained,
    #[error("idle")]
    Idle,
    #[error("{0}")]
    Protocol(String),
    #[error("{0}")]
    Io(#[from] io::Error),
}

pub(super) struct Connection<S> {
    stream: TcpStream,
    service: Arc<S>,
    info: Arc<ConnectionInfo>,
    limits: Arc<Limits>,
    memory: Arc<Semaphore>,
    metrics: Arc<NetMetrics>,
    buffer: BytesMut,
    acquiring: Option<Acquiring>,
    permit: Option<OwnedSemaphorePermit>,
    in_flight: VecDeque<Slot>,
    in_flight_bytes: usize,
    /// The newest request must finish before the next one starts.
    barrier: bool,
    out: VecDeque<Bytes>,
    /// Answers that are ready, whether their turn has come or not.
    held: Held,
    /// Set when the connection ends after the answers before it are written.
    closing: Option<String>,
    draining: bool,
}

impl<S: Service> Connection<S> {
    /// One permit of the memory semaphore stands for this many bytes.
    pub(super) const PERMIT_BYTES: usize = 1024;

    pub(super) fn new(
        stream: TcpStream,
        service: Arc<S>,
        info: Arc<ConnectionInfo>,
        limits: Arc<Limits>,
        memory: Arc<Semaphore>,
        metrics: Arc<NetMetrics>,
    ) -> Self {
        let held = Held::new(Arc::clone(&info.answers));
        Self {
            stream,
            service,
            info,
            limits,
            memory,
            metrics,
            buffer: BytesMut::new(),
            acquiring: None,
            permit: None,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            barrier: false,
            out: VecDeque::new(),
            held,
            closing: None,
            draining: false,
        }
    }

    pub(super) async fn run(mut self, listener: &'static str, mut shutdown: watch::Receiver<bool>) {
        let closed = {
            let mut stop = std::pin::pin!(stopped(&mut shutdown));
            let mut idle = std::pin::pin!(tokio::time::sleep(self.limits.max_idle));
            std::future::poll_fn(|cx| {
                if !self.draining && stop.as_mut().poll(cx).is_ready() {
                    self.draining = true;
                }
                self.poll(cx, idle.as_mut())
            })
            .await
        };
        let peer = self.info.peer;
        match closed {
            Closed::Protocol(reason) => {
                self.metrics.protocol_errors.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(listener, %peer, reason, "closing connection");
            }
            closed => tracing::debug!(listener, %peer, reason = %closed, "connection ended"),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, mut idle: Pin<&mut Sleep>) -> Poll<Closed> {
        let mut progressed = false;
        // Bounded so that one busy connection leaves its worker to others now and then.
        for _ in 0..32 {
            self.poll_answers(cx);
            let step = self.poll_write(cx).and_then(|wrote| self.poll_read(cx).map(|read| wrote || read));
            match step {
                Err(closed) => return Poll::Ready(closed),
                Ok(true) => progressed = true,
                Ok(false) => {
                    if self.in_flight.is_empty() && self.out.is_empty() {
                        if let Some(reason) = self.closing.take() {
                            return Poll::Ready(Closed::Protocol(reason));
                        }
                        if self.draining {
                            return Poll::Ready(Closed::Drained);
                        }
                    }
                    return self.poll_idle(cx, idle, progressed);
                }
            }
        }
        if let Some(deadline) = Instant::now().checked_add(self.limits.max_idle) {
            idle.as_mut().reset(deadline);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_idle(&self, cx: &mut Context<'_>, mut idle: Pin<&mut Sleep>, progressed: bool) -> Poll<Closed> {
        // Whoever reserves memory for a large frame and then falls silent keeps others from theirs.
        let stalls = self.permit.is_some();
        let most = if stalls { self.limits.max_stall.min(self.limits.max_idle) } else { self.limits.max_idle };
        if progressed && let Some(deadline) = Instant::now().checked_add(most) {
            idle.as_mut().reset(deadline);
        }
        match idle.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            // A request that waits (JoinGroup for instance) is not idleness; a peer that takes no bytes is.
            Poll::Ready(()) if !stalls && !self.in_flight.is_empty() && self.out.is_empty() => {
                idle.as_mut().reset(Instant::now() + self.limits.max_idle);
                let _ = idle.as_mut().poll(cx);
                Poll::Pending
            }
            Poll::Ready(()) => Poll::Ready(Closed::Idle),
        }
    }

    /// Polls the requests whose turn it is and moves finished answers to the output.
    fn poll_answers(&mut self, cx: &mut Context<'_>) {
        if self.barrier && self.in_flight.len() > 1 && poll_slot(self.in_flight.back_mut(), cx) {
            self.barrier = false;
        }
        // What waits is not asked while the peer has enough to take.
        while (self.held.bytes() < self.limits.max_in_flight_bytes || self.out.is_empty())
            && poll_slot(self.in_flight.front_mut(), cx)
        {
            let Some(slot) = self.in_flight.pop_front() else { break };
            self.in_flight_bytes -= slot.frame_bytes;
            if self.in_flight.is_empty() {
                self.barrier = false;
            }
            match slot.answer {
                Answer::Ready(Response::Frame(slices)) => {
                    self.held.add(length(&slices).saturating_sub(slot.counted));
                    self.out.extend(slices.into_iter().filter(|slice| !slice.is_empty()));
                }
                Answer::Ready(Response::Close(reason)) => {
                    self.in_flight.clear();
                    self.closing = Some(reason);
                }
                Answer::Ready(Response::Silent) | Answer::Waiting(_) => {}
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<bool, Closed> {
        let mut wrote = false;
        while !self.out.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let mut count = 0;
            for (slice, bytes) in slices.iter_mut().zip(&self.out) {
                *slice = IoSlice::new(bytes);
                count += 1;
            }
            let Poll::Ready(result) = Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..count]) else {
                break;
            };
            let mut written = result?;
            if written == 0 {
                return Err(Closed::Io(io::ErrorKind::WriteZero.into()));
            }
            wrote = true;
            self.held.release(written);
            self.metrics.bytes_out.fetch_add(written as u64, Ordering::Relaxed);
            while let Some(front) = self.out.front_mut() {
                if front.len() > written {
                    front.advance(written);
                    break;
                }
                written -= front.len();
                self.out.pop_front();
            }
        }
        Ok(wrote)
    }

    fn may_start(&self) -> bool {
        !self.barrier
            && !self.draining
            && self.closing.is_none()
            && self.in_flight.len() < self.limits.max_in_flight
            && self.in_flight_bytes < self.limits.max_in_flight_bytes
            && self.held.bytes() < self.limits.max_in_flight_bytes
            && self.held.has_room()
    }

    /// Starts requests out of the buffer and fills it; true when something moved.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<bool, Closed> {
        let mut moved = false;
        while self.may_start() {
            let missing = match self.next_frame(cx)? {
                NextFrame::Frame(frame) => {
                    self.start(frame);
                    moved = true;
                    continue;
                }
                NextFrame::Memory => return Ok(moved),
                NextFrame::Missing(missing) => missing,
            };
            match self.fill(cx, missing)? {
                Poll::Ready(()) => moved = true,
                Poll::Pending => return Ok(moved),
            }
        }
        Ok(moved)
    }

    fn next_frame(&mut self, cx: &mut Context<'_>) -> Result<NextFrame, Closed> {
        let Some(prefix) = self.buffer.first_chunk::<4>() else { return Ok(NextFrame::Missing(READ_CHUNK)) };
        let stated = i32::from_be_bytes(*prefix);
        let length =
            usize::try_from(stated).ok().filter(|length| *length <= self.limits.max_request_bytes).ok_or_else(
                || Closed::Protocol(format!("frame of {stated} bytes, the limit is {}", self.limits.max_request_bytes)),
            )?;
        if length > UNCOUNTED_BYTES && self.permit.is_none() && !self.poll_memory(cx, length) {
            return Ok(NextFrame::Memory);
        }
        let total = 4 + length;
        if self.buffer.len() < total {
            return Ok(NextFrame::Missing(total - self.buffer.len()));
        }
        let mut frame = self.buffer.split_to(total);
        frame.advance(4);
        if self.buffer.is_empty() {
            // Gives the memory to the frame alone; an idle connection holds none.
            self.buffer = BytesMut::new();
        }
        Ok(NextFrame::Frame(frame.freeze()))
    }

    /// Reserves the listener's memory for a frame of `length` bytes; false while there is none left.
    fn poll_memory(&mut self, cx: &mut Context<'_>, length: usize) -> bool {
        if self.acquiring.is_none() {
            let most = self.limits.queued_request_bytes / Self::PERMIT_BYTES;
            let permits = u32::try_from(length.div_ceil(Self::PERMIT_BYTES).min(most)).unwrap_or(u32::MAX);
            if let Ok(permit) = Arc::clone(&self.memory).try_acquire_many_owned(permits) {
                self.permit = Some(permit);
                return true;
            }
            let memory = Arc::clone(&self.memory);
            self.acquiring = Some(Box::pin(async move { memory.acquire_many_owned(permits).await.ok() }));
        }
        match self.acquiring.as_mut().map(|acquiring| acquiring.as_mut().poll(cx)) {
            Some(Poll::Ready(permit)) => {
                self.acquiring = None;
                self.permit = permit;
                true
            }
            _ => false,
        }
    }

    fn fill(&mut self, cx: &mut Context<'_>, missing: usize) -> Result<Poll<()>, Closed> {
        loop {
            if self.stream.poll_read_ready(cx)?.is_pending() {
                return Ok(Poll::Pending);
            }
            // A large frame gets its exact place, so that its bytes are never moved again.
            self.buffer.reserve(missing.max(if self.buffer.is_empty() { READ_CHUNK } else { 1 }));
            match self.stream.try_read_buf(&mut self.buffer) {
                Ok(0) => return Err(Closed::Eof),
                Ok(read) => {
                    self.metrics.bytes_in.fetch_add(read as u64, Ordering::Relaxed);
                    return Ok(Poll::Ready(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.buffer.is_empty() {
                        self.buffer = BytesMut::new();
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn start(&mut self, frame: Bytes) {
        self.metrics.requests.fetch_add(1, Ordering::Relaxed);
        let frame_bytes = frame.len();
        let answer = match self.service.start(&self.info, frame) {
            Started::Answered(response) => Answer::Ready(response),
            Started::Parked(waiting) => Answer::Waiting(waiting),
            Started::Ordered(waiting) => {
                self.barrier = true;
                Answer::Waiting(waiting)
            }
        };
        self.in_flight_bytes += frame_bytes;
        let counted = if let Answer::Ready(Response::Frame(slices)) = &answer { length(slices) } else { 0 };
        self.held.add(counted);
        self.in_flight.push_back(Slot { answer, frame_bytes, counted, _memory: self.permit.take() });
    }
}

fn length(slices: &[Bytes]) -> usize {
    slices.iter().map(Bytes::len).sum()
}

enum NextFrame {
    Frame(Bytes),
    /// The listener's memory is used up; the task is woken when some is free.
    Memory,
    /// At least this many bytes have to be read first.
    Missing(usize),
}

/// Whether the request of `slot` is answered, polling it if need be.
fn poll_slot(slot: Option<&mut Slot>, cx: &mut Context<'_>) -> bool {
    let Some(slot) = slot else { return false };
    if let Answer::Waiting(waiting) = &mut slot.answer {
        match waiting.as_mut().poll(cx) {
            Poll::Ready(response) => slot.answer = Answer::Ready(response),
            Poll::Pending => return false,
        }
    }
    true
}
