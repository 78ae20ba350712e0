//! Carries what the configuration file says about topics into the cluster-wide defaults, once.
//!
//! Everything that the controller decides by must be the same on every broker, so it lives in the metadata, not in files.
//! After its registration a broker proposes those of its explicitly configured values that the cluster has none for yet.
//! Where the cluster has another value, the cluster's stays (it can be changed with `kafka-configs`) and one line says so.

use std::time::Duration;

use chronik_core::controller::{AlterConfigs, CommandResult, ConfigChange, ConfigOp, ConfigResource, ConfigSource};

use crate::config::{Config, Source};
use crate::driver::meta_client::Meta;

const PATIENCE: Duration = Duration::from_secs(10);

/// Proposes the missing defaults; failing is worth a line, not a start.
pub(super) async fn cluster_defaults(meta: &Meta, config: &Config) {
    let changes: Vec<ConfigChange> = {
        let state = meta.shared().state.read();
        let views = state.describe_broker_configs(None);
        let explicit = config.effective.iter().filter(|e| e.source != Source::Default && e.value != "auto");
        let missing = explicit.filter_map(|setting| {
            let view = views.iter().find(|view| view.effective.name == setting.key)?;
            let known = view.synonyms.iter().find(|value| value.source == ConfigSource::ClusterDefault);
            match known.and_then(|value| value.value.as_deref()) {
                None => Some(ConfigChange {
                    name: setting.key.to_owned(),
                    op: ConfigOp::Set,
                    value: Some(setting.value.clone()),
                }),
                Some(value) if value == setting.value => None,
                Some(value) => {
                    tracing::warn!(
                        key = setting.key,
                        file = setting.value,
                        cluster = value,
                        "the cluster's value counts"
                    );
                    None
                }
            }
        });
        missing.collect()
    };
    if changes.is_empty() {
        return;
    }
    let names: Vec<String> = changes.iter().map(|change| change.name.clone()).collect();
    let command = AlterConfigs { resource: ConfigResource::ClusterDefault, changes, replace: false };
    match meta.run(command.into(), PATIENCE).await.map(CommandResult::ok) {
        Ok(Ok(_)) => tracing::info!(?names, "cluster defaults taken from the configuration"),
        Ok(Err(error)) => tracing::error!(?names, %error, "cluster defaults refused"),
        Err(error) => tracing::warn!(?names, %error, "cluster defaults not set"),
    }
}
