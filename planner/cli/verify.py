"""``planner verify``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from planner.domain.layout import Certificate
    from planner.search.recheck_case import Recheck


@click.command("verify")
@click.argument("layout_file")
@click.option(
    "--certificate",
    is_flag=True,
    help="Also re-derive the bound of the certificate with code that shares no loop and no "
    "relaxation with the search.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(layout_file: str, certificate: bool, as_json: bool) -> int:
    """Check a layout file, edited ones too, and name each violation.

    With --certificate the strategies of the space are counted again, the objective is
    recomputed from the decisions, no strategy may be better than the stated bound, and the
    bound that this proves must agree with it. The counting and pricing rules of the cost
    model are the planner's; so is the rule that a step grows no faster than its batch.

    Exit code 1 when something is violated.

    Example: planner verify --certificate layout.json
    """
    from planner.export.layout_file import read_layout
    from planner.export.serve_file import is_serve_layout
    from planner.export.train_file import is_train_layout

    if is_serve_layout(layout_file):
        return _pools(layout_file, certificate, as_json)
    if is_train_layout(layout_file):
        return _training(layout_file, certificate, as_json)
    layout = read_layout(layout_file)
    if certificate:
        from planner.verify_api import verify_certificate

        return _certificate(verify_certificate(layout), layout.certificate, as_json)
    from planner.api import verify

    return _decisions(verify(layout), as_json)


def _training(layout_file: str, certificate: bool, as_json: bool) -> int:
    from planner.export.train_file import read_train_layout

    layout = read_train_layout(layout_file)
    if certificate:
        from planner.train_verify import verify_training_certificate

        return _certificate(verify_training_certificate(layout), layout.certificate, as_json)
    from planner.train_api import verify_training

    return _decisions(verify_training(layout), as_json)


def _pools(layout_file: str, certificate: bool, as_json: bool) -> int:
    from planner.export.serve_file import read_serve_layout

    layout = read_serve_layout(layout_file)
    if certificate:
        from planner.serve_api.certificate import verify_pools_certificate

        return _certificate(verify_pools_certificate(layout), layout.certificate, as_json)
    from planner.serve_api import verify_pools

    return _decisions(verify_pools(layout), as_json)


def _decisions(violations: tuple[str, ...], as_json: bool) -> int:
    from planner.export.layout_file import Verdict, record_json

    if as_json:
        verdict = Verdict(valid=not violations, violations=violations)
        click.echo(record_json(verdict).decode("utf-8"), nl=False)
    else:
        _list(violations)
    return 1 if violations else 0


def _certificate(found: Recheck, certificate: Certificate | None, as_json: bool) -> int:
    from planner.export.layout_file import CertificateVerdict, record_json
    from planner.report.recheck_text import recheck_text

    if as_json:
        verdict = CertificateVerdict(
            valid=not found.violations, violations=found.violations, recheck=found
        )
        click.echo(record_json(verdict).decode("utf-8"), nl=False)
    else:
        assert certificate is not None
        click.echo(recheck_text(found, certificate.unit))
        _list(found.violations)
    return 1 if found.violations else 0


def _list(violations: tuple[str, ...]) -> None:
    for violation in violations or ("valid",):
        click.echo(violation)
