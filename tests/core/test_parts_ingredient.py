"""Options of an ingredient: numbers as people write them, and one line for each mistake."""

from typing import Annotated, Literal

import pytest
from pydantic import Field, StrictBool, ValidationError

from art_ext.api import (
    ConfigError,
    Count,
    Ingredient,
    NonNegative,
    Number,
    OfEps,
    Positive,
    Radius,
    Share,
    StepSize,
    Uniform,
)
from art_ext.ingredient import parse_number, parse_range


class Sample(Ingredient):
    name = "sample"

    eps: Annotated[Radius, Field(description="a radius")] = 0.1
    steps: Count = 10
    rate: Positive = 1.0
    lam: NonNegative = 0.0
    share: Share = 0.5
    shift: Number = 0.0
    pace: StepSize = 0.1


def refused(**fields):
    with pytest.raises(ConfigError) as caught:
        Sample(**fields)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("written", "number"),
    [("8/255", 8 / 255), ("5e-4", 5e-4), (" 1 / 4 ", 0.25), ("-1/4", -0.25), ("1e-1/2", 0.05), (3, 3.0), ("0.5", 0.5)],
)
def test_numbers_as_people_write_them(written, number):
    assert Sample(shift=written).shift == number
    assert isinstance(Sample(shift=written).shift, float)


@pytest.mark.parametrize(
    "written",
    ["8/0", "1:30", "1/2/3", "8/", "ten", "", "__import__('os')", "1+1", "nan", "inf", "1e999", True, None, []],
)
def test_what_is_no_number_is_refused(written):
    message = refused(shift=written)
    assert message.startswith("sample.shift: ")
    assert repr(written) in message


@pytest.mark.parametrize(
    ("written", "share"), [("eps/10", 0.1), ("eps / 4", 0.25), ("eps", 1), ("0.25 eps", 0.25), ("2.5eps/10", 0.25)]
)
def test_a_step_may_be_a_share_of_eps(written, share):
    assert Sample(pace=written).pace == OfEps(share)
    assert Sample(pace=OfEps(share)).pace == OfEps(share)
    assert Sample(pace="2/255").pace == 2 / 255


@pytest.mark.parametrize("written", ["eps/0", "eps*2", "-1 eps", "epsilon/10", "eps/", "0 eps", 0, "ten", True])
def test_what_is_no_step_is_refused(written):
    message = refused(pace=written)
    assert message.startswith("sample.pace: ")
    assert str(written) in message


def test_a_division_by_zero_says_so():
    assert refused(eps="8/0") == "sample.eps: '8/0' divides by zero, got '8/0'"
    assert "write 0.03, 5e-4 or 8/255" in refused(eps="1:30")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("eps", 0), ("eps", -0.1), ("eps", True), ("eps", None), ("eps", float("nan")), ("eps", [0.1, 0.2]),
        ("steps", 0), ("steps", True), ("steps", 1.5), ("steps", "10"), ("rate", 0), ("lam", -1), ("share", 1.1),
        ("eps", {"uniform": [0.3, 0.1]}), ("eps", {"uniform": [0.1]}), ("eps", {"uniform": 0.1}), ("eps", {}),
        ("eps", {"uniform": [None, 0.1]}), ("eps", {"uniform": ["1/0", 1]}), ("eps", {"uniform": [0, float("inf")]}),
        ("eps", {"uniform": [0.1, 0.2], "per": "epoch"}), ("eps", {"uniform": [False, True]}),
        ("eps", {"uniform": [[0], 1]}), ("eps", {"uniform": [-0.1, 0.1]}),
    ],
)  # fmt: skip
def test_impossible_values_are_one_line_that_names_the_field(field, value):
    message = refused(**{field: value})
    assert message.startswith(f"sample.{field}: ")
    assert message.count("sample.") == 1


def test_a_misspelt_option_suggests_the_nearest():
    assert refused(stpes=3) == "unknown option of sample 'stpes'; did you mean steps?"
    assert "did you mean uniform" in refused(eps={"unifrom": [0.1, 0.2]})


class Choosy(Ingredient):
    name = "choosy"
    size: Literal["median"] | Positive = 1.0
    kind: Literal["as it is"] | Literal["softplus", "tanh"] = "tanh"
    fast: Literal["auto"] | StrictBool = "auto"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": "medain"}, "size: input should be 'median' or a number such as 0.03, 5e-4 or 8/255, got 'medain'; "
                             "did you mean median?"),
        ({"size": 0}, "size: input should be 'median' or greater than 0, got 0"),
        ({"size": "1/0"}, "size: input should be 'median' or a number such as 0.03, 5e-4 or 8/255, got '1/0'"),
        ({"kind": "softpluss"}, "kind: input should be 'as it is', 'softplus' or 'tanh', got 'softpluss'; did you mean "
                                "softplus?"),
        ({"kind": 3}, "kind: input should be 'as it is', 'softplus' or 'tanh', got 3"),
        ({"fast": "atuo"}, "fast: input should be 'auto' or true or false, got 'atuo'; did you mean auto?"),
    ],
)  # fmt: skip
def test_where_several_kinds_of_value_would_do_all_are_named(options, said):
    with pytest.raises(ConfigError) as caught:
        Choosy(**options)
    assert str(caught.value) == f"choosy.{said}"


def test_all_mistakes_are_told_at_once():
    message = refused(steps=0, rate=-1, sahre=0.2)
    for part in ("sample.steps", "sample.rate", "did you mean share"):
        assert part in message


def test_ranges():
    assert Sample(eps={"uniform": ["1/10", "3e-1"]}).eps == Uniform(0.1, 0.3)
    assert Sample(eps={"uniform": (0, 0.1), "per": "batch"}).eps == Uniform(0.0, 0.1, per="batch")
    assert Sample(eps=Uniform(0.1, 0.2)).eps == Uniform(0.1, 0.2)
    assert parse_range("1/2") == 0.5
    assert parse_number(0.5) == 0.5


def test_ingredients_are_values():
    assert Sample(eps=0.2) == Sample(eps="1/5")
    assert hash(Sample()) == hash(Sample())
    with pytest.raises(ValidationError, match="frozen"):
        Sample().eps = 0.3


def test_configuration_errors_have_their_exit_code():
    with pytest.raises(ConfigError) as caught:
        Sample(steps=0)
    assert caught.value.exit_code == 2
    assert isinstance(caught.value, ValueError)


def test_an_ingredient_without_apply_says_so():
    with pytest.raises(TypeError, match="'sample' does not define apply"):
        Sample().apply(None)
