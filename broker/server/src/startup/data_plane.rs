//! The last step: replicas, groups, handlers, and the two listeners that serve records.
//!
//! Started when the broker is registered. One thread hands committed changes to the replica manager, in order.

use std::sync::Arc;
use std::time::Duration;

use chronik_log::LogError;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::listeners::KafkaListeners;
use super::view::DataPlane;
use super::{RunError, Storage};
use crate::api::{Api, ApiConfig, KafkaService, ReplicationService, SessionLimits};
use crate::config::listeners::ExtraListener;
use crate::config::{Config, FlushPolicy};
use crate::driver::changes::Work;
use crate::driver::heartbeat::Lifecycle;
use crate::driver::meta_client::Meta;
use crate::net::{Limits, Listener, NetMetrics};
use crate::replication::meta::MetaClient;
use crate::replication::{Durability, Groups, ReplicaManager, ReplicationConfig};

/// The running data plane.
pub(super) struct Running {
    pub(super) shared: DataPlane,
    shutdown: watch::Sender<bool>,
    listeners: Vec<JoinHandle<()>>,
}

/// Opens the replicas, then the listeners.
pub(super) async fn start(config: &Config, meta: &Meta, storage: &Storage) -> Result<Running, RunError> {
    let client: Arc<dyn MetaClient> = Arc::new(meta.clone());
    let clean = storage.clean_shutdown.is_some();
    let replicas =
        ReplicaManager::new(Arc::clone(&client), Arc::clone(&storage.log_dir), clean, replication_config(config));
    let groups = Groups::new(&replicas);
    let api = Api::new(client, Arc::clone(&replicas), Arc::clone(&groups), api_config(config));
    replicas.start().map_err(|error| RunError::System(error.to_string()))?;
    let first = Arc::clone(&replicas);
    let reconciled = tokio::task::spawn_blocking(move || first.reconcile_all());
    reconciled.await.map_err(|error| RunError::System(error.to_string()))?;
    follow_changes(meta, &replicas)?;
    let (shutdown, _) = watch::channel(false);
    let net = Arc::new(NetMetrics::default());
    let drain = Duration::from_millis(config.lifecycle.drain_timeout_ms);
    let mut listeners = Vec::new();
    let address = |port| std::net::SocketAddr::new(config.listeners.bind, port);
    let replication = address(config.listeners.replication_port);
    let service = Arc::new(ReplicationService(Arc::clone(&api)));
    let bound = Listener::bind("replication", replication, service, limits(config), Arc::default()).await;
    let listener =
        bound.map_err(|problem| RunError::Bind { key: "replication.port", address: replication, problem })?;
    listeners.push(tokio::spawn(listener.run(shutdown.subscribe(), drain)));
    let kafka = address(config.listeners.kafka_port);
    let service = Arc::new(KafkaService(Arc::clone(&api)));
    let bound = Listener::bind("kafka", kafka, service, limits(config), Arc::clone(&net)).await;
    let listener = bound.map_err(|problem| RunError::Bind { key: "kafka.port", address: kafka, problem })?;
    listeners.push(tokio::spawn(listener.run(shutdown.subscribe(), drain)));
    Ok(Running { shared: DataPlane { replicas, groups, api, net }, shutdown, listeners })
}

impl Running {
    /// Opens the Kafka listeners besides the first, and follows their changes until the stop.
    pub(super) async fn open_listeners(
        &mut self,
        config: &Arc<Config>,
        of_file: watch::Receiver<Vec<ExtraListener>>,
        lifecycle: Lifecycle,
    ) -> Result<(), RunError> {
        let service = Arc::new(KafkaService(Arc::clone(&self.shared.api)));
        let metrics = Arc::clone(&self.shared.net);
        let mut listeners = KafkaListeners::new(Arc::clone(config), service, limits(config), metrics);
        let first = of_file.borrow().clone();
        listeners.set(&first).await?;
        self.listeners.push(tokio::spawn(listeners.follow(of_file, lifecycle, self.shutdown.subscribe())));
        Ok(())
    }

    /// Drains clients, then makes every log durable.
    pub(super) async fn stop(self, drain: Duration) -> Result<(), LogError> {
        self.shutdown.send_replace(true);
        let ended = futures::future::join_all(self.listeners);
        if tokio::time::timeout(drain + Duration::from_secs(1), ended).await.is_err() {
            tracing::warn!("connections did not end in time");
        }
        let replicas = self.shared.replicas;
        match tokio::task::spawn_blocking(move || replicas.shutdown()).await {
            Ok(result) => result,
            Err(error) => {
                tracing::error!(%error, "the shutdown of the logs did not end");
                Err(LogError::Offline(error.to_string()))
            }
        }
    }
}

/// The thread between the Raft thread and the replica manager.
fn follow_changes(meta: &Meta, replicas: &Arc<ReplicaManager>) -> Result<(), RunError> {
    let (shared, replicas) = (Arc::clone(meta.shared()), Arc::clone(replicas));
    let runtime = tokio::runtime::Handle::current();
    let follow = move || {
        let _tasks_may_be_spawned = runtime.enter();
        loop {
            match shared.changes.take() {
                Work::Changes(changes) => replicas.apply_changes(&changes),
                Work::Everything => replicas.reconcile_all(),
                Work::Closed => return,
            }
        }
    };
    let spawned = std::thread::Builder::new().name("metadata-changes".into()).spawn(follow);
    spawned.map(drop).map_err(|error| RunError::System(error.to_string()))
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn signed(bytes: u32) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX)
}

fn replication_config(config: &Config) -> ReplicationConfig {
    let settings = &config.replication;
    let groups = &config.groups;
    ReplicationConfig {
        flush: match config.log.flush {
            FlushPolicy::Os => Durability::Os,
            FlushPolicy::EveryAck => Durability::EveryAck,
        },
        lag_max: Duration::from_millis(settings.lag_time_max_ms),
        fetch_max_wait: Duration::from_millis(settings.fetch_wait_max_ms),
        fetch_backoff: Duration::from_millis(settings.fetch_backoff_ms),
        socket_timeout: Duration::from_millis(settings.socket_timeout_ms),
        producer_id_expiration: Duration::from_millis(config.log.producer_id_expiration_ms),
        fetch_partition_bytes: signed(settings.fetch_max_bytes_per_partition),
        fetch_response_bytes: signed(settings.fetch_response_max_bytes),
        checkpoint_interval: Duration::from_millis(settings.high_watermark_checkpoint_interval_ms),
        retention_interval: Duration::from_millis(config.log.retention_check_interval_ms),
        groups: chronik_core::group::GroupConfig {
            initial_rebalance_delay_ms: u64::try_from(groups.initial_rebalance_delay_ms).unwrap_or(0),
            min_session_timeout_ms: groups.min_session_timeout_ms,
            max_session_timeout_ms: groups.max_session_timeout_ms,
            max_size: groups.max_size,
            offsets_retention_ms: i64::try_from(groups.offsets_retention_ms).unwrap_or(i64::MAX),
            max_offset_metadata: groups.offset_metadata_max_bytes,
            ..chronik_core::group::GroupConfig::default()
        },
        ..ReplicationConfig::default()
    }
}

fn api_config(config: &Config) -> ApiConfig {
    ApiConfig {
        auto_create_topics: config.topics.auto_create,
        offsets_partitions: config.groups.offsets_partitions,
        offsets_replication_factor: config.groups.offsets_replication_factor.map_or(-1, i32::from),
        fetch_max_bytes: size(u64::from(config.net.fetch_max_bytes)),
        sessions: SessionLimits { slots: config.net.max_fetch_sessions, ..SessionLimits::default() },
        ..ApiConfig::default()
    }
}

fn limits(config: &Config) -> Limits {
    let net = &config.net;
    Limits {
        max_request_bytes: size(u64::from(net.request_max_bytes)),
        max_in_flight: net.connection_queued_max_requests,
        max_in_flight_bytes: size(net.connection_queued_max_bytes),
        queued_request_bytes: size(net.queued_max_bytes),
        max_connections: net.max_connections,
        max_connections_per_ip: net.max_connections_per_ip,
        max_idle: Duration::from_millis(net.connections_max_idle_ms),
        max_stall: Limits::default().max_stall,
    }
}
