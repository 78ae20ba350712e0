"""Judges a history of invocations and results by the rules of the Jepsen queue workload; unknown outcomes stay open.

`Judge.feed` takes events one by one, in the order in which they were recorded; `Judge.verdict` may be asked after any of
them and says what is proven wrong so far. The judge knows nothing of brokers or faults: a history kept in a file can be
judged again with `python -m harness.judge FILE`.

Events are dicts with a monotonic time `t` and an operation `op`:
- `send` by topic partition value acks idem; `sent` value ok offset: a record was handed to a producer; its outcome.
- `bumped` by: the library of an idempotent producer begins a new epoch, in which it sends what is under way again.
- `assign` by assignment topic partition offset; `read` by assignment topic partition offset values [group]: a reader begins
  at an offset (null: wherever its group stands); it was given consecutive records.
- `begin` group topic partition offset: a group that never committed here starts at this offset.
- `final` topic partition start end values: all records of a partition, read when every fault was healed. Nobody who writes
  histories lets records expire or deletes them: a log begins at 0.
- `mark` topic partition epoch offset: a leader of this epoch said its high watermark; events in the order of the answers
  of one observer that asks one thing at a time.
- `write` id register value [era]; `wrote` id ok; `look` register value began: a register (committed offset, configuration)
  was set, and read in [began, t]. A write of an era cannot come after a later era was seen (`own`): groups fence.
- `own` group generation member partitions: a member was given partitions.
- `create`/`created`, `delete`/`deleted` topic ok; `exists` topics: what there is when every fault was healed.
- `fatal` by error: an idempotent producer, or a reader at an offset it was promised, was told that it cannot go on.
Others are ignored.
"""

import json
import sys
from collections import Counter, defaultdict
from typing import NamedTuple

NOTHING = None
"""What a register holds before it is ever set."""


class Violation(NamedTuple):
    rule: str
    detail: str

    def __str__(self):
        return f"{self.rule}: {self.detail}"


class _Send(NamedTuple):
    by: str
    topic: str
    partition: int
    acks: int
    idempotent: bool
    at: float


class _Write:
    """One attempt to set a register: [begin, end], end is infinite while the outcome is unknown."""

    def __init__(self, register, value, begin, era):
        self.register, self.value, self.begin, self.era = register, value, begin, era
        self.end, self.applied = float("inf"), False


class Judge:
    def __init__(self):
        self.sends = {}
        self.acked = defaultdict(dict)
        self.acked_somewhere = defaultdict(set)
        self.logs = defaultdict(dict)
        self.places = {}
        self.positions = {}
        self.marks = defaultdict(dict)
        self.writes = {}
        self.registers = defaultdict(list)
        self.eras = defaultdict(dict)
        self.owners = {}
        self.created, self.deleted, self.maybe_deleted = set(), set(), set()
        self.group_read = defaultdict(set)
        self.group_start = {}
        self.counts = Counter()
        self.under_way = defaultdict(set)
        self.excused = set()
        self._found = {}

    # -- what is proven

    def _violate(self, rule, key, detail):
        self._found.setdefault((rule, key), Violation(rule, detail))

    def verdict(self):
        """All violations, each kind of evidence once.

        A client library whose idempotent producer gave a record up, or had one refused behind another that was, begins a new
        epoch and sends what else was under way again: then just that may be there twice, and the broker cannot know. What was
        answered before, and what the producer sent later in its new epoch, is there once and in order. What the broker may
        not do in any case, apply one sequence number twice, is seen in the files (`history.check_sequences`).
        """
        return [v for (rule, key), v in self._found.items() if rule not in ("duplicate", "order") or key not in self.excused]

    def feed(self, event):
        handler = getattr(self, f"_on_{event['op']}", None)
        if handler:
            self.counts[event["op"]] += 1
            handler(event)

    def feed_all(self, events):
        for event in events:
            self.feed(event)
        return self

    # -- records

    def _on_send(self, e):
        self.sends[e["value"]] = _Send(e["by"], e["topic"], e["partition"], e["acks"], e["idem"], e["t"])
        if e["idem"]:
            self.under_way[e["by"]].add(e["value"])

    def _on_sent(self, e):
        send = self.sends[e["value"]]
        if not e["ok"]:
            self.counts["unknown"] += 1
            self._on_bumped(send._asdict())
            return
        self.under_way[send.by].discard(e["value"])
        self.counts["acked"] += 1
        if send.acks != -1:
            return
        if e["offset"] is None:
            # librdkafka infers an acknowledgement that was lost from one of a later sequence number.
            self.acked_somewhere[(send.topic, send.partition)].add(e["value"])
            return
        before = self.acked[(send.topic, send.partition)].setdefault(e["offset"], e["value"])
        if before != e["value"]:
            place = f"{send.topic}-{send.partition}@{e['offset']}"
            self._violate("two acknowledged at one offset", place, f"{place}: {before} and {e['value']}")

    def _on_bumped(self, e):
        self.excused |= self.under_way.pop(e["by"], set())

    def _see(self, topic, partition, offset, value, by, t):
        """Some reader was given `value` at this place."""
        log = self.logs[(topic, partition)]
        before = log.setdefault(offset, value)
        if before != value:
            self._violate("inconsistent offset", (topic, partition, offset),
                          f"{topic}-{partition}@{offset}: once {before}, now {value} ({by} at {t:.3f})")
            return
        send = self.sends.get(value)
        if send is None or (send.topic, send.partition) != (topic, partition):
            self._violate("never sent", value, f"{topic}-{partition}@{offset}: {value}, read by {by}, nobody sent there")
            return
        acked = self.acked[(topic, partition)].get(offset)
        if acked is not None and acked != value:
            self._violate("changed write", (topic, partition, offset),
                          f"{topic}-{partition}@{offset}: {acked} was acknowledged, {by} was given {value}")
        first = self.places.setdefault(value, (topic, partition, offset))
        if send.idempotent and first != (topic, partition, offset):
            self._violate("duplicate", value, f"{value} of an idempotent producer is at {first} and at {topic}-{partition}@{offset}")

    def _on_assign(self, e):
        self.positions[(e["by"], e["topic"], e["partition"])] = [e["assignment"], e["offset"]]

    def _on_read(self, e):
        topic, partition, offset = e["topic"], e["partition"], e["offset"]
        position = self.positions.get((e["by"], topic, partition))
        if position and position[0] == e["assignment"]:
            expected = position[1]
            if expected is not None and offset > expected:
                self._violate("poll skip", (e["by"], topic, partition, offset),
                              f"{e['by']} was given {topic}-{partition}@{offset} when {expected} was next")
            if expected is not None and offset < expected:
                self._violate("non-monotonic poll", (e["by"], topic, partition, offset),
                              f"{e['by']} was given {topic}-{partition}@{offset} when {expected} was next")
            position[1] = offset + len(e["values"])
        if "group" in e:
            self.group_read[(e["group"], topic, partition)].update(range(offset, offset + len(e["values"])))
        for index, value in enumerate(e["values"]):
            self._see(topic, partition, offset + index, value, e["by"], e["t"])

    def _on_final(self, e):
        topic, partition, start, end = e["topic"], e["partition"], e["start"], e["end"]
        if len(e["values"]) != end - start:
            self._violate("hole", (topic, partition), f"{topic}-{partition} holds {len(e['values'])} records in [{start}, {end})")
            return
        if start > 0:
            self._violate("lost start", (topic, partition), f"{topic}-{partition} begins at {start}, and nobody deletes records")
        last = {}
        for index, value in enumerate(e["values"]):
            self._see(topic, partition, start + index, value, "the final reader", e["t"])
            send = self.sends.get(value)
            if send and send.idempotent:
                name, _, number = value.rpartition(".")
                if int(number) <= last.get(name, -1):
                    self._violate("order", value, f"{topic}-{partition}@{start + index}: {value} after {name}.{last[name]}")
                last[name] = max(int(number), last.get(name, -1))
        if topic in self.maybe_deleted:
            return
        now = dict(enumerate(e["values"], start))
        for offset, value in self.acked[(topic, partition)].items():
            if now.get(offset) != value:
                there = f"{now[offset]} is there" if offset in now else f"the log is [{start}, {end})"
                self._violate("lost write", (topic, partition, offset),
                              f"{value} was acknowledged at {topic}-{partition}@{offset}; {there}")
        for value in self.acked_somewhere[(topic, partition)].difference(e["values"]):
            self._violate("lost write", value, f"{value} was acknowledged, but is nowhere in {topic}-{partition}")
        for offset, value in self.logs[(topic, partition)].items():
            if offset >= end:
                self._violate("unread", (topic, partition, offset),
                              f"{value} was read at {topic}-{partition}@{offset}; the log ends at {end}")

    def _on_fatal(self, e):
        self._violate("fatal client", e["by"], f"{e['by']}: {e['error']}")

    # -- high watermarks

    def _on_mark(self, e):
        """Within an epoch it only grows; what an older epoch ever said is below what every newer one says."""
        place, epoch, offset = (e["topic"], e["partition"]), e["epoch"], e["offset"]
        seen = self.marks[place]
        low, high = seen.get(epoch, (offset, offset))
        if offset < high:
            self._violate("high watermark back", (place, epoch), f"{place} epoch {epoch}: {high}, later {offset}")
        seen[epoch] = (min(low, offset), max(high, offset))
        for other, (least, most) in seen.items():
            if (other < epoch and most > offset) or (other > epoch and least < offset):
                self._violate("high watermark back", (place, epoch, other),
                              f"{place}: epoch {epoch} said {offset}, epoch {other} said {least} to {most}")

    # -- registers: committed offsets and configurations

    def _on_write(self, e):
        write = _Write(e["register"], e["value"], e["t"], e.get("era"))
        self.writes[e["id"]] = write
        self.registers[e["register"]].append(write)

    def _on_wrote(self, e):
        if e["ok"]:
            self.writes[e["id"]].end, self.writes[e["id"]].applied = e["t"], True

    def _end_of(self, write):
        """When a write can no longer take effect."""
        if write.applied or write.era is None:
            return write.end
        group, generation = write.era
        later = [at for era, at in self.eras[group].items() if era > generation]
        return min(later, default=write.end)

    def _on_look(self, e):
        """The value must be of some write that began before the look ended and that no later write surely replaced."""
        writes = self.registers[e["register"]]
        settled = max((w.begin for w in writes if w.applied and w.end < e["began"]), default=None)
        if e["value"] is NOTHING:
            possible = settled is None
        else:
            possible = any(w.value == e["value"] and w.begin <= e["t"] and (settled is None or self._end_of(w) >= settled)
                           for w in writes)
        if not possible:
            rule = "committed offset back" if e["register"].startswith("offset ") else "stale register"
            newest = max((w for w in writes if w.applied and w.end < e["began"]), key=lambda w: w.end, default=None)
            detail = f"{e['register']} is {e['value']}" + (f", but {newest.value} was set before" if newest else ", never set")
            self._violate(rule, (e["register"], e["value"]), detail)
            return
        if e["register"].startswith("offset ") and e["value"] is not NOTHING:
            self._covered(e["register"], e["value"])

    def _covered(self, register, value):
        """A group that committed an offset was given everything below it."""
        _, group, place = register.split(" ")
        topic, _, partition = place.rpartition("/")
        key = (group, topic, int(partition))
        if key not in self.group_start:
            return
        read = self.group_read[key]
        missed = next((o for o in range(self.group_start[key], value) if o not in read), None)
        if missed is not None:
            self._violate("group skip", key, f"group {group} committed {topic}-{partition}@{value} but nobody was given {missed}")

    # -- groups

    def _on_begin(self, e):
        self.group_start[(e["group"], e["topic"], e["partition"])] = e["offset"]

    def _on_own(self, e):
        self.eras[e["group"]].setdefault(e["generation"], e["t"])
        for topic, partition in e["partitions"]:
            key = (e["group"], e["generation"], topic, partition)
            owner = self.owners.setdefault(key, e["member"])
            if owner != e["member"]:
                self._violate("two owners", key, f"{topic}-{partition} belongs to {owner} and to {e['member']} in generation "
                                                 f"{e['generation']} of {e['group']}")

    # -- topics

    def _on_created(self, e):
        if e["ok"]:
            self.created.add(e["topic"])

    def _on_delete(self, e):
        self.maybe_deleted.add(e["topic"])

    def _on_deleted(self, e):
        if e["ok"]:
            self.deleted.add(e["topic"])

    def _on_exists(self, e):
        there = set(e["topics"])
        for topic in sorted(self.created - self.maybe_deleted - there):
            self._violate("lost topic", topic, f"{topic} was created, never deleted, and is gone")
        for topic in sorted(self.deleted & there):
            self._violate("topic back", topic, f"{topic} was deleted and is there")


def main(paths):
    judge = Judge()
    for path in paths:
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                judge.feed(json.loads(line))
    print(", ".join(f"{count} {op}" for op, count in sorted(judge.counts.items())))
    for violation in judge.verdict():
        print(violation)
    return 1 if judge.verdict() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
