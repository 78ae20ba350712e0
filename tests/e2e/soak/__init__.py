"""The random runner: seeded faults against clusters of real broker processes under load, judged by `harness.judge`.

`python -m soak` (see `__main__`) drives it. A *generation* is one cluster of a random shape (`plan.shape`); it lives for a few
*rounds* (`plan.actions`): faults under load (`nemesis`, `load`), then everything is healed, must become healthy (`checks`), is
read back and judged, and must come to rest (`harness.cost`). What a seed does to whom and when is decided in `plan` alone, before
anything happens.
"""
