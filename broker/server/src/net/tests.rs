//! Connections over real sockets, against a service whose frames say what it should do.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

use super::*;

/// Echoes frames; the first byte chooses how: `n` now, `p` parked until released, `o` ordered until released, `s`
/// silent, `c` close, `l` a MiB.
#[derive(Default)]
struct Scripted {
    started: Mutex<Vec<Bytes>>,
    release: Arc<Notify>,
}

fn framed(body: &Bytes) -> Response {
    Response::Frame(vec![Bytes::copy_from_slice(&(body.len() as u32).to_be_bytes()), body.clone()])
}

impl Service for Scripted {
    fn start(&self, _: &Arc<ConnectionInfo>, frame: Bytes) -> Started {
        self.started.lock().push(frame.clone());
        let release = Arc::clone(&self.release);
        let later = |frame: Bytes| -> ResponseFuture {
            Box::pin(async move {
                release.notified().await;
                framed(&frame)
            })
        };
        match frame.first() {
            Some(b'p') => Started::Parked(later(frame)),
            Some(b'o') => Started::Ordered(later(frame)),
            Some(b'l') => Started::Answered(framed(&Bytes::from(vec![b'l'; 1 << 20]))),
            Some(b's') => Started::Answered(Response::Silent),
            Some(b'c') => Started::Answered(Response::Close("as asked".into())),
            _ => Started::Answered(framed(&frame)),
        }
    }
}

struct Running {
    service: Arc<Scripted>,
    metrics: Arc<NetMetrics>,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

async fn serve(limits: Limits) -> Running {
    let service = Arc::new(Scripted::default());
    let metrics = Arc::new(NetMetrics::default());
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind("test", any, Arc::clone(&service), limits, Arc::clone(&metrics)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(listener.run(stopped, Duration::from_secs(5)));
    Running { service, metrics, address, stop, task }
}

async fn send(stream: &mut TcpStream, body: &[u8]) {
    let mut frame = (body.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(body);
    stream.write_all(&frame).await.unwrap();
}

async fn receive(stream: &mut TcpStream) -> Vec<u8> {
    let length = stream.read_u32().await.unwrap();
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).await.unwrap();
    body
}

async fn started(running: &Running, count: usize) {
    tokio::time::timeout(Duration::from_secs(5), async {
        while running.service.started.lock().len() < count {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn answers_keep_the_order_of_requests_although_later_ones_are_ready_first() {
    let running = serve(Limits::default()).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    for body in [&b"p1"[..], b"n2", b"s3", b"n4"] {
        send(&mut stream, body).await;
    }
    started(&running, 4).await;
    assert!(tokio::time::timeout(Duration::from_millis(50), stream.read_u8()).await.is_err(), "overtaken");
    running.service.release.notify_one();
    for body in [&b"p1"[..], b"n2", b"n4"] {
        assert_eq!(receive(&mut stream).await, body);
    }
}

#[tokio::test]
async fn a_request_behind_an_ordered_one_does_not_start_before_it_is_done() {
    let running = serve(Limits::default()).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    send(&mut stream, b"o1").await;
    send(&mut stream, b"n2").await;
    started(&running, 1).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(running.service.started.lock().len(), 1);
    running.service.release.notify_one();
    assert_eq!(receive(&mut stream).await, b"o1");
    assert_eq!(receive(&mut stream).await, b"n2");
}

#[tokio::test]
async fn read_ahead_stops_at_the_limit_of_requests_in_flight() {
    let running = serve(Limits { max_in_flight: 2, ..Limits::default() }).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    for body in [&b"p1"[..], b"p2", b"p3"] {
        send(&mut stream, body).await;
    }
    started(&running, 2).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(running.service.started.lock().len(), 2);
    running.service.release.notify_one();
    assert_eq!(receive(&mut stream).await, b"p1");
    started(&running, 3).await;
}

#[tokio::test]
async fn frames_that_are_too_long_or_negative_close_only_their_connection() {
    let running = serve(Limits { max_request_bytes: 1000, ..Limits::default() }).await;
    let mut good = TcpStream::connect(running.address).await.unwrap();
    for prefix in [1001_i32, i32::MAX, -1, i32::MIN, i32::from_be_bytes(*b"GET ")] {
        let mut bad = TcpStream::connect(running.address).await.unwrap();
        bad.write_all(&prefix.to_be_bytes()).await.unwrap();
        assert_eq!(bad.read(&mut [0; 8]).await.unwrap_or(0), 0, "{prefix}");
    }
    assert_eq!(running.metrics.snapshot().protocol_errors, 5);
    send(&mut good, b"n").await;
    assert_eq!(receive(&mut good).await, b"n");
}

#[tokio::test]
async fn a_frame_larger_than_the_read_chunk_arrives_whole_even_in_drips() {
    let running = serve(Limits::default()).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let body: Vec<u8> = std::iter::once(b'n').chain((0..200_000_u32).map(|i| i as u8)).collect();
    let mut frame = (body.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(&body);
    for chunk in frame.chunks(7_001) {
        stream.write_all(chunk).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(receive(&mut stream).await, body);
}

#[tokio::test]
async fn frames_wait_for_the_memory_that_others_hold() {
    let limits = Limits { queued_request_bytes: 10 * 1024, max_request_bytes: 10 * 1024, ..Limits::default() };
    let running = serve(limits).await;
    let mut first = TcpStream::connect(running.address).await.unwrap();
    let mut second = TcpStream::connect(running.address).await.unwrap();
    let large = |kind: u8| {
        let mut body = vec![kind];
        body.resize(8 * 1024, 0);
        body
    };
    send(&mut first, &large(b'p')).await;
    started(&running, 1).await;
    send(&mut second, &large(b'n')).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(running.service.started.lock().len(), 1);
    running.service.release.notify_one();
    receive(&mut first).await;
    receive(&mut second).await;
}

#[tokio::test]
async fn a_peer_that_asks_for_much_and_reads_nothing_is_given_little() {
    let running = serve(Limits { queued_request_bytes: 1 << 20, ..Limits::default() }).await;
    let mut greedy = TcpStream::connect(running.address).await.unwrap();
    let requests: Vec<u8> = [0, 0, 0, 1, b'l'].repeat(60);
    greedy.write_all(&requests).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    // What is beyond one answer went into the buffers of the sockets.
    let asked = running.service.started.lock().len();
    assert!((1..30).contains(&asked), "{asked} answers of a MiB each were made for a peer that takes none");
    // Others are served meanwhile, and the greedy one when it reads at last.
    let mut other = TcpStream::connect(running.address).await.unwrap();
    send(&mut other, b"n").await;
    receive(&mut other).await;
    for _ in 0..60 {
        assert_eq!(receive(&mut greedy).await.len(), 1 << 20);
    }
}

#[tokio::test]
async fn a_close_is_written_after_the_answers_before_it() {
    let running = serve(Limits::default()).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    for body in [&b"n1"[..], b"c2", b"n3"] {
        send(&mut stream, body).await;
    }
    assert_eq!(receive(&mut stream).await, b"n1");
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_and_a_place_is_free_again_after_a_close() {
    let running = serve(Limits { max_connections_per_ip: 1, ..Limits::default() }).await;
    let mut first = TcpStream::connect(running.address).await.unwrap();
    send(&mut first, b"n").await;
    receive(&mut first).await;
    let mut second = TcpStream::connect(running.address).await.unwrap();
    assert_eq!(second.read(&mut [0; 8]).await.unwrap_or(0), 0);
    drop(first);
    tokio::time::timeout(Duration::from_secs(5), async {
        while running.metrics.snapshot().open > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let mut third = TcpStream::connect(running.address).await.unwrap();
    send(&mut third, b"n").await;
    assert_eq!(receive(&mut third).await, b"n");
}

#[tokio::test]
async fn an_idle_connection_is_closed_but_one_that_waits_for_its_answer_is_not() {
    let running = serve(Limits { max_idle: Duration::from_millis(100), ..Limits::default() }).await;
    let mut idle = TcpStream::connect(running.address).await.unwrap();
    let mut waiting = TcpStream::connect(running.address).await.unwrap();
    send(&mut waiting, b"p").await;
    assert_eq!(idle.read(&mut [0; 8]).await.unwrap_or(0), 0);
    tokio::time::sleep(Duration::from_millis(200)).await;
    running.service.release.notify_one();
    assert_eq!(receive(&mut waiting).await, b"p");
}

#[tokio::test]
async fn a_peer_that_falls_silent_inside_a_large_frame_is_closed_long_before_an_idle_one() {
    let running = serve(Limits { max_stall: Duration::from_millis(100), ..Limits::default() }).await;
    let mut idle = TcpStream::connect(running.address).await.unwrap();
    let mut stalled = TcpStream::connect(running.address).await.unwrap();
    stalled.write_all(&(1_i32 << 20).to_be_bytes()).await.unwrap();
    stalled.write_all(b"some, but by far not all of it").await.unwrap();
    assert_eq!(stalled.read(&mut [0; 8]).await.unwrap_or(0), 0);
    send(&mut idle, b"x").await;
    assert_eq!(receive(&mut idle).await, b"x");
}

#[tokio::test]
async fn a_drain_answers_what_was_started_and_then_closes() {
    let running = serve(Limits::default()).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    send(&mut stream, b"p1").await;
    started(&running, 1).await;
    running.stop.send(true).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    running.service.release.notify_one();
    assert_eq!(receive(&mut stream).await, b"p1");
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
    running.task.await.unwrap();
}
