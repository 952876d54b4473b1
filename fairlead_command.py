"""The `fairlead` command as it is installed: it looks whose `proxy` package Python has found.

Other distributions have a package of that name, and the first one on the path is taken. What would
come of that is a traceback in words that have nothing to do with it.
"""

from __future__ import annotations

import sys


def main() -> None:
    """`fairlead COMMAND`; one line on standard error and exit code 1 if `proxy` is a stranger's."""
    try:
        import proxy

        found = proxy.__file__
        ours = getattr(proxy, "PRODUCT", None) == "fairlead"
    except Exception as error:  # Whatever a stranger's package may raise.
        found, ours = str(error), False
    if not ours:
        sys.exit(
            f"fairlead: another package is called proxy, and comes first ({found}): install"
            " fairlead-proxy into an environment of its own, or take the other one off PYTHONPATH"
        )
    from proxy.cli import main as command

    command()
