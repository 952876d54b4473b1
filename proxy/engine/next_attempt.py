"""Whether a request whose attempt came to nothing is sent once more, and to whom."""

from __future__ import annotations

from proxy.engine.node import Node
from proxy.engine.pool import Pool
from proxy.engine.selection import next_choice


def next_attempt(
    pool: Pool,
    key: int,
    tried: tuple[Node, ...],
    attempts: int,
    now: float,
    *,
    stale_node: Node | None,
    stale: bool,
    answered: bool,
    limit: int,
) -> Node | None:
    """The instance of a further attempt, or None.

    | there is none, if | but |
    |---|---|
    | `limit` attempts beyond the first were made | the stale one is not counted |
    | nobody is left whom `selection.next_choice` would ask | |
    | the retry budget is spent | it is not asked for the one behind the stale one |

    `tried`: the instances so far, the latest last; `stale_node`: of these the one whose kept
    connection was closed while it was idle, which added nothing to what the instances have to do
    and says nothing against it; `stale`: that was the latest; `answered`: there is an answer,
    which is not made to wait for instances that could not be connected to; `limit`:
    `retry.max_retries` of the route, or of the service."""
    if not limit or attempts > limit + (stale_node is not None):
        return None
    known = stale_node if stale or stale_node is not tried[-1] else None
    node = next_choice(pool, key, tried, now, stale=known, answered=answered)
    if node is None or stale or pool.policies.budget.spend(pool.requests):
        return node
    pool.counters.rejected("retry.budget")
    return None
