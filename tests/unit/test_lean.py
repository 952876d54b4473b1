"""aiohttp is loaded without the system's authorities, and trusts them nevertheless; structlog
without rich, which others may load nevertheless."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.certificates import Authority

SCRIPT = """
import os, ssl, sys
from proxy.lean import load_aiohttp
load_aiohttp()
from aiohttp import connector
assert "frozenlist._frozenlist" not in sys.modules
assert os.environ.get("FROZENLIST_NO_EXTENSIONS") == os.environ.get("GIVEN")
context = connector._SSL_CONTEXT_VERIFIED
before = context.cert_store_stats()["x509"]
given = os.environ["SSL_CERT_FILE"]
os.rename(given, given + ".away")  # As for a moment while they are replaced.
context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="name.test")
os.rename(given + ".away", given)
context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="name.test")
assert type(context) is ssl.SSLContext
assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
print(before, context.cert_store_stats()["x509"], len(ssl.create_default_context().get_ca_certs()))
"""


@pytest.mark.parametrize("given", [{}, {"FROZENLIST_NO_EXTENSIONS": "", "GIVEN": ""}])
def test_authorities_of_the_system_are_read_for_the_first_connection_that_finds_them(
    tmp_path: Path, given: dict[str, str]
) -> None:
    roots = tmp_path / "roots.pem"
    roots.write_bytes(Authority("one").ca)
    environ = {**os.environ, "SSL_CERT_FILE": str(roots), "SSL_CERT_DIR": str(tmp_path), **given}
    command = [sys.executable, "-c", SCRIPT]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["0", "1", "1"]


def test_structlog_is_loaded_without_rich(tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("")
    script = """
import sys
from proxy.lean import load_structlog
load_structlog()
assert "structlog" in sys.modules and "rich" not in sys.modules
import rich
"""
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], env=environ, check=True)
