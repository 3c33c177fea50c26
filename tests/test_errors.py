from __future__ import annotations

import pickle
import re

import pytest

from godwit import errors
from godwit.errors import GodwitError


def kinds(kind: type[GodwitError] = GodwitError) -> list[type[GodwitError]]:
    return [kind, *(grandchild for child in kind.__subclasses__() for grandchild in kinds(child))]


ALL = [kind for kind in kinds() if kind.__module__ == "godwit.errors"]


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in ALL]

    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_an_error_names_itself_to_programs_and_people(kind: type[GodwitError]) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", kind.code)
    assert 1 <= kind.exit_status < 64
    assert kind.__doc__
    assert kind.__name__.endswith("Error")


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind.__base__ is GodwitError], ids=lambda kind: kind.__name__)
def test_each_family_has_an_exit_status_of_its_own_and_hands_it_down(kind: type[GodwitError]) -> None:
    others = {other.exit_status for other in ALL if other.__base__ is GodwitError and other is not kind}

    assert kind.exit_status not in others
    assert {child.exit_status for child in kinds(kind)} == {kind.exit_status}


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = re.findall(r"[├└│─ ]*\b([A-Z]\w+Error)\b", errors.__doc__ or "")

    assert set(drawn) == {kind.__name__ for kind in ALL}


def test_the_exit_statuses_in_the_docstring_are_those_of_the_classes() -> None:
    drawn = dict(re.findall(r"([A-Z]\w+Error)\b.*?exit (\d+)", errors.__doc__ or ""))

    assert {name: int(status) for name, status in drawn.items()} == {
        kind.__name__: kind.exit_status for kind in ALL if kind.__base__ is GodwitError
    }


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_an_error_survives_the_way_between_processes(kind: type[GodwitError]) -> None:
    error = kind("what is wrong", remedy="what mends it")

    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes

    assert type(again) is kind
    assert (again.message, again.remedy, str(again)) == ("what is wrong", "what mends it", "what is wrong")


def test_a_remedy_is_optional() -> None:
    assert GodwitError("wrong").remedy == ""
