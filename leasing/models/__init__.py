"""Tables of the domain, by subject."""

from leasing.models.audit import AuditEntry, AuditLeaf, TreeHead, UnsealedEntry
from leasing.models.catalogue import Flavor, Image, Rate
from leasing.models.leases import ConsoleSession, Hold, Lease, LeaseStep
from leasing.models.messages import Notification, OutboxMessage
from leasing.models.money import UsageSegment
from leasing.models.people import Person, Tenant
from leasing.models.permissions import TenantGroupPermission, TenantPersonPermission
from leasing.models.proof import ScrubRecord

__all__ = [
    "AuditEntry",
    "AuditLeaf",
    "ConsoleSession",
    "Flavor",
    "Hold",
    "Image",
    "Lease",
    "LeaseStep",
    "Notification",
    "OutboxMessage",
    "Person",
    "Rate",
    "ScrubRecord",
    "Tenant",
    "TenantGroupPermission",
    "TenantPersonPermission",
    "TreeHead",
    "UnsealedEntry",
    "UsageSegment",
]
