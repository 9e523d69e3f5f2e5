"""Secrets in addresses, texts and the environment are taken out; everything else stays as it is."""

from __future__ import annotations

import pytest

from art_ext.host.cli import main
from art_ext.secrets import masked, masked_data


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ann:pa55wd@host:5000/x", "http://***@host:5000/x"),
        ("postgresql+psycopg2://u:p%40w@db/ml?x=1", "postgresql+psycopg2://***@db/ml?x=1"),
        ("see https://tok3n@host and http://b:c@d.", "see https://***@host and http://***@d."),
        ("s3://bucket/x?X-Amz-Signature=abc123&y=2", "s3://bucket/x?X-Amz-Signature=***&y=2"),
        ("https://h/b?sv=1&sig=aB%2Fc", "https://h/b?sv=1&sig=***"),
        ("Authorization: Bearer abcdef123456", "Authorization: Bearer ***"),
        ('{"aws_secret_access_key": "wJalr/K7"}', '{"aws_secret_access_key": "***"}'),
        ("MLFLOW_TRACKING_TOKEN=abc", "MLFLOW_TRACKING_TOKEN=***"),
    ],
)
def test_secrets_are_masked(text, shown):
    assert masked(text) == shown
    assert masked(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "models:/digits@champion", "sqlite:////home/ann/mlflow.db", "http://host:5000/#/runs/1", "ann@example.org",
        "unknown option 'tokens'; did you mean token?", "while scanning: found token: ':'", "config=3, sigma=0.5",
        "a/b@c", "eps: 0.3", "timm:resnet18.a1_in1k",
    ],
)  # fmt: skip
def test_other_text_stays_as_it_is(text):
    assert masked(text) == text


def test_values_of_secret_variables_are_masked_wherever_they_stand(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct horse")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7")
    monkeypatch.setenv("SHORT_TOKEN", "the")
    text = "401: user ann, correct horse; wJalrXUtnFEMI by AKIAIOSFODNN7 the end"
    assert masked(text) == "401: user ann, ***; *** by *** the end"


def test_plain_data_is_masked_all_the_way_down():
    data = {"uri": "http://a:b@c", "list": [{"password": "x"}, 3, None], "lr": 0.1, "tokenizer": "bpe"}
    shown = {"uri": "http://***@c", "list": [{"password": "***"}, 3, None], "lr": 0.1, "tokenizer": "bpe"}
    assert masked_data(data) == shown


@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_the_command_line_prints_no_secret(tmp_path, monkeypatch, capsys, debug):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct horse")
    for override in ("track.uri=http://ann:pa55wd@host", "model.from=ftp://ann:pa55wd@host/x", "name=correct horse"):
        with pytest.raises(SystemExit):
            main(["harden", "digits/pgd_at", "--set", override, *debug])
    said = "".join(capsys.readouterr())
    assert "error:" in said
    assert "pa55wd" not in said
    assert "correct horse" not in said
