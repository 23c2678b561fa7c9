"""Tests the parts of error messages."""

from fsvfm_jax.errors import quoted, reason_of, short_list, shortened


def test_of_many_names_the_first_are_shown():
    assert quoted([]) == "nothing"
    assert quoted([str(number) for number in range(22)]).endswith("'19' and 2 more")
    assert short_list(["a", "b"], most=2) == "a, b"
    assert short_list(["a"] * 2002, most=2, rest="more arrays") == "a, a and 2,000 more arrays"


def test_a_name_or_text_that_is_long_is_cut():
    assert len(quoted(["x" * 1000])) == 252
    assert shortened("x" * 200) == "x" * 200
    assert shortened("x" * 201) == "x" * 200 + "..."


def test_the_reason_is_that_of_the_operating_system_or_the_errors_own():
    assert reason_of(OSError(2, "No such file", "a")) == "No such file"
    assert reason_of(OSError("no number")) == "no number"
    assert reason_of(ValueError("bad")) == "bad"
