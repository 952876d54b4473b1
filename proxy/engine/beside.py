"""The interface of a second attempt beside the first one of a request."""

from __future__ import annotations


class Beside:
    """Is there while a request may have a second attempt, or has one."""

    def takes_over(self, outcome: str) -> bool:
        """The request's own attempt has come to nothing, by `outcome`: whether the second one is
        under way, and is the request's own from now on."""
        raise NotImplementedError

    def on_answer(self, now: float) -> None:
        """The request's own attempt has its answer; nobody waits for the other one."""
        raise NotImplementedError

    def end(self) -> None:
        """Give up whatever is under way: the request is over."""
        raise NotImplementedError
