"""A worker process that speaks the channel and does what `WORKER_SCRIPT` says, and no more.

It lets the supervisor be tested against workers that hang, crash or stay silent, which the
real one cannot be made to do. Scripts:

    good     answers each connection with its index, pid and the services it knows; reports
    mute     says hello and nothing afterwards
    crash    exits with status 3 at once
    deaf     as `good`, but does not react to Drain
    barren   as `good`, but crashes, if it is neither of the first two processes
    slow     as `good`, but `mute`, if it is neither of the first two processes
    refuses  as `good`, but takes no configuration after the first
    suspect  as `good`, but worker 0 finds fault with the first of several instances; answers
             also say when it did, and when it learnt that the instance is ejected
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
import time

from msgspec.structs import replace

from proxy.channel import Channel, receive_sockets
from proxy.messages import (
    Accept,
    Accepting,
    AcmeApplied,
    AcmeChallenges,
    Applied,
    Collect,
    Configure,
    Configured,
    Drain,
    Hello,
    NodeStats,
    PoolChange,
    Pools,
    PoolSnapshot,
    ServiceStats,
    Suspect,
    ToWorker,
    WorkerStats,
)


class ScriptedWorker:
    def __init__(self, script: str, index: int, descriptors: socket.socket) -> None:
        self.script = script
        self.index = index
        self.descriptors = descriptors
        self.sockets: dict[int, socket.socket] = {}
        self.pools: dict[str, list[str]] = {}
        self.snapshots: dict[str, PoolSnapshot] = {}
        self.messages: list[str] = []
        self.served = 0
        self.accepting = False
        self.suspected_at: float | None = None
        self.ejected_at: float | None = None
        self.done = asyncio.Event()
        self.channel: Channel[ToWorker] = Channel(ToWorker, self.on_message, self.on_closed)

    async def run(self, channel: socket.socket) -> None:
        await self.channel.open(channel)
        self.channel.send(Hello(pid=os.getpid()))
        while not self.done.is_set():
            if self.script != "mute":
                self.report(0)
            try:
                await asyncio.wait_for(self.done.wait(), 0.2)
            except TimeoutError:
                continue

    def report(self, number: int) -> None:
        stats = ServiceStats({"GET 200": self.served}, [self.served] + [0] * 15, 0.0, {}, {})
        nodes = [
            NodeStats(service, key, self.served, {"ok": self.served})
            for service, keys in self.pools.items()
            for key in keys
        ]
        self.channel.send(WorkerStats(number, 0, 0, {"users": stats}, nodes))

    def on_message(self, message: ToWorker) -> None:
        if self.script == "mute":
            return
        self.messages.append(type(message).__name__)
        match message:
            case Configure(config, names):
                while not self.sockets.keys() >= names.keys():
                    self.sockets.update(receive_sockets(self.descriptors))
                again = self.script == "refuses" and config.generation == 1
                self.channel.send(Configured(config.generation, "not this one" * again))
            case AcmeChallenges(number):
                self.channel.send(AcmeApplied(number))
            case Pools(seq, snapshots, changes, removed, complete):
                snapshots = (*snapshots, *map(self.changed, changes))
                for snapshot in snapshots:
                    self.snapshots[snapshot.service] = snapshot
                    self.pools[snapshot.service] = [node.key for node in snapshot.nodes]
                for service in removed:
                    self.pools.pop(service, None)
                self.channel.send(Applied(seq))
                if complete:
                    self.accept()
                if self.script == "suspect":
                    self.suspect(snapshots)
            case Accept():
                self.accept()
            case Collect(number):
                self.report(number)
            case Drain() if self.script != "deaf":
                self.done.set()

    def changed(self, change: PoolChange) -> PoolSnapshot:
        known = self.snapshots[change.service]
        nodes = {node.key: node for node in known.nodes if node.key not in change.gone}
        nodes |= {node.key: node for node in change.nodes}
        return replace(known, generation=change.generation, nodes=tuple(nodes.values()))

    def suspect(self, snapshots: tuple[PoolSnapshot, ...]) -> None:
        # One clock for all processes of a machine.
        for snapshot in snapshots:
            if any(node.status == "ejected" for node in snapshot.nodes):
                self.ejected_at = time.monotonic()
            elif len(snapshot.nodes) > 1 and self.index == 0:
                self.suspected_at = time.monotonic()
                self.channel.send(
                    Suspect(snapshot.service, snapshot.nodes[0].key, "connect_refused", 5)
                )

    def accept(self) -> None:
        if self.accepting:
            return
        self.accepting = True
        loop = asyncio.get_running_loop()
        for sock in self.sockets.values():
            loop.add_reader(sock, self.answer, sock)
        self.channel.send(Accepting(tuple(self.sockets)))

    def answer(self, sock: socket.socket) -> None:
        try:
            connection, _ = sock.accept()
        except BlockingIOError:
            return
        with connection:
            self.served += 1
            words = {"index": self.index, "pid": os.getpid(), "services": self.pools}
            times = {"suspected_at": self.suspected_at, "ejected_at": self.ejected_at}
            connection.sendall(json.dumps({**words, **times, "messages": self.messages}).encode())

    def on_closed(self, error: Exception | None) -> None:
        self.done.set()


def main() -> None:
    script = os.environ["WORKER_SCRIPT"]
    if script == "crash":
        sys.exit(3)
    parser = argparse.ArgumentParser()
    for name in ("--index", "--row", "--channel", "--descriptors", "--board"):
        parser.add_argument(name, type=int, required=True)
    options = parser.parse_args()
    # A successor has another row of the board than those beside which it starts.
    if script == "barren" and options.row > 1:
        sys.exit(3)
    if script == "slow" and options.row > 1:
        script = "mute"

    async def run() -> None:
        descriptors = socket.socket(fileno=options.descriptors)
        worker = ScriptedWorker(script, options.index, descriptors)
        await worker.run(socket.socket(fileno=options.channel))

    asyncio.run(run())


if __name__ == "__main__":
    main()
