//! Kafka listeners besides the first: bound with the data plane, and again when the mounted `cluster.yaml` changes.
//!
//! [`KafkaListeners::follow`] runs as a task until it is dropped. A listener whose port is new is bound, one that is gone
//! is drained, and one whose advertised address changed goes on: this broker registers once more, which tells all brokers
//! the address. What never happens: a connection is cut because another listener changed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chronik_core::controller::{Endpoint, Endpoints};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::RunError;
use crate::api::KafkaService;
use crate::config::Config;
use crate::config::listeners::{ExtraListener, unique};
use crate::driver::heartbeat::Lifecycle;
use crate::net::{Limits, Listener, NetMetrics};

/// Pause before a port that could not be bound is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Where this broker is reached, with the `listeners` of the mounted file besides those of its settings.
pub(super) fn endpoints(config: &Config, listeners: &[ExtraListener]) -> Endpoints {
    let endpoint = |port| Endpoint { host: config.advertised_host.clone(), port };
    Endpoints {
        kafka: endpoint(config.advertised_kafka_port()),
        replication: endpoint(config.listeners.replication_port),
        control: endpoint(config.listeners.raft_port),
        admin: endpoint(config.listeners.admin_port),
        listeners: together(config, listeners).iter().map(|one| one.registered(&config.advertised_host)).collect(),
    }
}

/// The listeners of the settings and of the file. When they contradict each other the file's are left out.
fn together(config: &Config, of_file: &[ExtraListener]) -> Vec<ExtraListener> {
    let own = &config.listeners.extra;
    let all: Vec<ExtraListener> = own.iter().chain(of_file).cloned().collect();
    match unique(&all) {
        Ok(()) => all,
        Err(problem) => {
            tracing::error!(problem, "the listeners of cluster.yaml and of kafka.listeners contradict each other");
            own.clone()
        }
    }
}

struct Bound {
    shutdown: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// The bound ones.
pub(super) struct KafkaListeners {
    config: Arc<Config>,
    service: Arc<KafkaService>,
    limits: Limits,
    metrics: Arc<NetMetrics>,
    bound: BTreeMap<(String, u16), Bound>,
}

impl KafkaListeners {
    pub(super) fn new(
        config: Arc<Config>,
        service: Arc<KafkaService>,
        limits: Limits,
        metrics: Arc<NetMetrics>,
    ) -> Self {
        Self { config, service, limits, metrics, bound: BTreeMap::new() }
    }

    fn drain(&self) -> Duration {
        Duration::from_millis(self.config.lifecycle.drain_timeout_ms)
    }

    /// Binds what is missing and drains what is not wanted any more.
    pub(super) async fn set(&mut self, of_file: &[ExtraListener]) -> Result<(), RunError> {
        let wanted = together(&self.config, of_file);
        let keeps = |name: &str, port: u16| wanted.iter().any(|one| one.name == name && one.port == port);
        self.bound.retain(|(name, port), bound| {
            let keep = keeps(name, *port);
            if !keep {
                tracing::info!(listener = name, port, "Kafka listener closed");
                bound.shutdown.send_replace(true);
            }
            keep
        });
        let mut failed = Ok(());
        for one in wanted {
            let key = (one.name.clone(), one.port);
            if self.bound.contains_key(&key) {
                continue;
            }
            let address = SocketAddr::new(self.config.listeners.bind, one.port);
            let (service, metrics) = (Arc::clone(&self.service), Arc::clone(&self.metrics));
            match Listener::bind("kafka", address, service, self.limits.clone(), metrics).await {
                Ok(listener) => {
                    let (shutdown, stop) = watch::channel(false);
                    let task = tokio::spawn(listener.named(&one.name).run(stop, self.drain()));
                    self.bound.insert(key, Bound { shutdown, task });
                    tracing::info!(listener = one.name, port = one.port, "Kafka listener bound");
                }
                Err(problem) => failed = Err(RunError::Bind { key: "kafka.listeners", address, problem }),
            }
        }
        failed
    }

    /// Follows the changes of the file until the sender is gone or `stop` becomes true; then drains every listener.
    pub(super) async fn follow(
        mut self,
        mut of_file: watch::Receiver<Vec<ExtraListener>>,
        lifecycle: Lifecycle,
        mut stop: watch::Receiver<bool>,
    ) {
        // What the registration was made with may be older.
        of_file.mark_changed();
        let mut retry = false;
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                changed = of_file.changed() => if changed.is_err() { break },
                () = tokio::time::sleep(RETRY), if retry => {}
            }
            let listeners = of_file.borrow_and_update().clone();
            let bound = self.set(&listeners).await;
            if let Err(error) = &bound {
                tracing::error!(%error, "a Kafka listener cannot be bound");
            }
            retry = bound.is_err();
            if let Err(error) = lifecycle.readdress(endpoints(&self.config, &listeners)).await {
                tracing::error!(%error, "the changed listeners are not registered");
                retry = true;
            }
        }
        self.close().await;
    }

    async fn close(self) {
        for bound in self.bound.values() {
            bound.shutdown.send_replace(true);
        }
        futures::future::join_all(self.bound.into_values().map(|bound| bound.task)).await;
    }
}
