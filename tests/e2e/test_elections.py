"""Leader elections by hand: what a person may order, what is refused, and with which error."""

import pytest
from confluent_kafka import KafkaError
from harness import history, kafka, raw, wait
from test_reassign import ELECT, check_identical, place, wait_moved


@pytest.fixture
def five(cluster):
    """Three voters, and two further brokers that can die together without the quorum noticing."""
    for node in (4, 5):
        cluster.add(node).start()
    cluster.wait_ready(4, 5)
    return cluster


def voters(cluster):
    return ",".join(cluster[n].kafka for n in (1, 2, 3))


def elect(cluster, kind, *places):
    """The outcome per partition: an error code, 0 when elected. What only says "not now" is asked again."""
    later = {KafkaError.NOT_CONTROLLER, KafkaError.REQUEST_TIMED_OUT}

    def outcome():
        connection = raw.Connection(cluster[1].host, cluster[1].kafka_port, 90)
        try:
            codes = connection.elect(kind, places)
        finally:
            connection.close()
        return None if later & set(codes.values()) else codes

    return wait.until(outcome, f"an answer about the election of {places}")


def leader(cluster, topic):
    return kafka.describe(voters(cluster), topic)[0].leader


def test_an_unclean_election_is_made_on_a_persons_word_only_and_its_loss_is_the_same_everywhere(five):
    place(five, "apart", [[4, 5]])
    kafka.create_topic(five.bootstrap, "whole", partitions=1)
    here, whole = ("apart", 0), ("whole", 0)
    assert elect(five, raw.UNCLEAN, here) == {here: KafkaError.ELECTION_NOT_NEEDED}
    assert elect(five, raw.PREFERRED, here) == {here: KafkaError.ELECTION_NOT_NEEDED}
    kept = kafka.produce(five.bootstrap, "apart", [f"kept-{i}" for i in range(100)])

    # Broker 5 dies; what comes then stands on broker 4 alone, and it dies too.
    five[5].kill()
    wait.until(lambda: kafka.describe(voters(five), "apart")[0].isrs == [4], "the in-sync set to be broker 4 alone")
    only = {"acks": "1"}
    lost = kafka.produce(f"{voters(five)},{five[4].kafka}", "apart", [f"lost-{i}" for i in range(40)], **only)
    assert not set(lost) & set(kept)
    five[4].kill()
    wait.until(lambda: leader(five, "apart") == -1, "the partition to be without a leader")
    # Nobody is there to be elected.
    nobody = elect(five, raw.UNCLEAN, here, ("apart", 7), ("nowhere", 0), whole)
    assert nobody == {
        here: KafkaError.ELIGIBLE_LEADERS_NOT_AVAILABLE, ("apart", 7): KafkaError.UNKNOWN_TOPIC_OR_PART,
        ("nowhere", 0): KafkaError.UNKNOWN_TOPIC_OR_PART, whole: KafkaError.ELECTION_NOT_NEEDED,
    }, nobody

    # Broker 5 is back, without the last records: it leads on a person's word, and not by itself or by a preferred election.
    five[5].start()
    five.wait_ready(5)
    assert elect(five, raw.PREFERRED, here) == {here: KafkaError.PREFERRED_LEADER_NOT_AVAILABLE}
    assert leader(five, "apart") == -1
    alive = f"{voters(five)},{five[5].kafka}"
    said = kafka.java(ELECT, "--bootstrap-server", alive, "--election-type", "unclean", "--topic", "apart", "--partition", "0")
    assert "Successfully completed leader election (UNCLEAN) for partitions apart-0" in said, said
    wait.until(lambda: leader(five, "apart") == 5, "broker 5 to lead")
    assert elect(five, raw.UNCLEAN, here) == {here: KafkaError.ELECTION_NOT_NEEDED}
    after = kafka.produce(alive, "apart", [f"after-{i}" for i in range(20)], **only)
    assert kafka.read_all(alive, "apart") == {**kept, **after}

    # Broker 4 gives up what only it had.
    five[4].start()
    five.wait_ready(4)
    wait_moved(five, {here: [4, 5]})
    last = kafka.produce(five.bootstrap, "apart", ["last"])
    records = kafka.read_all(five.bootstrap, "apart")
    history.check_nothing_lost({**kept, **after, **last}, records)
    assert not [value for value in records.values() if value.startswith(b"lost-")]
    assert check_identical(five, "apart", {0: [4, 5]}) == len(records)
