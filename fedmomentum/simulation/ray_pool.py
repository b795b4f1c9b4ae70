"""A pool of Ray actors that come up, and import what they need, while the driver imports and loads data."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

import ray
from ray import cloudpickle

from fedmomentum.errors import UserError
from fedmomentum.simulation.line import Door, Line, LineBrokenError
from fedmomentum.simulation.parcels import Press
from fedmomentum.simulation.ray_actor import REST, Actor
from fedmomentum.simulation.ray_parts import only_what_actors_need

_MALLOC = str(1 << 30)
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": _MALLOC,  # glibc returns every large block to the system and faults it in again otherwise
    "MALLOC_TRIM_THRESHOLD_": _MALLOC,
}
_LOCAL_SETTINGS = {
    "free_objects_period_milliseconds": 0,  # objects go a second late otherwise, beside the next ones
    "task_events_report_interval_ms": 0,  # a history of tasks that grows in every process, for a dashboard
    "max_direct_call_object_size": 4 << 20,  # up to here answers skip shared memory, which takes longer
}
"""Ray's own settings where a local one starts here; a cluster has its own."""
NICENESS = 15
"""By how much actors are nicer than this process once they are up, which is what Ray has them be from the start: their
imports would wait for whatever else the machine does, blocks that this process runs meanwhile among it."""
PRELOAD = ("torch", "fedmomentum.clients.worker")
"""Modules that every actor imports as soon as it is there."""


def start_ray(address: str | None, *, cpus: int | None = None, eager: bool = False) -> bool:
    """Connect to Ray, or start a quiet local one; True when it was started here and is ours to stop.

    A local one's processes are as nice as this one where they are to be ``eager``, and otherwise as nice as Ray's are.

    Raises:
        UserError: there is no cluster at the address, or a local Ray does not start.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    common: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": True}
    if address is not None:
        _reach(address)
        _offer_token()
        try:
            ray.init(address=address, **common)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"engine.address: no Ray cluster answers at '{address}' ({_first_line(error)}). "
                "Start one with 'ray start --head', or leave the address out for a local one."
            ) from error
        return False
    before = {name: os.environ.get(name) for name in WORKER_ENVIRONMENT}
    os.environ.update(WORKER_ENVIRONMENT)  # a local Ray's workers inherit it, which saves a runtime environment
    try:
        # "local": not a cluster that happens to run on this machine
        with only_what_actors_need():
            settings = _LOCAL_SETTINGS | ({"worker_niceness": 0} if eager else {})
            ray.init(address="local", include_dashboard=False, num_cpus=cpus, _system_config=settings, **common)
    except Exception as error:  # Ray's own kind for a node that does not come up is Exception itself
        raise UserError(
            f"engine.name: Ray did not start on this machine ({_first_line(error)}). "
            "Where it is only too busy, try again; 'inline' needs no Ray."
        ) from error
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return True


def _reach(address: str) -> None:
    """Refuse an address at which nothing listens: Ray itself would try for many minutes.

    Raises:
        UserError: nothing listens there, or it is no address.
    """
    place = address.removeprefix("ray://")
    if place in ("auto", "local"):
        return
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise UserError(
            f"engine.address: nothing answers at '{address}' ({error}). Give host:port of a Ray cluster (port 6379 if "
            "it was started with 'ray start --head'), or auto for one on this machine, or leave the address out."
        ) from error


def _first_line(error: Exception) -> str:
    """Give the first line of what an exception says, or its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _offer_token() -> None:
    """Use this user's Ray authentication token, if there is one: Ray does so by itself only for ``address="auto"``."""
    try:
        from ray._private.authentication import authentication_token_setup as tokens
    except ImportError:  # an older Ray, whose clusters ask for none
        return
    offer = getattr(tokens, "maybe_enable_token_auth_if_token_available", None)
    if offer is not None:
        offer(warn_if_disabled=False)


class RayPool:
    """So many actors on a local Ray or a cluster.

    Args:
        workers: number of actors; None takes as many as the CPUs (or GPUs) allow.
        cpus: CPUs that Ray sets aside for each actor.
        gpus: GPUs that Ray sets aside for each actor; may be a fraction.
        address: of an existing Ray cluster; None starts a local Ray that ends with :meth:`close`.

    Raises:
        UserError: there is no cluster at the address, or it does not have the CPUs or GPUs asked for.
    """

    def __init__(
        self, *, workers: int | None = None, cpus: float = 1, gpus: float = 0, address: str | None = None
    ) -> None:
        """Start Ray where it has to be, and the actors."""
        local_cpus = None
        if address is None and workers is not None:
            local_cpus = max(os.cpu_count() or 1, -(-int(workers * cpus * 1000) // 1000))
        self._owns_ray = start_ray(address, cpus=local_cpus, eager=True)
        self._options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
        if not self._owns_ray:
            self._options["runtime_env"] = {"env_vars": WORKER_ENVIRONMENT}
        self.actors: list[Any] = []
        self._ways: list[_Way] = []
        self.press = Press(cloudpickle.dumps)
        """Packs what goes over lines."""
        self.tickets = count(1)
        """Numbers of what actors are given, which never come again."""
        self.replaced = 0
        try:
            self.workers = workers or self._fitting(cpus, gpus)
            self._check(cpus, gpus)
            self._node = _own_node()
            for _ in range(self.workers):
                self._start()
        except BaseException:
            self.close()
            raise

    def _fitting(self, cpus: float, gpus: float) -> int:
        have = ray.cluster_resources()
        by_cpu = have.get("CPU", 1.0) / cpus if cpus else float("inf")
        by_gpu = have.get("GPU", 0.0) / gpus if gpus else float("inf")
        return max(1, int(min(by_cpu, by_gpu, 1e6)))

    def _check(self, cpus: float, gpus: float) -> None:
        have = ray.cluster_resources()
        for name, each, key in (("CPU", cpus, "cpus"), ("GPU", gpus, "gpus")):
            if each * self.workers > have.get(name, 0.0) + 1e-9:
                raise UserError(
                    f"engine: {self.workers} workers of {each:g} {name}s need {each * self.workers:g}, Ray has "
                    f"{have.get(name, 0.0):g}. Lower engine.workers or engine.{key}."
                )

    def _start(self) -> None:
        """Start one actor, behind the others."""
        way = _Way(open_a_door=self._node is not None)
        niceness = NICENESS if self._owns_ray else 0
        actor = Actor.options(**self._options).remote(PRELOAD, self._node, way.address, niceness)  # type: ignore[attr-defined]
        self.actors.append(actor)
        self._ways.append(way)

    def line(self, position: int) -> Line | None:
        """Give the line to an actor that has built its worker, and let it serve that; None where it is too far away."""
        way = self._ways[position]
        line = way.line(self.press)
        if line is not None and way.serving is None:
            way.serving = self.actors[position].serve.remote()
        return line

    def rest(self) -> None:
        """Let the actors leave their lines, because Ray has something to say to them."""
        for way in self._ways:
            way.rest()

    def replace(self, position: int) -> Any:
        """End an actor, dead or alive, and start another in its place."""
        ray.kill(self.actors[position])
        self._ways[position].close()
        self._start()
        self.actors[position], self._ways[position] = self.actors.pop(), self._ways.pop()
        self.replaced += 1
        return self.actors[position]

    def close(self) -> None:
        """End the actors, and Ray where it was started here."""
        for way in self._ways:
            way.close()
        self._ways = []
        self.press.close()
        if not ray.is_initialized():
            return
        for actor in self.actors:
            ray.kill(actor)
        self.actors = []
        if self._owns_ray:
            ray.shutdown()


class _Way:
    """How to get at an actor without Ray: a door that it may come in at, and then a line."""

    def __init__(self, *, open_a_door: bool) -> None:
        try:
            self._door = Door() if open_a_door else None
        except OSError:  # not on this system
            self._door = None
        self.address = None if self._door is None else self._door.address
        self._line: Line | None = None
        self.serving: Any = None
        """What ends when the actor serves the line no more."""

    def line(self, press: Press) -> Line | None:
        door, self._door = self._door, None
        if door is not None:
            self._line = door.enter(press)
        return self._line

    def rest(self) -> None:
        if self._line is not None and self.serving is not None:
            with suppress(LineBrokenError):
                self._line.send(REST)
            self.serving = None

    def close(self) -> None:
        for end in (self._door, self._line):
            if end is not None:
                end.close()


def _own_node() -> str | None:
    """Give the node that this process is on; None where it is on none of the cluster's."""
    if ray.util.client.ray.is_connected():
        return None
    return str(ray.get_runtime_context().get_node_id())


class RayPoolStart:
    """Starts a pool in a thread: Ray needs seconds to come up in processes of its own, and torch can load meanwhile."""

    def __init__(self, **settings: Any) -> None:
        """Begin; the settings are those of :class:`RayPool`."""
        self._pool: RayPool | None = None
        self._error: BaseException | None = None
        self._ready, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep, args=(settings,), daemon=True)
        self._thread.start()

    def _keep(self, settings: dict[str, Any]) -> None:
        """Start the pool, stay, and end it: Linux ends Ray's processes with the thread that started them."""
        try:
            self._pool = RayPool(**settings)
        except BaseException as error:  # handed to the thread that waits for the pool
            self._error = error
        self._ready.set()
        self._over.wait()
        if self._pool is not None:
            self._pool.close()

    def known(self) -> bool:
        """Say whether it is known by now if there is a pool: :meth:`pool` answers at once then."""
        return self._ready.is_set()

    def pool(self) -> RayPool:
        """Wait for the pool.

        Raises:
            UserError: see :class:`RayPool`.
        """
        self._ready.wait()
        if self._error is not None:
            raise self._error
        assert self._pool is not None
        return self._pool

    def close(self) -> None:
        """End the pool, if it ever comes up, and wait until it is gone: what Ray holds is not let go of meanwhile."""
        self._over.set()
        self._thread.join()


class SharedRay:
    """One Ray for several processes, each of which has a pool of its own there.

    Args:
        engines: of those that will use it; where none of them names an address, a local Ray starts.
        jobs: processes at a time.

    Raises:
        UserError: there is no cluster at an address, or so many jobs do not fit on it.
    """

    def __init__(self, engines: Sequence[Any], *, jobs: int) -> None:
        """Connect to the Ray of the engines, or start a local one large enough for all jobs."""
        largest = max(engines, key=lambda engine: _least(engine) * engine.cpus)
        asked = _least(largest) * largest.cpus * jobs
        address = next((engine.address for engine in engines if engine.address is not None), None)
        self._owns_ray = start_ray(address, cpus=max(os.cpu_count() or 1, -(-int(asked * 1000) // 1000)))
        self.address: str | None = ray.get_runtime_context().gcs_address if address is None else address
        """Where the processes find it."""
        try:
            have = ray.cluster_resources()
            self.workers = max(1, min(_share(have, engine, jobs) for engine in engines))
            """Actors of a process whose engine leaves their number open."""
            for engine in engines:
                _fit(have, engine, jobs, self.workers if engine.workers == "auto" else engine.workers)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End Ray where it was started here, and leave a cluster."""
        if ray.is_initialized():
            ray.shutdown()


def _least(engine: Any) -> int:
    return 1 if engine.workers == "auto" else int(engine.workers)


def _share(have: Mapping[str, float], engine: Any, jobs: int) -> int:
    by_cpu = have.get("CPU", 1.0) / engine.cpus
    by_gpu = have.get("GPU", 0.0) / engine.gpus if engine.gpus else by_cpu
    return int(min(by_cpu, by_gpu) / jobs)


def _fit(have: Mapping[str, float], engine: Any, jobs: int, workers: int) -> None:
    """Refuse jobs that would wait for each other's actors for ever."""
    for name, each in (("CPU", engine.cpus), ("GPU", engine.gpus)):
        need = jobs * workers * each
        if need > have.get(name, 0.0) + 1e-9:
            raise UserError(
                f"engine: {jobs} jobs of {workers} workers of {each:g} {name}s need {need:g}, Ray has "
                f"{have.get(name, 0.0):g}. Lower --jobs, engine.workers or engine.{name.lower()}s."
            )
