"""The rules of the house, read from the source with ``ast``: import levels, words, sizes, and what is documented."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "causcade"
TESTS = ROOT / "tests"

# Who may import whom: a file imports its own level and those below. `__init__` and `demo` stand above all.
LEVELS = {
    0: set(
        "_blocks _checks _device _files _gram _halves _jit _keys citests contrasts edge_inputs fusion metrics nn pairs set_inputs simulate "
        "splits stats unmixing".split()
    ),
    1: set(
        "baselines comparisons ensemble expression memory networks nulls reference regimes reversal scoring screendata suggest summary".split()
    )
    | {"effect_baselines", "gimfit", "gracefit", "graph_baselines", "target_baselines"},
    2: set(
        "causes datasets evaluation graphs heldout heldout_graphs heldout_targets models onepass pretrain pretrained realcauses realscreens targets".split()
    ),
    3: {"pp", "tl", "pl", "get"},
    4: {"__init__", "demo"},
}
LEVEL_OF = {name: level for level, names in LEVELS.items() for name in names}
# Third parties that a level must not import, at the top of a file or inside its functions.
BANNED = {
    0: {"anndata", "lightning", "matplotlib", "mudata", "pandas", "pytorch_lightning", "scanpy", "scvi"},
    1: {"anndata", "lightning", "matplotlib", "pytorch_lightning", "scanpy", "scvi"},
    2: {"lightning", "matplotlib", "pytorch_lightning", "scanpy", "scvi"},
    3: set(),
    4: set(),
}
# Groups and single files that may import, inside BANNED. A file may do so in its functions only.
ALLOWED = {
    "regimes": {"anndata"},
    "networks": {"anndata"},
    "models": {"lightning", "scvi"},
    "simulate/combinations.py": {"anndata", "pandas"},
    "simulate/screen.py": {"anndata", "pandas"},
}
SLOW = {"lightning", "pytorch_lightning", "scanpy", "scvi"}  # seconds to import: no module level outside models, demo

# One word for one thing, in every public signature.
SYNONYMS = {
    "perturbation_key": "pert_key pert_col perturbation_col perturbation_column condition_key label_key labels_key",
    "control": "ctrl controls control_label control_labels control_key control_name reference",
    "sep": "separator delimiter delim",
    "layer": "layer_key layer_name use_layer",
    "key_added": "added_key key_name result_key out_key store_key",
    "rng": "random_state seed random_seed generator np_rng torch_rng",
    "targets": "target_genes intervention_targets perturbed_genes",
    "regimes": "environments envs contexts",
    "mask": "masks intervention_mask target_mask targets_mask",
    "adjacency": "adj adj_matrix adjacency_matrix",
    "gene_symbols": "symbols_key gene_symbol_key symbol_col",
    "progress_bar": "verbose verbosity progress show_progress pbar",
    "accelerator": "gpu use_gpu use_cuda",
    "num_workers": "n_jobs n_cores n_cpus",
}
INSTEAD_OF = {wrong: word for word, wrongs in SYNONYMS.items() for wrong in wrongs.split()}

TOP_FUNCTIONS = {"evaluate"}  # called as cc.name; all other public names are submodules

NO_TEST_OF_ITS_OWN = {"__init__.py", "demo.py"}
# folders of one name and one test file
GREW_FROM_A_FILE = set("citests get metrics pl pretrain regimes target_baselines tl".split())
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

SOURCES = sorted(PACKAGE.rglob("*.py"))
every_source = pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(PACKAGE).as_posix())


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def group_of(path: Path) -> str:
    """First part of a file's place in the package: ``simulate/grn.py`` -> ``simulate``."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def level_of(path: Path) -> int:
    group = group_of(path)
    assert group in LEVEL_OF, f"{path.name}: give {group!r} a level in LEVELS"
    return LEVEL_OF[group]


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def names_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of(path: Path) -> Iterator[tuple[str, str]]:
    """All imports of a file as (module, where), where in "module", "function" or "typing"."""
    yield from _imports(tree_of(path), path, "module")


def _imports(node: ast.AST, path: Path, where: str) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, where) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from ((name, where) for name in _imported_from(child, path))
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _imports(child, path, "function" if where == "module" else where)
        elif names_type_checking(child):
            assert isinstance(child, ast.If)
            for inner in child.body:
                yield from _imports(ast.Module([inner], []), path, "typing")
            for inner in child.orelse:
                yield from _imports(ast.Module([inner], []), path, where)
        else:
            yield from _imports(child, path, where)


def _imported_from(node: ast.ImportFrom, path: Path) -> list[str]:
    base = node.module or ""
    if node.level:  # relative: resolved against this file's package
        package = list(path.relative_to(PACKAGE.parent).parts[: -node.level])
        base = ".".join([*package, base] if base else package)
    if base.split(".")[0] != "causcade":
        return [base]
    return [f"{base}.{alias.name}" for alias in node.names]  # the name may be a submodule


def own_file(module: str) -> Path | None:
    """File behind a dotted name in the package; trailing parts may be functions."""
    parts = module.split(".")[1:]
    for end in range(len(parts), -1, -1):
        stem = PACKAGE.joinpath(*parts[:end])
        for candidate in (stem.with_suffix(".py"), stem / "__init__.py"):
            if candidate.exists():
                return candidate
    return None


def public_functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef, int]]:
    """Public functions and methods of a file, with the number of leading ``self`` or ``cls`` arguments."""
    if path.name.startswith("_") and path.name not in {"__init__.py", "_base.py"}:
        return
    for node in tree_of(path).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node, 0
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and (method.name == "__init__" or method.name[0] != "_"):
                    static = any("staticmethod" in ast.unparse(d) for d in method.decorator_list)
                    yield f"{node.name}.{method.name}", method, 0 if static else 1


def all_of(path: Path) -> list[str] | None:
    """``__all__`` of a file, or None where it has none."""
    for node in tree_of(path).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
            value = ast.literal_eval(node.value)  # type: ignore[attr-defined]
            return list(value)
    return None


def public_submodules() -> list[str]:
    names = all_of(PACKAGE / "__init__.py")
    assert names
    return [name for name in names if not name.startswith("_") and name not in TOP_FUNCTIONS]


def run_python(code: str) -> str:
    """Run code in a new interpreter and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_environment(), check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1"}


# --- import levels ------------------------------------------------------------------------------------------------


@every_source
def test_imports_only_its_own_level_and_below(path: Path) -> None:
    level = level_of(path)
    for module, where in imports_of(path):
        target = own_file(module) if module.split(".")[0] == "causcade" else None
        if target is None or target == PACKAGE / "__init__.py":
            continue
        assert level_of(target) <= level, f"{path.name} (level {level}) imports {module} ({where})"
        assert group_of(path) != "pl" or group_of(target) != "models", f"pl imports {module}"


@every_source
def test_third_parties_belong_to_its_level(path: Path) -> None:
    place = path.relative_to(PACKAGE).as_posix()
    for module, where in imports_of(path):
        name = module.split(".")[0]
        if where == "typing":
            continue
        in_functions = where == "function" and name in ALLOWED.get(place, set())
        if name in BANNED[level_of(path)] and name not in ALLOWED.get(group_of(path), set()) and not in_functions:
            pytest.fail(f"{place} imports {name} in a {where}")
        slow_here = name in SLOW and where == "module" and group_of(path) not in {"models", "demo"}
        assert not slow_here, f"{place} imports {name} at module level: import it where it is used"


def test_no_import_cycles() -> None:
    graph = {
        path: {own_file(m) for m, where in imports_of(path) if where == "module" and m.startswith("causcade")}
        for path in SOURCES
    }
    done: set[Path] = set()

    def visit(path: Path, trail: tuple[Path, ...]) -> None:
        assert path not in trail, "cycle: " + " -> ".join(module_of(p) for p in (*trail, path))
        if path in done:
            return
        for other in graph[path] - {None, path, PACKAGE / "__init__.py"}:
            # A package's own files are imported by its __init__; reading the package name back is no cycle.
            if other is not None and not (other.name == "__init__.py" and other.parent == path.parent):
                visit(other, (*trail, path))
        done.add(path)

    for path in SOURCES:
        visit(path, ())
    assert done == set(SOURCES)


def test_import_causcade_is_light() -> None:
    heavy = "anndata lightning matplotlib numpy pandas scanpy scipy scvi torch".split()
    code = f"""
import sys
import causcade as cc
print([m for m in {heavy} if m in sys.modules])
print(sorted(dir(cc)) == sorted(cc.__all__), cc.metrics.__name__, cc.__version__ != "")
try:
    cc.nothing_of_the_kind
except AttributeError as error:
    print("metrics" in str(error))
"""
    assert run_python(code).split("\n")[:3] == ["[]", "True causcade.metrics True", "True"]


def test_user_modules_leave_scvi_alone() -> None:
    modules = [
        m for m in ("pp", "tl", "pl", "get", "simulate", "datasets") if own_file(f"causcade.{m}") != own_file("")
    ]
    code = f"""
import importlib, sys
for name in {modules}:
    importlib.import_module("causcade." + name)
print([m for m in {sorted(SLOW)} if m in sys.modules])
"""
    assert run_python(code).strip() == "[]"


BARE = set(
    "_device _files _jit _keys citests contrasts nn pairs pretrain set_inputs simulate stats".split()
)  # all that pretraining needs
BLOCK = "anndata lightning matplotlib mudata pandas pytorch_lightning scanpy scvi".split()
BLOCK_BARE = [*BLOCK, "networkx", "numba", "pooch", "scipy", "sklearn", "tqdm"]


@pytest.mark.parametrize(
    ("groups", "blocked"),
    [(BARE, BLOCK_BARE), (LEVELS[0] - BARE, BLOCK)],
    ids=["torch, numpy and safetensors only", "level 0 without anndata and scvi"],
)
def test_level_0_imports_where_little_is_installed(groups: set[str], blocked: list[str]) -> None:
    modules = [module_of(path) for path in SOURCES if group_of(path) in groups]
    code = f"""
import importlib, json, sys, traceback

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Absent())
failed = {{}}
for name in {modules}:
    try:
        importlib.import_module(name)
    except ImportError as error:
        failed[name] = repr(error) + traceback.format_exc().splitlines()[-2]
print(json.dumps(failed))
"""
    assert json.loads(run_python(code).splitlines()[-1]) == {}


# --- words --------------------------------------------------------------------------------------------------------


@every_source
def test_one_word_for_one_thing(path: Path) -> None:
    for name, function, _ in public_functions(path):
        arguments = function.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            word = INSTEAD_OF.get(argument.arg)
            assert word is None, f"{path.name}: {name}({argument.arg}=) should be {word}="


@every_source
def test_booleans_are_keyword_only(path: Path) -> None:
    for name, function, own in public_functions(path):
        positional = [*function.args.posonlyargs, *function.args.args]
        defaults = [None] * (len(positional) - len(function.args.defaults)) + list(function.args.defaults)
        for argument, default in list(zip(positional, defaults, strict=True))[own:]:
            annotated = argument.annotation is not None and ast.unparse(argument.annotation) in {"bool", "bool | None"}
            boolean = annotated or (isinstance(default, ast.Constant) and isinstance(default.value, bool))
            assert not boolean, f"{path.name}: {name}(..., {argument.arg}) must be keyword-only"


@pytest.mark.parametrize("group", ["pp", "tl", "pl", "get"])
def test_user_functions_take_adata_first_and_key_added_by_name(group: str) -> None:
    for path in (p for p in SOURCES if group_of(p) == group):
        exported = all_of(path) or []
        for name, function, _ in public_functions(path):
            if name not in exported:
                continue
            first = [a.arg for a in (*function.args.posonlyargs, *function.args.args)][:1]
            assert first == ["adata"], f"{group}.{name} must take adata first"
            if group == "tl":
                assert "key_added" in [a.arg for a in function.args.kwonlyargs], f"tl.{name} stores without key_added="


# --- what source may hold -----------------------------------------------------------------------------------------


@every_source
def test_no_print_assert_global_or_batchnorm(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        where = f"{path.name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            assert path.name == "demo.py", f"{where}: log, or return it"
        assert not isinstance(node, ast.Assert), f"{where}: raise ValueError(msg), asserts vanish under -O"
        assert not isinstance(node, ast.Global), f"{where}: no global state"
        name = getattr(node, "attr", getattr(node, "id", ""))
        assert not str(name).startswith("BatchNorm"), f"{where}: no BatchNorm"


@every_source
def test_files_and_functions_stay_small(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_FILE_LINES, f"{path.name} has {lines} lines: split it into a folder"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            assert node.end_lineno is not None
            size = node.end_lineno - node.lineno + 1 - (len(docstring.splitlines()) if docstring else 0)
            assert size <= MAX_FUNCTION_LINES, f"{path.name}: {node.name} has {size} code lines"


@every_source
def test_has_a_test_file(path: Path) -> None:
    inside = path.relative_to(PACKAGE)
    if path.name in NO_TEST_OF_ITS_OWN or inside.parts[0] in GREW_FROM_A_FILE:
        return
    stems = [part.strip("_") for part in inside.with_suffix("").parts]
    names = {f"test_{stems[-1]}.py", f"test_{'_'.join(stems)}.py"}
    users = [p for p in path.parent.glob("*.py") if any(own_file(m) == path for m, _ in imports_of(p))]
    if len(stems) > 1 and path.name.startswith("_") and users:
        return  # a private file in a folder is tested through the files that use it
    assert any((TESTS / name).exists() for name in names), f"none of {sorted(names)} in tests/"


@pytest.mark.parametrize("folder", sorted(GREW_FROM_A_FILE))
def test_folder_that_was_a_file_has_one_test_file(folder: str) -> None:
    assert (TESTS / f"test_{folder}.py").exists()


def test_test_files_are_named_after_a_source_file() -> None:
    stems = {"conventions", "bad_input", "input_table", "writers"}  # these cut across the sources
    for path in SOURCES:
        parts = [part.strip("_") for part in path.relative_to(PACKAGE).with_suffix("").parts]
        stems |= {parts[-1], "_".join(parts), "_".join(parts[:-1])}  # a package may have one test for its __init__
    stems |= {f"benchmark_{path.stem}" for path in (ROOT / "benchmarks").glob("*.py")}
    stems |= {f"tool_{path.stem}" for path in (ROOT / "tools").glob("*.py")}
    strays = [path.name for path in TESTS.glob("test_*.py") if path.stem.removeprefix("test_") not in stems]
    assert strays == []


# --- what is written about it -------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", public_submodules())
def test_public_names_are_documented(module: str) -> None:
    path = own_file(f"causcade.{module}")
    assert path is not None and path != PACKAGE / "__init__.py", f"causcade.{module} does not exist"
    names = all_of(path)
    assert names, f"causcade.{module} has no __all__"
    documented = set(re.findall(r"^\s+([a-z_]+\.\w+)\s*$", (ROOT / "docs" / "api.md").read_text(), flags=re.M))
    missing = [f"{module}.{name}" for name in names if f"{module}.{name}" not in documented]
    assert missing == [], "not in docs/api.md"
    stale = [name for name in documented if name.split(".")[0] == module and name.split(".")[1] not in names]
    assert stale == [], "in docs/api.md, but not public"


@pytest.mark.parametrize("name", sorted(TOP_FUNCTIONS))
def test_top_functions_are_public_and_documented(name: str) -> None:
    assert name in (all_of(PACKAGE / "__init__.py") or [])
    assert re.search(rf"^   {name}$", (ROOT / "docs" / "api.md").read_text(), flags=re.M)
    # no submodule may take its place when it is imported
    assert run_python(f"import causcade.evaluation, causcade as cc; print(callable(cc.{name}))").strip() == "True"
    assert own_file(f"causcade.{name}") == PACKAGE / "__init__.py"


def test_readme_tree_is_true() -> None:
    blocks = re.findall(r"^```text\n(.*?)^```$", (ROOT / "README.md").read_text(), flags=re.S | re.M)
    (block,) = [b for b in blocks if "src/causcade/" in b]
    listed = set(re.findall(r"[\w.]+\.py\b", block))
    shown = {p.name for p in SOURCES if p.parent == PACKAGE or not p.name.startswith("_")}
    assert shown - listed == set(), "source files that the README tree leaves out"
    folders = [ROOT / name for name in ("src", "tests", "benchmarks", "docs", "tools")]
    there = {path.name for folder in folders for path in folder.rglob("*.py")}
    assert listed - there == set(), "files in the README tree that do not exist"
