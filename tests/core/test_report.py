"""The report: its numbers on small cases worked out by hand, its file in a browser."""

import dataclasses
import html
import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from torch import nn

from art_ext.engine import checkpoint
from art_ext.engine.net import Net
from art_ext.errors import ConfigError, DataError
from art_ext.evaluation.evaluation import Evaluation, Options
from art_ext.evaluation.record import (
    AttackResult,
    Baseline,
    Check,
    CurvePoint,
    DataInfo,
    Estimate,
    EvaluationRecord,
    ModelInfo,
    RejectionResult,
    Verdict,
)
from art_ext.evaluation.rejection import roc_auc
from art_ext.evaluation.report import (
    Material,
    collect,
    material_of,
    read_material,
    rebuild_report,
    report_on,
    write_report,
)
from art_ext.evaluation.report import formulas as f
from art_ext.evaluation.report.material import Training
from art_ext.evaluation.report.page import command_of
from art_ext.evaluation.subject import Rows, Subject
from art_ext.evaluation.suite import Evaluator
from art_ext.evaluation.suites import QUICK
from art_ext.evaluation.threat import Threat
from art_ext.host.cli import main
from art_ext.host.trained import role_of, trained
from art_ext.parts.attacks import PGD
from art_ext.parts.detectors import Detector
from art_ext.parts.ensemble import Ensemble
from art_ext.plan import Plan
from art_ext.types import Adversarial, Facts

CHROMIUM = shutil.which("chromium")
THREAT = Threat("linf", 0.2)

# what the figures show


def test_confusion_counts_label_by_prediction():
    found = f.confusion(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 0]), 3)
    assert found.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_mean_probabilities_are_the_means_of_each_label():
    p = torch.tensor([[0.5, 0.25, 0.25], [0.7, 0.1, 0.2], [0.0, 1.0, 0.0]])
    found = f.mean_probabilities(torch.tensor([0, 0, 1]), p)
    assert torch.allclose(found[:2], torch.tensor([[0.6, 0.175, 0.225], [0.0, 1.0, 0.0]]))
    assert found[2].isnan().all()


def test_logit_variance_divides_by_the_number_of_classes():
    assert f.logit_variance(torch.tensor([[1.0, 3.0]])).tolist() == [1.0]


def test_landing_ranks_are_places_among_the_false_classes():
    clean = torch.tensor([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1], [0.2, 0.1, 0.7], [0.1, 0.8, 0.1], [0.4, 0.5, 0.1]])
    y = torch.tensor([0, 0, 2, 1, 0])
    said = torch.tensor([1, 2, 0, 1, 2])  # runner-up, last, runner-up; stands; was wrong when clean
    assert f.landing_ranks(clean, y, said).tolist() == [2, 1]


def test_landing_ranks_of_a_tie_with_the_label_stay_in_range():
    clean = torch.full((4, 3), 1 / 3)
    assert f.landing_ranks(clean, torch.zeros(4, dtype=torch.int64), torch.tensor([1, 2, 1, 2])).sum() == 4


def test_best_other_leaves_the_label_out():
    p = torch.tensor([[[0.7, 0.2, 0.1], [0.1, 0.5, 0.4]]])
    assert f.best_other(p, torch.tensor([0])).tolist() == [[pytest.approx(0.2), 0.5]]


def test_a_histogram_counts_the_ends_and_what_lies_beyond():
    assert f.histogram(torch.tensor([-1.0, 0.0, 0.49, 0.5, 1.0, 2.0]), 2, 0.0, 1.0).tolist() == [3, 3]


def test_the_area_under_the_roc_curve_is_the_auc_with_ties():
    draw = torch.Generator().manual_seed(0)
    positive, negative = (torch.randint(0, 7, (n,), generator=draw).float() + up for n, up in ((40, 2), (25, 0)))
    false, true = f.roc_curve(positive, negative)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert float(torch.trapezoid(true, false)) == pytest.approx(roc_auc(positive, negative))


def test_along_begins_at_the_image_and_stays_in_the_clip_range():
    x, delta = torch.tensor([[[[0.5]]]]), torch.tensor([[[[0.3]]]])
    found = f.along(lambda images: images.flatten(1), x, delta, torch.tensor([0.0, 1.0, 3.0]), (0.0, 1.0))
    assert found.flatten().tolist() == [0.5, pytest.approx(0.8), 1.0]


def test_the_second_axis_of_a_cross_section_is_orthogonal_and_as_long():
    draw = torch.Generator().manual_seed(1)
    one, other = (torch.randn(3, 4, 4, generator=draw) for _ in range(2))
    up = f.orthogonal(one, other)
    assert abs(float((one * up).sum())) < 1e-4
    assert float(up.norm()) == pytest.approx(float(one.norm()), rel=1e-5)


def test_a_cross_section_goes_row_by_row():
    x, across, up = torch.zeros(1, 1, 2), torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
    points = f.plane(x, across, up, torch.tensor([0.0, 0.5]), (0.0, 1.0))
    assert points.reshape(4, 2).tolist() == [[0, 0], [0.5, 0], [0, 0.5], [0.5, 0.5]]


def test_principal_components_of_a_line():
    points = torch.tensor([[0.0, 0.0, 1.0], [3.0, 4.0, 1.0], [6.0, 8.0, 1.0]])
    centre, axes, share = f.principal_components(points)
    assert centre.tolist() == [3, 4, 1]
    assert torch.allclose(axes[0], torch.tensor([0.6, 0.8, 0.0]), atol=1e-6)
    assert share.tolist() == [pytest.approx(1.0), pytest.approx(0.0, abs=1e-6)]
    assert f.principal_components(points[:, :1])[1].shape == (2, 1)


def test_amplified_perturbations_reach_the_ends_of_the_range():
    shown, factor = f.amplified(torch.tensor([0.1, -0.05, 0.0]).reshape(1, 1, 1, 3))
    assert shown.flatten().tolist() == [1.0, 0.25, 0.5]
    assert factor.tolist() == [pytest.approx(5.0)]


# from a network


class Small(nn.Module):
    """A linear network on 1x4x4 images: bright rows are classes, so that it is mostly right."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 4, bias=False)
        noise = torch.randn(4, 16, generator=torch.Generator().manual_seed(seed))
        self.fc.weight.data = 4 * torch.eye(4).repeat_interleave(4, 1) + 0.3 * noise

    def forward(self, x):
        return self.fc(x.flatten(1))


def images(n: int = 60):
    draw = torch.Generator().manual_seed(3)
    y = torch.arange(n) % 4
    x = 0.25 * torch.rand(n, 1, 4, 4, generator=draw)
    x[torch.arange(n), 0, y] += 0.25
    return x, y


def evaluator(module=None):
    x, y = images()
    return Evaluator(Net(module or Small()), x, y, seed=1)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    journal = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    lines = [
        {"event": "epoch", "run": "r", "role": "hardened", "epoch": epoch, "step": epoch, "time": 0.0,
         "best": epoch == 2, "metrics": {"train/loss": 1 / epoch, "held_out/clean_accuracy": 0.9}}
        for epoch in (1, 2, 3)
    ]  # fmt: skip
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    others = {"last": Net(Small(5)), "baseline": Net(Small(7))}
    return collect(evaluator(), THREAT, train=images(40), **others, journals={"hardened": journal})


def test_every_figure_is_made_of_a_small_network(material):
    assert material.missing == {}
    assert material.n == 60
    assert material.confusion.clean.sum() == material.confusion.adversarial.sum() == 60
    assert material.confusion.clean.diag().sum() > material.confusion.adversarial.diag().sum()
    assert [(heat.part, heat.epoch) for heat in material.heatmaps] == [
        ("test", "best"), ("test", "last"), ("train", "best"), ("train", "last")
    ]  # fmt: skip
    assert material.training[0].best == 2
    assert {one.method for one in material.features} == {"PCA", "t-SNE"}
    assert material.transfer.names == ("this model", "undefended")


def test_the_adversarial_direction_lowers_the_true_class_more_than_a_random_one(material):
    adversarial, random = material.ray.true.mean(1)
    at_one = int((material.ray.at - 1).abs().argmin())
    assert adversarial[at_one] < random[at_one] - 0.1
    assert torch.allclose(adversarial[0], random[0])


def test_the_middle_of_a_cross_section_is_the_image(material):
    plane = material.planes[0]
    zero, one = (int((plane.at - t).abs().argmin()) for t in (0.0, 1.0))
    assert plane.predicted[zero, zero] == plane.label
    assert plane.predicted[zero, one] == plane.adversarial != plane.label


def test_material_survives_the_disk(material, tmp_path):
    found = read_material(material.save(tmp_path))
    assert torch.equal(found.confusion.adversarial, material.confusion.adversarial)
    assert torch.equal(found.gallery.delta, material.gallery.delta)
    assert [dataclasses.replace(heat, means=None) for heat in found.heatmaps] == [
        dataclasses.replace(heat, means=None) for heat in material.heatmaps
    ]
    assert found.scores[0].threshold is None
    assert read_material(tmp_path).training[0].series.keys() == material.training[0].series.keys()


def test_material_that_would_run_code_is_refused(tmp_path):
    np.savez(tmp_path / "material.npz", structure=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="holds no figures"):
        read_material(tmp_path)
    (tmp_path / "material.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(DataError, match=r"material\.npz"):
        read_material(tmp_path)
    with pytest.raises(DataError, match="cannot read"):
        read_material(tmp_path / "none.npz")


class Masked:
    """An attack with an extra that looks like images, and others that do not."""

    objective, bn = None, "eval"

    def craft(self, net, x, score, keys, mask=None):
        extras = {"mask": torch.full_like(x, 0.5), "full": 3 * x - 1, "numbers": x.flatten(1)}
        return Adversarial(x, torch.zeros_like(x), extras)

    def __str__(self):
        return "masked"


def test_the_gallery_shows_what_the_attack_of_the_training_gives_besides():
    gallery = collect(evaluator(), THREAT, training_attack=Masked(), most=20).gallery
    assert set(gallery.extras) == {"mask", "full"}
    assert gallery.extras["mask"].shape == gallery.clean.shape


class Broken(Detector):
    name = "broken"

    def score(self, out):
        raise RuntimeError("no bank\nat all")


def test_a_figure_that_fails_is_left_out_with_its_reason():
    found = collect(evaluator(), THREAT, detectors=[Broken()], most=20)
    assert found.missing == {"scores": "RuntimeError: no bank at all"}
    assert found.confusion is not None


def test_without_time_there_is_the_sample_and_a_reason_for_the_rest():
    found = collect(evaluator(), THREAT, seconds=0.0)
    assert found.n == 60
    assert found.confusion is None
    assert "seconds" in found.missing["confusion"]


def test_an_ensemble_is_taken_apart():
    found = collect(evaluator(Ensemble([Small(1), Small(2), Small(3)])), THREAT, most=20)
    assert found.transfer.names == ("member 1", "member 2", "member 3")
    assert found.features[0].of == "logits"


def test_figures_do_not_depend_on_how_many_passes_came_before():
    attack = PGD(THREAT.ball(), 3, keep="best")
    one, other = evaluator(), evaluator()
    other.outputs(attack)
    first, second = (collect(e, THREAT, attack=attack, most=20) for e in (one, other))
    assert torch.equal(first.gallery.adversarial, second.gallery.adversarial)


def evaluation(**more) -> Evaluation:
    x, y = images()
    plan = Plan.of((), Facts(4, (1, 4, 4)))
    subject = Subject(Net(Small()), plan, ModelInfo("small", "sha256:0"))
    return Evaluation(subject, Rows(x, y), THREAT, Options(QUICK, seed=1), **more)


def test_an_evaluation_gives_its_held_out_images_and_its_undefended_network():
    x, y = images(40)
    found = evaluation(calibration=Rows(x, y), baseline=Net(Small(7)), seen={"training": Rows(x, y)})
    before = dataclasses.replace(found.evaluator.spent)
    material = material_of(found)
    assert material.missing == {}
    (scores,) = material.scores
    assert scores.detector == "confidence"
    assert 0.25 < scores.threshold < 1
    assert material.transfer is not None
    assert {heat.part for heat in material.heatmaps} == {"test", "train"}
    assert found.evaluator.spent == before  # the figures' passes are not the evaluation's


def test_a_report_needs_a_folder():
    with pytest.raises(ConfigError, match="folder"):
        report_on(evaluation(), record())


def test_a_run_s_folder_gives_the_last_epoch_and_its_journals(tmp_path):
    role = tmp_path / "hardened"
    for name, seed, epoch in (("best.pt", 0, 3), ("last.pt", 9, 5)):
        checkpoint.save(role / name, {"net": Small(seed).state_dict(), "epoch": epoch, "step": epoch})
    (role / "metrics.jsonl").touch()
    assert role_of(str(tmp_path)) == role_of(str(role)) == role
    assert role_of(str(tmp_path / "elsewhere.pt")) is None
    best = Small(0)
    left = trained(role, best, evaluation())
    assert torch.equal(left.last.module.fc.weight, Small(9).fc.weight)
    assert torch.equal(best.fc.weight, Small(0).fc.weight)
    assert left.journals == {"hardened": role / "metrics.jsonl"}
    checkpoint.save(role / "last.pt", {"net": {}, "epoch": 5, "step": 5})
    assert trained(role, best, evaluation()).last is None
    checkpoint.save(role / "last.pt", {"net": Small(9).state_dict(), "epoch": 3, "step": 3})
    assert trained(role, best, evaluation()).last is None  # the best epoch is the last
    assert trained(None, best, evaluation()).journals == {}


# the page

ODD = "<script>alert('x')</script> $1_a$"


def record(trusted: bool = False, **changes) -> EvaluationRecord:
    def attack(name, right, **more):
        one = Estimate.of(right, 60)
        return AttackResult(name, "gradient", f"PGD({name})", one.accuracy, one.low, one.high, 60, 55, 12345, 6789,
                            1.5, 4, **more)  # fmt: skip

    own = (attack("pgd", 31), attack("odd<name>", 33, of="trades"), attack("far", 20, bounded=False))
    worst = Estimate.of(30, 60)
    checks = (
        Check("gradients", "Gradients that are zero", "fail", "12% have none", {"nested": {"n": 7}}, 0.001, 0.12),
        Check("steps", "More steps", "pass", "nothing new"),
    )
    rates = (0.99, 0.625, 0.98, 0.01, 0.2, 0.3, 0.1, 0.4, 0.875, 0.8)
    rejection = RejectionResult("confidence", "PGD(c)", "evade", *rates, 33, 60)
    of_noise = {"robust_error": None, "unthresholded": None, "fpr_of_successful": None, "auc_all_clean": None}
    distal = dataclasses.replace(rejection, aim="distal", attack="noise(c)", fpr=0.433, **of_noise)
    model = ModelInfo("https://ann:secret@host/model", "sha256:abc", ("trades",), {"name": "demo"}, {"base": "1.2"})
    values = {
        "model": model,
        "data": DataInfo("digits", "somewhere", "d16e57", 60, ("zero", ODD, "two", "three")),
        "threat": THREAT,
        "suite": "quick",
        "seed": 4,
        "clean": Estimate.of(58, 60),
        "attacks": own,
        "worst_case": worst,
        "verdict": Verdict(worst.accuracy, worst.low, worst.high, trusted, "half is left",
                           () if trusted else (f"gradients are zero {ODD}",)),
        "checks": checks,
        "rejection": (rejection, distal),
        "curve": (CurvePoint(0.0, 0.97, 0.9, 0.99), CurvePoint(0.2, 0.5, 0.4, 0.6)),
        "baseline": Baseline(Estimate.of(59, 60), (attack("pgd", 3),), Estimate.of(2, 60)),
        "versions": {"torch": "2.10"},
        "notes": ("square is not installed",),
        "seconds": 12.0,
    }  # fmt: skip
    return EvaluationRecord(**{**values, **changes})


class Page(html.parser.HTMLParser):
    """Elements of a page, and whether each is closed."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "path", "use", "rect", "image", "stop"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements, self.open, self.text = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(material, tmp_path_factory):
    return write_report(tmp_path_factory.mktemp("report"), record(), material, compare={"PGD-AT": record(True)})


@pytest.fixture(scope="module")
def parsed(page):
    found = Page(page.read_text())
    assert found.open == []
    return found


def test_the_page_is_one_file_that_asks_for_nothing(page, parsed):
    text = page.read_text()
    assert re.findall(r"""(?:src|href)=["'](?!#|data:image/png;base64,)[^"']*""", text) == []
    assert "http://" not in text
    assert "https://" not in text.replace("https://***@host/model", "")
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert sorted(path.name for path in page.parent.iterdir()) == ["material.npz", "report.html"]
    assert len(text) < 2_000_000


def test_what_others_wrote_is_text_and_secrets_are_masked(page, parsed):
    text = page.read_text()
    assert "<script>alert" not in text
    assert "odd<name>" not in text
    assert "secret" not in text
    assert len(parsed.all("script")) == 1
    assert any(ODD in part for part in parsed.text)


def test_the_verdict_comes_first_with_its_reasons_and_its_cost(parsed):
    words = " ".join(" ".join(parsed.text).split())
    assert words.index("50.0%") < words.index("Do not trust this number") < words.index("Security curve")
    assert "Gradients are zero" in words
    assert "Square is not installed." in words
    assert "37,035 forwards, 20,367 backwards" in words
    assert "3.3%" in words  # the undefended model's worst case
    assert "outside the threat" in words
    assert "0.875" in words
    assert "noise(c) get noise kept 0.625 98.0% asked 99% – – 43.3% 0.875 (33) – " in words


def test_a_trusted_number_is_said_to_be(material, tmp_path):
    write_report(tmp_path, record(True, notes=()), Material())
    words = " ".join(Page((tmp_path / "report.html").read_text()).text)
    assert "No check found a reason" in words
    assert "Do not trust" not in words


def test_the_page_can_be_heard_and_its_links_lead_somewhere(parsed):
    ids = [attrs["id"] for _, attrs in parsed.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {attrs["href"][1:] for attrs in parsed.all("a")}
    targets |= {attrs["aria-labelledby"] for attrs in parsed.all("section") if "aria-labelledby" in attrs}
    assert targets
    assert targets <= set(ids)
    assert all(attrs.get("alt") for attrs in parsed.all("img"))
    assert all(attrs.get("aria-label") for attrs in parsed.all("svg"))
    assert len(parsed.all("svg")) > 15
    assert all("scope" in attrs for attrs in parsed.all("th"))
    references = re.findall(r"url\(#([^)]+)\)", " ".join(str(a) for _, a in parsed.elements))
    references += [attrs["href"][1:] for attrs in parsed.all("use")]
    assert references
    assert set(references) <= set(ids)


def test_only_figures_of_the_record_and_the_material_are_shown(material, tmp_path):
    bare = record(baseline=None, curve=(), rejection=(), checks=(), notes=())
    write_report(tmp_path, bare, Material(missing={"ray": "the network has none right"}))
    text = (tmp_path / "report.html").read_text()
    assert "Security curve" not in text
    assert "Undefended" not in text
    assert "Gallery" not in text
    assert "Left out: ray. the network has none right" in text
    assert "No trust checks were run" in text


def test_a_report_is_the_same_when_it_is_built_again(page):
    before = page.read_text()
    record().write(page.parent)
    again = rebuild_report(page.parent, compare={"PGD-AT": record(True)})
    assert again.read_text() == before


def test_the_command_writes_it_again_beside_others(tmp_path, capsys):
    for name in ("own", "other"):
        record().write(tmp_path / name)
    own, other = str(tmp_path / "own"), str(tmp_path / "other")
    assert command("report", own, "--compare", f"PGD-AT, 24 epochs={other}") == 0
    assert "PGD-AT, 24 epochs" in (tmp_path / "own" / "report.html").read_text()
    assert "report.html" in capsys.readouterr().out
    for given, said in ((other, "NAME=FOLDER"), (f"a={tmp_path / 'no'}", "cannot read the evaluation")):
        assert command("report", own, "--compare", given) != 0
        assert said in capsys.readouterr().err


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return int(stop.value.code or 0)


def test_a_folder_without_figures_gives_a_report_without_them(tmp_path):
    record().write(tmp_path)
    assert "There is no material.npz" in rebuild_report(tmp_path).read_text()
    with pytest.raises(DataError, match="evaluation"):
        rebuild_report(tmp_path / "elsewhere")


def test_it_says_how_to_find_the_figures_again():
    assert command_of(record()) == (
        "art-ext evaluate https://ann:secret@host/model --data digits --norm linf --eps 0.2 --suite quick --seed 4"
    )
    model = ModelInfo("runs/my run", "sha256:1", (), {"data": {"name": "digits"}})
    assert command_of(record(model=model)).startswith("art-ext evaluate 'runs/my run' --norm linf")
    given = record(data=DataInfo("x", "given", "d", 60))
    assert command_of(given) == "art_ext.evaluate(classifier, x, y, norm='linf', eps=0.2, suite='quick', seed=4)"


def test_models_that_were_evaluated_otherwise_are_marked(tmp_path):
    other = record(True, threat=Threat("l2", 1.0), seed=5)
    write_report(tmp_path, record(), Material(), compare={"PGD-AT": other})
    assert "threat, seed" in (tmp_path / "report.html").read_text()


def test_curves_of_a_training_with_gaps_are_drawn(tmp_path):
    gaps = Training("odd role!", torch.tensor([1, 2]), 1, {"train/clean_accuracy": torch.tensor([0.5, float("nan")])})
    write_report(tmp_path, record(), Material(training=(gaps,)))
    assert "Odd role!: accuracy" in (tmp_path / "report.html").read_text()


def shown(page, script, profile):
    """What a script in a page around a report's, with an empty frame in it, writes into `found`, by chromium."""
    outer = profile.with_suffix(".html")
    source = f"<textarea hidden>{html.escape(page)}</textarea>"
    outer.write_text(f'<!doctype html><meta charset="utf-8"><body><iframe></iframe>{source}<script>{script}</script>')
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic",
               "--disable-background-networking", "--disable-component-update", "--disable-sync",
               f"--user-data-dir={profile}", "--virtual-time-budget=20000", "--dump-dom", outer.as_uri()]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    said = re.search(r'<p id="found">(.*?)</p>', found.stdout)
    if said is None:
        pytest.skip(f"chromium did not show the page: {found.stderr[-200:]}")
    return said[1]


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
def test_a_narrow_window_scrolls_only_inside_tables(page, tmp_path):
    """In a frame 400 pixels wide, since a headless window is never that narrow."""
    measure = """
    const frame = document.querySelector("iframe");
    frame.style = "width:400px;height:900px;border:0";
    frame.onload = () => {
      const page = frame.contentDocument, buttons = page.querySelectorAll("th button").length;
      const wide = [...page.querySelectorAll("body *")].filter(e => !e.closest(".table, pre, svg")
        && e.getBoundingClientRect().right > 400.5).map(e => e.tagName + "." + e.className);
      const width = page.documentElement.scrollWidth;
      document.body.innerHTML = `<p id="found">${width} ${buttons} ${wide}</p>`;
    };
    frame.srcdoc = document.querySelector("textarea").value;
    """
    width, buttons, wide = shown(page.read_text(), measure, tmp_path / "profile").split(" ", 2)
    assert wide == ""
    assert int(width) <= 400
    assert int(buttons) > 5  # the tables can be sorted


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
def test_its_links_work_in_the_sandboxed_frame_of_mlflow(page, tmp_path):
    """From a blob, with scripts allowed and nothing else: there the browser follows no link within a page."""
    click = """<script>addEventListener("load", () => {
      document.querySelector('a[href="#checks"]').click();
      const top = document.getElementById("checks").getBoundingClientRect().top;
      parent.postMessage(`${Math.round(scrollY)} ${Math.round(top)}`, "*");
    });</script>"""
    tell = """
    const frame = document.querySelector("iframe");
    frame.style = "width:900px;height:600px;border:0";
    frame.sandbox = "allow-scripts";
    addEventListener("message", message => { document.body.innerHTML = `<p id="found">${message.data}</p>`; });
    frame.src = URL.createObjectURL(new Blob([document.querySelector("textarea").value], { type: "text/html" }));
    """
    report = page.read_text().replace("</body>", f"{click}</body>")
    assert click in report
    scrolled, top = map(int, shown(report, tell, tmp_path / "profile").split())
    assert scrolled > 600
    assert -5 <= top < 600
