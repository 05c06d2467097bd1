"""Where a role's traces go, as OpenTelemetry's own variables say. Without them nothing of it is loaded.

Spans wait in a bounded queue and a thread exports them: a collector that is slow or away costs spans, never usage.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger(__name__)

EXPORTER: Final = "OTEL_TRACES_EXPORTER"
ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
STOP_WITHIN_S: Final = 2.0
"""For what was not exported yet; a collector that does not answer must not hold up the end."""
INSTALL_HINT: Final = 'pip install "meterstream[otel]"'
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_OTLP: Final = {"": "otlp_proto_http", "http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}

_provider: TracerProvider | None = None


def wanted(environment: Mapping[str, str]) -> str | None:
    """The name under which the exporter that is asked for is registered; None: no traces."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    name = environment.get(EXPORTER, "").strip()
    if name == "none" or not (name or any(environment.get(each) for each in ENDPOINTS)):
        return None
    if name not in ("", "otlp"):
        return name
    protocol = next((environment[each] for each in _PROTOCOLS if environment.get(each)), "")
    return _OTLP.get(protocol.strip(), protocol)


def start(role: str) -> None:
    """From now on the role's batches are spans, where the variables ask for it.

    What hinders that is logged: the role meters all the same. Does not wait for a collector.
    """
    name = wanted(os.environ)
    if name is None:
        return
    try:
        _start(role, name)
    except ImportError as error:
        log.error("no traces: %s: %s", error, INSTALL_HINT)
    except Exception as error:  # an exporter that refuses its settings
        log.error("no traces: the exporter %s: %s: %s", name, type(error).__name__, error)


def stop() -> None:
    """Exports what waits, for at most STOP_WITHIN_S. Blocks."""
    global _provider
    provider, _provider = _provider, None
    if provider is not None:
        ending = threading.Thread(target=provider.shutdown, name="traces", daemon=True)
        ending.start()
        ending.join(STOP_WITHIN_S)
        if ending.is_alive():
            log.warning("traces: the collector does not answer, the newest spans are lost")


def _start(role: str, name: str) -> None:
    global _provider
    from opentelemetry import trace
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create().merge(Resource({"meterstream.role": role}))
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: f"meterstream-{role}"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
    trace.set_tracer_provider(provider)
    _provider = provider
    log.info("traces: %s", name)


def _exporter(name: str) -> Any:
    found = next(iter(entry_points(group="opentelemetry_traces_exporter", name=name)), None)
    if found is None:
        raise ImportError(f"no exporter {name} is installed")
    return found.load()()
