"""Changes of a shared configuration: what is compared and what is written."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.fleet.config import Canary
from proxy.fleet.versions import KEPT, Found, Refused, Writes
from proxy.registry.etcd.wire import KeyValue

KEY = "/c/main"


class Memory:
    """Keys of an etcd, as transactions leave them."""

    def __init__(self) -> None:
        self.held: dict[bytes, KeyValue] = {}
        self.revision = 1

    @property
    def found(self) -> Found:
        return Found(KEY, dict(self.held))

    def write(self, writes: Writes) -> bool:
        for one in writes.compare:
            known = self.held.get(one["key"])
            if (0 if known is None else known.mod_revision) != one["mod_revision"]:
                return False
        self.revision += 1
        for op in writes.success:
            if put := op.get("request_put"):
                self.put(put["key"], put["value"])
            else:
                self.held.pop(op["request_delete_range"]["key"], None)
        return True

    def put(self, key: bytes, value: bytes) -> None:
        self.held[key] = KeyValue(key=key, value=value, mod_revision=self.revision)


def by_hand(memory: Memory, text: str) -> None:
    memory.revision += 1
    memory.put(KEY.encode(), text.encode())


def test_a_push_is_the_key_and_an_entry_of_the_history() -> None:
    memory = Memory()
    for text in ("one", "two"):
        assert memory.write(memory.found.push(text, "me", "now"))
    found = memory.found
    assert found.text == "two"
    assert [(one.number, one.text, one.by) for one in found.history] == [
        (1, "one", "me"),
        (2, "two", "me"),
    ]


def test_a_push_does_not_hold_if_somebody_else_was_faster() -> None:
    memory = Memory()
    memory.write(memory.found.push("one", "", ""))
    slow = memory.found.push("slow", "", "")
    by_hand(memory, "hand")
    assert not memory.write(slow)
    assert memory.found.text == "hand"


def test_a_history_keeps_the_last_twenty() -> None:
    memory = Memory()
    for number in range(KEPT + 5):
        assert memory.write(memory.found.push(str(number), "", ""))
    assert [one.number for one in memory.found.history] == list(range(6, KEPT + 6))


def test_a_canary_is_promoted_or_withdrawn_and_keeps_pushes_out_until_then() -> None:
    memory = Memory()
    memory.write(memory.found.push("one", "", ""))
    memory.write(memory.found.try_out(Canary("two", ("a",))))
    assert (memory.found.text, memory.found.canary) == ("one", Canary("two", ("a",)))
    with pytest.raises(Refused):
        memory.found.push("three", "", "")
    memory.write(memory.found.promote("", ""))
    assert (memory.found.text, memory.found.canary) == ("two", None)
    with pytest.raises(Refused):
        memory.found.promote("", "")
    memory.write(memory.found.try_out(Canary("three", share=0.1)))
    memory.write(memory.found.back(None, "", "")[0])
    assert (memory.found.text, memory.found.canary) == ("two", None)


@pytest.mark.parametrize(
    ("hand", "number", "text"), [(None, None, "two"), ("hand", None, "three"), (None, 1, "one")]
)
def test_a_rollback_leads_to_the_last_other_text_or_to_a_version(
    hand: str | None, number: int | None, text: str
) -> None:
    memory = Memory()
    for one in ("one", "two", "three"):
        memory.write(memory.found.push(one, "", ""))
    if hand is not None:
        by_hand(memory, hand)
    memory.write(memory.found.back(number, "", "")[0])
    assert memory.found.text == text
    with pytest.raises(Refused):
        memory.found.back(99, "", "")


def test_a_transaction_fits_into_a_request_of_etcd() -> None:
    from proxy.settings.fleet import MAX_TEXT

    memory = Memory()
    writes: Any = memory.found.push("x" * MAX_TEXT, "", "")
    size = sum(len(op["request_put"]["value"]) for op in writes.success)
    assert size < 1.5 * 2**20 - 4096
