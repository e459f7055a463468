"""Packages import only from floors below; heavy libraries stay where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# docs/architecture.md: a package may import these, and no two packages import each other.
MAY_IMPORT = {
    "common": set(),
    "policy": {"common"},
    "rewards": {"common"},
    "corpus": {"policy", "common"},
    "rollouts": {"policy", "common"},
    "sft": {"corpus", "policy", "common"},
    "degrpo": {"common", "policy", "rewards", "corpus", "rollouts", "sft"},
}
ENGINES = {"ray", "vllm", "deepspeed"}
# Files that may name an engine at all, even inside a function.
MAY_NAME_ENGINES = ("rollouts/", "rewards/service.py", "degrpo/", "corpus/", "sft/")
NEVER_NAME_ENGINES = ("degrpo/algorithm/", "degrpo/lifecycle/", "degrpo/scheduler/")
EXCEPT = {"degrpo/scheduler/actor.py"}


def sources(*packages: str) -> list[Path]:
    found = []
    for package in packages:
        files = sorted((ROOT / package).rglob("*.py"))
        assert files, f"{package}/ has no sources, so nothing about it is checked"
        found += files
    return found


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import in a file, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            yield node.lineno, node.module or ""


def loaded_by(modules: Iterable[str], heavy: set[str]) -> str:
    """Import ``modules`` in a fresh interpreter; which of ``heavy`` came along, after which one?"""
    program = (
        "import importlib, sys\n"
        f"for name in {list(modules)!r}:\n"
        "    importlib.import_module(name)\n"
        f"    if found := [heavy for heavy in {sorted(heavy)!r} if heavy in sys.modules]:\n"
        "        sys.exit(f'importing {name} loads {found}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    return done.stderr.strip() if done.returncode else ""


def configs() -> list[str]:
    return [module_name(path) for path in sources(*MAY_IMPORT) if path.name == "config.py"]


GROUPS = {
    "configs": (configs, ENGINES | {"torch", "transformers"}),
    "common": (lambda: [module_name(p) for p in sources("common")], ENGINES | {"torch"}),
    "rewards": (
        lambda: [module_name(p) for p in sources("rewards") if p.name != "service.py"],
        ENGINES,
    ),
    "degrpo.algorithm": (lambda: [module_name(p) for p in sources("degrpo/algorithm")], ENGINES),
    "degrpo.scheduler": (
        lambda: [module_name(p) for p in sources("degrpo/scheduler") if p.name != "actor.py"],
        ENGINES,
    ),
    "degrpo.lifecycle": (lambda: [module_name(p) for p in sources("degrpo/lifecycle")], ENGINES),
}


@pytest.mark.parametrize("group", GROUPS)
def test_importing_a_light_room_loads_no_engine(group):
    modules, heavy = GROUPS[group]
    names = modules()
    assert names
    assert loaded_by(names, heavy) == ""


def test_the_check_sees_what_it_looks_for():
    assert "importing torch.nn loads ['torch']" in loaded_by(["json", "torch.nn"], {"torch"})


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_only_from_lower_floors(package):
    allowed = MAY_IMPORT[package] | {package}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(package)
        for line, name in imported(path)
        if (top := name.partition(".")[0]) in MAY_IMPORT and top not in allowed
    ]
    assert wrong == []


def test_engines_are_named_only_where_they_belong():
    wrong = []
    for path in sources(*MAY_IMPORT):
        file = path.relative_to(ROOT).as_posix()
        allowed = file.startswith(MAY_NAME_ENGINES) and not file.startswith(NEVER_NAME_ENGINES)
        allowed = allowed or file in EXCEPT
        for line, name in imported(path):
            if name.partition(".")[0] in ENGINES and not allowed:
                wrong.append(f"{file}:{line} imports {name}")
    assert wrong == []
