//! The one place that knows the DNS library.
//!
//! Asked by [`super::discovery`] (services) and by [`super::transport`] (a peer's addresses, at every connection
//! attempt). Nothing is cached here: a name is asked anew whenever a connection is to be made, and that is rare. Every
//! question ends within the configured time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};

/// Why a name could not be resolved.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DnsError {
    /// There is no such name, or it has no record of this kind.
    #[error("DNS name {0} does not exist or has no addresses")]
    Missing(String),
    /// No answer in time.
    #[error("DNS did not answer for {0} in time")]
    Timeout(String),
    /// The server answered with a failure, or could not be reached.
    #[error("DNS failed for {name}: {problem}")]
    Failed {
        /// The name.
        name: String,
        /// What happened.
        problem: String,
    },
}

/// One target of a service.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ServiceTarget {
    /// Host name.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// Asks DNS.
#[derive(Clone)]
pub struct Resolver {
    inner: TokioResolver,
    timeout: Duration,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Resolver {
    /// A resolver that asks `server`, or the servers of `/etc/resolv.conf`, or, when there is no such file (an image
    /// made from nothing), the local host as libc does.
    ///
    /// # Errors
    /// When the resolver cannot be built.
    pub fn new(server: Option<SocketAddr>, timeout: Duration) -> Result<Self, DnsError> {
        let built = |error: NetError| DnsError::Failed { name: "resolver".into(), problem: error.to_string() };
        let provider = TokioRuntimeProvider::default();
        let mut builder = match server {
            Some(server) => TokioResolver::builder_with_config(only(server), provider),
            None => TokioResolver::builder(provider.clone()).unwrap_or_else(|error| {
                tracing::warn!(%error, "no usable /etc/resolv.conf: asking the DNS server on this host");
                let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 53));
                TokioResolver::builder_with_config(only(local), provider)
            }),
        };
        tune(builder.options_mut(), timeout);
        Ok(Self { inner: builder.build().map_err(built)?, timeout })
    }

    /// Addresses of `host`, which may be an IP address itself.
    ///
    /// # Errors
    /// When there are none.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        if let Ok(ip) = host.parse() {
            return Ok(vec![ip]);
        }
        let found = self.within(host, self.inner.lookup_ip(host)).await?;
        let ips: Vec<IpAddr> = found.iter().collect();
        if ips.is_empty() { Err(DnsError::Missing(host.to_owned())) } else { Ok(ips) }
    }

    /// Targets of the service `name` (`_<port>._tcp.<name>`, then the plain name), and how long they hold.
    ///
    /// # Errors
    /// When there are none.
    pub async fn service(&self, port_name: &str, name: &str) -> Result<(Vec<ServiceTarget>, Duration), DnsError> {
        let qualified = format!("_{port_name}._tcp.{name}");
        let answer = match self.within(&qualified, self.inner.lookup(qualified.as_str(), RecordType::SRV)).await {
            Ok(answer) => answer,
            Err(DnsError::Missing(_)) => self.within(name, self.inner.lookup(name, RecordType::SRV)).await?,
            Err(error) => return Err(error),
        };
        let mut targets: Vec<ServiceTarget> = answer
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(srv) => Some(ServiceTarget {
                    host: srv.target.to_string().trim_end_matches('.').to_ascii_lowercase(),
                    port: srv.port,
                }),
                _ => None,
            })
            .collect();
        targets.sort_unstable();
        targets.dedup();
        if targets.is_empty() {
            return Err(DnsError::Missing(name.to_owned()));
        }
        Ok((targets, answer.valid_until().saturating_duration_since(Instant::now())))
    }

    async fn within<T>(&self, name: &str, question: impl Future<Output = Result<T, NetError>>) -> Result<T, DnsError> {
        match tokio::time::timeout(self.timeout, question).await {
            Err(_) => Err(DnsError::Timeout(name.to_owned())),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) if error.is_no_records_found() => Err(DnsError::Missing(name.to_owned())),
            Ok(Err(NetError::Timeout)) => Err(DnsError::Timeout(name.to_owned())),
            Ok(Err(error)) => Err(DnsError::Failed { name: name.to_owned(), problem: error.to_string() }),
        }
    }
}

fn only(server: SocketAddr) -> ResolverConfig {
    let mut name_server = NameServerConfig::udp_and_tcp(server.ip());
    for connection in &mut name_server.connections {
        connection.port = server.port();
    }
    ResolverConfig::from_parts(None, Vec::new(), vec![name_server])
}

fn tune(options: &mut ResolverOpts, timeout: Duration) {
    options.cache_size = 0;
    options.attempts = 2;
    options.timeout = (timeout / 3).max(Duration::from_millis(20));
    options.use_hosts_file = ResolveHosts::Always;
}
