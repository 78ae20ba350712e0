"""Damage to the files of one broker that does not run, as a disk does it: flipped bits, lost ends, empty blocks.

`nemesis` calls `damage` with what `plan` drew. Which file and where follows from the seed and from what lies on the disk.

Two things are left as they are, both named in docs/reliability.md as not covered. Segments that a checkpoint or the mark of a
clean stop vouches for are not read again by a start: whoever damages one removes those, as a person who knows of the damage would.
And the partition leader epoch of a batch is outside its checksum, as in Kafka.
"""

import random
import struct

TARGETS = {
    "segment": ("data/*/*.log",),
    "index": ("data/*/*.index", "data/*/*.timeindex"),
    "epochs": ("data/*/leader-epoch-checkpoint",),
    "producers": ("data/*/*.snapshot",),
    "partition": ("data/*/partition.metadata",),
    "quorum": ("raft/*",),
    "identity": ("meta.properties", "founders"),
    "checkpoint": ("*-checkpoint", "clean-shutdown", "peers.json", "data/*/log-start"),
}
HOW = ("flip", "cut", "zero", "empty")
VOUCHERS = ("clean-shutdown", "recovery-point-offset-checkpoint")
BLOCK = 512


def damage(data, target, how, seed):
    """Damages one file of the kind. Says which and how, or nothing when there is none."""
    rng = random.Random(seed)
    files = sorted(path for pattern in TARGETS[target] for path in data.glob(pattern) if path.is_file() and path.stat().st_size)
    if not files:
        return None
    path = rng.choice(files)
    before = path.read_bytes()
    after = spoiled(before, how, rng, epochs(before) if target == "segment" else frozenset())
    if after == before:
        return None
    # In place: another inode would be another history of the file.
    with open(path, "r+b") as file:
        file.write(after)
        file.truncate(len(after))
    if target == "segment":
        for name in VOUCHERS:
            (data / name).unlink(missing_ok=True)
    first = next((i for i, (a, b) in enumerate(zip(before, after)) if a != b), min(len(before), len(after)))
    return {"file": str(path.relative_to(data)), "how": how, "bytes": len(before), "left": len(after), "at": first}


def spoiled(before, how, rng, spared):
    """What the disk has left of these bytes."""
    at = rng.randrange(len(before))
    if how == "flip":
        while at in spared:
            at += 1
        return before[:at] + bytes([before[at] ^ 1 << rng.randrange(8)]) + before[at + 1:]
    if how == "cut":
        return before[:at]
    if how == "zero":
        start = at // BLOCK * BLOCK
        end = min(start + BLOCK, len(before))
        return before[:start] + bytes(end - start) + before[end:]
    return b""


def epochs(log):
    """Where the partition leader epochs of batches are."""
    found, at = set(), 0
    while at + 61 <= len(log):
        found.update(range(at + 12, at + 16))
        length = struct.unpack_from(">i", log, at + 8)[0]
        if length <= 0:
            break
        at += 12 + length
    return found
