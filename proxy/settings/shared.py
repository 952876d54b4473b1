"""`config:`, the configuration that a fleet of proxies shares, and how far its writer is trusted.

The key holds `services`, `defaults`, `routes` and `filters` as YAML; all else is the machine's own.
Whoever may write the key decides where requests go, and gets nothing of the machine by it: no
variable of its environment, no command, no import, no file. All of that is found in the text as it
is written, before anything is loaded for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import msgspec

from proxy import catalog
from proxy.settings import yaml_lines
from proxy.settings.complaints import Complaint, ConfigError, Report
from proxy.settings.declare import Given, Key, keys_of, read_section
from proxy.settings.file import Served
from proxy.settings.filters import FilterSpec
from proxy.settings.fleet import MAX_TEXT, ConfigSettings, SharedText, etcd_of
from proxy.settings.plugged import PlugIn
from proxy.settings.read import FILE, shown
from proxy.settings.registry import Registry
from proxy.settings.tree import Path, Scalar


def read_shared(
    shared: SharedText, config: ConfigSettings, plugins: Collection[str]
) -> tuple[Given, Report]:
    """The sound part of a shared configuration, and the complaints about it so far. ConfigError for
    one that is no mapping."""
    if len(shared.text) > MAX_TEXT:
        raise _whole(shared, f"is too large; allowed: {MAX_TEXT} bytes")
    document = yaml_lines.read(shared.text, None)
    report = Report(shared.place, document)
    root = document.root
    if root is None or (isinstance(root, Scalar) and root.empty):
        if not report.complaints:
            raise _whole(shared, "is empty; allowed: at least one route under routes:")
        raise report.error()
    if not isinstance(root, dict):
        report.complain((), f"is {shown(root)} at the top; allowed: a mapping")
        raise report.error()
    _Distrust(config.allow, plugins, report).section(Served, root, ())
    given = read_section(Served, root, (), report)
    assert given is not None  # It is a mapping, and no key of it is required.
    return given, report


def _whole(shared: SharedText, message: str) -> ConfigError:
    return ConfigError([Complaint(shared.place, None, "", message)])


def check_config(given: Given, config: ConfigSettings, registry: Registry, report: Report) -> None:
    """Complain of a file whose `config` does not go together with the rest of it."""
    for key in ("services", "defaults", "routes"):
        if key in given:
            message = f"stands beside config; allowed: under the key {config.key}, or no config"
            report.complain((key,), message)
    if etcd_of(registry, config.registry) is None and report.sound(("registry",), ("registries",)):
        what = f'"{config.registry}" is no' if config.registry else "finds no"
        report.complain(
            ("config", "registry"), f"{what} registry of type etcd; allowed: the name of one"
        )


class _Distrust:
    """Complains of what the writer of the key is not trusted with. What it complains of is not read
    any further."""

    def __init__(self, allow: Collection[str], plugins: Collection[str], report: Report) -> None:
        self._allow = allow
        self._plugins = frozenset(plugins)
        self._report = report

    def section(self, section: type[msgspec.Struct], tree: object, path: Path) -> None:
        """Walk over a section as it is written, whether it is sound or not."""
        if not isinstance(tree, dict):
            return
        keys = keys_of(section)
        for name, node in tree.items():
            key = keys.get(name)
            if section is FilterSpec and key is None:
                self._filter(name, node, (*path, name))
            elif key is not None:
                for place, one in _each(key, node, (*path, name)):
                    self._one(key, one, place)

    def _one(self, key: Key, node: object, place: Path) -> None:
        if key.section is not None:
            if key.short is not None and isinstance(node, Scalar):
                self._one(keys_of(key.section)[key.short.key], node, place)
            else:
                self.section(key.section, node, place)
        elif isinstance(node, Scalar):
            if isinstance(key.read, PlugIn):
                self._plug_in(node.text, place)
            # By its name as well, since a key that was declared without this is no less a file.
            elif key.read is FILE or key.name == "file" or key.name.endswith("_file"):
                self._refuse("files", f"{shown(node)} is a file of this machine", place)

    def _filter(self, kind: str, node: object, place: Path) -> None:
        self._plug_in(kind, place)
        if kind not in catalog.FILTERS and (":" not in kind or not self._is_listed(kind)):
            return
        try:
            one = catalog.plug_in("filters", kind)
        except catalog.PlugInError:
            return  # Whoever reads it complains.
        if one.short and not isinstance(node, dict):
            node = {one.short: node}
        if one.options is not None:
            self.section(one.options, node, place)

    def _plug_in(self, name: str, place: Path) -> None:
        if name == "exec":
            self._refuse("exec", '"exec" runs commands on this machine', place)
        elif ":" in name and not self._is_listed(name):
            self._refuse("python", f'"{name}" is imported, and not one of plugins', place)

    def _is_listed(self, name: str) -> bool:
        """Whether `plugins` names the class, or the module that has made it: one that a module has
        only imported, to extend it, say, is somebody else's, and may run commands or read files."""
        module = name.partition(":")[0]
        if name in self._plugins or module not in self._plugins:
            return name in self._plugins
        try:
            made_by = str(getattr(catalog.imported(name), "__module__", ""))
        except catalog.PlugInError:
            return True  # Whoever reads it complains.
        return made_by == module or made_by.startswith(f"{module}.")

    def _refuse(self, what: str, message: str, place: Path) -> None:
        if what not in self._allow:
            allowed = f"where config.allow of the machine's own file holds {what}"
            self._report.complain(place, f"{message}; allowed: {allowed}")
            self._report.broken.add(place)
            self._report.misspelt.add(place[:-1])  # A filter lacks no kind then.


def _each(key: Key, node: object, place: Path) -> Iterator[tuple[Path, object]]:
    """The values of a key, each with its place."""
    if key.shape == "list" and isinstance(node, list):
        yield from (((*place, at), one) for at, one in enumerate(node))
    elif key.shape == "mapping" and isinstance(node, dict):
        yield from (((*place, name), one) for name, one in node.items())
    else:
        yield place, node
