"""One registry from Python: a mapping with the keys that `registry:` has in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

from proxy.settings import yaml_lines
from proxy.settings.complaints import Report
from proxy.settings.declare import build, read_section
from proxy.settings.registry import RegistryChoice, RegistryOptions


def registry_options_of(keys: Mapping[str, Any]) -> RegistryOptions:
    """Options of the registry with these keys, `type` among them. ValueError with every complaint,
    in the words of `fairlead check`; names of files are relative to the working directory."""
    document = yaml_lines.read(json.dumps({"registry": dict(keys)}), {})
    report = Report("", document)
    assert isinstance(document.root, dict)
    given = read_section(RegistryChoice, document.root["registry"], ("registry",), report)
    options = RegistryOptions()
    if given is not None:
        options = build(RegistryChoice, given).options.checked(given, FilePath(), report)
    if report.complaints:
        said = (f"{one.path}: {one.message}" for one in report.error().complaints)
        raise ValueError("; ".join(said))
    return options
