"""Emulate Azure OpenAI's REST API on a local port, for samples and tests without a subscription."""

from __future__ import annotations

from azure_emulator.answers import PLAIN_RULES
from azure_emulator.connection import DEFAULT_API_VERSION, Connection
from azure_emulator.directives import DEFAULT_SCRIPT
from azure_emulator.reply import Answer, Failure, Fault, Reply, ToolCall
from azure_emulator.request import Request
from azure_emulator.script import Rule, Script, always, failing, in_turn, when
from azure_emulator.server import AzureEmulator

__all__ = [
    "DEFAULT_API_VERSION",
    "DEFAULT_SCRIPT",
    "PLAIN_RULES",
    "Answer",
    "AzureEmulator",
    "Connection",
    "Failure",
    "Fault",
    "Reply",
    "Request",
    "Rule",
    "Script",
    "ToolCall",
    "always",
    "failing",
    "in_turn",
    "when",
]
