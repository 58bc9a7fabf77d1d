"""Load on a running pipeline, for Locust: `python -m locust -f loadtest/locustfile.py --headless --target … --shape …`.

Works in one process, and with `--master` and `--worker`: the master orders and judges, each worker sends its share.
Exit code: 0 every threshold held, 1 not, 2 it could not be run.
"""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from locust import LoadTestShape, events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import LocalRunner, MasterRunner, WorkerRunner

from loadtest.conductor import Conductor, Wanted
from loadtest.feeder import Feeder
from loadtest.judge import SHIPPED, BadThresholds, limits_for
from loadtest.observer import Observer
from loadtest.plan import Order, TooLong, entities_for
from loadtest.shapes import SHAPES
from loadtest.target import BadTarget, Opened
from loadtest.users import HttpSender, MllpSender, Shared, Watcher

__all__ = ["HttpSender", "MllpSender", "Surge", "Watcher"]

LOG: Final = logging.getLogger("surgeline.loadtest")
ORDER: Final = "surgeline_order"
HERE: Final = "this process"


class State:
    """Of this process; the conductor only where it leads."""

    conductor: Conductor | None = None


def add_arguments(parser: LocustArgumentParser) -> None:
    """Ours, beside Locust's own."""
    ours = parser.add_argument_group("surgeline")
    ours.add_argument("--target", required=True, help="what the load is put on: a YAML file")
    ours.add_argument("--shape", choices=sorted(SHAPES), default="steady-day", help="what the load looks like")
    ours.add_argument("--rate", type=float, default=1.0, help="so many times the shape's messages a second")
    ours.add_argument("--time", type=float, default=1.0, help="so many times the shape's length")
    ours.add_argument("--seed", type=int, default=1, help="another house and other patients for another number")
    ours.add_argument("--thresholds", default=str(SHIPPED), help="what must hold: a YAML file")
    ours.add_argument("--report", default=".surgeline/load", help="folder of report.html and report.json")
    ours.add_argument("--http-senders", type=int, default=24, help="HTTP requests under way at once, all workers together")
    ours.add_argument("--mllp-senders", type=int, default=8, help="MLLP connections, all workers together")


def prepare(environment: Environment, runner: Any, **_: Any) -> None:
    """Read what is asked for, or end with 2."""
    options: Any = environment.parsed_options
    try:
        Shared.opened = Opened(Path(options.target))
        if not isinstance(runner, WorkerRunner):
            State.conductor = Conductor(_wanted(options), environment)
    except (BadTarget, BadThresholds, TooLong, ValueError) as error:
        LOG.error("%s", error)
        sys.exit(2)
    Shared.feeder = Feeder()
    Shared.observer = Observer(Shared.opened.settings())
    workers = options.expect_workers if isinstance(runner, MasterRunner) else 1
    HttpSender.fixed_count = max(options.http_senders, workers)  # every worker has messages of both kinds
    MllpSender.fixed_count = max(options.mllp_senders, workers)
    if isinstance(runner, WorkerRunner):
        runner.register_message(ORDER, play, concurrent=True)


def _wanted(options: Any) -> Wanted:
    shape = SHAPES[options.shape].scaled(options.rate, options.time)
    entities_for(shape.messages)
    limits = limits_for(shape.name, Path(options.thresholds))
    return Wanted(Shared.opened, shape, options.rate, options.time, options.seed, limits, Path(options.report))


def begin(environment: Environment, **_: Any) -> None:
    """The leader orders; in one process it also plays."""
    runner, conductor = environment.runner, State.conductor
    if conductor is None:
        return
    if isinstance(runner, MasterRunner):
        order = conductor.begin(runner.worker_count)
        runner.send_message(ORDER, msgspec.to_builtins(order))
    elif isinstance(runner, LocalRunner):
        order = conductor.begin(1)
        runner.greenlet.spawn(Shared.feeder.play, order, 0)


def play(environment: Environment, msg: Any, **_: Any) -> None:
    """A worker plays its share."""
    runner = environment.runner
    assert isinstance(runner, WorkerRunner)
    Shared.feeder.play(msgspec.convert(msg.data, Order), runner.worker_index)


def tell(client_id: str, data: dict[str, Any]) -> None:
    """A worker's part of the figures, with Locust's own report."""
    data["surgeline"] = told()


def hear(client_id: str, data: dict[str, Any]) -> None:
    """The master takes it."""
    if State.conductor is not None and "surgeline" in data:
        State.conductor.take(client_id, data["surgeline"])


def told() -> dict[str, Any]:
    """Of this process."""
    observer = Shared.observer
    said = Shared.feeder.told()
    if observer.watching:
        said["observer"] = {"on": True, "waiting": observer.tracker.waiting, "quiet_s": observer.quiet_for_s()}
    return said


class Surge(LoadTestShape):
    """As many users as there are senders, until it is over. What rises and falls is what they are given to send."""

    def tick(self) -> tuple[int, float] | None:
        """Called by the leader every second."""
        conductor, runner = State.conductor, self.runner
        assert conductor is not None
        assert runner is not None
        if isinstance(runner, LocalRunner):
            conductor.take(HERE, told())
        if conductor.over():
            return None
        users = HttpSender.fixed_count + MllpSender.fixed_count + Watcher.fixed_count
        return users, float(users)


def judge(environment: Environment, **_: Any) -> None:
    """The verdict is the exit code."""
    if State.conductor is None:
        return
    if isinstance(environment.runner, LocalRunner):
        State.conductor.take(HERE, told())
    environment.process_exit_code = State.conductor.finish()


LISTENERS: Final[dict[str, Callable[..., None]]] = {
    "init_command_line_parser": add_arguments,
    "init": prepare,
    "test_start": begin,
    "report_to_master": tell,
    "worker_report": hear,
    "quitting": judge,
}
for event, listener in LISTENERS.items():
    getattr(events, event).add_listener(listener)
