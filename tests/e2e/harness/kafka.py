"""Real clients: librdkafka in this process, kcat and the Java tools as processes."""

import os
import subprocess
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from . import wait

CACHE = Path(os.environ.get("CHRONIK_CACHE", Path.home() / ".cache" / "chronik"))


def admin(bootstrap):
    return AdminClient({"bootstrap.servers": bootstrap, "socket.timeout.ms": 30000})


def create_topic(bootstrap, name, partitions=1, replication=3, config=None):
    """Creates a topic and waits until every partition has a leader."""
    client = admin(bootstrap)
    topic = NewTopic(name, num_partitions=partitions, replication_factor=replication, config=config or {})
    client.create_topics([topic], operation_timeout=60, request_timeout=60)[name].result(90)
    wait.until(
        lambda: all(p.leader >= 0 for p in describe(bootstrap, name).values()), f"leaders for every partition of {name}"
    )


def describe(bootstrap, name):
    """Partition index -> librdkafka's partition metadata (leader, replicas, isrs)."""
    metadata = admin(bootstrap).list_topics(name, timeout=30)
    topic = metadata.topics[name]
    if topic.error is not None:
        raise KafkaException(topic.error)
    return topic.partitions


def full_isr(bootstrap, name, size=3):
    """Waits until every partition has `size` in-sync replicas."""
    wait.until(
        lambda: all(len(p.isrs) >= size for p in describe(bootstrap, name).values()),
        f"{size} in-sync replicas for every partition of {name}", 180,
    )


def producer(bootstrap, **config):
    """acks=all, retries for as long as a test may need."""
    return Producer({
        "bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 2, "message.timeout.ms": 120000,
        "retry.backoff.ms": 20, "retry.backoff.max.ms": 200, "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200,
        "topic.metadata.refresh.interval.ms": 1000, "socket.timeout.ms": 10000, **config,
    })


def produce(bootstrap, topic, values, partition=-1, **config):
    """Produces `values` with acks=all, to any partition (-1) or to this one, and returns {(partition, offset): value} of what was
    acknowledged."""
    acked, client = {}, producer(bootstrap, **config)

    def delivered(error, message):
        assert error is None, f"not delivered: {error}"
        acked[(message.partition(), message.offset())] = message.value()

    for value in values:
        value = value if isinstance(value, bytes) else value.encode()
        client.produce(topic, value, partition=partition, on_delivery=delivered)
        client.poll(0)
    assert client.flush(120) == 0, "records still in the queue"
    return acked


def read_all(bootstrap, topic, timeout=180, least=0):
    """Every record below the high watermark: {(partition, offset): value}. There are `least` of them: a leader that stood still and
    has not heard of its successor yet may say less, for a moment."""
    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": "reader", "enable.auto.commit": False, "enable.partition.eof": False,
        "auto.offset.reset": "earliest", "fetch.wait.max.ms": 50, "reconnect.backoff.max.ms": 200,
    })
    try:
        partitions = sorted(wait.until(lambda: describe(bootstrap, topic), f"metadata of {topic}"))

        def ends():
            marks = {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10) for p in partitions}
            return marks if all(marks.values()) and sum(high for _, high in marks.values()) >= least else None

        marks = wait.until(ends, f"watermarks of {topic}, of {least} records together", timeout)
        consumer.assign([TopicPartition(topic, p, low) for p, (low, _) in marks.items()])
        records, position = {}, {p: low for p, (low, _) in marks.items()}

        def finished():
            for message in consumer.consume(1000, 0.2):
                if message.error():
                    continue
                records[(message.partition(), message.offset())] = message.value()
                position[message.partition()] = message.offset() + 1
            return all(position[p] >= high for p, (_, high) in marks.items())

        wait.until(finished, f"all records of {topic} up to {marks}", timeout, interval=0)
        return records
    finally:
        consumer.close()


def kcat(*args, stdin=None, timeout=120):
    done = subprocess.run(["kcat", *args], input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"kcat {' '.join(args)}: {done.stderr}"
    return done.stdout


def java(tool, *args, stdin=None, timeout=300):
    """Runs a class of the Java tools, e.g. org.apache.kafka.tools.TopicCommand."""
    classpath = f"{CACHE / 'java' / 'lib'}/*"
    command = ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-Xmx256m", "-cp", classpath, tool, *args]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"{tool} {' '.join(args)} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout
