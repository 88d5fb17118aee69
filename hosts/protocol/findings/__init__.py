"""What each verdict of `doctor`, and each difference found, means in words: in English on the host,
translated by the portal."""

from hosts.protocol.findings.cards import CARD_TOPICS
from hosts.protocol.findings.drift import DRIFT_TOPICS
from hosts.protocol.findings.hosts import HOST_TOPICS
from hosts.protocol.findings.words import Outcome, Topic, Words, put_in_words

TOPICS = {**DRIFT_TOPICS, **HOST_TOPICS, **CARD_TOPICS}

__all__ = ["DRIFT_TOPICS", "TOPICS", "Outcome", "Topic", "Words", "put_in_words"]
