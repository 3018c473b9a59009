"""Who may import whom (docs/architecture.md), read from the source; and that `import rlhf_jax` is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rlhf_jax"

STAGE_FILES = (
    "generate_tasks",
    "prepare",
    "initialize",
    "add_difference",
    "sft",
    "preferences",
    "reward",
    "score",
    "ppo",
    "best_of_n",
    "generation",
    "export",
)
LOWER = ("assets", "errors", "hosts", "losses", "ops", "padding", "sequences", "sharding", "stacks")

# What each part may import of this package; a part is a module or a package. The most specific row counts, so
# `models.layers` is not held to the row of `models`. A part that has no row fails the test: say where it belongs.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "errors": (),
    "sequences": (),
    "hosts": ("errors",),
    "sharding": ("errors", "hosts"),
    "chips": (),
    "stacks": (),
    "padding": (),
    "work": ("models.transformer", "sequences", "sharding"),
    "assets": ("errors",),
    "config": ("errors",),
    "ops": ("errors", "sequences"),
    "losses": ("errors", "ops", "sequences"),
    "models": ("models", *LOWER),
    "models.products": ("sharding",),
    "models.layers": ("models.products",),
    "models.attention": (
        "sharding",
        "models.attention_parts",
        "models.attention_joined",
        "models.attention_tpu",
        "models.attention_gpu",
    ),
    "models.attention_parts": ("models.products",),
    "models.attention_joined": ("models.attention_parts",),
    "models.attention_tpu": ("models.attention_joined", "sharding"),
    "models.attention_gpu": ("models.attention_joined",),
    "models.architecture": (),
    "models.families": ("models.architecture", "errors"),
    "models.presets": ("models.architecture",),
    "models.layout": ("models.architecture",),
    "models.depth": ("models.architecture", "stacks"),
    "models.quantise": (),
    "models.torch_file": ("errors",),
    "sampler": ("models", *LOWER),
    "rollouts": ("models", "sampler", "training.run", *LOWER),
    "data": ("data", "assets", "errors", "sequences"),
    "data.index_file": ("errors",),
    "data.places": ("errors",),
    "data.self_instruct": ("data.records", "errors"),
    "data.shifts": ("data.formats", "data.index_file", "data.records", "errors"),
    "data.sources": ("data.sources", "data.formats", "data.records", "data.shifts", "errors"),
    "data.sources.rows": ("errors",),
    "data.sources.files": ("data.sources.rows", "data.records", "errors"),
    "training": ("training", "chips", "errors", "hosts", "padding", "sequences", "sharding", "stacks"),
    "runs": ("models", "training", *LOWER),
    "rl": ("rl", "models", *LOWER),
    "rl.settings": ("errors",),
    "rl.programs": ("rl", "models", "sampler", "training", *LOWER),
    "rl.fixed_prompts": ("rl", "rollouts", "sampler", "sampling", "data", "training.run", *LOWER),
    "scoring": ("models", "training.run", *LOWER),
    "sampling": ("models", "rollouts", "data", "training", "runs", *LOWER),
    "evaluation": ("evaluation", "data", "assets", "config", "errors", "__init__"),
    "aot": ("chips", "errors"),
    "aot.compiled": (),
    "aot.abstract": (
        "models.transformer",
        "models.quantise",
        "rl.settings",
        "training.update",
        "sequences",
        "sharding",
    ),
    "aot.programs": (
        "aot",
        "assets",
        "errors",
        "models",
        "rollouts",
        "rl",
        "sampling",
        "scoring",
        "training",
        "work",
        "sharding",
        *STAGE_FILES,
    ),
    "aot.check": ("aot", "chips", "stages", "sharding", "errors"),
    "stages": ("config", "errors", "hosts"),
    "pipeline": ("stages", "errors"),
    "main": ("stages", "config", "errors", "hosts"),
    **dict.fromkeys(
        STAGE_FILES,
        (
            "models",
            "sampler",
            "rollouts",
            "sampling",
            "scoring",
            "rl",
            "data",
            "training",
            "work",
            "runs",
            "evaluation",
            *LOWER,
        ),
    ),
}

# Stages below `evaluation` are stages too: nobody imports them but by name, and but for what compiles their programs.
STAGE_MODULES = {
    *STAGE_FILES,
    "pipeline",
    "evaluation.agreement",
    "evaluation.annotate",
    "evaluation.convert",
    "evaluation.evaluate",
    "evaluation.frontier",
    "evaluation.judge",
    "evaluation.report",
}

# Slow to import; wanted only inside the functions that use them.
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


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is imported: not those inside functions or under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not for_types and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from at_import(node)


def ours(path: Path) -> set[str]:
    """Modules of this package that a file imports, named below the package; the package itself is `__init__`."""
    names = {name for name in imported(ast.walk(ast.parse(path.read_text()))) if name.partition(".")[0] == "rlhf_jax"}
    return {name.removeprefix("rlhf_jax").removeprefix(".") or "__init__" for name in names}


def belongs(module: str, part: str) -> bool:
    return module == part or module.startswith(part + ".")


@pytest.mark.parametrize("module", [name for name in MODULES if name != "__init__"])
def test_imports_go_one_way(module: str) -> None:
    rows = [part for part in MAY_IMPORT if belongs(module, part)]
    assert rows, f"{module} has no row in MAY_IMPORT"
    allowed = MAY_IMPORT[max(rows, key=len)]
    for target in ours(MODULES[module]):
        assert any(belongs(target, part) for part in allowed), f"{module} must not import {target}"
        assert target not in STAGE_MODULES or module == "aot.programs", f"{module} must not import {target}, a stage"


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
    tops = {name.partition(".")[0] for name in imported(at_import(tree))}
    assert not tops & HEAVY
    assert "torch" not in {name.partition(".")[0] for name in imported(ast.walk(tree))}


def test_launch_stands_above_the_package() -> None:
    assert ours(ROOT / "launch" / "sweep.py") == {"config", "errors", "main", "stages"}
    assert ours(ROOT / "launch" / "aot_check.py") == {"aot.check", "errors", "main"}
    assert ours(ROOT / "launch" / "aot_table.py") == {"aot.topologies", "chips"}
    for module, path in MODULES.items():
        tops = {name.partition(".")[0] for name in imported(ast.walk(ast.parse(path.read_text())))}
        assert "launch" not in tops, module


def test_configs_import_only_ml_collections() -> None:
    for path in sorted((ROOT / "configs").rglob("*.py")):
        names = imported(ast.walk(ast.parse(path.read_text())))
        assert {name.partition(".")[0] for name in names} <= {"__future__", "ml_collections", "configs"}, path.name


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
