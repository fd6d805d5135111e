"""Masks secrets, and leaves alone what only looks like one."""

from __future__ import annotations

import time
from typing import Any

import pytest

from langchain_mlflow_tracer.record import JsonText
from langchain_mlflow_tracer.redaction import MASK, WITHHELD, Redactor

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"

SECRETS = [
    "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789",
    "sk-ant-api03-abcdefghijklmnopqrstuvwxyz",
    "lsv2_pt_0123456789abcdef0123456789abcdef_0123456789",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "github_pat_11ABCDEFG0abcdefghijklmnop",
    "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH",
    "xoxb-1234567890-abcdefghijkl",
    "AKIAIOSFODNN7EXAMPLE",
    "AIzaSyA-1234567890abcdefghijklmnopqrstu",
    "dapi0123456789abcdef0123456789abcdef",
    JWT,
]


@pytest.mark.parametrize("secret", SECRETS)
def test_the_keys_of_providers_are_masked_wherever_they_stand(secret: str) -> None:
    for text in (secret, f"my key is {secret}, keep it", f'"{secret}"', f"({secret})"):
        assert secret not in Redactor().text(text)
        assert MASK in Redactor().text(text)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Authorization: Bearer abc.def-123456", f"Authorization: Bearer {MASK}"),
        ("Basic dXNlcjpwYXNzd29yZA==", f"Basic {MASK}"),
        ("postgresql://ada:hunter2@db:5432/x", f"postgresql://ada:{MASK}@db:5432/x"),
        ("redis://:hunter2@cache/0", f"redis://:{MASK}@cache/0"),
        (
            "Server=db;User=sa;Password=hunter2;Encrypt=true",
            f"Server=db;User=sa;Password={MASK};Encrypt=true",
        ),
        ("AccountName=a;AccountKey=abc123==;X=y", f"AccountName=a;AccountKey={MASK};X=y"),
        ("https://a.blob/x?sv=1&sig=abcdefghijklmnop%3D&se=2", f"https://a.blob/x?sv=1&sig={MASK}&se=2"),
        ('{"password": "hunter2", "user": "ada"}', f'{{"password": "{MASK}", "user": "ada"}}'),
        ("{'db_password': 'hunter2'}", f"{{'db_password': '{MASK}'}}"),
        ("api-key: 0123456789abcdef", f"api-key: {MASK}"),
        ("export OPENAI_API_KEY=abcdef123", f"export OPENAI_API_KEY={MASK}"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY----- after",
            f"{MASK} after",
        ),
    ],
)
def test_secrets_in_text_are_masked_and_the_rest_stays_readable(text: str, masked: str) -> None:
    assert Redactor().text(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "What is the capital of France?",
        "The basic idea: bearer of bad news, a secret garden, the password is never told.",
        "task-force risk-assessment and a disk-based sk-ill",
        "https://example.com/path?q=1#fragment",
        "max_tokens=100, total_tokens=15",
        "00000000-0000-0000-0000-000000000007",
        "日本語のテキスト",
        "a == b and c = d",
    ],
)
def test_what_is_no_secret_is_left_alone(text: str) -> None:
    assert Redactor().text(text) == text


@pytest.mark.parametrize(
    "key",
    ["password", "Password", "db_password", "clientSecret", "client_secret", "x-api-key", "apiKey",
     "OPENAI_API_KEY", "authorization", "access_token", "connection_string", "AccountKey", "set-cookie"],
)  # fmt: skip
def test_values_under_the_names_of_secrets_are_masked_whatever_they_are(key: str) -> None:
    for value in ("hunter2", 12345, ["a"], {"b": "c"}):
        assert Redactor().value({key: value}) == {key: MASK}


def test_names_that_only_sound_like_secrets_keep_their_values() -> None:
    value: dict[str, Any] = {
        "total_tokens": 15, "max_tokens": 100, "token": "Hello", "tokens": ["a"], "secretary": "Ada",
        "password": None, "has_password": True, "api_key": "", "key": "value", "passwords_checked": 3,
    }  # fmt: skip
    assert Redactor().value(value) == value
    assert Redactor().value({"token": "0123456789abcdef"}) == {"token": MASK}


def test_plain_data_is_masked_at_every_depth_and_in_its_keys() -> None:
    key = SECRETS[0]
    value = {"list": [{"text": f"see {key}"}], key: 1, "arguments": JsonText(password="hunter2", city="Rome")}
    masked = Redactor().value(value)
    assert masked == {
        "list": [{"text": f"see {MASK}"}], MASK: 1, "arguments": {"password": MASK, "city": "Rome"},
    }  # fmt: skip
    assert type(masked["arguments"]) is JsonText


def test_other_objects_are_masked_as_the_text_they_print() -> None:
    class Stack:
        def __str__(self) -> str:
            return f"Traceback: {SECRETS[0]}"

    masked: object = Redactor().value({"stack": Stack()})
    assert masked == {"stack": f"Traceback: {MASK}"}


def test_the_users_function_runs_after_the_patterns() -> None:
    redactor = Redactor(lambda text: text.replace("Ada", "A.").replace(SECRETS[0], "leaked"))
    assert redactor.text(f"Ada has {SECRETS[0]}") == f"A. has {MASK}"
    assert redactor.value({"Ada": ["Ada"]}) == {"A.": ["A."]}


def test_a_function_that_fails_or_returns_no_text_lets_nothing_through() -> None:
    def fail(_: str) -> str:
        raise ValueError("broken")

    assert Redactor(fail).text("Ada") == WITHHELD
    assert Redactor(lambda _: None).text("Ada") == WITHHELD  # type: ignore[arg-type, return-value]


def test_false_leaves_texts_as_they_are() -> None:
    value = {"password": "hunter2", "text": SECRETS[0]}
    assert Redactor(redact=False).value(value) is value
    assert Redactor(redact=False).text(SECRETS[0]) == SECRETS[0]


def test_ten_megabytes_take_less_than_a_second() -> None:
    text = "The quick brown fox = jumps over: the lazy dog. " * 200_000
    began = time.perf_counter()
    assert Redactor().text(text) == text
    assert time.perf_counter() - began < 3  # a wide guard against a pattern that backtracks
