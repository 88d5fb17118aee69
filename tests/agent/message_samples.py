"""One message of every kind that protocol 1 knows, always the same, for comparison with what was recorded."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hosts.protocol import messages as m

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
LEASE, GPU, SESSION, JOURNAL, COMMAND = (UUID(int=number) for number in (1, 2, 3, 4, 5))
ADDRESS = "0000:41:00.0"
DIGEST = "5eed" * 16
FINGERPRINT = m.Fingerprint(
    vendor_device="10de:2230",
    subsystem="10de:1459",
    serial="0123456789abcdef",
    firmware="revision a1",
    rom_sha256=DIGEST,
    modes="ecc=on",
)
ORDER = m.GpuOrder(gpu_id=GPU, tenure=3, address=ADDRESS, fingerprint=FINGERPRINT)
POLICY = m.ScrubPolicy(scrubber="bar", required_reach_permille=990)
RESET = m.ResetRecord(method="bridge-reset", scope="bus", seconds=1.25, attempts=2, failures=("hot reset",))

GOALS: tuple[m.Goal, ...] = (
    m.Provision(
        lease_id=LEASE,
        ends_at=NOW + timedelta(hours=1),
        grace_seconds=120,
        gpus=(ORDER,),
        machine=m.MachineOrder(
            name="studio-1",
            vcpus=8,
            memory_mib=32768,
            disk_gib=100,
            image=m.ImageOrder(name="debian", format="qcow2", digest=DIGEST, cmdline="quiet"),
        ),
    ),
    m.Release(lease_id=LEASE, gpus=(ORDER,), shutdown_seconds=20, scrub=POLICY),
    m.Power(lease_id=LEASE, action="restart", shutdown_seconds=20),
    m.Update(lease_id=LEASE, ends_at=NOW + timedelta(hours=2)),
    m.OpenConsole(
        lease_id=LEASE, session_id=SESSION, gateway_url="wss://portal.example/ws/", sealed_token="c2VhbGVk"
    ),
    m.Intake(gpu=ORDER, scrub=POLICY),
    m.Inspect(),
    m.Receipt(journal_id=JOURNAL, through=41),
)

EVENTS: tuple[m.Event, ...] = (
    m.Accepted(),
    m.Refused(reason="The command expired.", final=False),
    m.StepReport(
        lease_id=LEASE,
        gpu_id=GPU,
        plan="scrub",
        step="fill",
        index=6,
        total=9,
        state="failed",
        attempt=2,
        detail="Input/output error",
    ),
    m.MachineRunning(lease_id=LEASE),
    m.MachineStopped(lease_id=LEASE, cause="guest"),
    m.MachineGone(lease_id=LEASE),
    m.ProvisionFailed(lease_id=LEASE, step="bind", reason="In use by Xwayland (4242)."),
    m.ScrubStarted(gpu_id=GPU, tenure=3),
    m.Scrubbed(
        gpu_id=GPU,
        tenure=3,
        lease_id=LEASE,
        evidence=m.ScrubEvidence(
            scrubber="bar",
            scrubber_version="1",
            scrubber_digest=DIGEST,
            simulated=False,
            proven=True,
            coverage="sampled",
            memory_bytes=2**36,
            reached_bytes=2**36,
            written_bytes=2**36,
            read_back_bytes=2**26,
            pattern="zeros",
            mismatches=0,
            canaries_planted=64,
            canaries_found=0,
            fills=1,
            resets=(RESET,),
            fingerprint_before=FINGERPRINT,
            fingerprint_after=FINGERPRINT,
            started_at=NOW,
            finished_at=NOW + timedelta(seconds=90),
            kernel="6.1.0-32-amd64",
            verdict="passed",
            reasons=(),
        ),
    ),
    m.GpuFailed(gpu_id=GPU, tenure=3, step="reset", reason="No way to reset it worked.", missing=False),
    m.ConsoleClosed(session_id=SESSION, reason="The browser left."),
    m.Inventory(
        cards=(
            m.CardFacts(
                address=ADDRESS,
                functions=(ADDRESS, "0000:41:00.1"),
                iommu_group=20,
                name="NVIDIA GA102GL [RTX A6000]",
                memory_bytes=2**36,
                numa_node=0,
                fingerprint=FINGERPRINT,
                refusal="It is the host's boot display.",
            ),
        ),
        machines=(m.MachineFacts(name="studio-1", state="running", lease_id=LEASE),),
        cpu_count=64,
        memory_mib=524288,
        disk_gib=3500,
        kernel="6.1.0-32-amd64",
        worker_version="0.1.0",
        simulated=False,
        restarted=True,
    ),
)


def command(goal: m.Goal) -> m.Command:
    return m.Command(
        protocol=1,
        command_id=COMMAND,
        host="hv1",
        subject=f"lease:{LEASE}",
        generation=7,
        issued_at=NOW,
        expires_at=NOW + timedelta(seconds=15),
        goal=goal,
    )


def report(event: m.Event) -> m.Report:
    return m.Report(
        protocol=1,
        host="hv1",
        journal_id=JOURNAL,
        sequence=42,
        command_id=COMMAND,
        subject=f"lease:{LEASE}",
        generation=7,
        occurred_at=NOW,
        event=event,
    )


def messages() -> Iterator[tuple[str, m.Command | m.Report]]:
    """Each under the name of its file."""
    for goal in GOALS:
        yield f"command-{goal.__struct_config__.tag}", command(goal)
    for event in EVENTS:
        yield f"report-{event.__struct_config__.tag}", report(event)
