"""Builds the data plane as extension modules when asked to: `FAIRLEAD_COMPILED=1 pip wheel .`.

Without that variable this file adds nothing to `pyproject.toml`, and the wheel is pure Python. With
it, mypyc compiles the modules below from the same sources. Everything else stays as it is: what
is not on the path of each request gains nothing, and balancers stay plain Python, since users
write their own.
"""

from __future__ import annotations

import os

from setuptools import setup

COMPILED = [
    "proxy/engine/access_lines.py",
    "proxy/engine/access_log.py",
    "proxy/engine/announcement.py",
    "proxy/engine/deadlines.py",
    "proxy/engine/endings.py",
    "proxy/engine/exchange.py",
    "proxy/engine/flow.py",
    "proxy/engine/hangups.py",
    "proxy/engine/http1/beginnings.py",
    "proxy/engine/http1/body.py",
    "proxy/engine/http1/claims.py",
    "proxy/engine/http1/client_address.py",
    "proxy/engine/http1/dates.py",
    "proxy/engine/http1/lenient.py",
    "proxy/engine/http1/memo.py",
    "proxy/engine/http1/messages.py",
    "proxy/engine/http1/parser.py",
    "proxy/engine/http1/properties.py",
    "proxy/engine/http1/request_id.py",
    "proxy/engine/http1/rewrite.py",
    "proxy/engine/http1/target.py",
    "proxy/engine/listener.py",
    "proxy/engine/listener_facts.py",
    "proxy/engine/node.py",
    "proxy/engine/pool.py",
    "proxy/engine/pools.py",
    "proxy/engine/reports.py",
    "proxy/engine/resilience/breaker.py",
    "proxy/engine/resilience/limits.py",
    "proxy/engine/resilience/policies.py",
    "proxy/engine/resilience/queue.py",
    "proxy/engine/resilience/retry.py",
    "proxy/engine/routing.py",
    "proxy/engine/second_look.py",
    "proxy/engine/selection.py",
    "proxy/engine/telemetry.py",
    "proxy/engine/tunnel.py",
    "proxy/engine/upstream/connection.py",
    "proxy/engine/upstream/connector.py",
    "proxy/engine/upstream/unreachable.py",
    "proxy/engine/worker.py",
]

# What the compiled modules import, so that the compiler knows its types, and the compiler.
NEEDED = ["msgspec>=0.19", "mypy[mypyc]>=1.10", "structlog>=24.1"]

if os.environ.get("FAIRLEAD_COMPILED") != "1":
    setup()
else:
    try:
        from mypyc.build import mypycify
    except ImportError:
        # pip asks first what the build needs, and runs this again once it is there.
        setup(setup_requires=NEEDED)
    else:
        setup(
            ext_modules=mypycify(COMPILED, opt_level="3", debug_level="0", group_name="fairlead"),
        )
