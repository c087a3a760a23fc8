"""``planner topology import``."""

from __future__ import annotations

import click


@click.command("import")
@click.argument("file")
@click.option(
    "--chip",
    metavar="MACHINE",
    help="Machine of the same chips: lends what the file does not say.",
)
@click.option(
    "--as",
    "kind",
    type=click.Choice(["topo", "nccl-xml", "graphml", "json"]),
    help="Format of FILE; recognised if absent.",
)
@click.option(
    "--name", metavar="NAME", help="Name of the machine; that of the file written if absent."
)
@click.option("-o", "--out", metavar="FILE.toml", help="Write to FILE instead of the terminal.")
def command(
    file: str, chip: str | None, kind: str | None, name: str | None, out: str | None
) -> int:
    """Turn FILE into a machine file: a topology matrix, NCCL's XML, or an exported graph.

    What was guessed is told on stderr.

    Example: planner topology import topo.txt --chip h100-hgx -o my-node.toml
    """
    from planner.catalog.imports.imported import import_machine
    from planner.cli.show import print_bytes
    from planner.export.atomic import check_writable, write_text_atomic

    if out is not None:
        check_writable(out)
    found = import_machine(file, chip, kind, name)
    content = found.text.encode()
    if out is None:
        print_bytes(content)
    else:
        write_text_atomic(out, content)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    if out is not None:
        click.echo(f"wrote {out}: {found.num_chips} chips, read as {found.format}", err=True)
    return 0
