"""`art-ext gate MODEL --policy POLICY`."""

from __future__ import annotations

from pathlib import Path

import click

from art_ext.host.commands.options import debug_option, trust_option


@click.command(short_help="Say whether a model may be released.")
@click.argument("model")
@click.option("--policy", "policy_file", type=click.Path(path_type=Path), required=True, help="What is asked, in YAML.")
@click.option("--against", default=None, metavar="MODEL", help="The champion, such as models:/digits@champion.")
@click.option("--evaluation", type=click.Path(path_type=Path), default=None, help="The model's evaluation.json.")
@click.option("--output", type=click.Path(path_type=Path), default=None, help="Folder for gate.xml and gate.md.")
@click.option("--promote", is_flag=True, help="Move the alias to a model that passes.")
@click.option("--alias", default="champion", show_default=True, help="The alias that --promote moves.")
@click.option("--tracking-uri", default=None, help="Of the MLflow server; default: MLFLOW_TRACKING_URI.")
@trust_option
@debug_option
@click.pass_context
def gate(
    ctx: click.Context,
    model: str,
    policy_file: Path,
    against: str | None,
    evaluation: Path | None,
    output: Path | None,
    promote: bool,
    alias: str,
    tracking_uri: str | None,
    trust: bool,
) -> None:
    """Hold a policy against the evaluation of MODEL; exit 0 where it passes, 1 where not, 2 for mistakes.

    MODEL is a folder of `art-ext harden`, models:/NAME@ALIAS, models:/NAME/VERSION or runs:/RUN/model.
    """
    from art_ext.host.gating import read_policy

    policy = read_policy(policy_file)
    # only now: these bring in MLflow and timm, which a mistake in the policy should not wait for
    from art_ext.border.mlflow_where import resolve_tracking
    from art_ext.host import gating
    from art_ext.host.manager import default_manager

    tracking = resolve_tracking(tracking_uri, Path.cwd())
    version = gating.registered(model, tracking) if promote else None
    decision = gating.gate(
        model,
        policy,
        catalogue=default_manager().catalogue,
        tracking=tracking,
        against=against,
        evaluation=evaluation,
        trust=trust,
        echo=click.echo,
    )
    for line in decision.lines():
        click.echo(line)
    if output is not None:
        decision.write(output)
    if not decision.passed:
        ctx.exit(1)
    if version is not None:
        click.echo(gating.move_champion(version, tracking, alias))
