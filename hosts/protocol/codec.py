"""Messages as JSON text, in the words of one protocol version: N, or N−1 to whoever speaks that.

Decoding checks types, bounds and the version, and refuses what it does not know.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
from msgspec import Meta

from hosts.protocol.fields import MAX_MESSAGE_BYTES, Message, Name
from hosts.protocol.messages import Command, Goal, Report

PROTOCOL = 2
OLDEST = PROTOCOL - 1
UNDERSTOOD = frozenset({OLDEST, PROTOCOL})


class MessageError(ValueError):
    """The text is not a message of a protocol version that this program understands."""


class ReportHeader(msgspec.Struct, frozen=True):
    """What has to be known of a report, even of one that is not understood: whose it is, and its number."""

    host: Name
    journal_id: UUID
    sequence: Annotated[int, Meta(ge=1, le=2**53)]


def encode(message: Command | Report) -> bytes:
    """JSON text of a message, as its own protocol version writes it.

    Raises MessageError when it would exceed MAX_MESSAGE_BYTES, or when that version has no words for it.
    """
    return _encode(_as_of(message, message.protocol))


def encode_goal(goal: Goal) -> bytes:
    """JSON text of a goal alone, to be kept until it is sent. Raises MessageError when it is too large."""
    return _encode(goal)


def is_said_in(message: Command | Goal, protocol: int) -> bool:
    """Whether a protocol version has words for all of it that matters."""
    try:
        _as_of(message, protocol)
    except MessageError:
        return False
    return True


def decode_command(text: bytes) -> Command:
    """A command of a protocol version that is understood, or MessageError."""
    return _understood(_decode(text, Command))


def decode_report(text: bytes) -> Report:
    """A report of a protocol version that is understood, or MessageError."""
    return _understood(_decode(text, Report))


def decode_report_header(text: bytes) -> ReportHeader:
    """The header alone, or MessageError."""
    return _decode(text, ReportHeader)


M = TypeVar("M", bound=msgspec.Struct)
V = TypeVar("V", Command, Report)


def _as_of(value: Any, protocol: int) -> Any:
    """The value without what came after that version; all of it in the newest."""
    if protocol == PROTOCOL:
        return value
    if isinstance(value, tuple):
        return [_as_of(each, protocol) for each in value]
    if not isinstance(value, Message):
        return value
    config = value.__struct_config__
    if protocol < value.SINCE:
        raise MessageError(f"Protocol {protocol} has no {config.tag or type(value).__name__}.")
    known = [name for name in value.__struct_fields__ if value.ADDED.get(name, value.SINCE) <= protocol]
    for name in value.ESSENTIAL.difference(known):
        if getattr(value, name) != _default(value, name):
            raise MessageError(f"Protocol {protocol} has no words for {name} of {type(value).__name__}.")
    tag = {config.tag_field: config.tag} if config.tag_field else {}
    return tag | {name: _as_of(getattr(value, name), protocol) for name in known}


def _default(value: Message, name: str) -> Any:
    return next(field.default for field in msgspec.structs.fields(value) if field.name == name)


def _encode(value: Any) -> bytes:
    text = msgspec.json.encode(value, order="sorted")
    _check_size(text)
    return text


def _decode(text: bytes, kind: type[M]) -> M:
    _check_size(text)
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.MsgspecError as error:
        raise MessageError(f"Not a message of protocol {PROTOCOL}: {error}") from error


def _check_size(text: bytes) -> None:
    if len(text) > MAX_MESSAGE_BYTES:
        raise MessageError(f"The message has {len(text)} bytes; {MAX_MESSAGE_BYTES} are allowed.")


def _understood(message: V) -> V:
    if message.protocol in UNDERSTOOD:
        return message
    raise MessageError(f"Protocol {message.protocol} is not understood here; {sorted(UNDERSTOOD)} are.")
