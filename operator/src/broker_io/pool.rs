//! Connections to brokers, kept between calls; bounded.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};

use super::proto::pb::control_client::ControlClient;

pub(super) type Control = ControlClient<Channel>;

/// As many as the largest cluster has brokers, twice.
const MOST: usize = 200;
/// Not used for this long: the broker is gone, or its cluster is looked at rarely; connecting anew costs a millisecond.
const IDLE: Duration = Duration::from_secs(300);
/// A Describe of a cluster of a hundred brokers is some 30 KiB.
const LARGEST_ANSWER: usize = 4 * 1024 * 1024;

#[derive(Debug)]
struct Entry {
    channel: Channel,
    used: Instant,
}

#[derive(Debug)]
pub(super) struct Pool {
    channels: Mutex<HashMap<(String, u16), Entry>>,
    patience: Duration,
}

impl Pool {
    pub(super) fn new(patience: Duration) -> Self {
        Self { channels: Mutex::default(), patience }
    }

    /// Connects when it is first used.
    pub(super) fn client(&self, host: &str, port: u16) -> Result<Control, String> {
        let now = Instant::now();
        let mut channels = self.channels.lock();
        channels.retain(|_, entry| now.saturating_duration_since(entry.used) < IDLE);
        let key = (host.to_owned(), port);
        let channel = match channels.get_mut(&key) {
            Some(entry) => {
                entry.used = now;
                entry.channel.clone()
            }
            None => {
                let channel = self.connect(host, port)?;
                if channels.len() >= MOST
                    && let Some(oldest) =
                        channels.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone())
                {
                    channels.remove(&oldest);
                }
                channels.insert(key, Entry { channel: channel.clone(), used: now });
                channel
            }
        };
        Ok(ControlClient::new(channel).max_decoding_message_size(LARGEST_ANSWER))
    }

    /// Its last call did not answer: the next one connects anew.
    pub(super) fn forget(&self, host: &str, port: u16) {
        self.channels.lock().remove(&(host.to_owned(), port));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.channels.lock().len()
    }

    fn connect(&self, host: &str, port: u16) -> Result<Channel, String> {
        let endpoint =
            Endpoint::from_shared(format!("http://{}:{port}", bracketed(host))).map_err(|error| error.to_string())?;
        Ok(endpoint
            .connect_timeout(self.patience)
            .timeout(self.patience)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(self.patience)
            .keep_alive_while_idle(false)
            .connect_lazy())
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_are_kept_and_bounded() {
        let pool = Pool::new(Duration::from_secs(1));
        for _ in 0..3 {
            pool.client("127.0.0.1", 1).unwrap();
        }
        assert_eq!(pool.len(), 1);
        for port in 0..u16::try_from(MOST).unwrap() + 20 {
            pool.client("127.0.0.1", port).unwrap();
        }
        assert_eq!(pool.len(), MOST);
        pool.forget("127.0.0.1", 219);
        assert_eq!(pool.len(), MOST - 1);
    }

    #[test]
    fn addresses_of_the_sixth_version_are_bracketed() {
        assert_eq!(bracketed("fd00::1"), "[fd00::1]");
        assert_eq!(bracketed("x-0.x-brokers.n.svc"), "x-0.x-brokers.n.svc");
    }
}
