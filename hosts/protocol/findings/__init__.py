"""What each verdict of `doctor` means, in words: in English on the host, translated by the portal."""

from hosts.protocol.findings.cards import CARD_TOPICS
from hosts.protocol.findings.hosts import HOST_TOPICS
from hosts.protocol.findings.words import Outcome, Topic, Words, put_in_words

TOPICS = {**HOST_TOPICS, **CARD_TOPICS}

__all__ = ["TOPICS", "Outcome", "Topic", "Words", "put_in_words"]
