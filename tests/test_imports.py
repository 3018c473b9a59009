"""Who may import whom (docs/architecture.md), read from the source. And that `import rlhf_jax` is light."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rlhf_jax"

GROUND = {"errors", "config", "assets", "files", "lock", "safe_pickle"}


def may_import() -> dict[str, set[str]]:
    """The table in docs/architecture.md: what each folder may import."""
    page = (ROOT / "docs" / "architecture.md").read_text().partition("## Who may import whom")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| ?(.*?) ?\|$", page, re.MULTILINE)
    table: dict[str, set[str]] = {}
    for folder, text in rows:
        above = set(table) if text.startswith("everything above") else set()
        table[folder] = above | set(re.findall(r"`([\w.]+)`", text)) | ({"stages"} if folder == "aot" else set())
    return table


# Slow to import. Wanted only inside the functions that use them.
HEAVY = {
    "array_record",
    "datasets",
    "fsspec",
    "grain",
    "matplotlib",
    "onnxruntime",
    "openai",
    "orbax",
    "sentence_transformers",
    "sklearn",
    "tensorboardX",
    "tensorflow_datasets",
    "transformers",
    "wandb",
}

MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Full names of what import statements among `nodes` load, e.g. `rlhf_jax.data.records` or `jax`."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner.removeprefix("rlhf_jax.") in MODULES else node.module)
    return names


def libraries(nodes: Iterator[ast.AST]) -> set[str]:
    """The top-level packages of what is imported."""
    return {name.partition(".")[0] for name in imported(nodes)}


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is imported: not those inside functions or under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not for_types and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from at_import(node)


def ours(path: Path) -> set[str]:
    """Modules of this package that a file imports, named below the package. The package itself is `__init__`."""
    names = {name for name in imported(ast.walk(ast.parse(path.read_text()))) if name.partition(".")[0] == "rlhf_jax"}
    return {name.removeprefix("rlhf_jax").removeprefix(".") or "__init__" for name in names}


def belongs(module: str, part: str) -> bool:
    return module == part or module.startswith(part + ".")


def test_imports_go_one_way() -> None:
    table = may_import()
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders == set(table)
    for module, path in MODULES.items():
        folder = module.partition(".")[0]
        if folder not in table:
            continue
        allowed = table[folder] | GROUND | {folder}
        for target in ours(path) - {"__init__"}:
            assert any(belongs(target, part) for part in allowed), f"{module} must not import {target}"
            if module.startswith("stages.") and target.startswith("stages."):
                shared = ("stages.runner", "stages.resume", "stages.inputs")
                assert target in shared, f"{module} must not import {target}, a stage"


def test_the_ground_imports_nothing_above_it() -> None:
    assert {module: ours(MODULES[module]) for module in sorted(GROUND)} == {
        "assets": {"errors", "files"},
        "config": {"errors"},
        "errors": set(),
        "files": {"errors"},
        "lock": {"errors", "files"},
        "safe_pickle": {"errors"},
    }
    assert ours(MODULES["main"]) == {"assets", "config", "errors", "parallel.hosts", "stages.runner"}


def test_metrics_and_judges_do_not_import_jax() -> None:
    for module, path in MODULES.items():
        if module.startswith(("metrics.", "judges.", "report.")):
            assert not libraries(ast.walk(ast.parse(path.read_text()))) & {"jax", "flax"}, module


def test_the_page_names_every_file_and_folder() -> None:
    tree = (ROOT / "docs" / "architecture.md").read_text().partition("## The tree")[2].partition("\n## ")[0]
    names = set(re.findall(r"^  ?(?:  )*([\w.]+)/? ", tree, re.MULTILINE))
    in_package = {path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert in_package - {"__init__.py"} <= names
    nested = {path.name for path in PACKAGE.glob("*/*/") if (path / "__init__.py").exists()}
    assert nested <= names


def test_main_alone_reads_flags() -> None:
    readers = {
        module
        for module, path in MODULES.items()
        if {"absl", "absl.flags", "ml_collections.config_flags"} & imported(ast.walk(ast.parse(path.read_text())))
        or "config_flags" in path.read_text()
    }
    assert readers == {"main"}


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_are_imported_where_they_are_used(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text())
    assert not libraries(at_import(tree)) & HEAVY
    assert "torch" not in libraries(ast.walk(tree))


def test_launch_stands_above_the_package() -> None:
    assert ours(ROOT / "launch" / "sweep.py") == {"config", "errors", "main", "stages.runner"}
    assert ours(ROOT / "launch" / "aot_check.py") == {"aot.check", "errors", "main"}
    assert ours(ROOT / "launch" / "aot_table.py") == {"aot.topologies", "parallel.chips"}
    for module, path in MODULES.items():
        assert "launch" not in libraries(ast.walk(ast.parse(path.read_text()))), module


def test_configs_import_only_ml_collections() -> None:
    for path in sorted((ROOT / "configs").rglob("*.py")):
        names = imported(ast.walk(ast.parse(path.read_text())))
        assert {name for name in names if not belongs(name, "rlhf_jax.configs")} <= {"ml_collections"} | {
            f"ml_collections.{module}" for module in ("config_dict", "ConfigDict")
        }, path.name


def test_importing_the_package_imports_no_jax() -> None:
    program = (
        "import sys, rlhf_jax, rlhf_jax.main\n"
        "assert rlhf_jax.__version__\n"
        "assert 'generate' in dir(rlhf_jax)\n"
        f"print([name for name in ('jax', 'numpy', *{sorted(HEAVY)!r}) if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout == "[]\n", result.stdout + result.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    import rlhf_jax

    with pytest.raises(AttributeError, match="module 'rlhf_jax' has no attribute 'genrate'"):
        rlhf_jax.genrate  # noqa: B018
