"""What plans do with home volumes: attach one to a machine, let go of it, remove one."""

from __future__ import annotations

import logging
from uuid import UUID

from hosts.agent.config import Config
from hosts.agent.disks import DiskError
from hosts.agent.domain import Disk
from hosts.agent.homes import Pool
from hosts.agent.identity import load_identity
from hosts.agent.rig import Rig
from hosts.agent.steps import Job, PlanKind, Step, StepFailed
from hosts.protocol.homes import HomeRemoved, RemoveHome
from hosts.protocol.messages import Provision
from hosts.protocol.signing import unseal

log = logging.getLogger(__name__)


def pool_at_hand(config: Config) -> str:
    """The name of the host's pool of home volumes; empty if it has none, or if it is not mounted now."""
    if config.home_pool is None:
        return ""
    try:
        open_pool(config, config.home_pool.name).check()
    except DiskError as error:
        log.warning("%s", error)
        return ""
    return config.home_pool.name


def attach_home(rig: Rig, goal: Provision) -> None:
    """If it has one. The lease's machine may be started with it from then on, and no other one."""
    if (order := goal.machine.home) is not None:
        open_pool(rig.config, order.pool).attach(
            order.volume_id,
            lease_id=goal.lease_id,
            size_gib=order.size_gib,
            made=order.made,
            key=home_key(rig, goal),
        )


def has_home(rig: Rig, goal: Provision) -> bool:
    """Whether the lease has the volume that it is to have; it may have none."""
    order = goal.machine.home
    return order is None or open_pool(rig.config, order.pool).is_attached(order.volume_id, goal.lease_id)


def home_disk(rig: Rig, goal: Provision) -> Disk | None:
    """The volume for the machine's definition. StepFailed if it is not this lease's."""
    order = goal.machine.home
    if order is None:
        return None
    if not has_home(rig, goal):
        raise StepFailed(f"The home volume {order.volume_id} is not attached to this lease.")
    path = open_pool(rig.config, order.pool).path(order.volume_id)
    return Disk(path=path, encrypted=rig.hypervisor.keeps_keys)


def home_key(rig: Rig, goal: Provision) -> bytes | None:
    """What opens it; None where disks are not encrypted, and without a volume."""
    order = goal.machine.home
    if order is None:
        return None
    return opened_key(rig, order.sealed_key)


def opened_key(rig: Rig, sealed: str) -> bytes | None:
    """What was sealed to this host; None where disks are not encrypted."""
    if not rig.hypervisor.keeps_keys:
        return None
    return unseal(sealed, key=load_identity(rig.config.identity_path).sealing)


def let_go(rig: Rig, lease_id: UUID) -> None:
    """The lease's volume is free for the next one, and no key of the pool's is in the journal any more.

    DiskError while the machine may still write to it.
    """
    if rig.config.home_pool is None:
        return
    facts = rig.find_machine(lease_id)
    if facts is not None and facts.is_active:
        raise DiskError(f"{facts.name} still has its home volume.")
    with rig.journal.transaction():
        rig.machines.forget_keys(lease_id)
        rig.plans.forget_keys(lease_id)
    open_pool(rig.config, rig.config.home_pool.name).detach(lease_id)


def leases_with_home(rig: Rig) -> set[UUID]:
    """Those that have claimed a volume from this host."""
    name = pool_at_hand(rig.config)
    return open_pool(rig.config, name).holders("lease") if name else set()


def open_pool(config: Config, name: str) -> Pool:
    """The host's pool, which must have that name; it may not be mounted."""
    pool = config.home_pool
    if pool is None or pool.name != name:
        raise DiskError(f"This host has no pool {name}.")
    return Pool(pool.directory, name=name, host=config.host)


def _remove(job: Job) -> None:
    goal = job.goal(RemoveHome)
    open_pool(job.rig.config, goal.pool).remove(goal.volume_id)


def _removed(job: Job) -> None:
    job.report(HomeRemoved(volume_id=job.goal(RemoveHome).volume_id))


def _not_removed(job: Job, step: Step, error: Exception) -> None:
    """It is ordered again; the step's own report has said why it failed."""


REMOVE_HOME = PlanKind("remove-home", (Step("remove", _remove),), finish=_removed, fail=_not_removed)
