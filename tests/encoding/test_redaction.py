from __future__ import annotations

import ast
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

import langchain_mlflow_tracer
from langchain_mlflow_tracer.core.record import JsonText
from langchain_mlflow_tracer.encoding.redaction import MASK, WITHHELD, Redactor
from langchain_mlflow_tracer.recording.failure import Stack

# Made up, and put together here so that no scanner of sources takes them for real ones.
HEX32 = "0123456789abcdef" * 2
ALNUM = "aB3dE5fG7hJ9kL1mN2pQ4rS6tU8vW0xY"
ISSUED = [
    "sk-" + ALNUM + "T3BlbkFJ",
    "sk-proj-" + ALNUM + "_-" + ALNUM,
    "sk-ant-api03-" + ALNUM + "-AA",
    "sk-or-v1-" + HEX32,
    "sk_live_" + ALNUM,
    "gsk_" + ALNUM,
    "xai-" + ALNUM,
    "pplx-" + ALNUM,
    "tvly-dev-" + ALNUM,
    "hf_" + ALNUM,
    "lsv2_pt_" + HEX32 + "_0123456789",
    "dapi" + HEX32,
    "dapi" + HEX32 + "-2",
    "ghp_" + ALNUM,
    "gho_" + ALNUM,
    "ghs_" + ALNUM,
    "github_pat_" + "11ABCDEFG0" + "_" + ALNUM,
    "glpat-" + "aB3dE5fG7hJ9kL1mN2pQ",
    "xoxb-" + "123456789012-123456789012-" + "aB3dE5fG7hJ9kL1m",
    "AKIA" + "IOSFODNN7EXAMPLE",
    "ASIA" + "IOSFODNN7EXAMPLE",
    "AIza" + "SyA1234567890abcdefghijklmnopqrstuv",
    "aB3d" * 13 + "JQQJ99" + "BAACYeBjFXJ3w3AAABACOGa1b2",
    "aB3d" * 13 + "JQQJ99" + "BAACYeBjFXJ3w3AAABACOGa1b2" + "c3==",
    "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0In0." + "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "eyJhbGciOiJub25lIn0." + "eyJzdWIiOiIxMjM0In0.",
]

# A text, and the part of it that must not be seen.
IN_CONTEXT = [
    ("Authorization: Bearer " + ALNUM, ALNUM),
    ("curl -H 'authorization: bearer abc123def456'", "abc123def456"),
    ("Bearer abcdefghijklmnopqrstuvwxyzabcdefgh", "abcdefghijklmnopqrstuvwxyzabcdefgh"),
    ("Authorization: Basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA=="),
    ("proxy says basic YWRhOmxvdmVsYWNl", "YWRhOmxvdmVsYWNl"),
    ("postgresql://ada:lovelace@db.internal:5432/app", "lovelace"),
    ("redis://:hunter2@cache:6379/0", "hunter2"),
    ("mongodb+srv://ada:p%40ss@cluster0.mongodb.net", "p%40ss"),
    ("amqp://ada:p@ss:word@rabbit", "p@ss:word"),
    (
        "https://x.blob.core.windows.net/c?sv=2022-11-02&sig=aB3dE5fG7hJ9kL1m%2F%3D&se=2027",
        "aB3dE5fG7hJ9kL1m",
    ),
    ("DefaultEndpointsProtocol=https;AccountName=a;AccountKey=" + ALNUM + "==;EndpointSuffix=x", ALNUM),
    ("Endpoint=sb://a/;SharedAccessKeyName=root;SharedAccessKey=" + ALNUM + "=", ALNUM),
    ("Server=db;User Id=sa;Password=Tr0ub4dor;Encrypt=yes", "Tr0ub4dor"),
    ("DRIVER=x;UID=sa;PWD=Secret1;", "Secret1"),
    ("OPENAI_API_KEY=" + HEX32, HEX32),
    ("AZURE_OPENAI_API_KEY = '" + HEX32 + "'", HEX32),
    ("export DB_PASSWORD=hunter2", "hunter2"),
    ('password="correct horse battery"', "correct horse battery"),
    ("SecretAgent(client_secret='s3cr3t', name='x')", "s3cr3t"),
    ("https://api.example.com/v1?api_key=abc123&q=bears", "abc123"),
    ("https://example.com/cb?access_token=abc123def&state=1", "abc123def"),
    ("https://example.com/cb?token=" + HEX32, HEX32),
    ("password: hunter2", "hunter2"),
    ("api-key: " + HEX32, HEX32),
    ("Ocp-Apim-Subscription-Key: " + HEX32, HEX32),
    ("Headers([('api-key', '" + HEX32 + "')])", HEX32),
    ("Cookie: theme=dark; sid=abc123; other=1", "sid=abc123"),
    ("Set-Cookie: sid=abc123; HttpOnly", "abc123"),
    ('{"api_key": "' + HEX32 + '"}', HEX32),
    ('{"apiKey":"abc"}', "abc"),
    ('{"dbPassword": "it\'s \\"quoted\\" here"}', "quoted"),
    ("{'password': 'a\"b'}", 'a"b'),
    ('{"body": "{\\"client_secret\\": \\"s3cr3t\\", \\"n\\": 1}"}', "s3cr3t"),
    ('{\\\\\\"password\\\\\\": \\\\\\"hunter2\\\\\\"}', "hunter2"),
    ('{"token": "' + HEX32 + '"}', HEX32),
    ('{"refresh_token" : "short"}', "short"),
    ('"connectionString": "Server=a;Uid=b"', "Server=a"),
    ("-----BEGIN RSA PRIVATE KEY-----\nMIIEow+/\nabc=\n-----END RSA PRIVATE KEY-----", "MIIEow"),
    ("-----BEGIN PRIVATE KEY-----\\nMIIEow\\nabc", "abc"),
    ("-----BEGIN PGP PRIVATE KEY BLOCK-----\nlQOYBF\n-----END PGP PRIVATE KEY BLOCK-----", "lQOYBF"),
    ("-----BEGIN PRIVATE KEY-----\n-MIIEow\n-Dek-Info-\n--abc\n-----END PRIVATE KEY-----", "abc"),
    ("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMII\n-----END RSA PRIVATE KEY-----", "MII"),
]

HARMLESS = [
    "",
    "The password must have 8 characters; a secret is something nobody knows.",
    "Please reset my password: it does not work.",
    "A cookie: small, sweet and baked. Cookies and cream.",
    "Basic understanding of linear algebra, basic functionality, basic JavaScript.",
    "Basic Authentication and Bearer authentication are HTTP schemes.",
    "bearer certificates, bearer of bad news",
    "task-management-and-scheduling-system-2, risk-adjusted-return-on-capital-2024",
    "sk-learn-compatible-estimators",
    "The key: practice. The token: a coin.",
    "prompt_tokens=12, completion_tokens=7, max_tokens=4096",
    '{"prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19, "max_tokens": 123456789012345678}',
    '{"token": "Hello", "logprob": -0.1}',
    '{"next_token": "abc"}',
    "550e8400-e29b-41d4-a716-446655440000",
    "https://example.com:8080/path?page=2#top",
    "https://ada@example.com/repo.git",
    "git@github.com:org/repo.git",
    "http://localhost:5000 answers",
    "api_key = os.environ['OPENAI_API_KEY']",
    "api_key=None, password = null",
    "PWD=/home/ada",
    'if password == "x":',
    "SharedAccessKeyName=RootManageSharedAccessKey",
    "monkey=banana1; keyboard: qwerty123",
    '["username", "password", "email"]',
    '{"type": "object", "properties": {"password": {"type": "string"}}}',
    "an eyJ here, and eyJhbGciOiJIUzI1NiJ9 alone",
    "AKIA and ASIA are prefixes; Asia is a continent",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "sigma=0.5, design=aaaaaaaaaaaaaaaaaaaa",
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
]


@pytest.fixture
def redactor() -> Redactor:
    return Redactor()


@pytest.mark.parametrize("secret", ISSUED)
@pytest.mark.parametrize(
    "around", ["{}", "use {} please", '{{"a": "{}"}}', "line\\n{}\\n", "?x=%20{}&y=1", "({})", "a={},"]
)
def test_a_key_in_a_known_format_is_masked_anywhere_in_a_text(
    secret: str, around: str, redactor: Redactor
) -> None:
    assert redactor.text(around.format(secret)) == around.format(MASK)


@pytest.mark.parametrize(("text", "secret"), IN_CONTEXT)
def test_a_secret_of_unknown_format_is_recognised_by_its_context_and_masked(
    text: str, secret: str, redactor: Redactor
) -> None:
    masked = redactor.text(text)

    assert secret not in masked
    assert MASK in masked


@pytest.mark.parametrize("text", HARMLESS)
def test_masking_does_not_change_ordinary_text(text: str, redactor: Redactor) -> None:
    assert redactor.text(text) == text


@pytest.mark.parametrize("text", [text for text, _ in IN_CONTEXT] + ISSUED)
def test_masking_a_masked_text_changes_nothing(text: str, redactor: Redactor) -> None:
    once = redactor.text(text)

    assert redactor.text(once) == once


def test_masking_keeps_the_text_around_a_secret(redactor: Redactor) -> None:
    text = "postgresql://ada:lovelace@db:5432/app?x=1 and then Bearer abc123def456, ok"

    assert redactor.text(text) == f"postgresql://ada:{MASK}@db:5432/app?x=1 and then Bearer {MASK}, ok"


def test_every_secret_in_a_text_is_masked(redactor: Redactor) -> None:
    text = "; ".join(ISSUED)

    assert redactor.text(text) == "; ".join([MASK] * len(ISSUED))


def test_json_text_is_still_valid_json_after_masking(redactor: Redactor) -> None:
    text = json.dumps({"password": 'a"b\\c', "user": "ada", "nested": json.dumps({"apiKey": "x1"})})

    masked = json.loads(redactor.text(text))

    assert masked["password"] == MASK
    assert masked["user"] == "ada"
    assert json.loads(masked["nested"]) == {"apiKey": MASK}


@pytest.mark.parametrize(
    "key",
    [
        "password", "Password", "PASSWORD", "passwd", "pwd", "passphrase", "db_password", "dbPassword",
        "DBPassword", "secret", "secrets", "client_secret", "clientSecret", "client-secret", "api_key",
        "apikey", "apiKey", "APIKey", "XApiKey", "x-api-key", "api.key", "OPENAI_API_KEY", "api_keys",
        "accountKey", "SharedAccessKey", "private_key", "aws_secret_access_key", "Ocp-Apim-Subscription-Key",
        "access_token", "accessToken", "id_token", "refresh-token", "authorization", "Proxy-Authorization",
        "cookie", "cookies", "Set-Cookie", "credentials", "connection_string", "connectionString",
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", ["x", 1234, 0.5, ["a", "b"], {"user": "ada"}])
def test_a_value_whose_key_names_a_secret_is_masked(key: str, value: Any, redactor: Redactor) -> None:
    assert redactor.value({"a": [{key: value, "other": "seen"}]}) == {"a": [{key: MASK, "other": "seen"}]}


@pytest.mark.parametrize(
    "key",
    [
        "secretary", "secret_name", "password_hint", "passwords_changed", "key", "keys", "keyboard", "monkey",
        "tokens", "max_tokens", "prompt_tokens", "input_token_details", "cookie_count", "author", "api",
        "tokenizer", "account", "private", "string",
    ],
)  # fmt: skip
def test_a_value_whose_key_only_resembles_the_name_of_a_secret_is_not_masked(
    key: str, redactor: Redactor
) -> None:
    given = {key: "a value of some length 1234567890"}

    assert redactor.value(given) == given


@pytest.mark.parametrize("value", [None, "", [], {}, True, False])
def test_an_empty_or_boolean_value_under_the_name_of_a_secret_is_not_masked(
    value: Any, redactor: Redactor
) -> None:
    assert redactor.value({"password": value}) == {"password": value}


@pytest.mark.parametrize("value", ["Hello", " internationalization", 12, "<|begin_of_text|>", "-" * 15, None])
def test_a_token_that_does_not_look_like_a_secret_is_not_masked(value: Any, redactor: Redactor) -> None:
    assert redactor.value({"token": value}) == {"token": value}


@pytest.mark.parametrize("key", ["token", "github_token", "sessionToken", "csrf-token"])
def test_a_token_that_looks_like_a_secret_is_masked(key: str, redactor: Redactor) -> None:
    assert redactor.value({key: HEX32}) == {key: MASK}


def test_the_tokens_of_logprobs_are_not_masked(redactor: Redactor) -> None:
    given = {"token": "addEventListener", "logprob": -0.25, "bytes": [97], "top_logprobs": []}

    assert redactor.value(given) == given


def test_the_schema_of_a_tool_parameter_named_like_a_secret_is_not_masked(redactor: Redactor) -> None:
    given = {
        "properties": {
            "password": {"type": "string", "description": "at least 8 characters"},
            "api_key": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "credentials": {"$ref": "#/$defs/Credentials"},
        }
    }

    assert redactor.value(given) == given


def test_credentials_with_a_type_that_is_not_a_json_schema_type_are_masked(redactor: Redactor) -> None:
    given: Any = {"credentials": {"type": "service_account", "id": "x"}}

    assert redactor.value(given) == {"credentials": MASK}


def test_secrets_in_keys_are_masked_without_losing_the_values(redactor: Redactor) -> None:
    masked = redactor.value({ISSUED[0]: 1, ISSUED[1]: 2, "plain": 3})

    assert masked == {MASK: 1, f"{MASK} (1)": 2, "plain": 3}


def test_masked_arguments_of_a_tool_call_are_still_json_text(redactor: Redactor) -> None:
    masked = redactor.value(JsonText({"city": "Paris", "api_key": "x"}))

    assert type(masked) is JsonText
    assert masked == {"city": "Paris", "api_key": MASK}


def test_a_secret_in_a_stack_trace_is_masked(redactor: Redactor) -> None:
    try:
        raise ValueError("Incorrect API key provided: " + ISSUED[0])  # noqa: TRY301 - an exception with a stack
    except ValueError as error:
        stack = Stack(error)

    masked = redactor.value({"exception.stacktrace": stack})["exception.stacktrace"]

    assert isinstance(masked, str)
    assert f"ValueError: Incorrect API key provided: {MASK}" in masked
    assert ISSUED[0] not in masked


def test_an_object_that_cannot_be_converted_to_text_is_withheld(redactor: Redactor) -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise ValueError

    assert redactor.value([Unprintable(), "kept"]) == [WITHHELD, "kept"]


def test_numbers_booleans_and_none_are_not_masked(redactor: Redactor) -> None:
    given = [1, 2.5, True, None]

    assert redactor.value(given) == given


def test_a_redactor_with_redact_false_masks_nothing() -> None:
    redactor = Redactor(redact=False)
    given = {"password": "x", "text": ISSUED[0]}

    assert redactor.value(given) is given
    assert redactor.text(ISSUED[0]) == ISSUED[0]


def test_the_redact_function_of_the_user_runs_after_the_built_in_patterns() -> None:
    seen: list[str] = []

    def redact(text: str) -> str:
        seen.append(text)
        return text.replace("Ada", "<name>")

    redactor = Redactor(redact)

    assert redactor.text("Ada has " + ISSUED[0]) == f"<name> has {MASK}"
    assert seen == [f"Ada has {MASK}"]


def test_the_redact_function_of_the_user_receives_texts_and_keys_at_every_depth() -> None:
    redactor = Redactor(lambda text: text.replace("ada@example.com", "<mail>"))

    assert redactor.value({"to": [{"ada@example.com": "to ada@example.com", "n": 1}]}) == {
        "to": [{"<mail>": "to <mail>", "n": 1}]
    }


def test_a_redact_function_that_returns_the_same_text_for_all_keys_loses_no_value() -> None:
    redactor = Redactor(lambda _: "***")

    assert list(redactor.value({"a": 1, "b": 2, "c": 3}).values()) == [1, 2, 3]


def raises(_text: str) -> str:
    raise RuntimeError


@pytest.mark.parametrize("function", [raises, lambda _: None, lambda _: 3, lambda _: b"text"])
def test_a_text_is_withheld_when_the_redact_function_of_the_user_fails(function: Any) -> None:
    redactor = Redactor(function)

    assert redactor.text("Ada") == WITHHELD
    assert redactor.value(["Ada", 1]) == [WITHHELD, 1]


BOUND = 10.0
"""Seconds, for what takes a tenth of one: a quadratic pattern would need hours."""


@pytest.mark.parametrize(
    "piece",
    [
        "Plain words, 12 tokens: a = 3; {'role': 'user'} https://x.y/z. ", "a", "eyJ", "eyJ-", "eyJa.",
        "\\neyJ", "%20eyJ", "sk-", "sk-sk", "-----BEGIN ", "-----BEGIN PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----a-", "eyJaaaaaaaa.a", "eyJaaaaaaaa.aaaaaaaa",
        pytest.param("-----BEGIN PRIVATE KEY-----" + "-a" * 500_000, id="a private key full of hyphens"),
        pytest.param("-----BEGIN PRIVATE KEY-----" + "a, " * 300_000, id="a private key without an end"),
        "://a:", "://:", "Bearer ", "bearer a", "basic aB", 'password":"',
        "password=", "pwd:'", "token=", "token: a", "api_key:", "cookie: ", "cookie:a", 'secret:"\\', "sig=",
        "a" * 52 + "JQQJ9", '\\"', "xoxb-",
    ],
)  # fmt: skip
def test_masking_a_megabyte_of_repeated_text_takes_less_than_ten_seconds(
    piece: str, redactor: Redactor
) -> None:
    text = piece * max(1, 1_000_000 // len(piece))
    began = time.perf_counter()

    redactor.text(text)

    assert time.perf_counter() - began < BOUND


def test_a_secret_at_the_end_of_ten_megabytes_is_masked_in_less_than_ten_seconds(redactor: Redactor) -> None:
    text = "All work and no play: x = 1. " * 350_000 + ISSUED[0]
    began = time.perf_counter()

    masked = redactor.text(text)

    assert masked.endswith(f" {MASK}")
    assert len(masked) == len(text) - len(ISSUED[0]) + len(MASK)
    assert time.perf_counter() - began < BOUND


def texts(source: Path) -> list[str]:
    nodes = ast.walk(ast.parse(source.read_text(encoding="utf-8")))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_no_pattern_is_possessive_or_atomic_because_python_3_11_2_matches_such_patterns_wrongly() -> None:
    broken = re.compile(r"[*+?}]\+|\(\?>")
    sources = list(Path(langchain_mlflow_tracer.__file__).parent.rglob("*.py"))

    assert [text for source in sources for text in texts(source) if broken.search(text)] == []
    assert [text for text in texts(Path(__file__)) if broken.search(text)]  # it finds those of this test
