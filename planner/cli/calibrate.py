"""``planner calibrate``."""

from __future__ import annotations

import sys

import click

from planner.errors import SpecError


def _groups(text: str | None) -> tuple[str, ...]:
    """Read a list of groups; an absent option is no list."""
    if text is None:
        return ()
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise SpecError(f"--only: '{text}' has an empty name", "separate names by one comma")
    return names


@click.command("calibrate")
@click.argument("file")
@click.option("--on", metavar="MACHINE", help="The machine that the rows were taken on.")
@click.option(
    "--only",
    metavar="GROUP,GROUP",
    help="Constants to fit, of matmul, hbm, attention, kernel, collectives.",
)
@click.option(
    "--as-of", metavar="MONTH", help="Month of the fit, e.g. 2026-11; this one if left out."
)
@click.option("-o", "--out", metavar="FILE", help="Write the fitted machine to a .toml.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(file: str, out: str | None, as_json: bool, **options: str | None) -> int:
    """Fit a machine's constants to the measured rows of FILE.

    FILE is a table as planner validate reads it. Achieved fractions, kernel times and the
    curves of collectives move as far as the rows say; what they cannot tell stays as it is.
    The file that is written extends the machine and is used like any other.

    Example: planner calibrate rows.csv --on h100-hgx -o my-h100.toml
    """
    from planner.export.atomic import check_writable, write_text_atomic
    from planner.report.calibration_text import progress_line, show_calibration
    from planner.validation.calibrate import CalibrationRequest, calibrate
    from planner.validation.calibrate_file import calibration_toml, check_target

    if out is not None:
        check_target(options["on"], out)
        check_writable(out)
    request = CalibrationRequest(
        file=file,
        machine=options["on"],
        only=_groups(options["only"]),
        as_of=options["as_of"],
    )
    with progress_line(sys.stderr) as progress:
        found = calibrate(request, progress)
    if out is not None:
        # The rows may have named the machine.
        check_target(found.machine, out)
        write_text_atomic(out, calibration_toml(found, out).encode("utf-8"))
    if as_json:
        from planner.cli.show import print_bytes
        from planner.export.layout_file import record_json

        print_bytes(record_json(found))
    else:
        show_calibration(found, sys.stdout)
    if out is not None:
        click.echo(f"wrote {out}", err=True)
    return 0
