"""The report of an evaluation: one HTML file that needs nothing else, made from evaluation.json and a few arrays.

    record = evaluation.run()
    report_on(evaluation, record)       # or collect(...) and write_report(...) without an Evaluation
"""

from art_ext.evaluation.report.collect import collect
from art_ext.evaluation.report.evaluated import material_of, report_on
from art_ext.evaluation.report.material import Material, read_material
from art_ext.evaluation.report.page import rebuild_report, write_report

__all__ = ["Material", "collect", "material_of", "read_material", "rebuild_report", "report_on", "write_report"]
