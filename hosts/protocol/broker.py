"""A host's account at the broker: which keys its worker needs, and the Redis rules that give it no other."""

from __future__ import annotations

from typing import Any

from hosts.protocol.fence import REPORTS_QUEUE, fenced_settings, host_queue

# What kombu's Redis transport does with a queue of its own, and nothing beyond.
_OWN_COMMANDS = (
    "brpop", "rpop", "lpush", "rpush", "llen",
    "hget", "hset", "hdel", "zadd", "zrem", "zrange",
    "sadd", "smembers", "get", "set", "del", "evalsha", "script|load",
    "multi", "exec", "discard", "watch", "unwatch",
)  # fmt: skip
_CONNECTION_COMMANDS = ("ping", "select")


def unacked_prefix(host: str) -> str:
    """Where a host's unacknowledged messages lie. No queue begins like this, whatever a host is called."""
    return f"unacked.{host}"


def host_settings(host: str) -> dict[str, Any]:
    """Celery configuration of the worker of `host`."""
    return fenced_settings(queue=host_queue(host), unacked_prefix=unacked_prefix(host))


def host_keys(host: str) -> tuple[str, ...]:
    """Everything at the broker that is the host's alone."""
    queue = host_queue(host)
    return (
        queue,
        f"_kombu.binding.{queue}",
        f"_kombu.binding_permanent.{queue}",
        *(f"{unacked_prefix(host)}.{name}" for name in ("unacked", "unacked_index", "unacked_mutex")),
    )


def broker_user(host: str) -> str:
    return f"host-{host}"


def broker_acl(host: str, password_hash: str) -> list[str]:
    """The arguments of `ACL SETUSER` that confine a host: its own queue, and pushing to `reports`.

    `password_hash` is the SHA-256 of the password, in hex. Replaces whatever the account was before.
    """
    return [
        broker_user(host),
        "reset",
        "on",
        f"#{password_hash}",
        *(f"~{key}" for key in host_keys(host)),
        *(f"+{command}" for command in (*_OWN_COMMANDS, *_CONNECTION_COMMANDS)),
        f"(~{REPORTS_QUEUE} +lpush +llen)",
    ]
