use super::*;

fn from(yaml: &str, env: &[(&str, &str)], pairs: &[&str]) -> Result<Config, ConfigError> {
    let mut sources = Sources::default();
    sources.add_yaml("test.yaml", yaml).map_err(|p| ConfigError(vec![p]))?;
    sources.add_environment(env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    sources.add_pairs(pairs.iter().copied()).map_err(|p| ConfigError(vec![p]))?;
    Config::from_sources(sources, "chronik-2")
}

#[track_caller]
fn refused(yaml: &str, env: &[(&str, &str)], pairs: &[&str]) -> String {
    match from(yaml, env, pairs) {
        Err(error) => error.to_string(),
        Ok(config) => panic!("accepted: {config:?}"),
    }
}

#[test]
fn a_broker_alone_needs_only_an_id() {
    let config = from("node.id: 1", &[], &[]).unwrap();
    assert_eq!(config.node_id, NodeId(1));
    assert_eq!(config.peers.bootstrap_voters, BTreeSet::from([NodeId(1)]));
    assert_eq!(config.default_replication_factor(), 1);
    assert_eq!(config.advertised_host, "localhost");
}

#[test]
fn the_command_line_wins_over_the_environment_which_wins_over_the_file() {
    let yaml = "node: {id: 1}\nkafka: {port: 1001}\nraft.port: 1002\nadmin.port: 1003";
    let env = [("CHRONIK_RAFT_PORT", "2002"), ("CHRONIK_ADMIN_PORT", "2003")];
    let config = from(yaml, &env, &["admin.port=3003"]).unwrap();
    assert_eq!(config.listeners.kafka_port, 1001);
    assert_eq!(config.listeners.raft_port, 2002);
    assert_eq!(config.listeners.admin_port, 3003);
    let source = |key| config.effective.iter().find(|e| e.key == key).map(|e| e.source);
    assert_eq!(source("kafka.port"), Some(Source::File));
    assert_eq!(source("raft.port"), Some(Source::Environment));
    assert_eq!(source("admin.port"), Some(Source::CommandLine));
    assert_eq!(source("replication.port"), Some(Source::Default));
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    assert!(
        refused("node.id: 1\nkafka.prot: 9", &[], &[])
            .contains("kafka.prot: unknown key; accepted: did you mean 'kafka.port'")
    );
    assert!(refused("node.id: 1", &[], &["nonsense.at.all=1"]).contains("nonsense.at.all: unknown key"));
    assert!(refused("node.id: 1", &[("CHRONIK_KAFKA_PROT", "9")], &[]).contains("CHRONIK_KAFKA_PROT: unknown key"));
}

#[test]
fn bad_values_name_the_key_and_what_is_accepted_and_all_are_reported_at_once() {
    let text = refused("node.id: 0\nkafka.port: high\nflush: sometimes\njoin: maybe", &[], &[]);
    assert!(text.contains("node.id: '0' (file) is not accepted; accepted: auto, or 1 to 2147483647"), "{text}");
    assert!(text.contains("kafka.port: 'high' (file) is not accepted; accepted: 1 to 65535"), "{text}");
    assert!(text.contains("flush: 'sometimes' (file) is not accepted; accepted: os, every-ack"), "{text}");
    assert!(text.contains("join: 'maybe' (file) is not accepted; accepted: true, false"), "{text}");
}

#[test]
fn an_automatic_node_id_is_the_number_of_the_host_name_and_one() {
    assert_eq!(from("node.id: auto", &[], &[]).unwrap().node_id, NodeId(3), "the host is chronik-2");
    let mut sources = Sources::default();
    sources.add_pairs(["node.id=auto"]).unwrap();
    let error = Config::from_sources(sources, "laptop").unwrap_err().to_string();
    assert!(error.contains("node.id: is auto, but the host name 'laptop' does not end in a number"), "{error}");
    assert!(!error.contains("not given"), "one mistake is told once: {error}");
}

#[test]
fn sizes_may_carry_units_and_ranges_still_hold() {
    let config = from("node.id: 1\nlog.segment.bytes: 64MiB", &[], &[]).unwrap();
    assert_eq!(config.log.segment_bytes, 64 << 20);
    assert!(refused("node.id: 1\nlog.segment.bytes: 64GiB", &[], &[]).contains("log.segment.bytes"));
    assert!(
        refused("node.id: 1\nlog.segment.bytes: 99999999999999999999999GiB", &[], &[]).contains("log.segment.bytes")
    );
}

#[test]
fn variables_that_kubernetes_injects_for_a_service_are_not_settings() {
    let env = [
        ("CHRONIK_KAFKA_PORT", "tcp://10.96.0.7:9092"),
        ("CHRONIK_KAFKA_PORT_9092_TCP", "tcp://10.96.0.7:9092"),
        ("CHRONIK_KAFKA_PORT_9092_TCP_ADDR", "10.96.0.7"),
        ("CHRONIK_KAFKA_SERVICE_HOST", "10.96.0.7"),
        ("CHRONIK_KAFKA_SERVICE_PORT_KAFKA", "9092"),
    ];
    assert_eq!(from("node.id: 1", &env, &[]).unwrap().listeners.kafka_port, 9092);
}

#[test]
fn a_pod_takes_its_id_from_its_ordinal_and_its_name_from_the_service() {
    let config = from("discovery.service: chronik-headless.ns.svc\nbootstrap.voters: [1, 2, 3]", &[], &[]).unwrap();
    assert_eq!(config.node_id, NodeId(3));
    assert_eq!(config.advertised_host, "chronik-2.chronik-headless.ns.svc");
    assert_eq!(config.default_replication_factor(), 3);
    assert_eq!(pod_ordinal("my-cluster-12.svc.ns"), Some(12));
    assert_eq!(pod_ordinal("laptop"), None);
}

#[test]
fn a_static_list_founds_with_all_that_it_lists() {
    let yaml = "node.id: 2\npeers:\n  - 1@a:9192\n  - {id: 2, host: b, raft.port: 9193}\n  - 3@http://c:9194";
    let config = from(yaml, &[], &[]).unwrap();
    assert_eq!(config.peers.bootstrap_voters, BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)]));
    assert_eq!(config.advertised_host, "b");
    assert_eq!(config.default_replication_factor(), 3);
}

#[test]
fn contradictions_about_membership_are_refused() {
    assert!(refused("node.id: 9\npeers: [1@a, 2@b]", &[], &[]).contains("peers: this broker (9) is not listed"));
    assert!(refused("node.id: 1\npeers: [1@a, 1@b]", &[], &[]).contains("peers: '1@a,1@b'"));
    assert!(refused("node.id: 1\npeers: [{id: 1, host: x, raft.port: 0}]", &[], &[]).contains("peers: '1@x:0'"));
    assert!(
        refused("node.id: 1\npeers: [1@a]\nbootstrap.voters: [1, 2]", &[], &[]).contains("voter 2 is not in peers")
    );
    assert!(refused("node.id: 1\nbootstrap.voters: [1, 1]", &[], &[]).contains("bootstrap.voters: '1,1'"));
    assert!(refused("discovery.service: s", &[], &[]).contains("bootstrap.voters: not given"));
    assert!(
        refused("discovery.service: s\njoin: true\nbootstrap.voters: [1]", &[], &[])
            .contains("together with join=true")
    );
    assert!(
        refused("node.id: 1\npeers: [1@a]\ndiscovery.service: s", &[], &[]).contains("more than one source of peers")
    );
    assert!(refused("node.id: 1\nkafka.port: 9192", &[], &[]).contains("two listeners have the same port"));
    assert!(refused("", &[], &[]).contains("node.id: not given"));
}

#[test]
fn the_printed_configuration_is_itself_accepted() {
    let config = from("node.id: 1\npeers: [1@a:1, 2@b:2]\nlog.retention.bytes: 5GiB", &[], &[]).unwrap();
    let again = from(&config.describe(), &[], &[]).unwrap();
    assert_eq!(again.log.retention_bytes, Some(5 << 30));
    let values = |c: &Config| c.effective.iter().map(|e| (e.key, e.value.clone())).collect::<Vec<_>>();
    assert_eq!(values(&again), values(&config));
}

#[test]
fn what_is_not_yaml_or_says_a_key_twice_is_refused() {
    assert!(refused("a: [", &[], &[]).contains("not YAML"));
    assert!(refused("- 1", &[], &[]).contains("not a map"));
    assert!(refused("node.id: 1\nnode: {id: 2}", &[], &[]).contains("'node.id' is set twice"));
    assert!(refused("node.id: 1", &[], &["kafka.port"]).contains("--set: 'kafka.port' is not a setting"));
}

#[test]
fn a_session_shorter_than_two_heartbeats_names_both_settings() {
    let error = refused("node.id: 1\nbroker.session.timeout.ms: 700", &[], &[]);
    assert!(error.contains("broker.session.timeout.ms") && error.contains("broker.heartbeat.interval.ms"), "{error}");
}

#[test]
fn settings_that_would_have_no_effect_are_not_accepted() {
    for key in ["log.segment.delete.delay.ms", "max.partitions.per.topic", "raft.propose.timeout.ms"] {
        assert!(refused(&format!("node.id: 1\n{key}: 1000"), &[], &[]).contains(key));
    }
}
