//! Carries what the files say about topics into the cluster-wide defaults, once.
//!
//! Everything that the controller decides by must be the same on every broker, so it lives in the metadata, not in files.
//! After its registration a broker proposes those of its explicitly configured values, and a founder those of the mounted
//! `cluster.yaml`, that the cluster has none for yet. Where the cluster has another value, the cluster's stays (it can be
//! changed with `kafka-configs`, or by the operator that mounted the file) and one line says so. One value that is refused
//! keeps none of the others back.

use std::collections::BTreeMap;
use std::time::Duration;

use chronik_core::controller::{AlterConfigs, CommandResult, ConfigChange, ConfigOp, ConfigResource};

use crate::config::{Config, Source};
use crate::driver::meta_client::Meta;

const PATIENCE: Duration = Duration::from_secs(10);

/// Proposes the missing defaults; failing is worth a line, not a start.
pub(super) async fn cluster_defaults(meta: &Meta, config: &Config, founding: &BTreeMap<String, String>) {
    let mut wanted: BTreeMap<String, String> = config
        .effective
        .iter()
        .filter(|setting| setting.source != Source::Default && setting.value != "auto")
        .map(|setting| (setting.key.to_owned(), setting.value.clone()))
        .collect();
    let changes: Vec<ConfigChange> = {
        let state = meta.shared().state.read();
        // Most settings of a broker are its own business.
        wanted.retain(|name, _| chronik_core::controller::broker_configs().any(|def| def.broker_name == name));
        wanted.extend(founding.iter().map(|(name, value)| (name.clone(), value.trim().to_owned())));
        wanted.retain(|name, value| match state.cluster_defaults().get(name) {
            Some(known) => {
                if known != value {
                    tracing::warn!(key = name, file = value, cluster = known, "the cluster's value counts");
                }
                false
            }
            None => true,
        });
        let change = |(name, value)| ConfigChange { name, op: ConfigOp::Set, value: Some(value) };
        let mut changes: Vec<ConfigChange> = wanted.into_iter().map(change).collect();
        changes.retain(|change| match state.check_alter_configs(&defaults(vec![change.clone()])) {
            Ok(_) => true,
            Err(error) => {
                tracing::error!(key = change.name, %error, "cluster default refused");
                false
            }
        });
        changes
    };
    if changes.is_empty() {
        return;
    }
    let names: Vec<String> = changes.iter().map(|change| change.name.clone()).collect();
    match meta.run(defaults(changes).into(), PATIENCE).await.map(CommandResult::ok) {
        Ok(Ok(_)) => tracing::info!(?names, "cluster defaults taken from the configuration"),
        Ok(Err(error)) => tracing::error!(?names, %error, "cluster defaults refused"),
        Err(error) => tracing::warn!(?names, %error, "cluster defaults not set"),
    }
}

fn defaults(changes: Vec<ConfigChange>) -> AlterConfigs {
    AlterConfigs { resource: ConfigResource::ClusterDefault, changes, replace: false }
}
