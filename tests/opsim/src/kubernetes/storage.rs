//! Claims: bound, grown after a while, protected while a pod uses them.

use chronik_operator::ports::{ClaimPatch, KubeError};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::{Cluster, NAMESPACE, timestamp};

/// A claim and its volume.
#[derive(Clone, Debug)]
pub struct Claim {
    /// As readers see it.
    pub claim: PersistentVolumeClaim,
    /// Grown then.
    pub grown_at: Option<u64>,
}

impl Claim {
    /// Its uid.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.claim.metadata.uid.as_deref().unwrap_or_default()
    }

    /// What was asked for.
    #[must_use]
    pub fn request(&self) -> u64 {
        let resources = self.claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
        resources.and_then(|r| r.requests.as_ref()?.get("storage")).map_or(0, gibibytes)
    }

    /// What there is.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.claim.status.as_ref().and_then(|s| s.capacity.as_ref()?.get("storage")).map_or(0, gibibytes)
    }
}

/// A size in GiB.
#[must_use]
pub fn gibibytes(quantity: &Quantity) -> u64 {
    let text = quantity.0.as_str();
    if let Some(number) = text.strip_suffix("Gi") {
        return number.parse().unwrap_or(0);
    }
    if let Some(number) = text.strip_suffix("Mi") {
        return number.parse::<u64>().unwrap_or(0) / 1024;
    }
    text.parse::<u64>().unwrap_or(0) >> 30
}

impl Cluster {
    /// Makes the claim of an ordinal from the set's template.
    pub(super) fn create_claim(&mut self, name: &str, template: &PersistentVolumeClaim, labels: &ObjectMeta) {
        let (uid, version) = (self.uid(), self.version());
        let mut claim = template.clone();
        let mut all = labels.labels.clone().unwrap_or_default();
        all.extend(template.metadata.labels.clone().unwrap_or_default());
        claim.metadata = ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            labels: Some(all),
            annotations: template.metadata.annotations.clone(),
            uid: Some(uid),
            resource_version: Some(version),
            creation_timestamp: Some(Time(timestamp(self.now))),
            ..ObjectMeta::default()
        };
        let capacity = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.clone());
        claim.status = Some(PersistentVolumeClaimStatus {
            phase: Some("Bound".to_owned()),
            capacity,
            ..PersistentVolumeClaimStatus::default()
        });
        self.claims.insert(name.to_owned(), Claim { claim, grown_at: None });
        self.lists.claims.dirty = true;
    }

    /// Merge-patches a claim. Answers whether anything changed.
    ///
    /// # Errors
    /// As the API server would.
    pub fn patch_claim(&mut self, name: &str, uid: &str, patch: &ClaimPatch) -> Result<bool, KubeError> {
        let version = self.version();
        let expandable = self.expandable;
        let Some(claim) = self.claims.get_mut(name) else { return Err(KubeError::NotFound(name.into())) };
        if claim.uid() != uid {
            return Err(KubeError::Conflict(format!("{name} is another claim now")));
        }
        let mut changed = false;
        if let Some(size) = &patch.size {
            let size = Quantity(size.clone());
            if gibibytes(&size) < claim.request() {
                return Err(KubeError::Invalid("a claim cannot shrink".into()));
            }
            if gibibytes(&size) > claim.request() {
                if !expandable {
                    return Err(KubeError::Forbidden(
                        "only dynamically provisioned claims of an expandable class can grow".into(),
                    ));
                }
                let resources = claim.claim.spec.as_mut().and_then(|spec| spec.resources.as_mut());
                if let Some(requests) = resources.and_then(|resources| resources.requests.as_mut()) {
                    requests.insert("storage".to_owned(), size);
                    changed = true;
                }
                claim.grown_at = Some(self.now + self.resize_ms);
            }
        }
        let annotations = claim.claim.metadata.annotations.get_or_insert_default();
        for (key, value) in &patch.annotations {
            changed |= annotations.insert(key.clone(), value.clone()).as_ref() != Some(value);
        }
        if changed {
            claim.claim.metadata.resource_version = Some(version);
            self.lists.claims.dirty = true;
        }
        Ok(changed)
    }

    /// Deletes exactly that claim.
    ///
    /// # Errors
    /// When it is absent or another.
    pub fn delete_claim(&mut self, name: &str, uid: &str) -> Result<(), KubeError> {
        let Some(claim) = self.claims.get(name) else { return Err(KubeError::NotFound(name.into())) };
        if claim.uid() != uid {
            return Err(KubeError::Conflict(format!("{name} is another claim now")));
        }
        self.terminate_claim(name);
        Ok(())
    }

    pub(super) fn terminate_claim(&mut self, name: &str) {
        let now = timestamp(self.now);
        if let Some(claim) = self.claims.get_mut(name) {
            claim.claim.metadata.deletion_timestamp.get_or_insert(Time(now));
            self.lists.claims.dirty = true;
        }
    }

    /// A user deletes, by label, the claims that a deleted cluster left to nobody: those of brokers that were scaled away have no owner, nor
    /// has any whose cluster went while its StatefulSet was being made anew. Pods never stay.
    pub fn clear_what_is_left(&mut self) {
        let left = |claim: &Claim| claim.claim.metadata.owner_references.is_none();
        let names: Vec<String> = self.claims.iter().filter(|(_, c)| left(c)).map(|(name, _)| name.clone()).collect();
        for name in names {
            self.terminate_claim(&name);
        }
    }

    /// Volumes grow, and claims that nobody uses any more are gone. Answers the claims that are gone and the sizes of the others.
    pub fn run_storage(&mut self) -> Vec<(String, String)> {
        let now = self.now;
        let mut grown = Vec::new();
        for (name, claim) in &mut self.claims {
            if claim.grown_at.is_some_and(|at| at <= now) {
                claim.grown_at = None;
                let requests = claim.claim.spec.as_ref().and_then(|s| s.resources.as_ref()?.requests.clone());
                if let Some(status) = &mut claim.claim.status {
                    status.capacity = requests;
                }
                grown.push(format!("claim {name} has {} GiB", claim.capacity()));
            }
        }
        if !grown.is_empty() {
            self.lists.claims.dirty = true;
            self.told.extend(grown);
        }
        let used = |name: &str| self.pods.keys().any(|pod| name == format!("data-{pod}"));
        let gone: Vec<(String, String)> = self
            .claims
            .iter()
            .filter(|(name, claim)| claim.claim.metadata.deletion_timestamp.is_some() && !used(name))
            .map(|(name, claim)| (name.clone(), claim.uid().to_owned()))
            .collect();
        for (name, _) in &gone {
            self.claims.remove(name);
            self.lists.claims.dirty = true;
            self.told.push(format!("claim {name} is gone"));
        }
        gone
    }
}
