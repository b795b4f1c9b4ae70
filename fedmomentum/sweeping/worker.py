"""A process that runs one point of a sweep after another: ``python -m fedmomentum.sweeping.worker``.

It reads tasks from stdin and writes answers to stdout. When stdin ends, whoever started it is gone, and so is it: the
last checkpoint stays.
"""

from __future__ import annotations

import os
import pickle
import queue
import sys
import threading
import traceback

from fedmomentum.api import course
from fedmomentum.course import Course
from fedmomentum.errors import UserError
from fedmomentum.interrupts import StopAfterRound
from fedmomentum.runs import RunFolder, load_run
from fedmomentum.runs.folder import STATUS
from fedmomentum.runs.resuming import same_science
from fedmomentum.simulation.actors import Actors
from fedmomentum.sweeping.task import Answer, Stop, Task


def main() -> None:
    """Run tasks until there are no more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not come between answers
    tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
    stop = StopAfterRound(signals=False)
    threading.Thread(target=_listen, args=(tasks, stop), daemon=True).start()
    actors: Actors | None = None
    while True:
        task = tasks.get()
        actors = actors or Actors(address=task.address, workers=task.workers)
        sys.argv = list(task.argv)
        pickle.dump(_answer(task, actors, stop), answers)
        answers.flush()


def _listen(tasks: queue.SimpleQueue[Task], stop: StopAfterRound) -> None:
    while True:
        try:
            message = pickle.load(sys.stdin.buffer)
        except EOFError:
            os._exit(0)
        if isinstance(message, Stop):
            stop.asked = True
        else:
            tasks.put(message)


def _answer(task: Task, actors: Actors, stop: StopAfterRound) -> Answer:
    try:
        result = _begin_or_go_on(task, actors, stop).go()
    except UserError as error:
        return Answer("failed", str(error), fault=True)
    except Exception as error:
        traceback.print_exc()
        return Answer("failed", f"{type(error).__name__}: {error}")
    message = "" if result.status != "failed" else "; ".join(result.warnings)
    return Answer(result.status, message, warnings=result.warnings)


def _begin_or_go_on(task: Task, actors: Actors, stop: StopAfterRound) -> Course:
    if not (task.folder / STATUS).is_file():
        return course(task.loaded, (), new=task.folder, actors=actors, stop=stop, pictures=False)
    same_science(load_run(task.folder), task.loaded.resolved())
    folder = RunFolder(task.folder)
    folder.set_status(hash=task.loaded.hash)  # `rounds` may have grown
    return course(task.loaded, (), folder=folder, actors=actors, stop=stop, pictures=False)


if __name__ == "__main__":
    main()
