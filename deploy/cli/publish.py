"""`meterstream publish FILE`: a file of events into Kafka, checked line by line, safe to run again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import click

TOPICS: Final = ("usage.raw", "usage.backfill")


@click.command("publish")
@click.argument("file", metavar="FILE")
@click.option("--topic", type=click.Choice(TOPICS), default=TOPICS[0], show_default=True)
@click.option("--send-invalid", is_flag=True, help="Send bad lines too, to see them rejected.")
@click.option("--derive-ids", is_flag=True, help="Give lines without an id one made from their content.")
@click.option("--again", is_flag=True, help="Send a file again that has been published; nothing counts twice.")
def publish(file: str, topic: str, send_invalid: bool, derive_ids: bool, again: bool) -> int:
    """Publish FILE, one CloudEvent in JSON a line, plain or gzip; - reads standard input.

    Run it again after an interruption: it goes on where it stopped. Bad lines are named and not sent, and the
    exit code is 1 then; a further run names them again, and sends those that its options allow. Old events belong
    into usage.backfill: usage.raw takes those of the last 35 days, usage.backfill those of ten years.
    """
    from meterstream.deploy.cli.sending import report, send_file
    from meterstream.producers.publish import PublishPolicy
    from meterstream.schema.settings import Settings
    from meterstream.schema.topics import RAW
    from meterstream.schema.wire_event import AGE_MAX

    settings = Settings.load()
    oldest = datetime.now(UTC) - AGE_MAX if topic == RAW else None
    policy = PublishPolicy(topic=topic, send_invalid=send_invalid, derive_ids=derive_ids, oldest=oldest)
    published = send_file(settings, file, policy, again=again)
    report(published, policy)
    return 1 if published.counts.refused else 0
