"""The house: data flows one way, and a module imports only what stands above it (docs/explanation/how-it-works.md)."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fastlt"
# Room -> the rooms it may import from. What is not here, a command or a room of the application, may import everything.
ROOMS = {
    "kernels": set(),
    "core": set(),
    "longtail": {"core", "kernels"},
    "data": {"core", "kernels", "longtail"},
    "models": {"core"},
    "training": {"core", "longtail", "data", "models"},
    "stage2": {"core", "kernels", "longtail"},
    "experiment": {"core", "kernels", "longtail", "data", "models", "training", "stage2"},
}
WITHOUT_HYDRA = ("kernels", "longtail", "data", "models", "training", "stage2")


def imports(room: str) -> list[tuple[str, str]]:
    """(file, module it imports) for every import in a room, those inside of functions included."""
    found = []
    for path in sorted((PACKAGE / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found += [(str(path), name.name) for name in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module == "fastlt":
                found += [(str(path), f"fastlt.{name.name}") for name in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.append((str(path), node.module))
    assert found, room
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_stands_above_it(room: str) -> None:
    allowed = ROOMS[room] | {room, "__version__", "registry"}
    wrong = [
        f"{path} imports {module}"
        for path, module in imports(room)
        if module.split(".")[0] == "fastlt" and module.split(".")[1] not in allowed
    ]
    assert not wrong


@pytest.mark.parametrize("room", WITHOUT_HYDRA)
def test_the_library_does_not_need_hydra(room: str) -> None:
    assert not [path for path, module in imports(room) if module.split(".")[0] in ("hydra", "omegaconf")]
