"""A recipe: one image in diskimage-builder's own YAML schema, checked before anything is built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from diskimage_builder import diskimage_builder as dib
from diskimage_builder.paths import get_path
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from teeth.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One entry of a recipe file. ``imagename`` is the output's base name, in the build's work folder."""

    path: Path
    imagename: str
    elements: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.stem


def find_recipe(name: str, recipes: Path) -> Path:
    """``name`` as a file, or as a recipe of the folder ``recipes``; UsageError lists what there is."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
    elif (path := recipes / f"{name}.yaml").is_file():
        return path
    known = ", ".join(sorted(entry.stem for entry in recipes.glob("*.yaml"))) or "none"
    raise UsageError(f"there is no recipe {name!r}", hint=f"known recipes: {known}")


def load_recipe(path: Path, *, elements: Path) -> Recipe:
    """Read and check one recipe file.

    Beyond diskimage-builder's schema: exactly one image, a plain ``imagename``, and every element found
    in ``elements`` or among diskimage-builder's own. Raises UsageError, one line, which names the file and
    the path to the bad value (``[0].elements[2]``).
    """
    document = _parse(path)
    for problem in _schema_problems(document):
        raise UsageError(f"{path}: {problem}")
    if len(document) != 1:
        raise UsageError(f"{path}: {len(document)} images", hint="a recipe describes exactly one")
    entry: dict[str, Any] = document[0]
    for key in ("imagename", "elements"):
        if not entry.get(key):
            raise UsageError(f"{path}: [0].{key} is missing")
    imagename = entry["imagename"]
    if "/" in imagename or imagename.startswith("."):
        raise UsageError(f"{path}: [0].imagename: {imagename!r} is not a plain file name")
    _check_elements(path, entry["elements"], (elements, Path(get_path("elements"))))
    return Recipe(
        path=path,
        imagename=imagename,
        elements=tuple(entry["elements"]),
        environment=dict(entry.get("environment", {})),
    )


def _parse(path: Path) -> list[Any]:
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UsageError(f"{path}: {where}{getattr(error, 'problem', None) or 'not YAML'}") from error
    if not isinstance(document, list):
        raise UsageError(
            f"{path}: the document is not a list of images", hint="it starts with '- imagename:'"
        )
    return document


def _schema_problems(document: list[Any]) -> Iterable[str]:
    """The schema's complaints as ``path: message``, the deepest and first one first."""
    errors = Draft202012Validator(dib.DIB_SCHEMA).iter_errors(document)
    for error in sorted(errors, key=lambda e: [str(part) for part in e.absolute_path]):
        yield f"{_where(error.absolute_path)}: {error.message}"


def _where(parts: Iterable[str | int]) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text or "document"


def _check_elements(path: Path, names: list[str], folders: tuple[Path, ...]) -> None:
    for index, name in enumerate(names):
        if not any((folder / name).is_dir() for folder in folders):
            raise UsageError(f"{path}: [0].elements[{index}]: there is no element {name!r}")


def element_closure(recipe: Recipe, elements: Path) -> tuple[str, ...]:
    """The project's own elements that ``recipe`` uses, directly or through element-deps; sorted."""
    found: set[str] = set()
    pending = list(recipe.elements)
    while pending:
        name = pending.pop()
        if name not in found and (elements / name).is_dir():
            found.add(name)
            deps = elements / name / "element-deps"
            pending += deps.read_text().split() if deps.is_file() else []
    return tuple(sorted(found))
