"""`python -m soak MINUTES [SEED]`: prints one line per round; ends with 1 at the first broken promise. Needs root."""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from .runner import Soak
from .world import leftovers


def main():
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__)
    parser.add_argument("minutes", type=float)
    parser.add_argument("seed", nargs="?", help="replays the same actions")
    parser.add_argument("--generation", type=int, help="only this cluster of the seed, all its rounds")
    parser.add_argument("--directory", help="where histories, logs and data go; kept after a failure")
    parser.add_argument("--clean", action="store_true", help="only remove what a killed run left in the directory")
    args = parser.parse_args()
    directory = Path(args.directory or tempfile.mkdtemp(prefix="chronik-soak-"))
    if args.clean:
        for what in leftovers(directory):
            print(f"removed {what}")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # A shell lets what it starts in the background ignore Ctrl-C, and Python then leaves it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    seed = int(args.seed) if args.seed else int(os.environ.get("SEED") or random.randrange(1 << 32))
    soak = Soak(directory / "run", seed, args.minutes, args.generation, lambda line: print(line, flush=True))
    try:
        soak.run()
    except Exception:  # noqa: BLE001 - the runner has told it, with everything kept
        return 1
    finally:
        # A signal may have come between a mount, a namespace or a process and whoever would have removed it.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        leftovers(directory / "run")
    shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
