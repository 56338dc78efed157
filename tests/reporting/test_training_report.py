"""The page of a training: which scans it shows, and on how many it says that its claims rest."""

import pandas as pd
import pytest
from made_predictions import made_predictions

from scripts.reporting.outcome import chosen
from scripts.reporting.training import believed


def test_how_far_to_believe_says_on_how_many_subjects_it_rests():
    text = believed(made_predictions(24, 2, 1, regions=["cropped"]))
    assert "24 held-out subjects (12 HH, 12 HC)" in text and "4.2 % of all" in text


@pytest.mark.parametrize("wrong, shown", [("", "abcijk"), ("f", "abfijk"), ("fgjk", "abfijl"), ("abcdefgh", "abcijk")])
def test_pictures_of_evidence_show_wrong_scans_where_there_are_some(wrong, shown):
    groups = pd.Series({name: "HH" if name < "i" else "HC" for name in "abcdefghijkl"})
    predicted = pd.Series(
        {name: {"HH": "HC", "HC": "HH"}[group] if name in wrong else group for name, group in groups.items()}
    )
    assert "".join(chosen(groups, predicted, 3)) == shown
