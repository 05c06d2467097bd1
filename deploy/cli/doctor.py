"""`meterstream doctor`: what is wrong, and what to do."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from meterstream.deploy import event_loop


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def doctor(as_json: bool) -> int:
    """Look at everything that can be set up wrong, and say how to mend it.

    Changes nothing. Exits with 1 when something is wrong; notes hinder nothing.
    """
    from meterstream.deploy.doctor import examine

    found = event_loop.run(examine())
    is_well = all(finding.verdict != "wrong" for finding in found)
    if as_json:
        click.echo(json.dumps({"is_well": is_well, "findings": [asdict(finding) for finding in found]}))
        return 0 if is_well else 1
    for finding in found:
        click.echo(f"{finding.verdict:<6} {finding.what:<18} {finding.said}")
        if finding.fix:
            click.echo(f"{'':<25} -> {finding.fix}")
    if is_well:
        click.echo("\nnothing is wrong")
    return 0 if is_well else 1
