"""Requirements as JUnit XML, which CI systems show as tests."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from art_ext.lifecycle.policy import Requirement

__all__ = ["junit"]


def junit(name: str, requirements: Sequence[Requirement], seconds: float = 0.0) -> str:
    """One test case a requirement: failed with what was found, skipped with why it does not apply."""
    counts = {status: str(sum(r.status == status for r in requirements)) for status in ("fail", "skip")}
    whole = {"tests": str(len(requirements)), "failures": counts["fail"], "skipped": counts["skip"], "errors": "0"}
    root = ElementTree.Element("testsuites", {**whole, "time": f"{seconds:.3f}"})
    suite = ElementTree.SubElement(root, "testsuite", {"name": _clean(name), **whole, "time": f"{seconds:.3f}"})
    for requirement in requirements:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "art_ext.gate", "name": requirement.name})
        said = _clean(requirement.sentence)
        if requirement.status == "fail":
            ElementTree.SubElement(case, "failure", {"message": said, "type": "requirement"}).text = said
        elif requirement.status == "skip":
            ElementTree.SubElement(case, "skipped", {"message": said})
        else:
            ElementTree.SubElement(case, "system-out").text = said
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _clean(text: str) -> str:
    """Without the characters that XML 1.0 does not allow."""
    return "".join(c for c in text if c in "\t\n" or " " <= c < "\ud800" or "\udfff" < c < "\ufffe" or c > "\uffff")
