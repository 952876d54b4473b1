"""Server processes under measurement: started on given cores, read from /proc, stopped by id."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import Process

READY_LIMIT = 20.0
"""Seconds a server may take to answer its first request; Go and C++ peers need under two."""
STOP_LIMIT = 5.0
"""Seconds between SIGTERM and SIGKILL."""
OPEN_FILES = 40_000
"""10,000 clients are 20,000 sockets in a proxy, and HAProxy reserves two for each of `maxconn`."""

_TICKS = os.sysconf("SC_CLK_TCK")
_KIB = 1024
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


class StartError(Exception):
    """A server did not come up; the message holds the end of its output."""


@dataclass(frozen=True)
class Usage:
    """What one process tree has consumed since its start, and what it holds."""

    cpu_ns: int
    """CPU time of all its processes, nanoseconds, all threads."""
    workers_ns: int
    """Of it in processes that have no child: those that serve."""
    user_ticks: int
    system_ticks: int
    peak_rss: int
    """Sum over the tree of each process's high-water mark, bytes; shared pages count twice."""
    rss: int
    """Resident now, bytes; shared pages count twice."""
    pss: int
    """Proportional set size of the tree now, bytes; shared pages count once."""
    pids: frozenset[int]


def cpu_ns(pid: int) -> int:
    """CPU time of a process in nanoseconds, exited threads included; 0 when it is gone.

    The clock id of another process is `(~pid << 3) | CPUCLOCK_SCHED`, what glibc's
    clock_getcpuclockid(3) computes. /proc/PID/stat knows the same only in ticks of 10 ms.
    """
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        return 0


def core_busy_seconds(cores: frozenset[int]) -> float:
    """Seconds these cores have worked for anybody since boot."""
    busy = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores:
            user, nice, system, _idle, _iowait, irq, softirq = (int(field) for field in fields[:7])
            busy += user + nice + system + irq + softirq
    return busy / _TICKS


def process_tree(root: int) -> set[int]:
    """`root`, its descendants, and whatever else is in the session it leads."""
    parents: dict[int, int] = {}
    tree = {root}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))):
            parents[int(entry)] = int(fields[1])
            if int(fields[3]) == root:
                tree.add(int(entry))
    grew = True
    while grew:
        found = {pid for pid, parent in parents.items() if parent in tree} - tree
        tree |= found
        grew = bool(found)
    return tree


def parent_of(pid: int) -> int:
    """The process that started this one, or adopted it; 0 when it is gone."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third (state) on; empty when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    # The second field is the command in brackets and may itself hold brackets and spaces.
    return text[text.rindex(")") + 2 :].split()


def _field_kib(path: str, name: str) -> int:
    try:
        text = Path(path).read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0


def private_dirty(pids: Iterable[int]) -> int:
    """Bytes that these processes have written and nobody shares."""
    rollups = (f"/proc/{pid}/smaps_rollup" for pid in pids)
    return sum(_field_kib(path, "Private_Dirty:") for path in rollups) * _KIB


def pss(pids: Iterable[int], kind: str = "Pss") -> int:
    """Bytes that these processes hold, of which each that several share counts once. `kind`:
    Pss_Anon for those that are mapped from no file, whoever else maps it."""
    return sum(_field_kib(f"/proc/{pid}/smaps_rollup", f"{kind}:") for pid in pids) * _KIB


def placed_on(cores: frozenset[int]) -> Callable[[], None]:
    """What a child process does before it becomes the program: move to its cores, and tie its
    life to ours, so that nothing outlives this program even when it is killed."""

    def prepare() -> None:
        os.sched_setaffinity(0, cores)
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)

    return prepare


class Server(Process):
    """Owns one server process tree, from start to the last of its processes."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        directory: Path,
        log: Path,
        cores: frozenset[int],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(command, log, environment, directory)
        self.name = name
        try:
            # A session of its own, so that every descendant can be found and stopped.
            self.launch(start_new_session=True, preexec_fn=placed_on(cores))
        except OSError as error:
            raise StartError(f"{name}: cannot run {command[0]}: {error}") from error

    def pids(self) -> set[int]:
        return process_tree(self.pid)

    def wait_ready(self, probe: Callable[[], None]) -> None:
        """Call `probe` until it raises nothing. StartError when the limit passes or the
        process ends first."""
        deadline = time.monotonic() + READY_LIMIT
        while True:
            try:
                probe()
                return
            except (OSError, ValueError) as error:
                if (code := self.returncode) is not None:
                    raise StartError(f"{self.name}: exit code {code}: {self.log_end()}") from error
                if time.monotonic() > deadline:
                    message = f"{self.name}: not ready after {READY_LIMIT:.0f} s: {error}"
                    raise StartError(f"{message}; {self.log_end()}") from error
            time.sleep(0.02)

    def usage(self) -> Usage:
        cpu, workers, user, system, peak, rss = 0, 0, 0, 0, 0, 0
        pids = self.pids()
        parents = {parent_of(pid) for pid in pids}
        for pid in pids:
            used = cpu_ns(pid)
            cpu += used
            if pid not in parents:
                workers += used
            if fields := _stat(pid):
                user += int(fields[11])
                system += int(fields[12])
            peak += _field_kib(f"/proc/{pid}/status", "VmHWM:") * _KIB
            rss += _field_kib(f"/proc/{pid}/status", "VmRSS:") * _KIB
        return Usage(cpu, workers, user, system, peak, rss, pss(pids), frozenset(pids))

    def log_end(self, limit: int = 400) -> str:
        """The last characters of what the server printed, on one line."""
        text = self.log().strip()
        return " | ".join(text[-limit:].splitlines()) or "no output"

    def terminate(self) -> None:
        """Ask it to stop; `stop` waits for the end. Separate, so that several stop at once."""
        if self.returncode is None:
            self.signal(signal.SIGTERM)

    def stop(self) -> None:
        """Terminate, wait, and kill whatever is left of the tree."""
        tree = self.pids()
        self.terminate()
        process = self._started()
        try:
            process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_LIMIT)
        for pid in (tree | self.pids()) - {self.pid}:
            # Ids could have been reused since; only what is still in our session is ours.
            if (fields := _stat(pid)) and int(fields[3]) == self.pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass


def raise_open_files() -> int:
    """Lift this process's limit of open files, and so its children's, as far as the system
    allows, and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, max(hard, OPEN_FILES)))
    except (ValueError, OSError):
        # Only root may pass the hard limit; with less, the largest scenarios report errors.
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def core_plan(available: frozenset[int], workers: int) -> tuple[frozenset[int], frozenset[int]]:
    """Which cores the proxy gets and which the load and its backend get, never shared.

    One core for each worker, up to half of them: load and backend together need about as much
    as the proxy does. With a single core there is nothing to separate and both get it.
    """
    ordered = sorted(available)
    if len(ordered) == 1:
        return frozenset(ordered), frozenset(ordered)
    count = min(workers, len(ordered) // 2)
    return frozenset(ordered[:count]), frozenset(ordered[count:])
