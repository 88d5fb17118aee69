"""The scrub machine from the host's side: what it is given, what of its words is believed, what is left."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from hosts.agent.bus import Card
from hosts.agent.images import ImageError
from hosts.agent.machines import HypervisorError, MachineState
from hosts.agent.scrub_channel import Patience
from hosts.agent.scrub_machine import Appliance, MachineRoom, MachineScrubber, remove_scrub_machines
from hosts.agent.scrubber import Outcome, ScrubFailed, Workplace
from hosts.agent.scrubbers import UntrustedScrubber, load_scrubbers
from hosts.agent.simulated import SimulatedBus, demo_topology, memory_file
from tests.agent import fake_appliance as fake
from tests.agent.fake_appliance import FakeAppliance, Manner, write_appliance
from tests.agent.fake_machines import FakeMachines
from tests.agent.memory_files import RESET, nobody

GPU = "0000:41:00.0"
NAME = "scrub-0000-41-00-0"
MIB = 1 << 20
LONG = "x" * 20_000


class Bench:
    """A simulated card, a fake hypervisor, and a scrubber that has both."""

    def __init__(self, directory: Path, manner: Manner, *, patience: Patience | None = None) -> None:
        self.directory = directory
        self.bus = SimulatedBus(directory / "bus", demo_topology(MIB))
        self.bus.bind(self.card)
        self.machines = FakeMachines(directory)
        self.machines.appliance = FakeAppliance(memory_file(directory / "bus", GPU), manner)
        self.image = write_appliance(directory / "image", patience=patience)
        self.room = MachineRoom(self.machines, "qemu", directory / "machines")
        self.scrubber = MachineScrubber("machine", self.image, self.room)

    @property
    def card(self) -> Card:
        return self.bus.card(GPU)

    def run(self, progress: Callable[[int, int], None] = nobody) -> Outcome:
        return self.scrubber.run(
            Workplace(bus=self.bus, card=self.card, progress=progress, climb=lambda: RESET)
        )


def test_an_honest_machine_is_started_listened_to_and_removed(tmp_path: Path) -> None:
    bench, seen = Bench(tmp_path, fake.honest), []
    outcome = bench.run(lambda done, total: seen.append((done, total)))
    assert (outcome.reached_bytes, outcome.written_bytes, outcome.mismatches) == (MIB, MIB, 0)
    assert outcome.coverage == "full"
    assert outcome.facts["program"] == "plain 1"
    assert (outcome.facts["pattern written"], outcome.facts["zeros written"]) == ("2 MiB/s", "in no time")
    assert seen == [(n, 8) for n in range(1, 9)]
    assert bench.machines.creations == {NAME: 1}
    assert bench.machines.machines() == []
    assert not any(memory_file(tmp_path / "bus", GPU).read_bytes())


def test_each_run_has_a_nonce_of_its_own(tmp_path: Path) -> None:
    bench = Bench(tmp_path, fake.honest)
    bench.run()
    bench.run()
    appliance = bench.machines.appliance
    assert appliance is not None
    first, second = appliance.nonces
    assert first != second
    assert len(first) == 32


WAYS_TO_FAIL: dict[str, tuple[Manner, str]] = {
    "another run": (fake.of_another_run, "stale or forged"),
    "its own failure": (
        fake.saying({"failure": "No memory could be allocated."}),
        "says: No memory could be",
    ),
    "hangs up": (fake.saying({"phase": "fill", "done": 1, "total": 2}), "ended without a result"),
    "says nothing": (fake.saying(), "ended without a result"),
    "no JSON": (fake.saying(b"kernel panic\n"), "cannot be understood"),
    "other JSON": (fake.saying({"verdict": "clean"}), "cannot be understood"),
    "nonsense": (fake.saying({"phase": "fill", "done": -1, "total": 2}), "cannot be understood"),
    "half a line": (fake.saying(b'{"nonce"'), "ended without a result"),
    "a flood": (fake.saying(LONG.encode()), "more than anybody would listen to"),
    "another program": (fake.with_result(variant="cuda"), "'plain' was started; 'cuda' answered"),
    "another device": (fake.with_result(device="1af4:1050"), "It scrubbed a device 1af4:1050"),
}


@pytest.mark.parametrize(("manner", "reason"), WAYS_TO_FAIL.values(), ids=WAYS_TO_FAIL)
def test_what_is_not_to_be_believed_fails_the_scrub_and_leaves_nothing(
    tmp_path: Path, manner: Manner, reason: str
) -> None:
    bench = Bench(tmp_path, manner)
    with pytest.raises(ScrubFailed, match=reason):
        bench.run()
    assert bench.machines.machines() == []


def test_silence_has_a_limit(tmp_path: Path) -> None:
    bench = Bench(tmp_path, fake.silent, patience=Patience(whole=20, silence=0.3))
    with pytest.raises(ScrubFailed, match=r"has said nothing for 0\.3 s"):
        bench.run()
    assert bench.machines.machines() == []


def test_the_whole_has_a_deadline_however_busy_it_is(tmp_path: Path) -> None:
    bench = Bench(tmp_path, fake.endless, patience=Patience(whole=0.5, silence=5))
    with pytest.raises(ScrubFailed, match=r"not done within 0\.5 s"):
        bench.run()
    assert bench.machines.machines() == []


def test_what_it_reached_and_what_it_found_wrong_is_told(tmp_path: Path) -> None:
    bench = Bench(tmp_path, fake.with_result(reached_bytes=MIB // 2, mismatches=3, first_mismatch=4096))
    outcome = bench.run()
    assert (outcome.reached_bytes, outcome.mismatches) == (MIB // 2, 3)
    assert outcome.facts["first mismatch"] == "4096"


def test_a_machine_that_does_not_start_is_removed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, fake.honest)
    bench.machines.refuses = {"start"}
    with pytest.raises(HypervisorError):
        bench.run()
    assert bench.machines.machines() == []


def test_what_an_earlier_run_has_left_is_removed_first(tmp_path: Path) -> None:
    bench = Bench(tmp_path, fake.honest)
    bench.machines.define(bench.scrubber._definition(workplace_of(bench), "00"))
    bench.machines.start(NAME)
    assert bench.run().reached_bytes == MIB
    assert bench.machines.creations == {NAME: 2}


def workplace_of(bench: Bench) -> Workplace:
    return Workplace(bus=bench.bus, card=bench.card, progress=nobody, climb=lambda: RESET)


def test_a_changed_image_is_not_started(tmp_path: Path) -> None:
    bench = Bench(tmp_path, fake.honest)
    (tmp_path / "image" / "initrd.img").write_bytes(b"another one")
    with pytest.raises(ImageError, match="changed or damaged"):
        bench.run()
    assert not bench.machines.creations


def test_the_machine_has_the_card_a_channel_and_nothing_else(tmp_path: Path) -> None:
    bench = Bench(tmp_path, fake.honest)
    domain = etree.fromstring(bench.scrubber._definition(workplace_of(bench), "c0ffee"))
    assert domain.findtext("name") == NAME
    assert [each.tag for each in domain.iterfind("devices/*")] == [
        "controller", "serial", "channel", "memballoon", "controller", "video",
    ]  # fmt: skip
    assert domain.findtext("os/cmdline") == (
        "quiet leasehold.nonce=c0ffee leasehold.channel=org.leasehold.scrub leasehold.gpu=0000:01:00.0"
    )
    for action in ("on_poweroff", "on_reboot", "on_crash"):
        assert domain.findtext(action) == "destroy"


def test_it_is_known_for_what_it_is(tmp_path: Path) -> None:
    bench = Bench(tmp_path, fake.honest)
    bench.machines.define(bench.scrubber._definition(workplace_of(bench), "00"))
    (facts,) = bench.machines.machines()
    assert (facts.scrubs, facts.lease_id, facts.state) == (GPU, None, MachineState.OFF)
    assert remove_scrub_machines(bench.machines, "0000:51:00.0") == []
    assert remove_scrub_machines(bench.machines, GPU) == [NAME]
    assert bench.machines.machines() == []


def test_a_program_is_proven_where_it_was_tried_and_no_other_one_is(tmp_path: Path) -> None:
    room = Bench(tmp_path, fake.honest).room
    proven = {
        variant: MachineScrubber("m", write_appliance(tmp_path / variant, variant=variant), room).proven_on
        for variant in ("plain", "cuda", "opencl", "homemade")
    }
    assert proven == {"plain": ("1234:1111",), "cuda": (), "opencl": (), "homemade": ()}


def listed(folder: Path, image: Appliance, **changes: Any) -> Path:
    entry = {"directory": str(image.directory), "sha256": image.digest, **changes}
    lines = "\n".join(f"{name} = {value!r}" for name, value in entry.items())
    path = folder / "scrubbers.toml"
    path.write_text(f"[machines.machine]\n{lines}\n")
    path.chmod(0o644)
    return path


def test_root_lists_the_machines_that_may_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path, fake.honest)
    path = listed(tmp_path, bench.image, deadline_seconds=60.0, silence_seconds=9.0)
    found = load_scrubbers(path, bench.room)["machine"]
    assert (found.digest, found.scrubber.kind) == (bench.image.digest, "overwrite")
    assert isinstance(found.scrubber, MachineScrubber)
    assert found.scrubber._appliance.patience == Patience(whole=60.0, silence=9.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sha256": "0" * 64}, "not what the list says"),
        ({"directory": "/nowhere"}, "not what the list says"),
        ({"surprise": 1}, "is not a list of scrubbers"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    bench = Bench(tmp_path, fake.honest)
    with pytest.raises(UntrustedScrubber, match=words):
        load_scrubbers(listed(tmp_path, bench.image, **changes), bench.room)


def test_an_image_for_leases_is_no_scrub_machine(tmp_path: Path) -> None:
    bench = Bench(tmp_path, fake.honest)
    manifest = bench.image.directory / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"scrub"', '"made_from"').replace("260", '"260"'))
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    with pytest.raises(UntrustedScrubber, match="not the image of a scrub machine"):
        load_scrubbers(listed(tmp_path, bench.image, sha256=digest), bench.room)


def test_without_a_room_none_may_be_listed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, fake.honest)
    with pytest.raises(UntrustedScrubber, match="nowhere to run"):
        load_scrubbers(listed(tmp_path, bench.image))
