//! Reads and writes the Lease: one loop, until this replica has lost its leadership or the process stops.
//!
//! Started by `main`. Writes carry the version that was read, so that of two replicas that take an abandoned Lease one
//! gets a conflict and waits. Errors of the API server are no reason to give up leadership; their lasting longer than
//! the renewal deadline is.

use std::time::{Duration, Instant};

use futures::FutureExt as _;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Fence, Observed, Record, Role, Step, Terms, decide};

/// One replica's part in the election.
#[derive(Debug)]
pub struct Elector {
    api: Api<Lease>,
    name: String,
    namespace: String,
    me: String,
    terms: Terms,
    observed: Observed,
    /// What was read or written last; the base of the next write.
    last: Option<Lease>,
    fence: Fence,
    role: watch::Sender<Role>,
    led_until: Option<Instant>,
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0}")]
    Api(#[from] kube::Error),
    #[error("no answer in time")]
    Timeout,
    #[error("somebody wrote to it at the same time")]
    Changed,
}

impl Elector {
    pub fn new(
        client: Client,
        namespace: &str,
        name: &str,
        me: &str,
        terms: Terms,
        fence: Fence,
    ) -> (Self, watch::Receiver<Role>) {
        let (role, seen) = watch::channel(Role::Standby { leader: None });
        let elector = Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            me: me.to_owned(),
            terms,
            observed: Observed::default(),
            last: None,
            fence,
            role,
            led_until: None,
        };
        (elector, seen)
    }

    /// Until leadership is lost or `stop` is set; a Lease that is held when `stop` is set is released.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            let began = Instant::now();
            let round = self.round(began);
            let result = tokio::select! {
                result = round => result,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            match result {
                Ok(true) => self.leads(began),
                Ok(false) if self.led_until.is_some() => return self.lost("another replica holds the Lease"),
                Ok(false) => self.stands_by(),
                Err(error) => {
                    // Whoever was seen may have changed; the next round reads.
                    self.last = None;
                    tracing::warn!(lease = self.name, %error, "could not look after the Lease");
                }
            }
            let wait = match self.led_until {
                Some(until) if until <= Instant::now() => return self.lost("the Lease could not be renewed in time"),
                Some(until) => self.terms.period.min(until.saturating_duration_since(Instant::now())),
                None => self.terms.period,
            };
            if timeout(wait, stop.wait_for(|stop| *stop).map(drop)).await.is_ok() {
                break;
            }
        }
        self.release().await;
    }

    /// One look, and what follows from it: whether this replica holds the Lease now.
    async fn round(&mut self, began: Instant) -> Result<bool, Failed> {
        // Not longer than what is left of our own time; a standby may take the whole deadline.
        let allowed = self.led_until.map_or(self.terms.renew_deadline, |until| until.saturating_duration_since(began));
        timeout(allowed, self.look_and_act()).await.unwrap_or(Err(Failed::Timeout))
    }

    async fn look_and_act(&mut self) -> Result<bool, Failed> {
        // The holder need not read what it has written itself: a write by anybody else is a conflict.
        let own = self.last.as_ref().is_some_and(|lease| holder(lease) == self.me);
        if !own {
            self.last = self.api.get_opt(&self.name).await?;
        }
        self.observed.see(self.last.as_ref().map(record), Instant::now());
        let step = decide(&self.me, &self.observed, Instant::now());
        let transitions = match step {
            Step::Wait { .. } => return Ok(false),
            Step::Create => 0,
            Step::Renew => self.observed.record().map_or(0, |record| record.transitions),
            Step::Take { transitions } => transitions,
        };
        let taking = step != Step::Renew;
        let desired = self.lease(&self.me, self.terms.duration, transitions, taking);
        let written = match step {
            Step::Create => self.api.create(&PostParams::default(), &desired).await,
            _ => self.api.replace(&self.name, &PostParams::default(), &desired).await,
        };
        match written {
            Ok(lease) => {
                self.observed.see(Some(record(&lease)), Instant::now());
                self.last = Some(lease);
                Ok(true)
            }
            // Somebody was faster, or our cached copy is old: look again next time, and not before.
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => {
                self.last = None;
                if taking { Ok(false) } else { self.still_ours().await }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A renewal met a conflict: somebody wrote to the Lease. Who holds it?
    async fn still_ours(&mut self) -> Result<bool, Failed> {
        self.last = self.api.get_opt(&self.name).await?;
        self.observed.see(self.last.as_ref().map(record), Instant::now());
        match self.last.as_ref().map(holder) {
            // A person or another tool wrote to it (or our write succeeded and its answer was lost). Not renewed yet.
            Some(holder) if holder == self.me => Err(Failed::Changed),
            // Deleted or released by somebody: that is no other holder, the next round takes it anew.
            Some("") | None => Err(Failed::Changed),
            Some(_) => Ok(false),
        }
    }

    fn lease(&self, holder: &str, duration: Duration, transitions: i32, taking: bool) -> Lease {
        let now = MicroTime(jiff::Timestamp::now());
        let before = self.last.as_ref().and_then(|lease| lease.spec.as_ref());
        let mut metadata = self.last.as_ref().map_or_else(ObjectMeta::default, |lease| lease.metadata.clone());
        metadata.name = Some(self.name.clone());
        metadata.namespace = Some(self.namespace.clone());
        metadata.managed_fields = None;
        let acquired = if taking { None } else { before.and_then(|spec| spec.acquire_time.clone()) };
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: Some(i32::try_from(duration.as_secs()).unwrap_or(i32::MAX).max(1)),
                acquire_time: Some(acquired.unwrap_or_else(|| now.clone())),
                renew_time: Some(now),
                lease_transitions: Some(transitions),
                ..LeaseSpec::default()
            }),
        }
    }

    fn leads(&mut self, since: Instant) {
        let until = since + self.terms.renew_deadline;
        self.fence.extend(until);
        if self.led_until.replace(until).is_none() {
            tracing::info!(lease = self.name, namespace = self.namespace, identity = self.me, "leading");
            self.role.send_replace(Role::Leader);
        }
    }

    fn stands_by(&mut self) {
        let leader = self.observed.record().map(|record| record.holder.clone()).filter(|holder| !holder.is_empty());
        let role = Role::Standby { leader };
        // Told even when unchanged: the health endpoints see that the Lease is watched.
        if *self.role.borrow() != role {
            tracing::info!(lease = self.name, namespace = self.namespace, identity = self.me, ?role, "standing by");
        }
        self.role.send_replace(role);
    }

    fn lost(&self, why: &str) {
        self.fence.close();
        tracing::error!(lease = self.name, namespace = self.namespace, identity = self.me, why, "leadership is lost");
        self.role.send_replace(Role::Lost);
    }

    /// Lets the next replica begin at once. Best effort: otherwise it waits for the Lease to run out.
    async fn release(&mut self) {
        self.fence.close();
        if self.led_until.is_none() {
            return;
        }
        let transitions = self.observed.record().map_or(0, |record| record.transitions);
        let released = self.lease("", Duration::from_secs(1), transitions, false);
        if released.metadata.resource_version.is_none() {
            return;
        }
        match timeout(Duration::from_secs(2), self.api.replace(&self.name, &PostParams::default(), &released)).await {
            Ok(Ok(_)) => tracing::info!(lease = self.name, "released the Lease"),
            Ok(Err(error)) => tracing::warn!(lease = self.name, %error, "could not release the Lease"),
            Err(_) => tracing::warn!(lease = self.name, "could not release the Lease in time"),
        }
    }
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or("")
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.as_ref();
    let seconds = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or(15).max(1);
    Record {
        holder: holder(lease).to_owned(),
        duration: Duration::from_secs(u64::try_from(seconds).unwrap_or(15)),
        transitions: spec.and_then(|spec| spec.lease_transitions).unwrap_or(0),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}
