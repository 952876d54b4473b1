"""The structure that docs/architecture.md promises, checked against the source as text."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path
from statistics import median

import pytest

from proxy import catalog
from proxy.control.families import FAMILIES

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("proxy/**/*.py"), *ROOT.glob("balancers/**/*.py")])
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()
GLOSSARY = (ROOT / "docs/glossary.md").read_text()
TOPICS = ("forwarding", "balancers", "resilience", "limits", "operations", "errors")
BEHAVIOUR = "\n".join((ROOT / f"docs/{topic}.md").read_text() for topic in TOPICS)
"""What the proxy does exactly, of all the pages that say it."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports(path: Path, typing: bool = True) -> tuple[str, ...]:
    """Modules that `path` imports; `typing`: those under TYPE_CHECKING, too."""
    return tuple(_imports(path, typing))


def _imports(path: Path, typing: bool) -> Iterator[str]:
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if not typing and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            # `from proxy import catalog` imports a module, `from proxy.messages import X` a name.
            yield from (
                name if (ROOT / f"{name.replace('.', '/')}.py").exists() else node.module
                for name in names
            )
        pending.extend(ast.iter_child_nodes(node))


def table(heading: str) -> dict[str, list[str]]:
    """A two-column table of the page: first column → names in the second."""
    _, found, rest = ARCHITECTURE.partition(heading)
    assert found, heading
    rows: dict[str, list[str]] = {}
    for line in rest.splitlines():
        if line.startswith("| `"):
            _, first, second, _ = line.split("|")
            rows[first.strip().strip("`")] = re.findall(r"`([^`]+)`", second)
        elif rows and not line.startswith("|"):
            break
    return rows


def under(module: str, group: str) -> bool:
    return module == group or module.startswith(group + ".")


MAY_IMPORT = table("| group | may import |")
SOLE_IMPORTER = table("| library | importer |")


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_run_one_way(path: Path) -> None:
    module = module_name(path)
    groups = [group for group in MAY_IMPORT if under(module, group)]
    if path.name == "__init__.py" and not groups:
        groups = [module]  # A package's docstring imports nothing.
    assert groups, f"{module} is in no group of docs/architecture.md"
    allowed = MAY_IMPORT.get(max(groups, key=len), [])
    ours = [name for name in imports(path) if under(name, "proxy") or under(name, "balancers")]
    wrong = [name for name in ours if name != "proxy" and not any(under(name, a) for a in allowed)]
    assert not wrong, f"{module} may import {allowed}, not {wrong}"


@pytest.mark.parametrize("library", SOLE_IMPORTER)
def test_a_library_has_one_importer(library: str) -> None:
    found = {
        module_name(path)
        for path in SOURCES
        if any(under(name, library) for name in imports(path, typing=False))
    }
    assert found == set(SOLE_IMPORTER[library])


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        *catalog.BALANCERS.items(),
        *catalog.PROVIDERS.items(),
        *catalog.REGISTRATION_BACKENDS.items(),
        *catalog.CHECKS.items(),
        *catalog.FILTERS.items(),
    ],
    ids=lambda value: str(value),
)
def test_catalogue_entries_resolve(name: str, entry: str) -> None:
    module, _, attribute = entry.partition(":")
    assert isinstance(getattr(import_module(module), attribute), type), name


IMPURE = {"asyncio", "os", "socket", "subprocess", "threading", "time", "structlog", "aiohttp"}
TESTS = {path: path.read_text() for path in ROOT.glob("tests/*/test_*.py")}


@pytest.mark.parametrize(("key", "entry"), catalog.MECHANISMS.items())
def test_a_mechanism_is_pure_and_described_and_tested(key: str, entry: str) -> None:
    module, _, name = entry.partition(":")
    assert callable(getattr(import_module(module), name))
    [path] = [path for path in SOURCES if module_name(path) == module]
    assert not {name.partition(".")[0] for name in imports(path)} & IMPURE, "time is an argument"
    switch = key if key.startswith("registry.") else f"services.*.{key}"
    assert re.search(rf"`{re.escape(switch)}[`.]", (ROOT / "docs/configuration.md").read_text())
    described = "".join((ROOT / f"docs/{page}.md").read_text() for page in ("resilience", "limits"))
    assert re.search(rf"`{re.escape(key)}[`.:]", described)
    assert re.search(rf"^\| .*`{re.escape(key)}`.*\|", OPERATIONS, re.MULTILINE), "where it shows"
    testing = [path for path, text in TESTS.items() if re.search(rf"\b{name}\b", text)]
    assert any(path.parent.name == "unit" for path in testing), "a unit test"
    assert any("from hypothesis" in TESTS[path] for path in testing), "a property test"


def test_the_pages_of_behaviour_name_tests_that_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)`", BEHAVIOUR)
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]


def test_the_pages_of_behaviour_name_metrics_that_exist() -> None:
    named = set(re.findall(r"`((?:fairlead|service|health)_\w+)`", BEHAVIOUR))
    for name in named - {"health_check"}:
        assert name in FAMILIES or f"{name}_total" in FAMILIES, name


def test_every_owner_says_what_it_owns() -> None:
    """The house rule is worth checking where it matters most: the classes with state that
    outlives a call, in the two planes."""
    owners = (
        "proxy.engine.exchange:Exchange",
        "proxy.engine.http1.server_connection:ServerConnection",
        "proxy.engine.http1.requests:RequestReader",
        "proxy.engine.http1.server:ClientConnection",
        "proxy.engine.http1.keepalive:KeptConnection",
        "proxy.engine.http1.client:UpstreamConnection",
        "proxy.engine.attempts:Attempts",
        "proxy.engine.connections:Connections",
        "proxy.engine.fault_log:FaultLog",
        "proxy.engine.upstream.connector:Connector",
        "proxy.engine.pool:Node",
        "proxy.engine.pool:Pool",
        "proxy.engine.pools:Pools",
        "proxy.engine.load:Board",
        "proxy.engine.deadlines:Deadlines",
        "proxy.engine.worker:Worker",
        "proxy.control.pools:PoolRegistry",
        "proxy.register.registrar:Registrar",
        "proxy.register.keeper:Keeper",
        "proxy.register.lease:LeaseLife",
        "proxy.register.entry:Entry",
        "proxy.control.ejections:Ejections",
        "proxy.control.acme:Acme",
        "proxy.control.certificates:Certificates",
        "proxy.control.certificates:ListenerFiles",
        "proxy.control.watched_files:WatchedFiles",
        "proxy.control.events:Events",
        "proxy.control.slow_start:SlowStart",
        "proxy.health.monitor:Monitor",
        "proxy.names.cache:Name",
        "proxy.names.cache:Names",
        "proxy.health.schedule:Schedule",
        "proxy.registry.roster:Roster",
        "proxy.registry.decorators.mass_loss:MassLossPolicy",
        "proxy.registry.decorators.failover:FailoverPolicy",
        "proxy.registry.decorators.failover:GracefulSwitch",
    )
    for entry in owners:
        module, _, name = entry.partition(":")
        doc = getattr(import_module(module), name).__doc__ or ""
        assert "Owns" in doc or "owns" in doc, entry


def test_the_page_about_a_request_names_what_exists() -> None:
    text = (ROOT / "docs/request.md").read_text()
    source = "\n".join(path.read_text() for path in SOURCES)
    classes: dict[str, set[str]] = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
                classes.setdefault(node.name, set()).update(methods)
    for owner, method in re.findall(r"`([A-Z]\w+)\.(\w+)`", text):
        assert method in classes[owner], f"{owner}.{method}"
    for name in re.findall(r"`([A-Z]\w+)`", text):
        assert re.search(rf"^(class )?{name}\b", source, re.MULTILINE), name
    for name in re.findall(r"`(\w+_\w+|resolve)`", text):
        assert re.search(rf"\b(def {name}|{name}(: [^=\n]+)? =)", source), name


def test_no_name_in_the_code_is_a_word_that_the_glossary_avoids() -> None:
    rows = re.findall(r"^\| ([a-z -]+) \| [A-Z].* \|([^|]*)\|$", GLOSSARY, re.MULTILINE)
    avoided = {word for _, words in rows for word in re.findall(r"\w+", words)}
    assert len(rows) > 30
    assert avoided
    for path in SOURCES:
        names = set(re.findall(r"[A-Za-z_]\w*", path.read_text()))
        used = {name for name in names if name.strip("_").lower() in avoided}
        assert not used, f"{module_name(path)}: {used}; docs/glossary.md has the word to use"


def test_the_terms_of_the_glossary_are_in_order() -> None:
    terms = re.findall(r"^\| ([a-z -]+) \| [A-Z]", GLOSSARY, re.MULTILINE)
    assert terms == sorted(terms)


def test_no_module_imports_itself_by_way_of_others() -> None:
    modules = {module_name(path): path for path in SOURCES}
    graph = {
        module: {name for name in imports(path) if name in modules}
        for module, path in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_compiled_modules_are_a_rule_with_reasons_for_exceptions() -> None:
    tree = ast.parse((ROOT / "setup.py").read_text())
    [exceptions] = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "INTERPRETED"
    ]
    assert all((ROOT / path).exists() and why for path, why in exceptions.items())
    assert len(exceptions) <= 5


DEFINITIONS = [
    (path, node)
    for path in SOURCES
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
]
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


PRONOUN = re.compile(
    r"(its?|they|them|theirs?|s?he|his|her|we|our|you|your|this|that|these|those|who(m|se|ever)?"
    r"|(what|which)(ever)?|(some|every|no|any)(body|one|thing)|others)\b",
    re.IGNORECASE,
)
STANDS_ALONE = re.compile(
    r"(One|All|Each|Both|Some|Most|Several|Another|Either|Neither)([.,;:]|$)|"
    r"(One|All|None|Each|Both|Some|Most|Several|Another|Either|Neither)"
    r" (of|that|who|whom|whose|which|is|are|was|were|has|have|had|may|can|must|will|to|in|on|for)\b"
)


def docstrings(tree: ast.AST) -> Iterator[ast.Constant]:
    """Of modules, classes and functions, and of attributes: behind an assignment."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for before, item in zip([node, *body], body, strict=False) if type(body) is list else ():
            match before, item:
                case (
                    ast.Module() | ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef()
                    | ast.Assign() | ast.AnnAssign(),
                    ast.Expr(ast.Constant(str()) as text),
                ):  # fmt: skip
                    yield text


def test_no_docstring_begins_with_a_pronoun() -> None:
    """An editor shows the name and the docstring alone: it must say what it is about."""
    wrong = []
    for path in SOURCES:
        for text in docstrings(ast.parse(path.read_text())):
            line = str(text.value).strip().partition("\n")[0]
            if PRONOUN.match(line) or STANDS_ALONE.match(line):
                wrong.append(f"{module_name(path)}:{text.lineno}: {line}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_a_file_has_no_more_than_500_lines(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= 500


def test_a_class_has_no_more_than_30_methods() -> None:
    for path, node in DEFINITIONS:
        if isinstance(node, ast.ClassDef):
            methods = [item for item in node.body if isinstance(item, FUNCTION)]
            assert len(methods) <= 30, f"{module_name(path)}.{node.name}: {len(methods)}"


def test_half_of_all_functions_have_no_more_than_8_lines() -> None:
    lines = [
        (node.end_lineno or node.lineno) - node.lineno + 1
        for _, node in DEFINITIONS
        if isinstance(node, FUNCTION)
    ]
    assert median(lines) <= 8
