import numpy as np
import pandas as pd

from shunter.models.card.errors import largest_errors, largest_errors_table


def held_out(**off):
    """Ten rows of each model, measured so many times the prediction of 1."""
    rows = [(model, factor * (1 + 0.01 * i)) for model, factor in off.items() for i in range(-5, 6)]
    columns = {"target": "load_s", "engine": "e", "device": "d", "split": "random cells"}
    frame = pd.DataFrame(rows, columns=["model", "measured"])
    return frame.assign(**columns, predicted=1.0, smallest=1e-6)


def test_a_model_that_is_off_by_more_than_the_rest_is_named_with_how_much():
    (row,) = largest_errors(held_out(a=1.0, b=1.02, c=0.98, slow=3.0))
    assert row == ("load_s", "e d, slow", "3.00 times", "(11 rows)")


def test_the_worst_comes_first_whether_too_high_or_too_low():
    found = largest_errors(held_out(a=1.0, b=1.0, c=1.0, d=1.0, slow=2.0, fast=0.2))
    assert [row[1] for row in found] == ["e d, fast", "e d, slow"]


def test_nothing_stands_out_where_all_are_alike_or_nothing_was_held_out():
    assert largest_errors_table(held_out(a=1.0, b=1.01)) == []
    assert largest_errors(pd.DataFrame()) == []
    refused = held_out(a=1.0, slow=3.0).assign(predicted=np.nan)
    assert largest_errors(refused) == []
