//! Brings a broker up, in order, and takes it down, in order.
//!
//! [`run`] is called by `main` with a validated configuration. The order is fixed (M4): storage (locked, identified) ->
//! peers resolved -> all addresses registered -> ConfState durable and replica recovered -> gRPC bound and serving -> Raft
//! loop -> connections warmed up -> broker registered (committed) -> Kafka listener -> ready. Each step is a named state
//! with its duration in `/status` and one log line. The admin port opens as soon as there is something to show, so that
//! a broker that waits can say what for. Down: leaderships move, clients are drained, logs are flushed, and the
//! clean-shutdown marker is the last thing written.

mod data_plane;
mod listeners;
pub mod retired;
mod seed;
mod storage;
mod trace;
mod view;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use chronik_consensus::{OpenError, Replica, Start};
use chronik_core::controller::{Liveness, LivenessConfig};
use chronik_log::{LogDirState, LogError};
use chronik_model::{BrokerEpoch, ClusterId, Uuid};
use chronik_node::quorum::restore;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::admin::{self, Admin};
use crate::config::{Config, DiscoverySource, EXIT_IDENTITY, EXIT_SUPERSEDED, EXIT_TEMPORARY, host_name};
use crate::control::ControlApi;
use crate::control::secret::Secret;
use crate::driver::control::Control;
use crate::driver::heartbeat::{Fatal, Lifecycle, Registration};
use crate::driver::inbox::{Inbox, Input, Inputs};
use crate::driver::meta_client::Meta;
use crate::driver::raft_thread::RaftThread;
use crate::driver::{Shared, clock, join};
use crate::peer::control::ControlClient;
use crate::peer::directory::{Origin, PeerAddress, PeerDirectory};
use crate::peer::discovery::Discovery;
use crate::peer::dns::Resolver;
use crate::peer::transport::{Identity, Parts, Transport, TransportConfig, serve};
use crate::telemetry::Switch;

pub use storage::{Storage, StorageError};
pub use trace::StartupTrace;
pub use view::{BrokerView, DataPlane};

/// File of the peers' last known addresses, in the data directory.
const BOOK: &str = "peers.json";

/// Why a broker ended other than by a signal.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data directory.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The metadata replica's files.
    #[error(transparent)]
    Replica(#[from] OpenError),
    /// The data plane's files.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A port.
    #[error("{key} {address}: {problem}")]
    Bind {
        /// The setting.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        problem: std::io::Error,
    },
    /// The metadata log has no space.
    #[error("{0}; a restart goes on once there is space")]
    NoSpace(String),
    /// Something the system did not give.
    #[error("{0}")]
    System(String),
    /// The stop left the logs without the mark of a clean one.
    #[error("stopped, but not in order: {0}; the logs will be checked at the next start")]
    NotInOrder(String),
    /// The metadata on disk cannot be read.
    #[error("the metadata snapshot cannot be read: {0}")]
    Image(String),
    /// This process must not go on.
    #[error(transparent)]
    Fatal(#[from] Fatal),
    /// The cluster does not let this broker in.
    #[error("this broker cannot join: {0}")]
    Join(String),
}

impl RunError {
    /// The exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Storage(error) if error.is_identity() => EXIT_IDENTITY,
            Self::Replica(OpenError::WrongNode { .. } | OpenError::Corrupted { .. }) | Self::Image(_) => EXIT_IDENTITY,
            Self::Fatal(Fatal::Superseded { .. }) => EXIT_SUPERSEDED,
            Self::Storage(_)
            | Self::Replica(_)
            | Self::Log(_)
            | Self::Bind { .. }
            | Self::NoSpace(_)
            | Self::System(_)
            | Self::NotInOrder(_)
            | Self::Fatal(_)
            | Self::Join(_) => EXIT_TEMPORARY,
        }
    }
}

/// Runs a broker until `stop` becomes true.
///
/// # Errors
/// Why it could not start, or had to end.
pub async fn run(config: Config, switch: Switch, mut stop: watch::Receiver<bool>) -> Result<(), RunError> {
    let started = Instant::now();
    let config = Arc::new(config);
    let trace = StartupTrace::default();
    let broker = Broker::prepare(&config, switch, trace.clone(), started).await?;
    let running = tokio::select! {
        running = broker.start() => Some(running?),
        () = broker.shared.out_of_space.notified() => return Err(broker.no_space()),
        _ = stop.wait_for(|stop| *stop) => None,
    };
    let Some(running) = running else {
        tracing::info!("stopped before the start was complete");
        broker.halt();
        return Ok(());
    };
    trace.end();
    tracing::info!(ms = started.elapsed().as_millis(), kafka = %broker.kafka_address(), "serving clients");
    let fatal = tokio::select! {
        fatal = running.lifecycle.run() => Some(fatal),
        () = broker.shared.out_of_space.notified() => return Err(broker.no_space()),
        () = stopped(&mut stop) => None,
    };
    match fatal {
        Some(fatal) => {
            broker.halt();
            Err(fatal.into())
        }
        None => broker.stop(running).await,
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // The sender lives in `main` as long as this runs.
    let _always = stop.wait_for(|stop| *stop).await;
}

/// What exists before the first step that waits for others.
struct Broker {
    config: Arc<Config>,
    storage: Storage,
    trace: StartupTrace,
    shared: Arc<Shared>,
    inbox: Inbox,
    inputs: Mutex<Option<Inputs>>,
    transport: Transport,
    discovery: Arc<Discovery>,
    meta: Meta,
    view: Arc<BrokerView>,
    control: Arc<Control>,
    operators: Arc<ControlApi>,
    raft: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// What exists once clients are served.
struct Running {
    lifecycle: Lifecycle,
    plane: data_plane::Running,
}

impl Broker {
    /// Steps that wait for nobody: storage, and every object that the others are made of.
    async fn prepare(
        config: &Arc<Config>,
        switch: Switch,
        trace: StartupTrace,
        started: Instant,
    ) -> Result<Self, RunError> {
        trace.begin("storage");
        let storage = {
            let config = Arc::clone(config);
            let opening = tokio::task::spawn_blocking(move || storage::open(&config));
            opening.await.map_err(|error| RunError::System(error.to_string()))??
        };
        let incarnation = Uuid(*uuid::Uuid::new_v4().as_bytes());
        trace.detail(if storage.restart { "restart" } else { "first start" });
        let shared = Shared::new(config.node_id, incarnation, storage.founders.clone());
        shared.cluster_id.write().clone_from(&storage.cluster_id);
        let (inbox, inputs) = Inbox::new(Arc::clone(&shared));
        let directory = Arc::new(PeerDirectory::with_book(&config.data_dir.join(BOOK)));
        let resolver = Resolver::new(config.peers.dns_server, Duration::from_millis(config.peers.dns_timeout_ms))
            .map_err(|error| RunError::System(error.to_string()))?;
        let discovery = Arc::new(Discovery::new(
            &config.peers,
            config.node_id,
            config.listeners.raft_port,
            Arc::clone(&directory),
            resolver.clone(),
        ));
        let secret = Secret::new(config.control_secret_file.clone());
        let identity = Identity {
            node: config.node_id,
            incarnation,
            address: host_port(&config.advertised_host, config.listeners.raft_port),
            kafka_address: host_port(&config.advertised_host, config.advertised_kafka_port()),
        };
        let parts = Parts {
            identity,
            cluster_id: storage.cluster_id.clone(),
            config: TransportConfig::from_config(&config.raft),
            directory: Arc::clone(&directory),
            resolver,
            discovery: Some(Arc::clone(&discovery)),
            secret: Arc::clone(&secret),
        };
        let transport = Transport::new(parts, Arc::new(inbox.clone()));
        let control = Control::new(Arc::clone(&shared), inbox.clone(), directory);
        let meta = Meta::new(Arc::clone(&shared), inbox.clone(), ControlClient::new(transport.clone()));
        let view = BrokerView::new(
            Arc::clone(config),
            meta.clone(),
            transport.clone(),
            Arc::clone(&discovery),
            Arc::clone(&storage.log_dir),
            trace.clone(),
            switch,
            started,
        );
        let operators = ControlApi::new(meta.clone(), Arc::clone(&control), secret, view.clone());
        if storage.cluster_id.is_some() {
            operators.claimed(storage.directory);
        }
        let admin = Admin::default();
        admin.show(view.clone());
        let listener = bind("admin.port", config, config.listeners.admin_port).await?;
        tokio::spawn(async move {
            if let Err(error) = admin::serve(listener, admin).await {
                tracing::error!(%error, "the admin port is no longer served");
            }
        });
        let page = Arc::clone(&view);
        control.show(Box::new(move || admin::View::status(&*page, false).to_json()));
        Ok(Self {
            config: Arc::clone(config),
            storage,
            trace,
            shared,
            inbox,
            inputs: Mutex::new(Some(inputs)),
            transport,
            discovery,
            meta,
            view,
            control,
            operators,
            raft: Mutex::new(None),
        })
    }

    /// Every other step, in order.
    async fn start(&self) -> Result<Running, RunError> {
        self.resolve().await;
        self.register_addresses();
        self.trace.begin("conf state");
        let replica = self.open_replica().await?;
        self.trace.begin("grpc");
        let listener = bind("raft.port", &self.config, self.config.listeners.raft_port).await?;
        let serving = serve(self.transport.clone(), listener, self.control.clone(), Some(self.operators.server()));
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "peers are no longer served");
            }
        });
        self.trace.begin("raft loop");
        self.start_raft(replica)?;
        self.trace.begin("pre-warm");
        self.transport.prewarm();
        tokio::spawn(Arc::clone(&self.discovery).run());
        let cluster_id = self.join().await?;
        self.trace.begin("register broker");
        let lifecycle = self.lifecycle(cluster_id);
        let trace = self.trace.clone();
        let epoch = lifecycle.register(|waits_for| trace.detail(waits_for)).await?;
        self.trace.detail(format!("epoch {epoch}"));
        seed::cluster_defaults(&self.meta, &self.config, &self.storage.defaults).await;
        self.trace.begin("kafka listener");
        let mut plane = data_plane::start(&self.config, &self.meta, &self.storage).await?;
        plane.open_listeners(&self.config, self.discovery.listeners(), lifecycle.clone()).await?;
        self.view.set_data_plane(plane.shared.clone());
        Ok(Running { lifecycle, plane })
    }

    /// Names of the founders. Only a first start waits for them.
    async fn resolve(&self) {
        self.trace.begin("resolve");
        if self.storage.restart {
            self.trace.detail("a restart does not wait for names");
            // What is mounted is there at once, and says by which listeners we are reached.
            if matches!(self.config.peers.source, DiscoverySource::File(_)) {
                self.discovery.refresh().await;
            }
            return;
        }
        if self.storage.founders.is_empty() {
            self.discovery.refresh().await;
            return;
        }
        let voters = self.storage.founders.iter().copied().collect();
        let wait = Duration::from_millis(self.config.lifecycle.first_boot_wait_ms);
        let waited = self.discovery.wait_for_voters(&voters, wait).await;
        if !waited.missing.is_empty() {
            self.trace.detail(format!("without {:?}", waited.missing.values().collect::<Vec<_>>()));
        }
    }

    fn register_addresses(&self) {
        self.trace.begin("register addresses");
        let own = &self.transport.identity().address;
        if let Ok(address) = PeerAddress::parse(own, self.config.listeners.raft_port) {
            self.transport.directory().register(self.config.node_id, &address, Origin::Learned);
        }
        let known: Vec<String> =
            self.transport.directory().all().iter().map(|(id, address)| format!("{id}={address}")).collect();
        self.trace.detail(known.join(" "));
    }

    async fn open_replica(&self) -> Result<Replica<Arc<dyn chronik_log::disk::Disk>>, RunError> {
        let raft = &self.config.raft;
        let incarnation = self.shared.incarnation.as_u128();
        let settings = chronik_consensus::Config {
            tick_ms: raft.tick_ms,
            election_tick: raft.election_tick,
            heartbeat_tick: raft.heartbeat_tick,
            max_size_per_msg: raft.max_size_per_msg,
            max_inflight_msgs: raft.max_inflight_msgs,
            compact_bytes: raft.compact_bytes,
            // Both are random; taking different halves keeps them apart.
            seed: incarnation as u64,
            incarnation: (incarnation >> 64) as u64,
            ..chronik_consensus::Config::new(self.config.node_id)
        };
        let start = match &self.storage.founders {
            voters if voters.is_empty() => Start::Join,
            voters => Start::Bootstrap { voters: voters.clone() },
        };
        let disk = Arc::clone(&self.storage.disk);
        let opening =
            tokio::task::spawn_blocking(move || Replica::open(settings, disk, "raft", &start, clock::mono_ms()));
        let (replica, recovered) = opening.await.map_err(|error| RunError::System(error.to_string()))??;
        self.shared.applied.send_replace(restore(&recovered, &self.shared.state).map_err(RunError::Image)?);
        self.trace.detail(format!(
            "term {}, voters {:?}",
            recovered.term,
            recovered.membership.voters.iter().map(|id| id.0).collect::<Vec<_>>()
        ));
        Ok(replica)
    }

    fn start_raft(&self, replica: Replica<Arc<dyn chronik_log::disk::Disk>>) -> Result<(), RunError> {
        let Some(inputs) = self.inputs.lock().take() else {
            return Err(RunError::System("the Raft loop runs already".into()));
        };
        let liveness = Liveness::new(LivenessConfig {
            session_timeout_ms: self.config.lifecycle.session_timeout_ms,
            ..LivenessConfig::default()
        });
        let runner = RaftThread::new(replica, Arc::clone(&self.shared), self.transport.clone(), inputs, liveness);
        let spawned = std::thread::Builder::new().name("raft".into()).spawn(move || runner.run());
        let thread = spawned.map_err(|error| RunError::System(format!("the Raft thread: {error}")))?;
        *self.raft.lock() = Some(thread);
        Ok(())
    }

    /// A broker that founded nothing has to be let in; then the directory can be claimed for that cluster.
    async fn join(&self) -> Result<ClusterId, RunError> {
        if self.storage.founders.is_empty() {
            self.trace.begin("join");
            let trace = self.trace.clone();
            let joining = join::become_member(&self.meta, &self.transport, move |waits_for| trace.detail(waits_for));
            joining.await.map_err(RunError::Join)?;
        }
        let cluster_id = self.shared.cluster_id.read().clone();
        let Some(cluster_id) = cluster_id else {
            // Let in before by a cluster whose name was not written down in time: the metadata knows it.
            self.meta.applied(chronik_model::RaftIndex(1)).await;
            let known = self.shared.state.read().cluster_id().cloned();
            let known = known.ok_or_else(|| RunError::Join("the cluster's id is not known".into()))?;
            self.transport.set_cluster_id(known.clone());
            *self.shared.cluster_id.write() = Some(known.clone());
            return self.claim(known);
        };
        self.claim(cluster_id)
    }

    fn claim(&self, cluster_id: ClusterId) -> Result<ClusterId, RunError> {
        if self.storage.cluster_id.is_none() {
            self.storage.log_dir.claim(&cluster_id, self.config.node_id, self.storage.directory)?;
        }
        self.operators.claimed(self.storage.directory);
        Ok(cluster_id)
    }

    fn lifecycle(&self, cluster_id: ClusterId) -> Lifecycle {
        let config = &self.config;
        let registration = Registration {
            cluster_id,
            directory: self.storage.directory,
            endpoints: listeners::endpoints(config, &self.discovery.listeners().borrow()),
            rack: config.rack.clone(),
            previous_epoch: self.storage.clean_shutdown.unwrap_or(BrokerEpoch::NONE),
        };
        let log_dir = Arc::clone(&self.storage.log_dir);
        let offline = Arc::new(move || matches!(log_dir.state(), LogDirState::Offline { .. }));
        Lifecycle::new(self.meta.clone(), config.lifecycle.clone(), registration, offline)
    }

    fn kafka_address(&self) -> &str {
        &self.transport.identity().kafka_address
    }

    /// Down, in order.
    async fn stop(&self, running: Running) -> Result<(), RunError> {
        let begin = Instant::now();
        self.view.stopping.store(true, Ordering::Release);
        tracing::info!("stopping: moving leaderships away");
        let heartbeats = running.lifecycle.clone();
        let beating = tokio::spawn(async move { heartbeats.run().await });
        let allowed = running.lifecycle.leave().await;
        tracing::info!(allowed, ms = begin.elapsed().as_millis(), "leaderships moved");
        let drain = Duration::from_millis(self.config.lifecycle.drain_timeout_ms);
        let clean = running.plane.stop(drain).await;
        beating.abort();
        self.halt();
        let epoch = self.shared.broker_epoch();
        clean.map_err(|error| RunError::NotInOrder(error.to_string()))?;
        self.storage.log_dir.write_clean_shutdown(epoch).map_err(|error| RunError::NotInOrder(error.to_string()))?;
        tracing::info!(ms = begin.elapsed().as_millis(), "stopped in order");
        Ok(())
    }

    /// The quorum's log is full: this process cannot go on, and says so to whoever starts the next.
    fn no_space(&self) -> RunError {
        self.halt();
        RunError::NoSpace(self.shared.failure.lock().clone().unwrap_or_default())
    }

    /// Ends the Raft thread and every connection to peers.
    fn halt(&self) {
        if self.inbox.put(Input::Stop).is_err() {
            tracing::warn!("the Raft thread could not be told to stop");
        }
        self.transport.close();
        let thread = self.raft.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the Raft thread panicked");
        }
    }
}

/// Binds a listener of our own.
async fn bind(key: &'static str, config: &Config, port: u16) -> Result<TcpListener, RunError> {
    let address = SocketAddr::new(config.listeners.bind, port);
    TcpListener::bind(address).await.map_err(|problem| RunError::Bind { key, address, problem })
}

fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The name that this process runs under, for the start-up line.
#[must_use]
pub fn describe(config: &Config) -> String {
    format!("broker {} on {}, data in {}", config.node_id, host_name(), config.data_dir.display())
}
