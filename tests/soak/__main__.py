"""The soak by hand, for hours."""

from __future__ import annotations

import argparse
import secrets

from tests.installations import find_installations
from tests.soak.run import soak


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--seconds", type=float, help="how long (600, if --steps is not given)")
    parser.add_argument("--steps", type=int, help="how many steps")
    parser.add_argument("--seed", type=int, help="which; a new one by default")
    parser.add_argument("--major", type=int, help="PostgreSQL's major version; the newest")
    args = parser.parse_args()
    found = find_installations()
    seed = secrets.randbits(32) if args.seed is None else args.seed
    seconds = 600.0 if args.seconds is None and args.steps is None else args.seconds
    soak(found[args.major or max(found)], seed, seconds=seconds, steps=args.steps)


if __name__ == "__main__":
    main()
