"""How many results in a row make a change of standing. Pure."""

from __future__ import annotations


class Standing:
    """Owns one instance's standing: healthy until `fall` failures in a row, then not, until
    `rise` successes in a row.

    A single result in agreement with the standing forgets those against it, so an instance that
    fails every other probe stays where it is.
    """

    __slots__ = ("_against", "fall", "healthy", "rise")

    def __init__(self, fall: int = 3, rise: int = 2, *, healthy: bool = True) -> None:
        """`healthy` is where it starts. ValueError for thresholds below 1."""
        if fall < 1 or rise < 1:
            raise ValueError(f"fall and rise are at least 1, not {fall} and {rise}")
        self.fall = fall
        self.rise = rise
        self.healthy = healthy
        self._against = 0

    def observe(self, ok: bool) -> bool:
        """Take one result in. True when it changed the standing."""
        if ok == self.healthy:
            self._against = 0
            return False
        self._against += 1
        if self._against < (self.fall if self.healthy else self.rise):
            return False
        self.healthy = ok
        self._against = 0
        return True

    @property
    def in_transition(self) -> bool:
        """Results speak against the standing, not yet enough of them: worth asking faster."""
        return self._against > 0
