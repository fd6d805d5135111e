"""Knows how secrets look in text: the patterns that redaction searches for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["KEY_WORDS", "PATTERNS", "SECRET_WORDS", "TOKEN_WORDS", "Pattern"]

SECRET_WORDS: Final = (
    "password", "passwd", "passphrase", "pwd", "secret", "credential", "authorization", "cookie",
)  # fmt: skip
# What makes a `key` or a `token` a secret: by themselves they name anything.
KEY_WORDS: Final = ("api", "secret", "access", "account", "private", "subscription")
TOKEN_WORDS: Final = ("access", "refresh", "id", "auth", "bearer")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A kind of secret. Its `regexes` run only over texts that hold `hint`, in any case: cheap to see.

    The last group that matched is the secret; where there is none, the whole match is.
    """

    hint: str
    regexes: tuple[re.Pattern[str], ...]

    @classmethod
    def of(cls, hint: str, *regexes: str) -> Pattern:
        """Return a pattern of regexes that are written as text."""
        return cls(hint.lower(), tuple(re.compile(regex) for regex in regexes))


# A regex starts with its literal, so that the engine skips to it, and looks back from there. None reads a
# text twice: lookaheads are bounded, and what may be long begins in one place only. Whoever writes a prompt
# must not be able to hold up the process that records it. No possessive quantifier and no atomic group is in
# any: before Python 3.11.5 they match wrongly beside a lookahead, and Debian 12 has 3.11.2.

_A_DIGIT: Final = r"(?=[A-Za-z._~+/=\-]{0,64}[0-9])"


def _issued(prefix: str, body: str, word: str = "A-Za-z0-9") -> Pattern:
    """A secret that its issuer made recognisable; `sk-` in the middle of a word, as in `task-…`, is none."""
    # After an escape, in JSON text or a URL, the letters before it are no word.
    starts = rf"(?:(?<![{word}]{prefix})|(?<=\\[nrt]{prefix})|(?<=%[0-9A-Fa-f]{{2}}{prefix}))"
    return Pattern.of(prefix, prefix + starts + body)


def _cased(word: str, tail: str) -> Pattern:
    """A secret behind `word`, which people write in three ways."""
    return Pattern.of(word, *(spelled + tail for spelled in (word, word.capitalize(), word.upper())))


def _named(word: str, before: tuple[str, ...], values: str) -> Pattern:
    """A value behind a name that ends in `word`: `"api_key": "…"`, `Password=…;`, `x-api-key: …`."""
    sought = "|".join(f"(?<={start}{gap}{word})" for start in before for gap in ("", "[-_. ]"))
    return _cased(word, rf"(?i:{sought})s?(?:\\*[\"'])?\s?(?:{values})")


_QUOTED: Final = r"[=:]\s{0,2}[bru]?(\\*[\"'])((?:(?!\1)(?:\\.|[^\\\n])){1,8192})"
"""A text in quotes, up to the same quotes; a line that never closes them is no reason to mask a page."""

_ASSIGNED: Final = r"=\s?(?!(?:None|True|False|null)\b|os\.|getenv|/)([^\s;\"',&]{3,})"
"""`Password=…` in a connection string, a query or an environment; code that reads it elsewhere is shown."""

_TOLD: Final = rf":\s?{_A_DIGIT}([^\s;\"',&]{{6,}})"
"""`password: …` as in YAML or a log; prose seldom has digits there."""

_ANY_VALUE: Final = f"{_QUOTED}|{_ASSIGNED}|{_TOLD}"

_ONE_COOKIE: Final = r":\s?[\"']?((?=[^\s;=\"']{1,256}=)[^\"'\n\\]{6,})"

_LONG_VALUE: Final = rf"[=:,]\s?(?:\\*[\"'])?{_A_DIGIT}(?![0-9]+\b)([A-Za-z0-9._~+/=\-]{{16,}})"
"""What stands behind a name that only may be a secret's, or beside it in a list of pairs."""

_KEY_LINES: Final = r"(?:[^-]*--{0,3}(?!-)){0,1000}[^-]*"
"""A text up to five hyphens. Fewer may be in it 1000 times, as in `Proc-Type:` or a patch that removes a key.
Python takes 200 bytes of memory each time; the largest keys in use have 200 lines."""

PATTERNS: Final = (
    _issued("sk-", rf"{_A_DIGIT}[A-Za-z0-9_\-]{{20,}}"),  # OpenAI, Anthropic, OpenRouter, DeepSeek
    _issued("sk_live_", r"[A-Za-z0-9]{20,}"),  # Stripe
    _issued("gsk_", r"[A-Za-z0-9]{20,}"),  # Groq
    _issued("xai-", rf"{_A_DIGIT}[A-Za-z0-9]{{20,}}"),
    _issued("pplx-", rf"{_A_DIGIT}[A-Za-z0-9]{{20,}}"),  # Perplexity
    _issued("tvly-", rf"{_A_DIGIT}[A-Za-z0-9\-]{{20,}}"),  # Tavily
    _issued("hf_", r"[A-Za-z0-9]{30,}"),  # Hugging Face
    _issued("lsv2_", r"[a-z]{2}_[A-Za-z0-9_]{20,}"),  # LangSmith
    _issued("dapi", r"[a-f0-9]{32}(?:-[0-9]+)?"),  # Databricks
    *(_issued(prefix, r"[A-Za-z0-9]{20,}") for prefix in ("ghp_", "gho_", "ghu_", "ghs_", "ghr_")),  # GitHub
    _issued("github_pat_", r"[A-Za-z0-9_]{20,}"),
    _issued("glpat-", r"[A-Za-z0-9_\-]{20,}"),  # GitLab
    _issued("xox", r"[abposr]-[A-Za-z0-9\-]{10,}"),  # Slack
    *(_issued(prefix, r"[A-Z0-9]{16}(?![A-Za-z0-9])") for prefix in ("AKIA", "ASIA")),  # AWS
    _issued("AIza", r"[A-Za-z0-9_\-]{35}"),  # Google
    # Azure marks its newer keys in their middle (Common Annotated Security Keys).
    Pattern.of("JQQJ9", r"[A-Za-z0-9]{52}JQQJ9[A-Za-z0-9]{27}(?:[A-Za-z0-9]{2}==)?"),
    _issued("eyJ", r"[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8}[A-Za-z0-9_\-.]*", r"A-Za-z0-9_\-"),
    # A private key up to its end, or as far as it looks like one where it was cut.
    Pattern.of("-----BEGIN ", r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
        rf"(?:{_KEY_LINES}-----END [A-Z ]{{0,40}}PRIVATE KEY(?: BLOCK)?-----|[\w+/=\\\s]*)"),
    _cased("bearer", rf" {{1,9}}(?:{_A_DIGIT}([A-Za-z0-9._~+/=\-]{{8,}})|([A-Za-z0-9._~+/=\-]{{32,}}))"),
    # Base64 has digits, padding or capitals within; "basic understanding" has not.
    _cased("basic", r" {1,9}(?=[A-Za-z+/]{0,64}(?:[0-9=]|[a-z][A-Z]))"
        r"((?:[A-Za-z0-9+/]{4}){2,}(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==))(?![A-Za-z0-9+/=])"),
    Pattern.of("://", r"://[^\s/:@\"']*:([^\s/\"']+)@"),  # a password in a URL
    Pattern.of("sig=", r"sig=(?<![A-Za-z0-9]sig=)([A-Za-z0-9%+/=]{16,})"),  # Azure shared access
    *(_named(word, ("",), _ANY_VALUE) for word in SECRET_WORDS),
    _named("cookie", ("",), _ONE_COOKIE),
    _named("key", KEY_WORDS, f"{_ANY_VALUE}|{_LONG_VALUE}"),
    _named("token", TOKEN_WORDS, _ANY_VALUE),
    _named("token", ("",), _LONG_VALUE),
    _named("string", ("connection",), _ANY_VALUE),
)  # fmt: skip
