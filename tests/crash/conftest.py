"""One host for all crash tests: starting libvirt's driver afresh for each would take most of the time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.crash.real_host import RealHost
from tests.quick_files import quick_directory
from tools.servers import RedisServer


@pytest.fixture(scope="module")
def host(redis_server: RedisServer) -> Iterator[RealHost]:
    """A host that is up, with one clean GPU. At the end no machine of it may be left.

    Its folder has a short name: libvirt makes sockets far below it, and their paths may not exceed 107 bytes.
    """
    with TemporaryDirectory(prefix="lh-", dir=quick_directory()) as folder:
        host = RealHost(Path(folder), redis_server)
        host.start()
        try:
            host.intake()
            yield host
            assert host.stop() == 0
            assert host.machine_processes() == []
        finally:
            host.destroy_all()
