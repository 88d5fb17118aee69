"""What must not be in a log: the secrets of calendar feeds and invitations, which are in their addresses."""

from __future__ import annotations

import logging
import re

SECRET = re.compile(r"(/(?:feeds|invitations)/)[A-Za-z0-9_-]+")


class WithoutFeedSecrets(logging.Filter):
    """Lets every record through, without the secrets in it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(_without(one) if isinstance(one, str) else one for one in record.args)
        record.msg = _without(record.msg) if isinstance(record.msg, str) else record.msg
        if SECRET.search(said := record.getMessage()) and _without(said) != said:
            record.msg, record.args = _without(said), None
        return True


def _without(text: str) -> str:
    return SECRET.sub(r"\1…", text)
