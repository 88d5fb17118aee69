"""Tables of the domain, by subject."""

from leasing.models.audit import (
    AuditEntry,
    AuditLeaf,
    AuditNode,
    HeadDelivery,
    TreeHead,
    UnsealedEntry,
    Verification,
)
from leasing.models.catalogue import Flavor, Image
from leasing.models.devices import LeaseDevice
from leasing.models.enrolment import EnrolmentToken
from leasing.models.feeds import CalendarFeed
from leasing.models.guests import Guest
from leasing.models.homes import HomeReading, HomeVolume
from leasing.models.imaging import ImageCopy, ImageGoal, ImageUpload, StoredImage
from leasing.models.invoices import BudgetWarning, Invoice, InvoiceLine, MonthClose, NumberSeries, Outage
from leasing.models.keys import SshKey
from leasing.models.leases import ConsoleSession, Extension, Hold, Lease, LeaseStep, LeaseTerm
from leasing.models.membership import EmergencyStop, Invitation
from leasing.models.messages import HookDelivery, NoticeSettings, Notification, OutboxMessage
from leasing.models.money import UsageSegment
from leasing.models.openings import Block, Closure, Opening
from leasing.models.people import BudgetRule, Person, Tenant
from leasing.models.permissions import TenantGroupPermission, TenantPersonPermission
from leasing.models.prices import Discount, Rate, StorageRate, TaxRate
from leasing.models.proof import ScrubRecord
from leasing.models.quotas import Quota, QuotaKind, QuotaRequest
from leasing.models.series import Series
from leasing.models.snapshots import Snapshot
from leasing.models.together import HandOver, LeaseNote, Share
from leasing.models.waitlist import WaitlistEntry

__all__ = [
    "AuditEntry",
    "AuditLeaf",
    "AuditNode",
    "Block",
    "BudgetRule",
    "BudgetWarning",
    "CalendarFeed",
    "Closure",
    "ConsoleSession",
    "Discount",
    "EmergencyStop",
    "EnrolmentToken",
    "Extension",
    "Flavor",
    "Guest",
    "HandOver",
    "HeadDelivery",
    "Hold",
    "HomeReading",
    "HomeVolume",
    "HookDelivery",
    "Image",
    "ImageCopy",
    "ImageGoal",
    "ImageUpload",
    "Invitation",
    "Invoice",
    "InvoiceLine",
    "Lease",
    "LeaseDevice",
    "LeaseNote",
    "LeaseStep",
    "LeaseTerm",
    "MonthClose",
    "NoticeSettings",
    "Notification",
    "NumberSeries",
    "Opening",
    "Outage",
    "OutboxMessage",
    "Person",
    "Quota",
    "QuotaKind",
    "QuotaRequest",
    "Rate",
    "ScrubRecord",
    "Series",
    "Share",
    "Snapshot",
    "SshKey",
    "StorageRate",
    "StoredImage",
    "TaxRate",
    "Tenant",
    "TenantGroupPermission",
    "TenantPersonPermission",
    "TreeHead",
    "UnsealedEntry",
    "UsageSegment",
    "Verification",
    "WaitlistEntry",
]
