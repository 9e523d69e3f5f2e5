"""The report of an evaluation: one HTML file that needs nothing else, made from evaluation.json and a few arrays.

    material = collect(evaluator, threat, train=(x, y))
    write_report(folder, record, material)
"""

from art_ext.evaluation.report.collect import collect
from art_ext.evaluation.report.material import Material, read_material
from art_ext.evaluation.report.page import rebuild_report, write_report

__all__ = ["Material", "collect", "read_material", "rebuild_report", "write_report"]
