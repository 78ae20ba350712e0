"""Scenario 9: what cannot work is refused by the API server at once, in words a user understands."""

import pytest
from support.ccl import Cluster
from support.kube import Refused

WRONG = [
    ("an even number of voters", {"raft": {"voters": 4}}, "raft.voters must be odd"),
    ("too many brokers", {"replicas": 100}, "less than or equal to 99"),
    ("no broker", {"replicas": 0}, "greater than or equal to 1"),
    ("image and version", {"version": "1.0", "image": "a/b:c"}, "give image or version, not both"),
    ("more in sync than there are", {"replicationFactor": 1, "minInsyncReplicas": 2}, "minInsyncReplicas must not exceed replicationFactor"),
    ("a reserved setting", {"config": {"node.id": "1"}}, "the operator sets this itself"),
    ("a misspelt setting", {"config": {"Log_Retention": "1"}}, "names of settings are lower-case words"),
    ("no internal listener", {"listeners": [{"name": "a", "port": 9094, "type": "nodeport"}]}, "exactly one of type internal"),
    ("a port twice", {"listeners": [{"name": "a", "port": 9092, "type": "internal"}, {"name": "b", "port": 9092, "type": "nodeport"}]}, "same port"),
    ("the brokers' own port", {"listeners": [{"name": "a", "port": 9192, "type": "internal"}]}, "taken by the brokers' own traffic"),
    ("a disk of nothing", {"storage": {"size": "0"}}, "more than 0"),
    ("an unknown listener type", {"listeners": [{"name": "a", "port": 9092, "type": "carrier-pigeon"}]}, "Unsupported value"),
]


@pytest.mark.parametrize(("spec", "message"), [pytest.param(s, m, id=n.replace(" ", "-")) for n, s, m in WRONG])
def test_09_an_invalid_object_is_refused_with_a_clear_message(kube, operator, spec, message):
    del operator
    cluster = Cluster(kube, "default", "wrong")
    whole = cluster.manifest(**{"image": None, **spec})
    with pytest.raises(Refused) as refused:
        kube.apply(whole)
    assert message in refused.value.text, refused.value.text
    assert cluster.get() is None


def test_09_a_name_too_long_for_pods_is_refused(kube, operator):
    del operator
    with pytest.raises(Refused) as refused:
        kube.apply(Cluster(kube, "default", "a" * 41).manifest())
    assert "at most 40" in refused.value.text
