"""Clients nobody here wrote produce, consume, subscribe and administer, unmodified."""

import subprocess

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import ConfigResource, NewPartitions, ResourceType
from harness import history, kafka, wait


def group_read(bootstrap, group, topic, count, timeout=120):
    """Reads `count` records through a consumer group and commits."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest",
                         "enable.auto.commit": False})
    try:
        consumer.subscribe([topic])
        values = []

        def enough():
            values.extend(m.value() for m in consumer.consume(500, 0.5) if not m.error())
            return len(values) >= count

        wait.until(enough, f"{count} records through group {group}", timeout, interval=0)
        consumer.commit(asynchronous=False)
        return values
    finally:
        consumer.close()


def test_kcat_lists_produces_and_reads_back_with_auto_creation(shared, topic):
    lines = [f"line-{i}" for i in range(500)]
    kafka.kcat("-b", shared.bootstrap, "-P", "-t", topic, "-X", "acks=all", stdin="\n".join(lines) + "\n")
    read = kafka.kcat("-b", shared.bootstrap, "-C", "-t", topic, "-o", "beginning", "-e", "-q").splitlines()
    assert sorted(read) == sorted(lines)
    wait.until(lambda: "3 brokers" in kafka.kcat("-b", shared.bootstrap, "-L"), "three brokers in the list")


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_every_codec_passes_through_untouched(shared, codec, topic):
    kafka.create_topic(shared.bootstrap, topic, partitions=2)
    acked = kafka.produce(shared.bootstrap, topic, [f"{codec}-{i}" * 20 for i in range(2000)],
                          **{"compression.type": codec, "linger.ms": 20})
    assert kafka.read_all(shared.bootstrap, topic) == acked


@pytest.mark.parametrize("acks", ["0", "1", "all"])
def test_every_acks_setting_reaches_the_log(shared, acks, topic):
    kafka.create_topic(shared.bootstrap, topic)
    client = Producer({"bootstrap.servers": shared.bootstrap, "acks": acks})
    for i in range(100):
        client.produce(topic, str(i))
    assert client.flush(120) == 0
    wait.until(lambda: len(kafka.read_all(shared.bootstrap, topic)) == 100, "100 records")


def test_librdkafka_group_resumes_where_it_committed(shared, topic):
    kafka.create_topic(shared.bootstrap, topic, partitions=3)
    first = kafka.produce(shared.bootstrap, topic, [f"a-{i}" for i in range(300)])
    assert sorted(group_read(shared.bootstrap, topic + "-g", topic, 300)) == sorted(first.values())
    second = kafka.produce(shared.bootstrap, topic, [f"b-{i}" for i in range(100)])
    assert sorted(group_read(shared.bootstrap, topic + "-g", topic, 100)) == sorted(second.values())


def test_a_second_member_takes_over_half_and_gives_it_back(shared, topic):
    kafka.create_topic(shared.bootstrap, topic, partitions=4)
    config = {"bootstrap.servers": shared.bootstrap, "group.id": topic, "auto.offset.reset": "earliest",
              "session.timeout.ms": 6000, "heartbeat.interval.ms": 500}
    one, two = Consumer(config), Consumer(config)
    try:
        one.subscribe([topic])
        wait.until(lambda: one.poll(0.1) or len(one.assignment()) == 4, "one member with all partitions")
        two.subscribe([topic])

        def shared_evenly():
            one.poll(0.1), two.poll(0.1)
            return len(one.assignment()) == 2 and len(two.assignment()) == 2

        wait.until(shared_evenly, "two partitions each", interval=0)
        two.close()
        two = None
        wait.until(lambda: one.poll(0.1) or len(one.assignment()) == 4, "all partitions back", interval=0)
    finally:
        one.close()
        if two:
            two.close()


def test_kafka_python_produces_and_subscribes(shared, topic):
    from kafka import KafkaConsumer, KafkaProducer

    kafka.create_topic(shared.bootstrap, topic, partitions=2)
    servers = shared.bootstrap.split(",")
    producer = KafkaProducer(bootstrap_servers=servers, acks="all")
    sent = [producer.send(topic, f"py-{i}".encode()) for i in range(500)]
    producer.flush(120)
    assert all(future.succeeded() for future in sent)
    producer.close()
    consumer = KafkaConsumer(topic, bootstrap_servers=servers, group_id=topic, auto_offset_reset="earliest",
                             consumer_timeout_ms=120000)
    values = set()
    for record in consumer:
        values.add(record.value)
        if len(values) == 500:
            break
    consumer.commit()
    committed = sum(consumer.committed(p) or 0 for p in consumer.assignment())
    consumer.close()
    assert values == {f"py-{i}".encode() for i in range(500)}
    assert committed == 500


def test_franz_go_produces_idempotently_and_reads_through_a_group(shared, topic):
    kafka.create_topic(shared.bootstrap, topic, partitions=3)
    command = [str(kafka.CACHE / "franz" / "franz"), "-bootstrap", shared.bootstrap, "-topic", topic, "-group", topic]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "1000 records" in done.stdout


def test_java_tools_create_describe_produce_consume_and_delete(shared, topic):
    topics = ("org.apache.kafka.tools.TopicCommand", "--bootstrap-server", shared.bootstrap)
    kafka.java(*topics, "--create", "--topic", topic, "--partitions", "3", "--replication-factor", "3",
               "--config", "retention.ms=3600000")
    kafka.full_isr(shared.bootstrap, topic)
    described = kafka.java(*topics, "--describe", "--topic", topic)
    assert "PartitionCount: 3" in described and "ReplicationFactor: 3" in described, described
    assert "retention.ms=3600000" in described, described
    kafka.java("org.apache.kafka.tools.ConsoleProducer", "--bootstrap-server", shared.bootstrap, "--topic", topic,
               stdin="".join(f"java-{i}\n" for i in range(200)))
    read = kafka.java("org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", shared.bootstrap, "--topic",
                      topic, "--from-beginning", "--max-messages", "200", "--group", topic, "--timeout-ms", "60000")
    assert sorted(read.split()) == sorted(f"java-{i}" for i in range(200))
    groups = kafka.java("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", "--bootstrap-server",
                        shared.bootstrap, "--describe", "--group", topic)
    assert topic in groups, groups
    kafka.java(*topics, "--delete", "--topic", topic)
    wait.until(lambda: topic not in kafka.java(*topics, "--list").split(), "the topic to be gone")


def test_java_perf_tools_run_with_idempotence_and_acks_all(shared, topic):
    kafka.create_topic(shared.bootstrap, topic, partitions=6)
    out = kafka.java("org.apache.kafka.tools.ProducerPerformance", "--topic", topic, "--num-records", "50000",
                     "--record-size", "200", "--throughput", "-1", "--bootstrap-server", shared.bootstrap,
                     "--command-property", "acks=all", "enable.idempotence=true")
    assert "50000 records sent" in out, out
    out = kafka.java("org.apache.kafka.tools.ConsumerPerformance", "--bootstrap-server", shared.bootstrap, "--topic", topic,
                     "--num-records", "50000", "--timeout", "60000")
    assert "50000" in out.replace(",", ""), out


def test_topics_are_administered_by_librdkafka(shared, topic):
    client = kafka.admin(shared.bootstrap)
    kafka.create_topic(shared.bootstrap, topic, partitions=1, config={"retention.ms": "600000"})
    client.create_partitions([NewPartitions(topic, 4)])[topic].result(60)
    wait.until(lambda: len(kafka.describe(shared.bootstrap, topic)) == 4, "four partitions")
    resource = ConfigResource(ResourceType.TOPIC, topic)
    # Any broker answers, also one that hears of the topic a moment later.
    entries = wait.until(lambda: client.describe_configs([resource])[resource].result(60), "the topic's settings")
    assert entries["retention.ms"].value == "600000" and not entries["retention.ms"].is_default
    assert entries["segment.bytes"].is_default
    client.delete_topics([topic])[topic].result(60)
    wait.until(lambda: topic not in client.list_topics(timeout=10).topics, "the topic to be gone")


def test_a_deleted_and_recreated_topic_does_not_serve_old_records(shared, topic):
    kafka.create_topic(shared.bootstrap, topic)
    kafka.produce(shared.bootstrap, topic, ["old"] * 50)
    client = kafka.admin(shared.bootstrap)
    client.delete_topics([topic])[topic].result(60)
    wait.until(lambda: topic not in client.list_topics(timeout=10).topics, "deletion")
    kafka.create_topic(shared.bootstrap, topic)
    acked = kafka.produce(shared.bootstrap, topic, ["new"] * 5)
    assert kafka.read_all(shared.bootstrap, topic) == acked
    assert min(offset for _, offset in acked) == 0


def test_offsets_are_found_by_timestamp(shared, topic):
    kafka.create_topic(shared.bootstrap, topic)
    client = kafka.producer(shared.bootstrap, **{"compression.type": "lz4", "linger.ms": 50})
    base = 1_790_000_000_000
    for i in range(100):
        client.produce(topic, str(i), timestamp=base + i * 1000)
    assert client.flush(120) == 0
    consumer = Consumer({"bootstrap.servers": shared.bootstrap, "group.id": "ts"})
    try:
        for asked, expected in [(base - 5, 0), (base + 42_000, 42), (base + 42_001, 43), (base + 99_000, 99)]:
            found = consumer.offsets_for_times([TopicPartition(topic, 0, asked)], timeout=60)[0]
            assert found.offset == expected, f"timestamp {asked}: {found}"
        beyond = consumer.offsets_for_times([TopicPartition(topic, 0, base + 100_000)], timeout=60)[0]
        assert beyond.offset in (-1, 100)
    finally:
        consumer.close()


def test_too_large_records_are_refused_with_kafkas_error(shared, topic):
    kafka.create_topic(shared.bootstrap, topic, config={"max.message.bytes": "2000"})
    errors = []
    client = kafka.producer(shared.bootstrap)
    client.produce(topic, b"x" * 5000, on_delivery=lambda error, _: errors.append(error))
    client.flush(120)
    assert errors[0] is not None and errors[0].name() == "MSG_SIZE_TOO_LARGE", errors
    assert len(kafka.produce(shared.bootstrap, topic, ["small"])) == 1


def test_idempotent_producer_in_one_quiet_run_has_no_duplicates(shared, topic):
    kafka.create_topic(shared.bootstrap, topic, partitions=2)
    acked = kafka.produce(shared.bootstrap, topic, [f"w-{i}" for i in range(3000)], **{"enable.idempotence": True})
    records = kafka.read_all(shared.bootstrap, topic)
    history.check_nothing_lost(acked, records)
    history.check_no_duplicates(records)
    history.check_order(records)
