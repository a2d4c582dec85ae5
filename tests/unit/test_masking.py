"""No text that passed the masking holds a secret, in whatever form; ordinary texts stay as they are."""

from __future__ import annotations

import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_core.hooks import Secret, redact
from esper_core.masking import is_secret_name, learn_arguments, learn_environment, learn_setting

_passwords = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20).map("pw-{}-wp".format)


@given(_passwords, st.sampled_from(["https://", "grpc://", ""]), st.sampled_from(["", "/v1/traces", ":4318/x?k=v"]))
def test_no_url_keeps_its_password_escaped_or_not(password: str, scheme: str, rest: str) -> None:
    """Known to nobody: by the form of the URL alone. Without a scheme a password must not have signs of a URL."""
    if not scheme:
        password = quote(password, safe="")
    for written in (password, quote(password, safe="")):
        text = f"cannot reach {scheme}ann:{written}@host{rest} now"
        assert "pw-" not in redact(text).replace("cannot", "")
        assert "-wp" not in redact(text)
        assert "host" in redact(text)


@given(_passwords)
def test_a_known_secret_stands_in_no_text_in_no_form(password: str) -> None:
    Secret(password)
    forms = (password, quote(password), quote(password, safe=""), quote_plus(password), json.dumps(password))
    for form in (*forms, repr(password), repr({"token": password}), f"Bearer {password}", f"/path?key={password}&x=1"):
        assert "pw-" not in redact(f"he said {form}, twice: {form}")
    assert redact(f"a {password} b") == "a *** b"


@pytest.mark.parametrize(
    "text",
    [
        "mail a@b.example, why? because",
        "at 12:30 user@host logs in",
        "see https://host/docs#anchor, or ./a/b?",
        "package.module:Env-v0",
        "sink tui: x@y",
        "[sink.otlp] endpoint: expected str",
    ],
)
def test_ordinary_texts_stay(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("token", True),
        ("api_token", True),
        ("apiToken", True),
        ("API-KEY", True),
        ("SERVICE_API_KEY", True),
        ("PGPASSWORD", True),
        ("headers", True),
        ("client_secret", True),
        ("token_file", False),
        ("client_key", False),
        ("keyboard", False),
        ("author", False),
        ("monkey", False),
        ("password_url", False),
    ],
)
def test_names_of_secrets(name: str, secret: bool) -> None:  # a parameter of the test
    assert is_secret_name(name) == secret


def test_what_a_process_is_told_is_known() -> None:
    learn_environment(
        {
            "OTEL_EXPORTER_OTLP_HEADERS": "x-a=first%20one,authorization=Bearer%20second",
            "https_proxy": "ann:third@proxy:3128",
            "X_API_KEY": "fourth",
            "PWD": "/home/fifth",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://host/?key=sixth&v=new",
            "HOMEPAGE": "http://host/?theme=darkblue",
        }
    )
    learn_arguments(["ppo", "--token", "seventh", "--set", "sink.a.password=eighth", "--name", "ninth"])
    learn_setting(("deep",), {"list": [{"auth_token": "tenth", "colour": "eleven"}]})
    words = "first one; second; third; fourth; /home/fifth; sixth; new; darkblue; seventh; eighth; ninth; tenth; eleven"
    kept = "***; ***; ***; ***; /home/fifth; ***; new; darkblue; ***; ***; ninth; ***; eleven"
    assert redact(words) == kept


def test_short_secrets_do_not_mask_ordinary_words() -> None:
    Secret("a")
    Secret("true")
    assert redact("a true story") == "a true story"
