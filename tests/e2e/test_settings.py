"""Settings of the whole cluster: given by an operator at the founding or while it runs, in force at once, and taken back."""

from confluent_kafka.admin import ConfigResource, ConfigSource
from harness import kafka, wait
from test_control import Book


def settings(broker):
    """What a Kafka client is told of this broker: the value of each setting that somebody gave to all of them."""
    resource = ConfigResource(ConfigResource.Type.BROKER, str(broker.id))
    client = kafka.admin(broker.kafka)
    found = client.describe_configs([resource], request_timeout=30)[resource].result(60)
    given = ConfigSource.DYNAMIC_DEFAULT_BROKER_CONFIG.value
    return {name: entry.value for name, entry in found.items() if entry.source == given}


def wait_everywhere(book, wanted):
    for broker in book.running():
        wait.until(lambda broker=broker: settings(broker) == wanted, f"broker {broker.id} to have {wanted}")


def test_founders_take_the_settings_of_their_file_and_one_that_is_wrong_keeps_none_back(tmp_path):
    with Book(tmp_path) as book:
        book.defaults = {"num.partitions": "4", "log.retention.ms": "never", "no.such.setting": "1"}
        book.start().wait_ready()
        wait_everywhere(book, {"num.partitions": "4"})
        # From the founding on the metadata counts, whatever an old file says to a broker that starts again.
        book.ask("set-default", "num.partitions", 5)
        book[2].kill()
        book[2].start()
        book.wait_ready(3)
        wait_everywhere(book, {"num.partitions": "5"})


def test_a_setting_is_in_force_on_all_brokers_at_once_and_is_taken_back(tmp_path):
    with Book(tmp_path) as book:
        book.start().wait_ready()
        book.ask("set-default", "log.retention.ms", 3600000), book.ask("set-default", "log.retention.ms", 3600000)
        wait_everywhere(book, {"log.retention.ms": "3600000"})
        assert book.cluster_view()["cluster_defaults"] == {"log.retention.ms": "3600000"}
        # A refusal says what would be taken, and leaves no trace in the metadata.
        before = book.cluster_view()["applied_index"]
        assert "a number from -1" in book.ask("set-default", "log.retention.ms", "never", code=1)["outcome"]["refused"]
        assert "there is no broker setting 'raft.tick.ms'" in book.ask("set-default", "raft.tick.ms", 5, code=1)["outcome"]["refused"]
        assert book.cluster_view()["applied_index"] == before
        book.ask("set-default", "log.retention.ms"), book.ask("set-default", "log.retention.ms")
        wait_everywhere(book, {})
