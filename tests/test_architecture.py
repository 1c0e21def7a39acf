"""The rules of the house: imports go down, scripts import no scripts, heavy libraries stay in one room, sizes."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY

LEVELS = (  # from the bottom up; a module imports only from levels below its own, or from its own room
    {"runtime"},
    {"layouts"},
    {"dataset"},
    {"backbones", "layers", "sample", "splits"},
    {"model"},
    {"inspection"},
    {"features", "figures"},
    {"hooks"},
    {"evaluation"},
    {"training"},
    {"explorer", "exporting", "reports", "video"},
    {
        "train", "predict5", "visualize_single_example", "visualize_activations", "prepare_data", "export", "explore",
        "compare", "benchmarks",
    },
)  # fmt: skip
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}
SCRIPTS = LEVELS[-1] - {"benchmarks"}
HEAVY = {  # rooms that may import a library that takes long to import, or that only one job needs
    "av": {"video"},
    "captum": {"inspection"},
    "cleanlab": {"evaluation"},
    "jinja2": {"reports"},
    "kagglehub": {"prepare_data"},
    "matplotlib": {"figures"},
    "nncf": {"features"},
    "onnxruntime": {"exporting", "benchmarks"},
    "openvino": {"features", "benchmarks"},
    "optuna": {"benchmarks"},
    "pandas": {"runtime", "benchmarks"},
    "starlette": {"explorer"},
    "tensorboard": {"training"},
    "scipy": {"benchmarks", "evaluation", "splits"},
    "sklearn": {"benchmarks"},
    "timm": {"backbones", "benchmarks"},
    "uvicorn": {"explorer"},
    "wandb": {"training"},
    "torchvision": {"backbones", "benchmarks"},
}
NOT_AT_START = {*HEAVY, "torch._dynamo"}
SOURCES = sorted(
    path.relative_to(REPOSITORY)
    for path in [*REPOSITORY.glob("*.py"), *REPOSITORY.glob("*/*.py")]
    if path.parts[len(REPOSITORY.parts)] not in ("tests", ".venv")
)


def room_of(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """First names of all imported modules, also inside of functions, with their lines."""
    for node in ast.walk(ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.module.partition(".")[0], node.lineno


def test_every_module_has_a_level_and_every_level_exists() -> None:
    assert {room_of(path) for path in SOURCES} == set(LEVEL)
    assert {path.stem for path in SOURCES if len(path.parts) == 1} == SCRIPTS | {"model", "dataset", "hooks"}


def test_an_installation_holds_every_room() -> None:
    about = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    rooms = {path.parts[0] for path in SOURCES if len(path.parts) > 1}
    assert set(about["packages"]) == rooms - {"benchmarks"}
    assert set(about["py-modules"]) == {path.stem for path in SOURCES if len(path.parts) == 1} - SCRIPTS


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_go_down_and_no_script_is_imported(path: Path) -> None:
    room = room_of(path)
    for name, line in imported(path):
        if name in LEVEL and name != room:
            assert name not in SCRIPTS, f"{path}:{line}: imports the script {name}"
            assert LEVEL[name] < LEVEL[room], f"{path}:{line}: imports {name}, which is not below {room}"
        assert room in HEAVY.get(name, {room}), f"{path}:{line}: {name} belongs to {HEAVY[name]}"


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_scripts_import_heavy_libraries_only_where_they_use_them(script: str) -> None:
    found = run_python(f"import sys, {script}; print(*sys.modules)")
    assert "torch" in found
    assert not NOT_AT_START & found


@pytest.mark.parametrize("script", sorted(SCRIPTS))
@pytest.mark.parametrize("words", [["--help"], ["--no-such-option"]])
def test_help_and_wrong_options_need_no_torch(script: str, words: list[str]) -> None:
    code = f"import atexit, runpy, sys; atexit.register(lambda: print('\\n', *sys.modules)); sys.argv[1:] = {words}; "
    found = run_python(
        f"{code}runpy.run_path({script + '.py'!r}, run_name='__main__')", 0 if words == ["--help"] else 2
    )
    assert "runtime.arguments" in found
    assert not {"torch", "numpy"} & found


def run_python(code: str, exit_code: int = 0) -> set[str]:
    """The words of the last line that a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == exit_code, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_an_upward_import_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_architecture.REPOSITORY", tmp_path)
    (tmp_path / "runtime").mkdir()
    for file, line in (("runtime/files.py", "def f():\n    import model"), ("predict5.py", "from train import main")):
        (tmp_path / file).write_text(line)
        with pytest.raises(AssertionError, match="imports"):
            test_imports_go_down_and_no_script_is_imported(Path(file))


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name == "__init__.py"], ids=str)
def test_a_rooms_init_holds_its_purpose_and_nothing_else(path: Path) -> None:
    (only,) = ast.parse((REPOSITORY / path).read_text(encoding="utf-8")).body
    assert ast.get_docstring(ast.Module([only], [])).endswith(".")


@pytest.mark.parametrize("path", [*SOURCES, *sorted(Path("tests").glob("*.py"))], ids=str)
def test_files_and_functions_have_a_readable_size(path: Path) -> None:
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 50, f"{path}:{node.lineno}: {node.name}"
