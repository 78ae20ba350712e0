//! The StatefulSet and its pod template.
//!
//! The template says nothing about the size of the cluster but the brokers' defaults, nothing about addresses and nothing random: its
//! [`revision`] changes exactly when brokers have to be restarted.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, ConfigMapProjection, Container, ContainerPort, DownwardAPIProjection,
    DownwardAPIVolumeFile, EmptyDirVolumeSource, EnvVar, EnvVarSource, HTTPGetAction, ObjectFieldSelector,
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PodAffinityTerm, PodAntiAffinity, PodSecurityContext, PodSpec,
    PodTemplateSpec, Probe, ProjectedVolumeSource, SeccompProfile, SecretVolumeSource, SecurityContext,
    TopologySpreadConstraint, Volume, VolumeMount, VolumeProjection, VolumeResourceRequirements,
    WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::config::{CONFIG_DIR, CONTROL_DIR, DATA_DIR, broker_yaml};
use super::{Input, names};
use crate::api::{RetentionPolicy, StorageType};
use crate::hash::digest;
use crate::mutant;

/// Neither root nor anybody else.
const USER: i64 = 65532;
const DATA: &str = "data";
const CONFIG: &str = "config";
const CONTROL: &str = "control";
const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";

/// Revision of the template.
#[must_use]
pub fn revision(input: &Input<'_>) -> String {
    digest(&template(input))
}

/// The StatefulSet with `replicas` pods. `claim_size` is what its claim template says, which cannot change in a live one.
#[must_use]
pub fn stateful_set(input: &Input<'_>, replicas: i32, claim_size: &Quantity) -> StatefulSet {
    let mut template = template(input);
    let revision = digest(&template);
    if let Some(metadata) = &mut template.metadata {
        metadata.annotations.get_or_insert_default().insert(names::REVISION.to_owned(), revision);
    }
    let retention = &input.spec.storage.retention;
    // Whoever else shrinks the StatefulSet, or a stop, must not cost a broker its disk: those of drained brokers are deleted by the plan.
    let when_scaled = if mutant!(DeleteClaims) { RetentionPolicy::Delete } else { RetentionPolicy::Retain };
    StatefulSet {
        metadata: input.meta(input.name.to_owned()),
        spec: Some(StatefulSetSpec {
            replicas: Some(replicas),
            service_name: Some(names::headless(input.name)),
            pod_management_policy: Some("Parallel".to_owned()),
            // Only the operator restarts a broker.
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                ..StatefulSetUpdateStrategy::default()
            }),
            revision_history_limit: Some(3),
            selector: input.selector(),
            template,
            volume_claim_templates: persistent(input).then(|| vec![claim(input, claim_size)]),
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: Some(retention.when_deleted.as_str().to_owned()),
                when_scaled: Some(when_scaled.as_str().to_owned()),
            }),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

fn persistent(input: &Input<'_>) -> bool {
    input.spec.storage.kind == StorageType::Persistent
}

fn claim(input: &Input<'_>, size: &Quantity) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(DATA.to_owned()),
            labels: Some(names::labels(input.name)),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: input.spec.storage.storage_class.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), size.clone())].into()),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

fn template(input: &Input<'_>) -> PodTemplateSpec {
    let spec = input.spec;
    let mut labels = spec.pod_template.labels.clone();
    labels.extend(names::labels(input.name));
    let mut annotations: BTreeMap<String, String> = spec.pod_template.annotations.clone();
    annotations.insert(names::SETTINGS.to_owned(), broker_yaml(spec));
    let mut volumes = vec![
        Volume { name: CONFIG.to_owned(), projected: Some(files(input)), ..Volume::default() },
        Volume {
            name: CONTROL.to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(names::control(input.name)),
                default_mode: Some(0o440),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        },
    ];
    if !persistent(input) {
        let size_limit = Some(spec.storage.size.clone());
        volumes.push(Volume {
            name: DATA.to_owned(),
            empty_dir: Some(EmptyDirVolumeSource { size_limit, ..EmptyDirVolumeSource::default() }),
            ..Volume::default()
        });
    }
    let some = |present: bool| present.then_some(());
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels), annotations: Some(annotations), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            service_account_name: Some(input.name.to_owned()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(60),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                fs_group: Some(USER),
                fs_group_change_policy: Some("OnRootMismatch".to_owned()),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    ..SeccompProfile::default()
                }),
                ..PodSecurityContext::default()
            }),
            image_pull_secrets: some(!spec.image_pull_secrets.is_empty()).map(|()| spec.image_pull_secrets.clone()),
            affinity: Some(spec.affinity.clone().unwrap_or_else(|| apart(input))),
            topology_spread_constraints: Some(
                spec.topology_spread_constraints
                    .clone()
                    .unwrap_or_else(|| [ZONE, HOST].map(|key| spread(input, key)).into()),
            )
            .filter(|constraints| !constraints.is_empty()),
            tolerations: some(!spec.tolerations.is_empty()).map(|()| spec.tolerations.clone()),
            node_selector: some(!spec.node_selector.is_empty()).map(|()| spec.node_selector.clone()),
            priority_class_name: spec.priority_class_name.clone(),
            containers: vec![container(input)],
            volumes: Some(volumes),
            ..PodSpec::default()
        }),
    }
}

/// What the brokers read: the address book of all as it is now, and the settings of the pod's own revision.
///
/// Settings come from the pod and not from an object that all share: a container that is started again in its pod, for whatever
/// reason, must not find settings whose rollout nobody approved.
fn files(input: &Input<'_>) -> ProjectedVolumeSource {
    let address_book = ConfigMapProjection { name: names::config(input.name), ..ConfigMapProjection::default() };
    let settings = DownwardAPIVolumeFile {
        path: "broker.yaml".to_owned(),
        field_ref: Some(ObjectFieldSelector {
            field_path: format!("metadata.annotations['{}']", names::SETTINGS),
            ..ObjectFieldSelector::default()
        }),
        ..DownwardAPIVolumeFile::default()
    };
    let downward_api = DownwardAPIProjection { items: Some(vec![settings]) };
    ProjectedVolumeSource {
        sources: Some(vec![
            VolumeProjection { config_map: Some(address_book), ..VolumeProjection::default() },
            VolumeProjection { downward_api: Some(downward_api), ..VolumeProjection::default() },
        ]),
        ..ProjectedVolumeSource::default()
    }
}

fn container(input: &Input<'_>) -> Container {
    let spec = input.spec;
    let port = |name: &str, number: i32| ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    let listeners = spec.listeners.iter().map(|l| port(&l.name, l.port));
    let own = [
        port("raft", names::RAFT_PORT),
        port("replication", names::REPLICATION_PORT),
        port("admin", names::ADMIN_PORT),
    ];
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    Container {
        name: names::CONTAINER.to_owned(),
        image: Some(input.image.to_owned()),
        image_pull_policy: spec.image_pull_policy.map(|policy| policy.as_str().to_owned()),
        args: Some(["run", "--config", &format!("{CONFIG_DIR}/broker.yaml")].map(str::to_owned).into()),
        env: Some(vec![
            EnvVar {
                name: "POD_NAME".to_owned(),
                value_from: Some(EnvVarSource {
                    field_ref: Some(ObjectFieldSelector {
                        field_path: "metadata.name".to_owned(),
                        ..ObjectFieldSelector::default()
                    }),
                    ..EnvVarSource::default()
                }),
                ..EnvVar::default()
            },
            EnvVar {
                name: "CHRONIK_ADVERTISED_HOST".to_owned(),
                value: Some(names::host(input.name, input.namespace, "$(POD_NAME)")),
                ..EnvVar::default()
            },
        ]),
        ports: Some(listeners.chain(own).collect()),
        resources: spec.resources.clone(),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            ..SecurityContext::default()
        }),
        // Recovery of a large disk takes its time; after that, silence means a hang.
        startup_probe: Some(probe("/healthz", 1, 3600)),
        liveness_probe: Some(probe("/healthz", 10, 6)),
        readiness_probe: Some(probe("/readyz", 1, 3)),
        volume_mounts: Some(vec![
            mount(CONFIG, CONFIG_DIR, true),
            mount(CONTROL, CONTROL_DIR, true),
            mount(DATA, DATA_DIR, false),
        ]),
        ..Container::default()
    }
}

fn probe(path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("admin".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(if period > 1 { 5 } else { 2 }),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

/// Preferably on different nodes.
fn apart(input: &Input<'_>) -> Affinity {
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![WeightedPodAffinityTerm {
                weight: 100,
                pod_affinity_term: PodAffinityTerm {
                    topology_key: HOST.to_owned(),
                    label_selector: Some(input.selector()),
                    ..PodAffinityTerm::default()
                },
            }]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

fn spread(input: &Input<'_>, key: &str) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: key.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(input.selector()),
        ..TopologySpreadConstraint::default()
    }
}
