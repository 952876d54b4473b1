"""Succession of control processes, as the parent process decides on it. No I/O but over the pairs.

    SIGUSR2, or the control process asks
        ─▶ a successor is started beside it: with the sockets, and one end of a socket pair whose
           other end the serving one gets, for its state
        ─▶ it is ready: the serving one is told to retire, and its place is the successor's
        ─▶ it ends, or is not ready in time: it is killed, and the serving one told why

A control process that a signal ends (a crash, the out-of-memory killer, kill -9) is replaced on the
same sockets: who connects meanwhile waits. One that exits by itself has its reasons, and the parent
exits with the same code.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from proxy import packets
from proxy.init import exit_code
from proxy.privileges import become

READY_LIMIT = 25.0
"""Seconds for a successor to become ready: it loads, checks its configuration, starts its workers
and takes over what is known, which takes one or two. The admin server has 30 for an answer."""

MOST_RETIRED = 8
"""Control processes that finish what they have in flight, at the same time: with each there are as
many workers as ever."""

STEADY = 5.0
"""Seconds a control process must have lived for a crash to count as the first again."""

LONGEST_DELAY = 1.0
"""Seconds at most between a crash and the next start."""

STOP_LIMIT = 5.0
"""Seconds for all to end once they were told for the second time: they cut what is in flight."""

LARGEST_ENV = 1024 * 1024
"""Bytes of a file of variables: half of what Linux lets a process begin with."""

Spawn = Callable[[int, Mapping[str, str]], int]
"""Starts a control process with this descriptor and environment; its process id."""


Asked = tuple["Control", Any]
"""A control process that asks for an upgrade, and its number for that."""


class Held:
    """A listener's sockets, in the order of the workers."""

    def __init__(self, kind: str, name: str, bind: str) -> None:
        """`kind`: `listener`, `admin`, or `passed` by the service manager; `bind`: as in the
        configuration."""
        self.kind = kind
        self.name = name
        self.bind = bind
        self.descriptors: list[int] = []


class Control:
    """A control process, the end of the pair to it, and what it listens on."""

    def __init__(self, pid: int, link: socket.socket, started: float) -> None:
        self.pid = pid
        self.link = link
        self.started = started
        self.ready = False
        self.reason = ""
        """Why it cannot start, as it says."""
        self.held: dict[tuple[str, str], Held] = {}
        """By kind and name: copies, for whoever takes its place."""


def release(held: dict[tuple[str, str], Held]) -> None:
    """Close what nobody takes over any more."""
    for one in held.values():
        packets.close(one.descriptors)
    held.clear()


class Parent:
    """Owns the control processes and the sockets they listen on."""

    def __init__(
        self,
        spawn: Spawn,
        environ: Mapping[str, str],
        kill: Callable[[int, int], None] = os.kill,
        now: Callable[[], float] = time.monotonic,
        become: Callable[[int, int, Sequence[int]], None] = become,
    ) -> None:
        self._spawn = spawn
        self._kill = kill
        self._become = become
        self._now = now
        self._environ = dict(environ)
        self._notify_to = self._environ.pop("NOTIFY_SOCKET", "")
        self._passed: list[Held] = []
        """By the service manager."""
        self._orphaned: dict[tuple[str, str], Held] = {}
        """Sockets of a serving one that crashed."""
        self.serving: Control | None = None
        self.successor: Control | None = None
        self.retired: dict[int, Control] = {}
        """By process id."""
        self._next_environ = self._environ
        self._asked: Asked | None = None
        """The asker of the upgrade under way, if it was not a signal."""
        self._crashes = 0
        self._stopping = False
        self._kill_at: float | None = None
        """When those that are still there are killed."""
        self.start_at: float | None = None
        """When a control process that crashed is replaced."""
        self.code: int | None = None
        """The exit code, once that is decided."""

    # -- the start

    def hold_passed(self, names: Sequence[str], first: int) -> None:
        """Hold the sockets that the service manager has passed."""
        for descriptor, name in enumerate(names, first):
            try:
                os.set_inheritable(descriptor, False)
                is_socket = stat.S_ISSOCK(os.fstat(descriptor).st_mode)
            except OSError:
                is_socket = False
            if not is_socket:
                complain(f"descriptor {descriptor}, passed as {name}, is no socket")
                continue
            held = Held("passed", name, "")
            held.descriptors.append(descriptor)
            self._passed.append(held)

    def start(self) -> None:
        """Start the control process that is to serve."""
        self.start_at = None
        self.serving = self._begin(self._environ, self._orphaned)
        release(self._orphaned)

    def _begin(
        self,
        environ: Mapping[str, str],
        held: Mapping[tuple[str, str], Held],
        state: socket.socket | None = None,
    ) -> Control:
        """Start a control process on what is held. OSError when there is no process to be had."""
        ours, theirs = packets.pair()
        try:
            with theirs:
                pid = self._spawn(theirs.fileno(), environ)
        except OSError:
            ours.close()
            raise
        control = Control(pid, ours, self._now())
        all_ = [
            (descriptor, (number, one.kind, one.name, one.bind))
            for number, one in enumerate((*held.values(), *self._passed))
            for descriptor in one.descriptors
        ]
        # As few messages as can be: it reads none before it is loaded, and their number is limited.
        for start in range(0, len(all_), packets.DESCRIPTORS):
            part = all_[start : start + packets.DESCRIPTORS]
            self._tell(control, {"held": [told for _, told in part]}, [one for one, _ in part])
        begin = {"begin": state is not None, "echoes": True}
        self._tell(control, begin, [] if state is None else [state.fileno()])
        return control

    # -- signals

    def on_signal(self, number: int) -> None:
        """Pass a signal on to whom it concerns."""
        if number == signal.SIGUSR2:
            self._upgrade(None, "")
            return
        stops = number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
        concerned = [self.serving] if self.serving is not None else []
        if stops or number == signal.SIGUSR1:
            concerned += self.retired.values()
        for control in concerned:
            # One that is loading would end by SIGINT with what Python says of it.
            early = number == signal.SIGINT and not control.ready
            self._signal(control, signal.SIGTERM if early else number)
        if stops:
            if self._stopping and self._kill_at is None:
                self._kill_at = self._now() + STOP_LIMIT
            self._stopping = True
            # Or who connects from here on would wait for nobody. Those of the service manager
            # are open in it, for the next start.
            for control in concerned:
                release(control.held)
            release(self._orphaned)
            if self.successor is not None:
                self._kill_successor("the proxy is stopping")
            if self.serving is None and self.code is None:
                self.code = 0  # It has crashed, and is not started again.
                self.start_at = None

    def _signal(self, control: Control, number: int) -> None:
        try:
            self._kill(control.pid, number)
        except ProcessLookupError:
            pass  # Its end is the next thing we hear of.
        except PermissionError:
            # It was there before we gave up root, and has been told to retire.
            complain(f"cannot signal the control process {control.pid}, which is root's")

    # -- an upgrade

    def _upgrade(self, asked: Asked | None, env_file: str) -> None:
        """Start a successor."""
        reason = ""
        if self._stopping or self.serving is None or not self.serving.ready:
            reason = "the proxy is stopping" if self._stopping else "the proxy is not ready"
        elif self.successor is not None:
            reason = "an upgrade is under way"
        elif len(self.retired) >= MOST_RETIRED:
            reason = f"{len(self.retired)} earlier ones have yet to finish what they have in flight"
        if not reason:
            try:
                self._next_environ = {**self._environ, **(read_env(env_file) if env_file else {})}
            except (OSError, ValueError) as error:
                reason = f"{env_file}: {getattr(error, 'strerror', None) or error}"
        if reason:
            self._refuse(asked, reason)
            return
        assert self.serving is not None
        try:
            here, there = socket.socketpair()
            with here, there:
                held = self.serving.held
                self.successor = self._begin(self._next_environ, held, there)
                self._asked = asked
                self._tell(self.serving, {"successor": self.successor.pid}, [here.fileno()])
        except OSError as error:
            self._refuse(asked, f"it cannot be started: {error.strerror}")

    def _refuse(self, asked: Asked | None, reason: str) -> None:
        if asked is not None:
            self._tell(asked[0], {"upgraded": False, "asked": asked[1], "reason": reason})
        elif self.serving is not None:
            self._tell(self.serving, {"not_upgraded": reason})

    def _kill_successor(self, reason: str) -> None:
        """The serving one stays in its place."""
        assert self.successor is not None
        self._signal(self.successor, signal.SIGKILL)
        self.retired[self.successor.pid] = self.successor
        self._drop_successor(reason)

    def _drop_successor(self, reason: str) -> None:
        assert self.successor is not None
        release(self.successor.held)
        asked, self.successor, self._asked = self._asked, None, None
        if self.serving is not None:
            self._refuse(asked if asked and asked[0] is self.serving else None, reason)

    def _promote(self) -> None:
        before, self.serving = self.serving, self.successor
        asked, self.successor, self._asked = self._asked, None, None
        self._environ = dict(self._next_environ)
        self.start_at = None
        release(self._orphaned)
        if before is None:
            return  # It has crashed meanwhile.
        release(before.held)
        self.retired[before.pid] = before
        if asked is not None and asked[0] is before:
            self._tell(before, {"upgraded": True, "asked": asked[1]})
        self._tell(before, {"retire": True})

    # -- what control processes say

    def links(self) -> dict[socket.socket, Control]:
        """The ends to those that still have theirs."""
        controls = (self.serving, self.successor, *self.retired.values())
        return {one.link: one for one in controls if one is not None and one.link.fileno() >= 0}

    def on_message(self, control: Control) -> None:
        """Read one message, and do what it says."""
        try:
            try:
                found = packets.receive(control.link)
            except ConnectionResetError:
                # It ended without having read all. What it said is behind this error.
                found = packets.receive(control.link)
        except BlockingIOError:
            return
        except OSError:
            found = None
        if found is None:
            control.link.close()  # It ends, which is heard of by itself.
            return
        message, descriptors = found
        if "hold" in message:
            key = str(message["hold"]), str(message.get("name"))
            if message.get("anew"):
                self._forget(control, key)
            held = control.held.setdefault(key, Held(*key, str(message.get("bind"))))
            held.descriptors += descriptors
            return
        packets.close(descriptors)
        if "forget" in message:
            self._forget(control, (str(message["forget"]), str(message.get("name"))))
        elif "echo" in message:
            self._tell(control, {"echo": message["echo"]})
        elif "notify" in message:
            if control is self.serving:
                self._notify(str(message["notify"]))
        elif "failed" in message:
            control.reason = str(message["failed"])
        elif "upgrade" in message:
            asked = control, message["upgrade"]
            self._upgrade(asked, str(message.get("env_file") or ""))
        elif "ready" in message:
            control.ready = True
            if control is self.successor:
                self._promote()
            if control is self.serving and message.get("become"):
                try:
                    self._become(*message["become"])
                except OSError as error:
                    complain(f"cannot give up root: {error.strerror}")

    def _forget(self, control: Control, key: tuple[str, str]) -> None:
        held = control.held.pop(key, None)
        packets.close([] if held is None else held.descriptors)

    def _tell(self, control: Control, message: dict[str, Any], some: Sequence[int] = ()) -> None:
        try:
            packets.send(control.link, message, some)
        except OSError as error:
            # It is gone, or hangs: nothing else can be done about it from here.
            complain(f"cannot reach the control process {control.pid}: {error.strerror}")

    def _notify(self, text: str) -> None:
        """Tell the service manager; see sd_notify(3)."""
        if not self._notify_to:
            return
        address = self._notify_to
        if address.startswith("@"):
            address = "\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                # A status may name a file whose name is no UTF-8.
                sock.sendto(text.encode(errors="replace"), address)
        except OSError as error:
            complain(f"cannot notify the service manager: {error.strerror}")
            if error.errno not in (errno.EAGAIN, errno.EMFILE, errno.ENFILE):
                self._notify_to = ""

    # -- ends, and time

    def on_end(self, pid: int, code: int) -> None:
        """A child has ended; `code` as of `waitstatus_to_exitcode`. Orphans are nobody."""
        for control in (self.serving, self.successor, *self.retired.values()):
            if control is not None and control.pid == pid:
                self._read_all(control)  # It may have become ready, or said why it cannot.
                control.link.close()
        if (retired := self.retired.pop(pid, None)) is not None:
            release(retired.held)
        elif self.successor is not None and pid == self.successor.pid:
            self._drop_successor(self.successor.reason or f"it ended: {described(code)}")
        elif self.serving is not None and pid == self.serving.pid:
            self._on_serving_ended(self.serving, code)

    def _read_all(self, control: Control) -> None:
        while control.link.fileno() >= 0:
            if not packets.readable([control.link], 0.0):
                break
            self.on_message(control)

    def _on_serving_ended(self, ended: Control, code: int) -> None:
        self.serving = None
        if self._stopping or code >= 0 or not ended.ready:
            release(ended.held)
            # One that was told to stop before it could hear of it had nothing to finish.
            unheard = self._stopping and code == -signal.SIGTERM
            self.code = 0 if unheard else exit_code(code)
            self._stopping = True
            if self.successor is not None:
                self._kill_successor("the proxy is stopping")
            return
        complain(f"the control process {ended.pid} ended: {described(code)}; it is replaced")
        self._orphaned, ended.held = ended.held, {}
        self._crashes = 1 if self._now() - ended.started >= STEADY else self._crashes + 1
        delay = 0.0 if self._crashes <= 1 else min(LONGEST_DELAY, 0.05 * 2**self._crashes)
        self.start_at = self._now() + delay

    def tick(self) -> None:
        """Do what is due by now."""
        now = self._now()
        if self.successor is not None and now - self.successor.started >= READY_LIMIT:
            self._kill_successor(f"it was not ready within {READY_LIMIT:g} s")
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            for control in filter(None, (self.serving, *self.retired.values())):
                complain(f"the control process {control.pid} does not end: it is killed")
                self._signal(control, signal.SIGKILL)
        if self.start_at is not None and now >= self.start_at and self.successor is None:
            # A successor that is being started will be what serves.
            try:
                self.start()
            except OSError as error:
                complain(f"cannot start the control process: {error.strerror}")
                self.start_at = now + LONGEST_DELAY

    def wait(self) -> float | None:
        """Seconds until `tick` has something to do; None = nothing is due."""
        at = self.start_at if self._kill_at is None else self._kill_at
        if self.successor is not None:
            at = self.successor.started + READY_LIMIT
        return None if at is None else max(0.0, at - self._now())

    @property
    def over(self) -> bool:
        """There is nothing left to wait for."""
        return self.code is not None and not self.retired


def read_env(path: str) -> dict[str, str]:
    """Variables of a file with lines `NAME=VALUE`, empty ones, and those that begin with `#`.
    OSError; ValueError that names the line."""
    found = {}
    # Whoever waits here for a pipe that nobody writes to, or reads a device that never ends, is
    # there for nobody.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is no regular file")
        content = os.read(descriptor, LARGEST_ENV + 1)
    finally:
        os.close(descriptor)
    if len(content) > LARGEST_ENV:
        raise ValueError(f"it has more than {LARGEST_ENV} bytes")
    lines = content.decode().splitlines()
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier() or "\0" in value:
            raise ValueError(f"line {number}: {line[:40]!r} is not of the form NAME=VALUE")
        found[name] = value
    return found


def described(code: int) -> str:
    """`exit status 1` or `signal SIGKILL`."""
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def complain(text: str) -> None:
    """A line on standard error."""
    try:
        os.write(2, f"fairlead: {text}\n".encode(errors="replace"))
    except OSError:
        pass  # Nobody reads it.
