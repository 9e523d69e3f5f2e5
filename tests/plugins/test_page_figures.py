"""Figures that the pages of plugins quote are those of the measured pages, which a command writes anew."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NUMBER = r"[-+]?\d+(?:\.\d+)?"
QUOTED = re.compile(rf"({NUMBER})%?(?:\s+points)?(?:\s+\w+)?\s+\[({NUMBER}), ({NUMBER})\]")
MEASURED = re.compile(rf"({NUMBER})%?(?: points)? \[({NUMBER}), ({NUMBER})\]")
CLAIMED = [
    tuple(float(number) for number in found) for found in MEASURED.findall((ROOT / "docs/claims.md").read_text())
]
DEFENCES = (ROOT / "docs/defences.md").read_text()
PAGES = {page.parent.name: page.read_text() for page in sorted(ROOT.glob("plugins/*/README.md"))}


def rounds_to(told, found):
    """Whether each figure is the told one at its own number of digits."""
    digits = [len(number.partition(".")[2]) for number in told]
    return all(abs(float(a) - b) <= 0.5 * 10**-d + 1e-9 for a, b, d in zip(told, found, digits, strict=True))


@pytest.mark.parametrize("name", PAGES)
def test_intervals_are_those_of_the_claims(name):
    if "docs/claims.md" not in PAGES[name]:
        return
    for told in QUOTED.findall(PAGES[name]):
        turned = [(-mean, -high, -low) for mean, low, high in CLAIMED]  # a loss told as such
        assert any(rounds_to(told, found) for found in CLAIMED + turned), f"{told} is in no claim"


@pytest.mark.parametrize("name", PAGES)
def test_shares_are_those_of_the_defences(name):
    for paragraph in re.split(r"\n\n|\n- ", PAGES[name]):
        if "docs/defences.md" in paragraph and "docs/claims.md" not in paragraph:
            for share in re.findall(r"\d+\.\d%", paragraph):
                assert f" {share}" in DEFENCES, f"{share} is no figure of docs/defences.md"
