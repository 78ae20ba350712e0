//! The settings: what exists, what is accepted, which layer wins.

use super::*;

fn effective(cluster: &Cluster, name: &str, node: Option<i32>) -> (String, ConfigSource) {
    let topic = cluster.state.topic("t").unwrap();
    let all = cluster.state.describe_topic_configs(topic, node.map(NodeId));
    let view = all.into_iter().find(|view| view.def.topic_name == name).unwrap();
    assert_eq!(view.effective.source, view.synonyms[0].source);
    (view.effective.value.unwrap(), view.effective.source)
}

fn three() -> Cluster {
    let mut cluster = Cluster::of(3);
    cluster.topic(&[&[1, 2, 3]]);
    cluster
}

#[test]
fn the_strongest_layer_wins_and_deleting_it_uncovers_the_next() {
    let mut cluster = three();
    assert_eq!(effective(&cluster, "retention.ms", Some(1)), ("604800000".to_owned(), ConfigSource::Default));
    cluster.set(ConfigResource::ClusterDefault, "log.retention.ms", "1");
    cluster.set(ConfigResource::Broker(NodeId(1)), "log.retention.ms", "2");
    assert_eq!(effective(&cluster, "retention.ms", Some(1)), ("2".to_owned(), ConfigSource::Broker));
    assert_eq!(effective(&cluster, "retention.ms", Some(2)), ("1".to_owned(), ConfigSource::ClusterDefault));
    cluster.set(on_topic(), "retention.ms", "-1");
    assert_eq!(effective(&cluster, "retention.ms", Some(1)), ("-1".to_owned(), ConfigSource::Topic));
    let topic = cluster.state.topic("t").unwrap();
    assert_eq!(cluster.state.topic_config(topic, Some(NodeId(1))).retention_ms, -1);
    cluster.accept(alter(on_topic(), "retention.ms", ConfigOp::Delete, None));
    assert_eq!(effective(&cluster, "retention.ms", Some(1)), ("2".to_owned(), ConfigSource::Broker));
}

#[test]
fn min_isr_is_one_less_than_the_replicas_unless_set_and_never_more_than_them() {
    let mut cluster = three();
    let in_force = |cluster: &Cluster| cluster.state.min_insync_replicas(cluster.state.topic("t").unwrap());
    assert_eq!(effective(&cluster, "min.insync.replicas", None), ("2".to_owned(), ConfigSource::Default));
    assert_eq!(in_force(&cluster), 2);
    cluster.set(on_topic(), "min.insync.replicas", "7");
    assert_eq!(in_force(&cluster), 3);
    cluster.set(on_topic(), "min.insync.replicas", "1");
    assert_eq!(in_force(&cluster), 1);
    let topic = cluster.state.topic("t").unwrap();
    assert_eq!(cluster.state.topic_config(topic, None).min_insync_replicas, 1);
}

#[test]
fn a_refusal_names_the_setting_and_what_it_takes() {
    let mut cluster = three();
    for (name, value, says) in [
        ("retention.ms", "soon", "from -1 to"),
        ("segment.bytes", "10", "from 1024 to 2147483647"),
        ("min.insync.replicas", "0", "from 1 to"),
        ("unclean.leader.election.enable", "yes", "true or false"),
        ("message.timestamp.type", "Never", "CreateTime or LogAppendTime"),
        ("compression.type", "gzip", "producer"),
        ("cleanup.policy", "shred", "delete, compact"),
        ("cleanup.policy", "compact", "compaction is not implemented"),
    ] {
        let message = cluster.refuse(alter(on_topic(), name, ConfigOp::Set, Some(value)), ErrorCode::InvalidConfig);
        assert!(message.contains(name) && message.contains(value) && message.contains(says), "{message}");
    }
    let message = cluster.refuse(alter(on_topic(), "x.y", ConfigOp::Set, Some("1")), ErrorCode::InvalidConfig);
    assert!(message.contains("'x.y'") && message.contains("retention.ms"), "{message}");
    cluster.refuse(alter(on_topic(), "retention.ms", ConfigOp::Set, None), ErrorCode::InvalidConfig);
    let mut creation = Cluster::creation("u", &[&[1]]);
    creation.configs.insert("segment.ms".to_owned(), "0".to_owned());
    cluster.refuse(creation, ErrorCode::InvalidConfig);
}

#[test]
fn lists_can_be_appended_to_and_subtracted_from_others_cannot() {
    let mut cluster = three();
    cluster.accept(alter(on_topic(), "cleanup.policy", ConfigOp::Append, Some("delete")));
    assert_eq!(effective(&cluster, "cleanup.policy", None), ("delete".to_owned(), ConfigSource::Topic));
    let all = alter(on_topic(), "cleanup.policy", ConfigOp::Subtract, Some("delete"));
    cluster.refuse(all, ErrorCode::InvalidConfig);
    cluster.refuse(alter(on_topic(), "retention.ms", ConfigOp::Append, Some("1")), ErrorCode::InvalidConfig);
}

#[test]
fn the_offsets_topic_may_be_compacted() {
    let mut cluster = Cluster::of(1);
    let mut creation = Cluster::creation("__consumer_offsets", &[&[1]]);
    creation.configs.insert("cleanup.policy".to_owned(), "compact".to_owned());
    cluster.accept(creation);
    let topic = cluster.state.topic("__consumer_offsets").unwrap();
    let config = cluster.state.topic_config(topic, None);
    assert!(topic.is_internal() && config.cleanup_compact && !config.cleanup_delete);
}

#[test]
fn all_changes_of_a_request_happen_or_none() {
    let mut cluster = three();
    let set = |name: &str, value: &str| ConfigChange {
        name: name.to_owned(),
        op: ConfigOp::Set,
        value: Some(value.to_owned()),
    };
    let changes = vec![set("retention.ms", "5"), set("segment.ms", "bad")];
    cluster.refuse(AlterConfigs { resource: on_topic(), changes, replace: false }, ErrorCode::InvalidConfig);
    let twice = vec![set("retention.ms", "5"), set("retention.ms", "6")];
    cluster.refuse(AlterConfigs { resource: on_topic(), changes: twice, replace: false }, ErrorCode::InvalidRequest);
    cluster.set(on_topic(), "retention.ms", "5");
    let changes = vec![set("segment.ms", "9")];
    cluster.accept(AlterConfigs { resource: on_topic(), changes, replace: true });
    assert_eq!(effective(&cluster, "retention.ms", None).1, ConfigSource::Default, "replaced");
    assert_eq!(cluster.changes, [Change::TopicConfig { name: "t".into() }]);
}

#[test]
fn what_the_controller_decides_by_cannot_differ_between_brokers() {
    let mut cluster = three();
    let resource = ConfigResource::Broker(NodeId(1));
    let message =
        cluster.refuse(alter(resource, "min.insync.replicas", ConfigOp::Set, Some("1")), ErrorCode::InvalidConfig);
    assert!(message.contains("cluster default"), "{message}");
    let nobody = ConfigResource::Broker(NodeId(9));
    cluster.refuse(alter(nobody, "log.retention.ms", ConfigOp::Delete, None), ErrorCode::BrokerIdNotRegistered);
}

#[test]
fn every_default_is_a_value_that_its_setting_accepts_and_names_are_unique() {
    let mut names = std::collections::BTreeSet::new();
    for def in broker_configs() {
        assert!(names.insert(def.broker_name), "{} twice", def.broker_name);
        assert_eq!(config_def(def.broker_name), Some(def));
        let mut cluster = three();
        if let Some(default) = def.default {
            assert_eq!(cluster.set(ConfigResource::ClusterDefault, def.broker_name, default), CommandResult::Done);
            if !def.topic_name.is_empty() {
                assert_eq!(cluster.set(on_topic(), def.topic_name, default), CommandResult::Done);
            }
        }
    }
    assert_eq!(config_def(""), None);
}

#[test]
fn a_setting_that_the_log_does_not_obey_takes_only_its_default() {
    let mut cluster = Cluster::of(1);
    cluster.topic(&[&[1]]);
    for value in ["1", "1000"] {
        let error = cluster.set(on_topic(), "flush.messages", value).ok().unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidConfig, "{error}");
    }
    cluster.set(on_topic(), "flush.messages", "9223372036854775807").ok().unwrap();
}

#[test]
fn a_value_of_any_length_is_not_stored() {
    let mut cluster = Cluster::of(1);
    cluster.topic(&[&[1]]);
    let padded = format!("{}7", "0".repeat(100_000));
    let error = cluster.set(on_topic(), "retention.ms", &padded).ok().unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidConfig, "{error}");
}

#[test]
fn throttles_are_read_per_broker_and_unlimited_is_none() {
    let mut cluster = three();
    let rates = |cluster: &Cluster, node| cluster.state.replication_rates(NodeId(node));
    assert_eq!(rates(&cluster, 1), throttle::ReplicationRates::default());
    cluster.set(ConfigResource::ClusterDefault, throttle::REASSIGNMENT_RATE, "1000");
    cluster.set(ConfigResource::Broker(NodeId(1)), throttle::LEADER_RATE, "2000");
    let both = throttle::ReplicationRates { leader: Some(2000), follower: None, reassignment: Some(1000) };
    assert_eq!(rates(&cluster, 1), both);
    assert_eq!(rates(&cluster, 2), throttle::ReplicationRates { leader: None, ..both });
    cluster.accept(alter(ConfigResource::Broker(NodeId(1)), throttle::LEADER_RATE, ConfigOp::Delete, None));
    assert_eq!(rates(&cluster, 1).leader, None);
}

#[test]
fn throttled_replicas_are_a_setting_of_topics_only() {
    let mut cluster = three();
    let long = (0..2000).map(|index| format!("{index}:1")).collect::<Vec<_>>().join(",");
    cluster.set(on_topic(), throttle::LEADER_REPLICAS, &long);
    cluster.accept(alter(on_topic(), throttle::FOLLOWER_REPLICAS, ConfigOp::Append, Some("0:3")));
    let topic = cluster.state.topic("t").unwrap();
    let listed = |setting, partition, node| topic.lists_throttled(setting, PartitionIndex(partition), NodeId(node));
    assert!(listed(throttle::LEADER_REPLICAS, 1999, 1) && listed(throttle::FOLLOWER_REPLICAS, 0, 3));
    assert!(!listed(throttle::LEADER_REPLICAS, 0, 3) && !listed(throttle::FOLLOWER_REPLICAS, 0, 1));
    assert_eq!(effective(&cluster, throttle::FOLLOWER_REPLICAS, None).1, ConfigSource::Topic);
    let names: Vec<&str> = broker_configs().map(|def| def.broker_name).collect();
    assert!(!names.contains(&"") && !names.contains(&throttle::LEADER_REPLICAS));
    cluster.refuse(
        alter(ConfigResource::ClusterDefault, throttle::LEADER_REPLICAS, ConfigOp::Set, Some("*")),
        ErrorCode::InvalidConfig,
    );
    cluster.refuse(alter(on_topic(), throttle::LEADER_REPLICAS, ConfigOp::Set, Some("0")), ErrorCode::InvalidConfig);
}
