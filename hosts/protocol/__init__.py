"""What the control plane and a host say to each other: messages, signatures, and the fence around Celery.

This package is shipped to hypervisors; it imports neither Django nor any other part of Leasehold.
"""
