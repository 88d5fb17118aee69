"""Where machines run: beside their GPUs, on processors and pages of their own, or where the kernel likes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosts.agent.doctor.reader import Reader
from hosts.agent.layout import Layout, Node, read_layout
from hosts.agent.placing import ANYWHERE, Occupied, Placement, place

GIB_PAGE, MIB2_PAGE = 1 << 20, 1 << 11
# Two nodes of four cores with two threads each; the kernel numbers the second threads from 8 on.
CORES = tuple(frozenset({number, number + 8}) for number in range(8))


def node(number: int, **pages: int) -> Node:
    first = number * 4
    sizes = {"gib": GIB_PAGE, "mib2": MIB2_PAGE}
    return Node(
        number=number,
        cpus=(*range(first, first + 4), *range(first + 8, first + 12)),
        memory_mib=64 * 1024,
        pages={sizes[name]: count for name, count in pages.items()},
    )


LAYOUT = Layout((node(0), node(1, gib=32, mib2=4096)), CORES)


def placed(*others: Occupied, nodes: set[int] | None = None, vcpus: int = 4, gib: int = 16) -> Placement:
    return place(LAYOUT, others, gpu_nodes=nodes or {1}, vcpus=vcpus, memory_mib=gib * 1024)


def test_a_machine_has_whole_cores_beside_its_gpu_and_large_pages() -> None:
    assert placed() == Placement(
        numa_node=1,
        strict=True,
        page_kib=GIB_PAGE,
        cpus=(5, 13, 6, 14),
        emulator_cpus=(4, 7, 12, 15),
        threads=2,
    )


def test_the_next_machine_has_others() -> None:
    first = Occupied(
        cpus=frozenset({5, 13, 6, 14}), nodes=frozenset({1}), memory_mib=24 * 1024, page_kib=GIB_PAGE
    )
    second = placed(first)
    assert second.cpus == (7, 15, 4, 12)
    assert second.page_kib == 0, "8 GiB are left, and 8 GiB in smaller pages"
    assert placed(first, gib=8).page_kib == GIB_PAGE
    assert second.emulator_cpus == (0, 1, 2, 3, 8, 9, 10, 11), "none is free on its own node"


def test_smaller_pages_serve_where_large_ones_do_not_suffice() -> None:
    all_large = Occupied(nodes=frozenset({1}), memory_mib=32 * 1024, page_kib=GIB_PAGE)
    assert placed(all_large, gib=8).page_kib == MIB2_PAGE


@pytest.mark.parametrize("nodes", [{0, 1}, {-1}, {7}])
def test_gpus_on_several_nodes_or_on_none_that_is_known_leave_it_to_the_kernel(nodes: set[int]) -> None:
    assert placed(nodes=nodes) == ANYWHERE


def test_too_few_processors_are_shared_and_never_those_of_another_machine() -> None:
    other = Occupied(cpus=frozenset({5, 13}), nodes=frozenset({1}))
    shared = placed(other, vcpus=8)
    assert (shared.cpus, shared.threads, shared.emulator_cpus) == ((), 1, ())
    assert shared.shared_cpus == (4, 6, 7, 12, 14, 15)


def test_memory_that_a_node_does_not_have_comes_from_others_too() -> None:
    full = Occupied(nodes=frozenset({0}), memory_mib=60 * 1024)
    assert placed(nodes={0}).strict
    assert not placed(full, nodes={0}).strict


def test_an_odd_number_of_vcpus_is_no_set_of_whole_cores() -> None:
    assert placed(vcpus=3).threads == 1
    assert len(placed(vcpus=3).cpus) == 3


def test_isolated_processors_are_for_machines() -> None:
    isolated = Layout(LAYOUT.nodes, CORES, isolated=frozenset({6, 7, 14, 15}))
    machine = place(isolated, [], gpu_nodes={1}, vcpus=4, memory_mib=1024)
    assert machine.cpus == (6, 14, 7, 15)
    assert machine.emulator_cpus == (4, 5, 12, 13)
    large = place(isolated, [], gpu_nodes={1}, vcpus=6, memory_mib=1024)
    assert (large.cpus, large.shared_cpus) == ((), (4, 5, 12, 13))


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 9), st.integers(1, 40)), max_size=8))
def test_no_processor_is_given_twice_and_no_page(wishes: list[tuple[int, int, int]]) -> None:
    others: list[Occupied] = []
    for number, vcpus, gib in wishes:
        found = placed(*others, nodes={number}, vcpus=vcpus, gib=gib)
        assert len(set(found.cpus)) in (0, vcpus)
        assert not any(other.cpus & set(found.cpus) for other in others)
        assert found.cpus or found.shared_cpus
        nodes = frozenset({number})
        others.append(Occupied(frozenset(found.cpus), nodes, gib * 1024, found.page_kib))
    for size, count in LAYOUT.nodes[1].pages.items():
        assert sum(other.memory_mib * 1024 // size for other in others if other.page_kib == size) <= count


def test_the_layout_is_what_the_kernel_says(tmp_path: Path) -> None:
    files = {
        "node/node0/cpulist": "0-1,4-5",
        "node/node0/meminfo": "Node 0 MemTotal:       33554432 kB\nNode 0 MemFree: 1 kB",
        "node/node0/hugepages/hugepages-1048576kB/nr_hugepages": "16",
        "node/node0/hugepages/hugepages-2048kB/nr_hugepages": "0",
        "node/node1/cpulist": "2-3",
        "cpu/isolated": "1,5",
        **{f"cpu/cpu{cpu}/topology/thread_siblings_list": f"{cpu % 4},{cpu % 4 + 4}" for cpu in (0, 1, 4, 5)},
    }
    for name, text in files.items():
        path = tmp_path / "sys/devices/system" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    assert read_layout(Reader(tmp_path)) == Layout(
        nodes=(Node(0, (0, 1, 4, 5), 32768, {GIB_PAGE: 16}), Node(1, (2, 3), 0, {})),
        cores=tuple(map(frozenset, ({0, 4}, {1, 5}, {2}, {3}))),
        isolated=frozenset({1, 5}),
    )
