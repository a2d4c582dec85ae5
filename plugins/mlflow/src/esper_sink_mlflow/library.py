"""MLflow itself: whether it is there, whether its store answers, and which of its failures pass."""

from __future__ import annotations

import contextlib
import importlib
import logging
import re
import socket
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from esper_core.errors import SinkError
from esper_core.hooks import Secret, redact

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

__all__ = ["in_words", "load", "passing", "quiet", "require_server", "shown"]

_INSTALL: Final = "pip install 'esper-core[mlflow]'"
_OLDEST: Final = (3, 17)
_PASSING: Final = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"}
_ANSWER_S: Final = 5.0
"""Seconds for a server to answer before training. MLflow alone tries for four minutes."""


def load() -> ModuleType:
    """Import MLflow.

    Raises:
        SinkError: it is absent, broken or too old.
    """
    try:
        mlflow = importlib.import_module("mlflow")
        importlib.import_module("mlflow.tracking")
    except ImportError as error:
        what = "is not installed" if error.name == "mlflow" else f"cannot be imported ({error})"
        raise SinkError(f'sink "mlflow" needs mlflow, which {what}', hint=_INSTALL) from None
    found = _version()
    if tuple(map(int, re.findall(r"\d+", found)[:2])) < _OLDEST:
        raise SinkError(f"mlflow {found} is older than what this sink was tested with: {_INSTALL}", hint=_INSTALL)
    return mlflow


def _version() -> str:
    for name in ("mlflow-skinny", "mlflow"):
        with contextlib.suppress(PackageNotFoundError):
            return version(name)
    return "0.0"


def require_server(uri: str) -> None:
    """See to it that a server listens at a URI that names one. Says nothing of any other store.

    Raises:
        SinkError: it does not.
    """
    parts = urlsplit(uri)
    if parts.password:
        Secret(parts.password)  # from now on no text shows it
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=_ANSWER_S).close()
    except OSError as error:
        why = error.strerror or str(error)
        raise SinkError(f"no MLflow server answers at {shown(uri)} ({why}): start it, or set tracking_uri") from None


def shown(uri: str) -> str:
    """The URI as text may hold it: without user and password."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if parts.netloc else uri


def in_words(error: Exception) -> str:
    """What MLflow said, in one line."""
    text = " ".join(redact(str(error)).split())
    if "MLFLOW_ALLOW_FILE_STORE" in text:
        return "MLflow no longer keeps runs in folders: use sqlite:///FILE, a server, or MLFLOW_ALLOW_FILE_STORE=true"
    if "unsupported URI 'sqlite" in text or "No module named 'sqlalchemy'" in text:
        return f"this MLflow has no SQLite: {_INSTALL}"
    return text


@contextlib.contextmanager
def passing(kind: type[Exception]) -> Iterator[None]:
    """Turn a failure that passes into an OSError, after which the host tries the event again.

    Args:
        kind: ``MlflowException``.

    Raises:
        OSError: the store does not answer now.
    """
    try:
        yield
    except kind as error:
        code: Any = getattr(error, "error_code", "")
        if code in _PASSING:
            raise OSError(in_words(error)) from None
        raise


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without MLflow's lines about the tables that it makes: the terminal is not its own."""
    names = ("mlflow", "mlflow.store.db.utils", "alembic")
    before = [(logger, logger.level) for logger in map(logging.getLogger, names)]
    for logger, _ in before:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in before:
            logger.setLevel(level)
