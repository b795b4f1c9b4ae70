"""Blocks on Ray actors: one actor a worker, the data resident, the model broadcast once a round."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError, WorkerCrashedError

from fedmomentum.errors import UserError
from fedmomentum.simulation.executor import Lost, MakeWorker

ATTEMPTS = 3
"""Times that a block is tried before its clients are given up: it may be the block that kills the worker."""
AHEAD = 2
"""Tasks that a worker holds at a time: the one it runs, and the next, so that it never waits for the driver."""

_MALLOC = str(1 << 30)
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": _MALLOC,  # glibc returns every large block to the system and faults it in again otherwise
    "MALLOC_TRIM_THRESHOLD_": _MALLOC,
}


@ray.remote
class _Actor:
    """A worker in a process of its own."""

    def __init__(self, make: MakeWorker, *resident: Any) -> None:
        self._worker = make(*resident)

    def run(self, task: Any, payload: Any) -> Any:
        return self._worker.run(task, payload)

    def ask(self, attribute: str) -> Any:
        return getattr(self._worker, attribute)


def start_ray(address: str | None, *, cpus: int | None = None) -> bool:
    """Connect to Ray, or start a quiet local one; True when it was started here and is ours to stop.

    Raises:
        UserError: there is no cluster at the address.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    common: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": True}
    if address is not None:
        try:
            ray.init(address=address, **common)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"engine.address: no Ray cluster answers at '{address}' ({str(error).splitlines()[0]}). "
                "Start one with 'ray start --head', or leave the address out for a local one."
            ) from error
        return False
    before = {name: os.environ.get(name) for name in WORKER_ENVIRONMENT}
    os.environ.update(WORKER_ENVIRONMENT)  # a local Ray's workers inherit it, which saves a runtime environment
    try:
        ray.init(include_dashboard=False, num_cpus=cpus, **common)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return True


def stop_ray() -> None:
    """Stop or leave the Ray that this process is connected to."""
    if ray.is_initialized():
        ray.shutdown()


class RayExecutor:
    """Runs tasks on Ray actors, each built once with the resident data in shared memory."""

    def __init__(
        self,
        make: MakeWorker,
        *resident: Any,
        workers: int | None = None,
        cpus: float = 1,
        gpus: float = 0,
        address: str | None = None,
    ) -> None:
        """Start the actors.

        Args:
            make: builds a worker from ``resident``; runs in the actor.
            resident: what every worker holds; put into shared memory once per machine.
            workers: number of actors; None takes as many as the CPUs (or GPUs) allow.
            cpus: CPUs that Ray sets aside for each actor.
            gpus: GPUs that Ray sets aside for each actor; may be a fraction.
            address: of an existing Ray cluster; None starts a local Ray that ends with :meth:`close`.

        Raises:
            UserError: the cluster does not have the CPUs or GPUs asked for.
        """
        local_cpus = None
        if address is None and workers is not None:
            local_cpus = max(os.cpu_count() or 1, -(-int(workers * cpus * 1000) // 1000))
        self._owns_ray = start_ray(address, cpus=local_cpus)
        self._options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
        if not self._owns_ray:
            self._options["runtime_env"] = {"env_vars": WORKER_ENVIRONMENT}
        try:
            self.workers = workers or self._fitting(cpus, gpus)
            self._check(cpus, gpus)
            self._make = make
            self._resident = tuple(ray.put(item) for item in resident)
            self._actors: list[Any] = [self._start() for _ in range(self.workers)]
            self.replaced = 0
        except BaseException:
            self.close()
            raise

    def _fitting(self, cpus: float, gpus: float) -> int:
        have = ray.cluster_resources()
        fits = [have.get("CPU", 1.0) / cpus if cpus else float("inf"), have.get("GPU", 0.0) / gpus if gpus else float("inf")]
        return max(1, int(min(*fits, 1e6)))

    def _check(self, cpus: float, gpus: float) -> None:
        have = ray.cluster_resources()
        for name, each, key in (("CPU", cpus, "cpus"), ("GPU", gpus, "gpus")):
            if each * self.workers > have.get(name, 0.0) + 1e-9:
                raise UserError(
                    f"engine: {self.workers} workers of {each:g} {name}s need {each * self.workers:g}, Ray has "
                    f"{have.get(name, 0.0):g}. Lower engine.workers or engine.{key}."
                )

    def _start(self) -> Any:
        return _Actor.options(**self._options).remote(self._make, *self._resident)  # type: ignore[attr-defined]

    def run(self, tasks: Sequence[Any], payload: Any, *, timeout: float | None = None) -> list[Any]:
        """Run every task; a worker that dies is replaced and its tasks are run again.

        Raises:
            Exception: whatever a worker raised that is not a client's failure (a fault of the engine or of the set-up).
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        results: list[Any] = [None] * len(tasks)
        deaths = [0] * len(tasks)
        broadcast = ray.put(payload)
        waiting = deque(range(len(tasks)))
        running: dict[Any, tuple[int, int]] = {}
        load = [0] * len(self._actors)
        while waiting or running:
            self._hand_out(tasks, broadcast, waiting, running, load)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            done, _ = ray.wait(list(running), num_returns=1, timeout=left)
            if not done:
                for position in [*waiting, *(position for _, position in running.values())]:
                    results[position] = Lost(f"no answer within the {timeout:g} s that the round waits", "late")
                for actor in {actor for actor, _ in running.values()}:
                    self._replace(actor)
                break
            reference = done[0]
            actor, position = running.pop(reference)
            load[actor] -= 1
            try:
                results[position] = ray.get(reference)
            except RayTaskError as error:
                raise error.as_instanceof_cause() from None
            except (RayActorError, WorkerCrashedError) as error:
                self._replace(actor)
                held = sorted([position, *(p for a, p in running.values() if a == actor)])
                running = {r: (a, p) for r, (a, p) in running.items() if a != actor}
                load[actor] = 0
                deaths[held[0]] += 1  # tasks of an actor run in order: the first one held is the one that was running
                if deaths[held[0]] >= ATTEMPTS:
                    results[held.pop(0)] = Lost(f"its worker died {ATTEMPTS} times ({type(error).__name__})")
                waiting.extendleft(reversed(held))
        return results

    def _hand_out(
        self,
        tasks: Sequence[Any],
        broadcast: Any,
        waiting: deque[int],
        running: dict[Any, tuple[int, int]],
        load: list[int],
    ) -> None:
        """Give the next tasks, largest first, to the workers that hold the fewest."""
        while waiting:
            actor = min(range(len(load)), key=load.__getitem__)
            if load[actor] >= AHEAD:
                return
            position = waiting.popleft()
            load[actor] += 1
            running[self._actors[actor].run.remote(tasks[position], broadcast)] = (actor, position)

    def _replace(self, actor: int) -> None:
        ray.kill(self._actors[actor])
        self._actors[actor] = self._start()
        self.replaced += 1

    def ask(self, attribute: str) -> Any:
        """Give an attribute of the first worker."""
        return ray.get(self._actors[0].ask.remote(attribute))

    def facts(self) -> dict[str, object]:
        """Say how tasks run."""
        return {"engine": "ray", "workers": self.workers, "ray_nodes": len(ray.nodes()), "replaced_workers": self.replaced}

    def close(self) -> None:
        """End the actors, and Ray where it was started here."""
        if not ray.is_initialized():
            return
        for actor in getattr(self, "_actors", []):
            ray.kill(actor)
        self._actors = []
        if self._owns_ray:
            stop_ray()
