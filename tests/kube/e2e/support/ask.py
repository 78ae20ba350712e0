"""Short questions to a Kafka cluster within the pods' network, answered by a real client in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path


def ask(kube, bootstrap, what, *arguments, timeout=400, outside=False):
    """`describe TOPIC`, `create TOPIC PARTITIONS REPLICATION`, `place TOPIC 1,2 ...` (the brokers of each partition), `brokers`, `racks`,
    `settings` (what was given to all brokers), `produce TOPIC COUNT LABEL`, `read TOPIC`; the decoded answer.
    """
    command = [sys.executable, str(Path(__file__).resolve()), bootstrap, what, *map(str, arguments)]
    done = subprocess.run(command if outside else kube.inside(*command), capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"{what} {arguments} at {bootstrap}: {done.stderr[-2000:]}"
    return json.loads(done.stdout.splitlines()[-1])


def main():
    sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "e2e"))
    from confluent_kafka.admin import ConfigResource, ConfigSource, NewTopic
    from harness import kafka, wait

    bootstrap, what, *arguments = sys.argv[1:]
    if what == "brokers":
        found = wait.until(lambda: kafka.admin(bootstrap).list_topics(timeout=5).brokers, "brokers", 300)
        answer = {b.id: f"{b.host}:{b.port}" for b in found.values()}
    elif what == "racks":
        client = kafka.admin(bootstrap)
        found = wait.until(lambda: client.describe_cluster(request_timeout=30).result(60).nodes, "brokers", 300)
        answer = {node.id: node.rack for node in found}
    elif what == "settings":
        client = kafka.admin(bootstrap)
        broker = wait.until(lambda: client.list_topics(timeout=5).brokers, "brokers", 300).popitem()[0]
        resource = ConfigResource(ConfigResource.Type.BROKER, str(broker))
        found = wait.until(lambda: client.describe_configs([resource], request_timeout=30)[resource].result(60), "settings", 300)
        given = ConfigSource.DYNAMIC_DEFAULT_BROKER_CONFIG.value
        answer = {name: entry.value for name, entry in found.items() if entry.source == given}
    elif what == "describe":
        partitions = wait.until(lambda: kafka.describe(bootstrap, arguments[0]), f"metadata of {arguments[0]}", 300)
        answer = {p.id: {"leader": p.leader, "replicas": sorted(p.replicas), "isr": sorted(p.isrs)} for p in partitions.values()}
    elif what == "create":
        wait.until(lambda: kafka.admin(bootstrap).list_topics(timeout=5).brokers, "brokers", 300)
        kafka.create_topic(bootstrap, arguments[0], partitions=int(arguments[1]), replication=int(arguments[2]))
        answer = "created"
    elif what == "place":
        topic, *places = arguments
        places = [[int(broker) for broker in place.split(",")] for place in places]
        client = kafka.admin(bootstrap)
        wait.until(lambda: client.list_topics(timeout=5).brokers, "brokers", 300)
        new = NewTopic(topic, num_partitions=len(places), replica_assignment=places)
        client.create_topics([new], operation_timeout=60, request_timeout=60)[topic].result(90)
        wait.until(lambda: all(p.leader >= 0 for p in kafka.describe(bootstrap, topic).values()), f"leaders of {topic}", 300)
        answer = "created"
    elif what == "produce":
        topic, count, label = arguments
        answer = len(kafka.produce(bootstrap, topic, [f"{label}-{n}" for n in range(int(count))]))
    elif what == "read":
        answer = [value.decode() for _, value in sorted(kafka.read_all(bootstrap, arguments[0]).items())]
    else:
        sys.exit(f"unknown question {what}")
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
