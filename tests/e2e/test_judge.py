"""The judge itself: every rule is seen to fail on a history of a few lines, and not to fail on one that is right."""

import struct

import pytest
from harness import history
from harness.judge import Judge


class Story:
    """Writes a small history; time goes on by one with every event."""

    def __init__(self):
        self.events, self.now = [], 0.0

    def __call__(self, op, **fields):
        self.now += 1
        self.events.append({"t": self.now, "op": op, **fields})
        return self

    def send(self, value, offset=None, acks=-1, idem=False, ok=None, partition=0):
        """A record and its outcome; without an offset the outcome is unknown."""
        self("send", by=value.split(".")[0], topic="t", partition=partition, value=value, acks=acks, idem=idem)
        if offset is not None or ok is not None:
            self("sent", value=value, ok=ok is not False, offset=offset)
        return self

    def read(self, offset, *values, by="r", assignment=1, **more):
        return self("read", by=by, assignment=assignment, topic="t", partition=0, offset=offset, values=list(values), **more)

    def final(self, *values, start=0, end=None):
        return self("final", topic="t", partition=0, start=start, end=len(values) + start if end is None else end, values=list(values))

    def commit(self, number, value, ok=True, era=None):
        self("write", id=number, register="offset g t/0", value=value, era=era)
        return self("wrote", id=number, ok=ok)

    def look(self, value, began=None):
        return self("look", register="offset g t/0", value=value, began=self.now + 0.5 if began is None else began)

    def rules(self):
        return sorted({v.rule for v in Judge().feed_all(self.events).verdict()})


def test_a_history_in_which_all_went_well_is_accepted():
    story = Story().send("p.0", 0, idem=True).send("p.1", 1, idem=True).send("q.0", None)
    story("assign", by="r", assignment=1, topic="t", partition=0, offset=0)
    story.read(0, "p.0", "p.1").final("p.0", "p.1", "q.0")
    assert story.rules() == []


def test_an_acknowledged_record_that_is_gone_is_lost():
    assert Story().send("p.0", 0).send("p.1", 1).final("p.0").rules() == ["lost write"]


def test_an_acknowledged_record_with_another_in_its_place_is_lost():
    assert Story().send("p.0", 0).send("p.1", None).final("p.1").rules() == ["changed write", "lost write"]


def test_a_log_that_begins_above_the_beginning_has_lost_what_was_there():
    assert Story().send("p.0", 0).send("p.1", 1).final("p.1", start=1).rules() == ["lost start", "lost write"]
    assert Story().send("p.0", ok=True).send("p.1", 1).final("p.1", start=1).rules() == ["lost start", "lost write"]
    assert Story().send("p.0", None).final(start=1).rules() == ["lost start"], "even if nobody knows of what"


def test_a_record_of_unknown_outcome_may_be_there_or_not():
    assert Story().send("p.0", None).final().rules() == []
    assert Story().send("p.0", None).final("p.0").rules() == []


def test_a_record_acknowledged_without_an_offset_is_somewhere():
    assert Story().send("p.0", ok=True).final().rules() == ["lost write"]
    assert Story().send("p.0", ok=True).send("p.1", 0).final("p.1", "p.0").rules() == []
    assert Story().send("p.0", ok=False).final().rules() == []


def test_records_sent_with_weaker_acks_may_be_lost():
    assert Story().send("p.0", 0, acks=1).send("p.1", -1, acks=0).final().rules() == []


def test_nothing_is_lost_with_a_topic_that_somebody_deleted():
    story = Story().send("p.0", 0)
    assert story("delete", topic="t").final().rules() == []


def test_two_records_acknowledged_at_one_offset_are_told():
    assert "two acknowledged at one offset" in Story().send("p.0", 0).send("p.1", 0).rules()


def test_a_record_of_an_idempotent_producer_that_is_there_twice_is_a_duplicate():
    assert Story().send("p.0", None, idem=True).final("p.0", "p.0").rules() == ["duplicate", "order"]
    assert Story().send("p.0", None).final("p.0", "p.0").rules() == [], "others may send twice"


def test_what_was_under_way_when_an_idempotent_producer_gave_a_record_up_may_be_there_twice():
    story = Story()("send", by="p", topic="t", partition=0, value="p.0", acks=-1, idem=True).send("p.1", ok=False, idem=True)
    story("sent", value="p.0", ok=True, offset=1)
    assert story.final("p.0", "p.0").rules() == []
    assert Story().send("p.0", ok=False, idem=True).final("p.0", "p.0").rules() == []


def test_what_was_under_way_when_the_library_of_an_idempotent_producer_began_a_new_epoch_may_be_there_twice():
    story = Story()("send", by="p", topic="t", partition=0, value="p.0", acks=-1, idem=True)("bumped", by="p")
    story("sent", value="p.0", ok=True, offset=1)
    assert story.final("p.0", "p.0").rules() == []
    answered = Story().send("p.0", 0, idem=True)("bumped", by="p")
    assert answered.final("p.0", "p.0").rules() == ["duplicate", "order"]
    later = Story()("bumped", by="p").send("p.0", None, idem=True)
    assert later.final("p.0", "p.0").rules() == ["duplicate", "order"]
    story = Story().send("p.0", 0, idem=True)("bumped", by="q")
    assert story.final("p.0", "p.0").rules() == ["duplicate", "order"], "another producer's"


def test_what_was_answered_before_an_idempotent_producer_gave_a_record_up_is_there_once_and_so_is_what_it_sent_later():
    assert Story().send("p.0", 0, idem=True).send("p.1", ok=False, idem=True).final("p.0", "p.0").rules() == ["duplicate", "order"]
    story = Story().send("p.0", ok=False, idem=True).send("p.1", 0, idem=True)
    assert story.final("p.1", "p.1").rules() == ["duplicate", "order"]
    story = Story().send("p.0", ok=False, idem=True).send("p.1", 1, idem=True).send("p.2", 0, idem=True)
    assert story.final("p.2", "p.1").rules() == ["order"]


def test_records_of_an_idempotent_producer_keep_their_order():
    assert Story().send("p.0", 1, idem=True).send("p.1", 0, idem=True).final("p.1", "p.0").rules() == ["order"]
    assert Story().send("p.0", 1).send("p.1", 0).final("p.1", "p.0").rules() == []


def test_two_readers_given_different_records_at_one_offset():
    story = Story().send("p.0", None).send("p.1", None)
    assert story.read(0, "p.0").read(0, "p.1", by="s").rules() == ["inconsistent offset"]


def test_a_record_that_nobody_sent_is_told_and_so_is_one_of_another_partition():
    assert Story().read(0, "ghost.0").rules() == ["never sent"]
    assert Story().send("p.0", None, partition=3).read(0, "p.0").rules() == ["never sent"]


def test_a_reader_that_is_given_an_offset_too_far_skips():
    story = Story().send("p.0", 0).send("p.1", 1).send("p.2", 2)
    story("assign", by="r", assignment=1, topic="t", partition=0, offset=0)
    assert story.read(0, "p.0").read(2, "p.2").rules() == ["poll skip"]


def test_a_reader_that_is_given_an_offset_again_goes_back_unless_it_was_assigned_anew():
    story = Story().send("p.0", 0)
    story("assign", by="r", assignment=1, topic="t", partition=0, offset=0)
    story.read(0, "p.0").read(0, "p.0")
    assert story.rules() == ["non-monotonic poll"]
    story = Story().send("p.0", 0)
    for assignment in (1, 2):
        story("assign", by="r", assignment=assignment, topic="t", partition=0, offset=0)
        story.read(0, "p.0", assignment=assignment)
    assert story.rules() == []


def test_what_somebody_read_stays_in_the_log():
    assert Story().send("p.0", None).read(0, "p.0").final().rules() == ["unread"]


def test_a_partition_with_fewer_records_than_offsets_has_a_hole():
    assert Story().send("p.0", None).final("p.0", end=2).rules() == ["hole"]


def batch(base, producer, epoch, sequence, records=1):
    raw = bytearray(61)
    struct.pack_into(">qi", raw, 0, base, 49)
    struct.pack_into(">i", raw, 23, records - 1)
    struct.pack_into(">qhi", raw, 43, producer, epoch, sequence)
    return base, base + records, bytes(raw)


@pytest.mark.parametrize("log", [
    [batch(0, 7, 0, 0), batch(1, 7, 0, 0)],
    [batch(0, 7, 0, 0, 3), batch(3, 7, 0, 2)],
    [batch(0, 7, 0, 0), batch(1, 7, 0, 2)],
    [batch(0, 7, 1, 0), batch(1, 7, 0, 1)],
    [batch(0, 7, 0, 0), batch(1, 7, 1, 5)],
    [batch(0, -1, -1, -1), batch(2, -1, -1, -1)],
])
def test_a_log_that_repeats_or_skips_a_sequence_or_an_offset_is_told(log):
    with pytest.raises(AssertionError):
        history.check_sequences("t-0", log)


def test_a_log_in_which_producers_go_on_or_begin_anew_is_right():
    history.check_sequences("t-0", [batch(0, 7, 0, 4, 2), batch(2, 8, 0, 0), batch(3, 7, 0, 6), batch(4, 7, 1, 0), batch(5, -1, -1, -1),
                                    batch(6, 8, 0, 1)])


def mark(story, epoch, offset):
    return story("mark", topic="t", partition=0, epoch=epoch, offset=offset)


def test_the_high_watermark_of_an_epoch_does_not_go_back():
    assert mark(mark(Story(), 1, 5), 1, 4).rules() == ["high watermark back"]
    assert mark(mark(Story(), 1, 5), 1, 5).rules() == []


def test_a_newer_epoch_never_says_less_than_an_older_one_in_whatever_order_they_are_asked():
    assert mark(mark(Story(), 1, 5), 2, 4).rules() == ["high watermark back"]
    assert mark(mark(Story(), 2, 4), 1, 5).rules() == ["high watermark back"]
    assert mark(mark(Story(), 2, 5), 1, 4).rules() == [], "a leader that does not know yet that it is none"


def test_a_committed_offset_does_not_go_back_by_itself():
    assert Story().commit(1, 5).commit(2, 9).look(5).rules() == ["committed offset back"]
    assert Story().commit(1, 5).look(None).rules() == ["committed offset back"]
    assert Story().commit(1, 5).look(7).rules() == ["committed offset back"], "nobody committed that"
    assert Story().commit(1, 5).commit(2, 9).look(9).rules() == []
    assert Story().look(None).rules() == []


def test_a_commit_of_unknown_outcome_may_take_effect_late():
    assert Story().commit(1, 5, ok=None).commit(2, 9).look(5).rules() == []
    assert Story().commit(1, 9).commit(2, 5, ok=None).look(9).look(5).rules() == []


def test_a_commit_of_an_older_generation_takes_no_effect_any_more():
    story = Story()
    story("own", group="g", generation=1, member="a", partitions=[["t", 0]]).commit(1, 5, ok=None, era=["g", 1])
    story("own", group="g", generation=2, member="a", partitions=[["t", 0]]).commit(2, 9, era=["g", 2]).look(5)
    assert story.rules() == ["committed offset back"]


def test_a_commit_that_ran_beside_the_look_may_be_seen_or_not():
    story = Story().commit(1, 5)
    story("write", id=2, register="offset g t/0", value=9)
    began = story.now
    story("wrote", id=2, ok=True)
    assert story.look(5, began=began).rules() == []


def test_a_configuration_that_was_set_is_not_the_old_one():
    story = Story()
    story("write", id=1, register="config t k", value="a")("wrote", id=1, ok=True)
    story("write", id=2, register="config t k", value="b")("wrote", id=2, ok=True)
    assert story("look", register="config t k", value="a", began=story.now + 0.5).rules() == ["stale register"]


def test_a_group_that_commits_past_what_it_was_given_skips():
    story = Story().send("p.0", 0).send("p.1", 1)
    story("begin", group="g", topic="t", partition=0, offset=0).read(1, "p.1", group="g").commit(1, 2).look(2)
    assert story.rules() == ["group skip"]
    story = Story().send("p.0", 0).send("p.1", 1)
    story("begin", group="g", topic="t", partition=0, offset=0).read(0, "p.0", "p.1", group="g").commit(1, 2).look(2)
    assert story.rules() == []


def test_a_partition_has_one_owner_in_a_generation():
    story = Story()
    story("own", group="g", generation=1, member="a", partitions=[["t", 0]])
    story("own", group="g", generation=1, member="b", partitions=[["t", 0]])
    assert story.rules() == ["two owners"]
    story = Story()
    story("own", group="g", generation=1, member="a", partitions=[["t", 0]])
    story("own", group="g", generation=2, member="b", partitions=[["t", 0]])
    assert story.rules() == []


def test_topics_stay_as_they_were_left():
    assert Story()("created", topic="t", ok=True)("exists", topics=[]).rules() == ["lost topic"]
    assert Story()("created", topic="t", ok=True)("delete", topic="t")("exists", topics=[]).rules() == []
    story = Story()("created", topic="t", ok=True)("delete", topic="t")("deleted", topic="t", ok=True)
    assert story("exists", topics=["t"]).rules() == ["topic back"]


def test_an_idempotent_producer_that_cannot_go_on_is_told():
    assert Story()("fatal", by="p", error="out of order").rules() == ["fatal client"]


@pytest.mark.parametrize("rule", ["lost write", "poll skip"])
def test_each_violation_is_told_once_however_often_it_is_seen(rule):
    story = Story().send("p.0", 0).send("p.1", 1).send("p.2", 2)
    story("assign", by="r", assignment=1, topic="t", partition=0, offset=0)
    story.read(0, "p.0").read(2, "p.2").final("p.0").final("p.0")
    assert [v.rule for v in Judge().feed_all(story.events).verdict()].count(rule) == (2 if rule == "lost write" else 1)


def test_an_acknowledgement_without_an_offset_is_looked_for_in_its_partition():
    """Of a batch whose answer was lost librdkafka learns by a later one, and not where it is."""
    acked = {(5, 7): b"w-1", (5, None, b"w-2"): b"w-2"}
    history.check_nothing_lost(acked, {(5, 7): b"w-1", (5, 8): b"w-2"})
    for records in ({(5, 7): b"w-1"}, {(5, 7): b"w-1", (4, 8): b"w-2"}, {(5, 8): b"w-2"}, {(5, 7): b"w-2", (5, 8): b"w-2"}):
        with pytest.raises(AssertionError):
            history.check_nothing_lost(acked, records)
