"""What hosts say: received once, kept as signed, applied in sequence."""

from leasing.reports.inbox import receive_report

__all__ = ["receive_report"]
