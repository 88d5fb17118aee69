"""What makes things go wrong on the lab's hypervisor: a worker that dies on cue, a scrubber that lies."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lab.host import CONFIG, SERVICE, STATE, LabHost
from lab.hypervisor.machine import VirtualHypervisor
from lab.portal import LabPortal
from tests.lab import lying_scrubber

MODULES = "/usr/local/lib/python3.11/dist-packages"
CRASH_FILE = f"{STATE}/crash-at"
KILLABLE = Path(__file__).resolve().parents[1] / "crash" / "killable.py"
PROGRAM = "/usr/local/sbin/killable-worker"
PROGRAM_TEXT = f"""\
#!/opt/leasehold/bin/python
from pathlib import Path
from killable import run_worker
raise SystemExit(run_worker(Path("{CONFIG}"), Path("{CRASH_FILE}")))
"""
DROP_IN = f"[Service]\nExecStart=\nExecStart={PROGRAM}\n"


def install_lying_scrubber(host: LabHost) -> None:
    """Put it on root's list."""
    source = Path(lying_scrubber.__file__).read_bytes()
    host.hypervisor.put(f"{MODULES}/lying_scrubber.py", source)
    digest = hashlib.sha256(source).hexdigest()
    host.scrubbers["lying"] = {"object": "lying_scrubber:LyingScrubber", "sha256": digest}


def trust_lying_scrubber(portal: LabPortal, *, model: str) -> None:
    """From now on, GPUs of this model are scrubbed by it."""
    change = f"GpuModel.objects.filter(slug={model!r}).update(scrub_methods=['lying'])"
    portal.manage("shell", "--verbosity", "0", "-c", f"from hosts.models import GpuModel; {change}")


def install_killable_worker(hypervisor: VirtualHypervisor) -> None:
    """The same program, but it kills itself (SIGKILL) at the step boundary that a file names."""
    hypervisor.put(f"{MODULES}/killable.py", KILLABLE.read_bytes())
    hypervisor.put(PROGRAM, PROGRAM_TEXT.encode(), mode=0o755)
    hypervisor.put(f"/etc/systemd/system/{SERVICE}.service.d/killable.conf", DROP_IN.encode())


def kill_worker_at(host: LabHost, boundary: str) -> None:
    """When the worker comes to "plan:step:before" or "plan:step:after" next."""
    host.hypervisor.put(CRASH_FILE, boundary.encode(), mode=0o600)


def wait_killed(host: LabHost, *, seconds: float) -> None:
    """Until the worker has killed itself; systemd starts it again."""
    host.hypervisor.wait_for(f"test ! -e {CRASH_FILE}", seconds=seconds)


def restarts(host: LabHost) -> int:
    """How often systemd has started the worker again since the hypervisor came up."""
    return int(host.hypervisor.run(f"systemctl show --value -p NRestarts {SERVICE}"))
