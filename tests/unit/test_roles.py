"""What Ansible said when a role was applied: how much it changed, and which tasks did."""

from __future__ import annotations

import pytest

from tools.roles import RoleFailed, counted, require_unchanged

UNCHANGED = """
TASK [hypervisor : Kernel parameters] ******************************************
ok: [inside]

PLAY RECAP *********************************************************************
inside                     : ok=1    changed=0    unreachable=0    failed=0    skipped=0
"""
CHANGED = """
TASK [hypervisor : Kernel parameters] ******************************************
changed: [inside]

TASK [hypervisor : Libvirt at boot] ********************************************
ok: [inside] => (item=libvirtd.socket)
changed: [inside] => (item=libvirtd.service)
changed: [inside] => (item=virtlogd.socket)

TASK [hypervisor : Huge pages] *************************************************
ok: [inside]

RUNNING HANDLER [hypervisor : Write the boot menu] *****************************
changed: [inside]

PLAY RECAP *********************************************************************
inside                     : ok=4    changed=3    unreachable=0    failed=0    skipped=0
"""


def test_a_role_that_changes_something_again_is_told_with_its_tasks() -> None:
    tasks = "hypervisor : Kernel parameters; hypervisor : Libvirt at boot; hypervisor : Write the boot menu"
    with pytest.raises(RoleFailed, match=tasks):
        require_unchanged(counted(CHANGED))


def test_a_role_that_changes_nothing_again_is_in_order() -> None:
    require_unchanged(counted(UNCHANGED))


def test_what_did_not_come_to_its_end_is_a_failure() -> None:
    with pytest.raises(RoleFailed):
        counted("TASK [hypervisor : Kernel parameters] ***\n")
