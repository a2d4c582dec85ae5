"""The one place that texts pass before they are printed, logged, stored or sent: no secret stands in what leaves it.

The secrets of this process are known here: every ``Secret``, what configuration, arguments and environment hold under
names that secrets have, and user, password and query of the URLs in them. :func:`redact` replaces them wherever they
stand in a text, in every form that they are written in, and in any case user, password and query of every URL.
Any thread.
"""

from __future__ import annotations

import base64
import re
import threading
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, quote, unquote

from esper_core import forks
from esper_core.terminal import encodable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = [
    "MASK",
    "is_secret_name",
    "learn",
    "learn_arguments",
    "learn_environment",
    "learn_setting",
    "masked_places",
    "may_be_secret_name",
    "redact",
    "redact_urls",
]

MASK: Final = "***"
"""The text that replaces a secret."""

_SHORTEST: Final = 4
"""Characters. Shorter secrets are not looked for in texts: they would mask ordinary words, and tokens are longer."""
_SHORTEST_GUESSED: Final = 8
"""Characters, of a value in a query whose name is no secret's: it may be ``v=latest``."""
_WORDS: Final = frozenset({"true", "false", "none", "null", "auto"})

_SECRET_NAME: Final = re.compile(
    r"(?:^|[^a-z0-9])(?:[a-z0-9]*(?:tokens?|passw(?:or)?ds?|secrets?|api_?keys?)|pwd|pass|passphrase|credentials?|dsn"
    r"|authori[sz]ation|auth|bearer|cookies?|headers?|(?:access|private|signing|auth|account|session|encryption)_?keys?)$"
)
_MAYBE_SECRET_NAME: Final = re.compile(
    r"token|passw|pwd|secret|key|header|auth|credential|cookie|dsn|signature", re.IGNORECASE
)
_NO_SECRETS: Final = frozenset({"PWD"})
"""Variables whose names look like a secret's: the shell's working directory."""

_SCHEME: Final = re.compile(r"^(?:bearer|basic|token|apikey|digest)\s+", re.IGNORECASE)
# A password may hold any sign, so everything up to the last @ is taken for one: better too much than a part of it.
_USERINFO: Final = re.compile(r"(?<=://)\S*@")
_BARE_USERINFO: Final = re.compile(r"(?<![^\s'\"(\[{=,/])[^\s'\"/:@=,]+:(?!//)[^\s'\"@]+@(?=[\w\[.-])")
_QUERY: Final = re.compile(r"(/[^?#\s'\"]*\?)[^#\s'\"<>]+")

_lock = threading.Lock()
_known: frozenset[str] = frozenset()
_pattern: re.Pattern[str] | None = None


def _renew_lock() -> None:
    """In a forked child: a thread that is gone may hold the parent's."""
    global _lock  # noqa: PLW0603  # the module's own
    _lock = threading.Lock()


forks.in_child(_renew_lock)


def redact(text: str) -> str:
    """The text with every known secret, and user, password and query of every URL, replaced by ``***``.

    What UTF-8 cannot encode is escaped: whoever stores or sends the text needs no care of his own.
    """
    pattern = _pattern
    return encodable(redact_urls(text if pattern is None else pattern.sub(MASK, text)))


def redact_urls(text: str) -> str:
    """The text with user, password and query of every URL in it replaced by ``***``."""
    if "@" in text:
        text = _BARE_USERINFO.sub(f"{MASK}@", _USERINFO.sub(f"{MASK}@", text))
    return _QUERY.sub(rf"\1{MASK}", text) if "?" in text else text


def masked_places(value: Any, place: str) -> Iterator[str]:
    """Where a value of the configuration holds the mask in place of a secret: dotted paths, begun with its own."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from masked_places(item, f"{place}.{key}")
    elif isinstance(value, (list, tuple)):
        yield from dict.fromkeys(found for item in value for found in masked_places(item, place))
    elif isinstance(value, str) and MASK in value:
        yield place


def is_secret_name(name: str) -> bool:
    """Whether a key, variable or option of this name holds a secret itself (``api_token``; not ``token_file``)."""
    return bool(_SECRET_NAME.search(_snake(name)))


def may_be_secret_name(name: str) -> bool:
    """Whether a key may hold a secret, where nothing else is known about it (``keyboard`` too)."""
    return bool(_MAYBE_SECRET_NAME.search(name))


# --- what is known --------------------------------------------------------------------------------


def learn(values: Iterable[str]) -> None:
    """Mask these from now on, as they are and URL-encoded, escaped or without the scheme before them (``Bearer``)."""
    global _known, _pattern  # noqa: PLW0603  # the process's own list: replaced whole, so that readers need no lock
    found = {form for value in values for form in _forms(value) if _is_long_enough(form)}
    with _lock:
        if found <= _known:
            return
        _known |= found
        # A secret may hold another: the longest first.
        _pattern = re.compile("|".join(map(re.escape, sorted(_known, key=len, reverse=True))))


def learn_setting(names: Sequence[str], value: Any, *, guess: bool = False) -> None:
    """Learn what is secret in a value of the configuration.

    Args:
        names: of the tables and the key that hold it.
        value: as TOML has it.
        guess: whether a name that may be a secret's is taken for one.
    """
    looks = may_be_secret_name if guess else is_secret_name
    texts = list(_texts(value))
    if any(map(looks, names)):
        learn(texts)
    elif isinstance(value, dict):
        for key, item in value.items():
            learn_setting((str(key),), item, guess=guess)
    elif isinstance(value, (list, tuple)):
        for item in value:
            learn_setting((), item, guess=guess)
    learn(part for text in texts for part in _of_url(text, query=True))


def learn_environment(env: Mapping[str, str]) -> None:
    """Learn tokens, headers, and the users and passwords of endpoints and proxies, of environment variables."""
    found: list[str] = []
    for name, value in env.items():
        ours = name.startswith(("ESPER_", "OTEL_"))
        if name.upper().endswith("HEADERS"):
            found += [part.partition("=")[2] for part in value.split(",")]
        elif is_secret_name(name) and name not in _NO_SECRETS:
            found.append(value)
        if "://" in value or ours or name.lower().endswith("_proxy"):
            found += _of_url(value, query=ours)
    learn(found)


def learn_arguments(words: Sequence[str]) -> None:
    """Learn what follows an option or key with a secret's name (``--token X``, ``sink.a.token=X``), and URLs."""
    before = ""
    for word in words:
        name, equals, value = word.partition("=")
        learn_setting((name.rpartition(".")[2].lstrip("-"),), value.strip("\"'") if equals else "")
        learn(_of_url(word, query=True) if "://" in word else ())
        if before.startswith("-") and "=" not in before:
            learn_setting((before.lstrip("-"),), word)
        before = word


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()


def _is_long_enough(value: str) -> bool:
    return len(value) >= _SHORTEST and value.lower() not in _WORDS and value != MASK


def _forms(value: str) -> Iterator[str]:
    """A secret as it is, and as it may be written in a URL, in JSON and in an error's text."""
    import json  # noqa: PLC0415  # only when there is a secret

    value = value.strip()
    whole = {value, unquote(value)}
    for text in whole | {_SCHEME.sub("", item) for item in whole}:
        yield text
        quoted = quote(text, safe="")
        yield from (quoted, quoted.replace("%20", "+"), quote(text), _lower_escapes(quoted))
        yield json.dumps(text)[1:-1]
        yield json.dumps(text, ensure_ascii=False)[1:-1]
        yield repr(text)[1:-1]


def _lower_escapes(text: str) -> str:
    return re.sub(r"%[0-9A-F]{2}", lambda found: found[0].lower(), text)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def _of_url(url: str, *, query: bool) -> Iterator[str]:
    """User, password, the header that they become, and what the query holds; nothing for a text that is no URL."""
    rest = url.partition("://")[2] if "://" in url else url
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    userinfo = (authority if "@" in authority else rest).rpartition("@")[0]
    user, colon, password = userinfo.partition(":")
    if password:
        yield password
        yield base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
    elif user and not colon and "://" in url:
        yield user  # a token alone: https://TOKEN@host
    asked = url.partition("?")[2].partition("#")[0] if query and "://" in url else ""
    if asked:
        yield asked
        for name, value in parse_qsl(asked):
            if len(value) >= _SHORTEST_GUESSED or may_be_secret_name(name):
                yield value
