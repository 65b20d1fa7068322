"""Logs: one JSON object a line on standard error, for our own code and for libraries alike.

Every line has ``timestamp`` (ISO 8601, UTC), ``level``, ``service``, ``event``, ``tenant_id``, ``trace_id`` and
``error_code``, null where there is none; then whatever the caller adds. Code below the application logs with the
standard library, its ``extra`` becoming fields.
"""

import json
import logging
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, ProcessorReturnValue, WrappedLogger

from duckmesh.app.settings import Settings
from duckmesh.app.telemetry import tracing
from duckmesh.app.telemetry.redaction import Redactor, secret_values
from duckmesh.domain.errors import DuckMeshError

_ALWAYS: Final = ("timestamp", "level", "service", "event", "tenant_id", "trace_id", "error_code")

_CHATTY: Final = ("uvicorn.access", "httpx", "httpcore", "botocore", "aiobotocore", "s3fs", "fsspec", "urllib3")
"""Libraries whose news of every request are worth a line only when somebody debugs."""

_WITH_OWN_HANDLERS: Final = ("uvicorn", "uvicorn.error", "uvicorn.access", "alembic", "sqlalchemy")

_encode: Final = msgspec.json.Encoder().encode


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose methods take an event and fields: ``log.info("snapshot_published", snapshot_id=7)``."""
    logger: FilteringBoundLogger = structlog.get_logger(name)
    return logger


def bound(**fields: Any) -> AbstractContextManager[None]:
    """Add fields, such as ``tenant_id``, to every line of the enclosed code and of the tasks that it starts."""
    return structlog.contextvars.bound_contextvars(**fields)


def configure(settings: Settings, stream: TextIO | None = None) -> None:
    """Send all logs of the process to ``stream``, standard error by default. May be called again.

    uvicorn must be started with ``log_config=None``, or it takes its own loggers back.
    """
    level = settings.telemetry.log_level.upper()
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=_rendering(settings, handler))
    )
    _route_standard_library(handler, level)


def _rendering(settings: Settings, handler: "logging.StreamHandler[TextIO]") -> list[structlog.typing.Processor]:
    """What makes text of a line, secrets masked in all of it, tracebacks included."""
    redactor = Redactor(secret_values(settings))
    common: list[structlog.typing.Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        _Identity(settings.telemetry.service),
        _add_error_code,
        structlog.processors.format_exc_info,
        lambda _logger, _method, event: {name: redactor.field(name, value) for name, value in event.items()},
    ]
    if settings.telemetry.log_format == "json":
        return [*common, _to_json]
    colors = handler.stream.isatty()
    return [*common, _drop_empty, structlog.dev.ConsoleRenderer(colors=colors, timestamp_key="timestamp")]


def _route_standard_library(handler: logging.Handler, level: str) -> None:
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _WITH_OWN_HANDLERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.NOTSET if level == "DEBUG" else logging.WARNING)
    logging.captureWarnings(capture=True)


class _Identity:
    """Adds who speaks, for which request; the fixed fields come first, in one order."""

    def __init__(self, service: str) -> None:
        self._service = service

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        ordered: dict[str, Any] = dict.fromkeys(_ALWAYS)
        ordered["service"] = self._service
        ordered["trace_id"] = tracing.current_trace_id()
        ordered.update(event)
        return ordered


def _add_error_code(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Name the code of the error that is logged, or of the one that caused it."""
    if event["error_code"] is None:
        event["error_code"] = _code_of(event.get("error")) or _code_of(_exception(event.get("exc_info")))
    return event


def _exception(exc_info: Any) -> Any:
    if isinstance(exc_info, tuple):
        return exc_info[1]
    return sys.exc_info()[1] if exc_info is True else exc_info


def _code_of(error: Any) -> str | None:
    while isinstance(error, BaseException):
        if isinstance(error, DuckMeshError):
            return error.code
        error = error.__cause__
    return None


def _drop_empty(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {name: value for name, value in event.items() if value is not None and name != "service"}


def _to_json(_logger: WrappedLogger, _method: str, event: Mapping[str, Any]) -> ProcessorReturnValue:
    try:
        return _encode(event).decode()
    except (UnicodeError, OverflowError, ValueError):  # lone surrogates, integers beyond 64 bits
        return json.dumps(event)
