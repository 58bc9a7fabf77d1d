"""`python -m tests.chaos --seed N --kills N --events N [--json FILE]`. Exit code: 0 all held, 1 not, 2 could not be run.

It ends within `--minutes`, whatever happens: what was not sent by then is not, and the run has failed.
"""

import argparse
import sys
from pathlib import Path

from tests.chaos.ending import carried_out
from tests.chaos.report import tell
from tests.chaos.run import RATE_PER_S, Wanted, run


def main() -> int:
    """Parse, run, tell."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="what happens, and when")
    parser.add_argument("--kills", type=int, default=10, help="kill -9 of a role, that many times")
    parser.add_argument("--events", type=int, default=20_000, help="distinct messages; copies come beside them")
    parser.add_argument("--kills-per-role", type=int, default=0, help="and of each role that many more")
    parser.add_argument("--broker-kills", type=int, default=0, help="kill -9 of the broker, that many times")
    parser.add_argument("--minutes", type=float, default=45.0, help="longest time of the whole run (default: %(default)g)")
    parser.add_argument("--rate", type=float, help=f"distinct messages in a second (default: {RATE_PER_S:g}, or what fits)")
    parser.add_argument("--json", type=Path, help="write the report here")
    parser.add_argument("--keep", action="store_true", help="keep the folder with data and logs; it is kept anyway on failure")
    given = parser.parse_args()
    wanted = Wanted(given.seed, given.kills, given.kills_per_role, given.broker_kills, given.events, given.minutes, given.rate)
    return carried_out("chaos", lambda folder, console: run(folder, wanted, console), tell, given.json, given.keep)


if __name__ == "__main__":
    sys.exit(main())
