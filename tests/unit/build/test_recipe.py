"""A broken recipe is one clear line that names the file and the bad value's path."""

from __future__ import annotations

from pathlib import Path

import pytest

from teeth.build.recipe import element_closure, find_recipe, load_recipe
from teeth.errors import UsageError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def elements(tmp_path: Path) -> Path:
    folder = tmp_path / "elements"
    for name, deps in (("one", "two\nvm\n"), ("two", ""), ("three", "")):
        (folder / name).mkdir(parents=True)
        (folder / name / "element-deps").write_text(deps)
    return folder


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- imagename: x\n  elements: [one, 3]\n", "[0].elements[1]: 3 is not of type 'string'"),
        ("- imagename: x\n  elments: [one]\n", "[0]: Additional properties are not allowed ('elments'"),
        ("- imagename: x\n  elements: [one, nope]\n", "[0].elements[1]: there is no element 'nope'"),
        ("- imagename: x\n  elements: [one]\n  types: [iso]\n", "[0].types[0]: 'iso' is not one of"),
        ("- imagename: x\n  elements: [one]\n  environment: {A: 1}\n", "[0].environment.A: 1 is not of"),
        ("- elements: [one]\n", "[0].imagename is missing"),
        ("- imagename: x\n", "[0].elements is missing"),
        ("- imagename: ../x\n  elements: [one]\n", "[0].imagename: '../x' is not a plain file name"),
        ("- imagename: x\n  elements: [one]\n- imagename: y\n  elements: [one]\n", "2 images"),
        ("[]\n", "0 images"),
        ("", "the document is not a list of images"),
        ("imagename: x\n", "the document is not a list of images"),
        ("- imagename: [\n", "line 2, column 1: "),
        ("- imagename: x\n\telements: [one]\n", "line 2, column 1: "),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, elements: Path, text: str, problem: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load_recipe(path, elements=elements)
    assert str(caught.value).startswith(f"{path}: {problem}")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_text_or_not_there(tmp_path: Path, elements: Path) -> None:
    path = tmp_path / "bad.yaml"
    with pytest.raises(UsageError, match="No such file"):
        load_recipe(path, elements=elements)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8 text"):
        load_recipe(path, elements=elements)


def test_elements_are_followed_through_their_dependencies(tmp_path: Path, elements: Path) -> None:
    path = write(tmp_path, "- imagename: x\n  elements: [one, vm]\n  environment: {A: b}\n")
    recipe = load_recipe(path, elements=elements)
    assert (recipe.name, recipe.imagename, recipe.environment) == ("bad", "x", {"A": "b"})
    assert element_closure(recipe, elements) == ("one", "two")


def test_recipes_are_found_by_name_or_by_file(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    assert find_recipe("bad", tmp_path) == path
    assert find_recipe(str(path), Path("/nowhere")) == path
    with pytest.raises(UsageError, match=r"no recipe 'worse' \(known recipes: bad\)"):
        find_recipe("worse", tmp_path)


@pytest.mark.parametrize("path", sorted((ROOT / "image-recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_our_own_recipes_are_sound(path: Path) -> None:
    assert load_recipe(path, elements=ROOT / "elements").elements
