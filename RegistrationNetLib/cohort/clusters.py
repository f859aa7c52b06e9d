"""Where the pairs are worked on: processes of this machine, a Dask cluster that is there already, or jobs of a queue."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import resource_tracker
from typing import Any

from ..errors import InputError, ResourceError
from ..version import __version__

EXTRA = "Install it with: pip install 'registrationnet[cohort]'"
CONNECT_SECONDS = 20
# Dask's answers that do not come in time; before Python 3.11 the second is another class.
TIMEOUTS = (TimeoutError, asyncio.TimeoutError)
# How often a process may die over a pair before the pair counts as failed.
MOST_DEATHS = 3
# The systems that dask-jobqueue knows, with the names of its classes.
QUEUES: Mapping[str, str] = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "lsf": "LSFCluster",
    "htcondor": "HTCondorCluster",
    "oar": "OARCluster",
    "moab": "MoabCluster",
}


@dataclass(frozen=True)
class Place:
    """Where to work. With neither scheduler nor queue: in processes of this machine.

    Attributes:
        processes: on this machine; 0 is as many as it has GPUs, or else cores.
        scheduler: the address of a running Dask scheduler.
        queue: one of `QUEUES`.
        jobs: how many jobs of the queue.
        job: what each job asks for, by dask-jobqueue's names (cores, memory, walltime, account, …); the rest is as its own
            configuration says.
    """

    processes: int = 0
    scheduler: str = ""
    queue: str = ""
    jobs: int = 1
    job: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.scheduler and self.queue:
            raise InputError("A scheduler and a queue were given; the work is done on one of them. Leave one out.")
        if self.queue and self.queue not in QUEUES:
            raise InputError(f"There is no queue {self.queue!r}; the queues are {', '.join(QUEUES)}. Choose one of them.")
        if not self.queue and (self.job or self.jobs != 1):
            asked = ", ".join(["jobs"] * (self.jobs != 1) + [*self.job])
            raise InputError(
                f"What jobs of a queue ask for was given ({asked}), and no queue. Name the queue, or leave that out."
            )
        if self.processes and not self.is_here:
            raise InputError(
                "A number of processes of this machine was given, and the work is not done here. Leave it out, or the scheduler or queue."
            )

    @property
    def is_here(self) -> bool:
        """Whether the work is done on this machine."""
        return not (self.scheduler or self.queue)


@contextmanager
def client_of(place: Place, pairs: int) -> Iterator[Any]:
    """A Dask client, connected; what was started for it ends with the block.

    Raises:
        InputError: Dask is not installed, or nothing answers at the address of the scheduler.
        ResourceError: the processes could not be started.
    """
    distributed = _imported("distributed")
    with ExitStack() as stack:
        stack.enter_context(_silent())
        if place.scheduler:
            client = stack.enter_context(_connected(distributed, place.scheduler))
            _check_workers(client)
        else:
            cluster = stack.enter_context(_queued(place) if place.queue else _local(distributed, place.processes, pairs))
            client = stack.enter_context(_connected(distributed, cluster))
        yield client


def local_processes(processes: int, pairs: int) -> tuple[int, int]:
    """How many processes of this machine, and how many threads each: one process for a GPU, else one for a core.

    OMP_NUM_THREADS, where it is set, is the most threads that a process has.
    """
    cores, most = _cores(), os.environ.get("OMP_NUM_THREADS", "")
    count = max(1, min(processes or _cards() or cores, pairs))
    threads = max(1, cores // count)
    return count, min(threads, int(most)) if most.isdigit() and int(most) else threads


def _cards() -> int:
    """CUDA cards of this machine."""
    # Not at the top: a process that is only asked for its version does without.
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _cores() -> int:
    """Those that this process may use, within the limits of a container."""
    count: int = _imported("dask.system").CPU_COUNT
    return count


@contextmanager
def _local(distributed: Any, processes: int, pairs: int) -> Iterator[Any]:
    """Processes of one task each, which take their share of the cores."""
    count, threads = local_processes(processes, pairs)
    environment = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")}
    settings = {
        "distributed.nanny.pre-spawn-environ": environment | {"MALLOC_TRIM_THRESHOLD_": "65536"},
        "distributed.scheduler.allowed-failures": MOST_DEATHS - 1,
        # Dask would look a hundred times a second where each process is; nobody asks.
        "distributed.worker.profile.enabled": False,
    }
    with _imported("dask.config").set(settings):
        try:
            # How much memory each may take is for the pairs to agree on: large ones take more than an equal share.
            with _spared_from_ctrl_c():
                cluster = distributed.LocalCluster(
                    n_workers=count, threads_per_worker=1, processes=True, memory_limit=0, dashboard_address="127.0.0.1:0",
                    host="127.0.0.1", silence_logs=logging.CRITICAL,
                )  # fmt: skip
        except (OSError, RuntimeError, *TIMEOUTS) as error:
            raise ResourceError(
                f"The {count} processes of the cohort could not be started ({error}). Try fewer by --processes; a script of yours must "
                'do its work below the line if __name__ == "__main__":, as each process reads it.'
            ) from error
        with cluster:
            yield cluster


@contextmanager
def _spared_from_ctrl_c() -> Iterator[None]:
    """Threads that begin inside, and processes that these will ever start, do not hear Ctrl-C, which a terminal sends to all: this
    program does, after the block, and ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Where it is started later, it lets the thread hear Ctrl-C again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _queued(place: Place) -> Iterator[Any]:
    """Jobs of a queue, each with one process."""
    kind = getattr(_imported("dask_jobqueue"), QUEUES[place.queue])
    configured = _imported("dask.config").get(f"jobqueue.{place.queue}", {})
    if missing := [name for name in ("cores", "memory") if not (place.job.get(name) or configured.get(name))]:
        raise InputError(
            f"Nothing says what {' and '.join(missing)} each job of {place.queue} asks for; both must be known. "
            "Give them by --cores and --memory, or in dask-jobqueue's configuration."
        )
    try:
        cluster = kind(**{"processes": 1, **place.job})
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The jobs of {place.queue} cannot be described so ({' '.join(str(error).split())}); the options are dask-jobqueue's. "
            "Correct --queue-option."
        ) from error
    with cluster:
        cluster.scale(jobs=place.jobs)
        yield cluster


@contextmanager
def _connected(distributed: Any, address: Any) -> Iterator[Any]:
    try:
        client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, *TIMEOUTS) as error:
        raise InputError(
            f"No Dask scheduler answers at {address} ({error}); one must run there. Start it (dask scheduler), or correct the address."
        ) from error
    try:
        yield client
    finally:
        client.close(timeout=5)


def _check_workers(client: Any) -> None:
    """Do the processes of a cluster that others have started know this library?"""
    try:
        versions = set(client.run(_version).values())
    except Exception as error:
        raise InputError(
            f"The workers of the scheduler cannot use RegistrationNet ({error}); each needs it installed. Install it there."
        ) from error
    if versions - {__version__}:
        raise InputError(
            f"The workers of the scheduler have RegistrationNet {', '.join(sorted(versions))}, and this is {__version__}; all need the same. "
            "Install it there."
        )


def _version() -> str:
    return __version__


def _imported(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(f"Cohorts work by Dask, and {name} is not installed. {EXTRA}.") from error


@contextmanager
def _silent() -> Iterator[None]:
    """Inside, Dask's own messages about processes that come and go are not printed: what matters is told as ours."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)
