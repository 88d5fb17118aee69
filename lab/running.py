"""The lab as one thing: control plane outside, hypervisor and host worker inside, started together."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.host import LabHost
from lab.hypervisor.image import prepare_image
from lab.hypervisor.machine import VirtualHypervisor
from lab.portal import LabPortal

BOOT_SECONDS = 300.0


class Lab:
    """A context manager; when it is entered both sides are up, and know nothing of each other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.image = prepare_image()
        self.hypervisor = VirtualHypervisor(self.image, folder)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.hypervisor)
            self.hypervisor.boot()
            self.portal = stack.enter_context(LabPortal(self.folder / "portal", self.image.tenant_manifest))
            self.hypervisor.wait_booted(seconds=BOOT_SECONDS)
            self.host = LabHost(self.hypervisor, self.portal)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
