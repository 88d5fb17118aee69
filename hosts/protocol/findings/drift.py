"""Words for what was not as it should be, when a host compared what is with what its journal says."""

from __future__ import annotations

from hosts.protocol.findings.words import Outcome, Topic
from hosts.protocol.findings.words import marked as _

DRIFT_TOPICS = {
    "stray-machine": Topic(
        _("Machine without a lease"),
        _("No machine may run without a lease: nobody would be billed for it, or answer for it."),
        {
            "removed": Outcome(_("%(machine)s was for lease %(lease)s, which is not here. It was removed.")),
            "left": Outcome(
                _("%(machine)s is for lease %(lease)s, which is not here, and cannot be removed: %(reason)s"),
                _("Remove it by hand:"),
                "virsh destroy %(machine)s; virsh undefine --nvram %(machine)s",
            ),
        },
    ),
    "stray-scrub-machine": Topic(
        _("Scrub machine left over"),
        _("A scrub machine lives as long as its scrub. One that is left keeps the card and some memory."),
        {
            "removed": Outcome(_("%(machine)s was left over. It was removed.")),
            "left": Outcome(
                _("%(machine)s is left over and cannot be removed: %(reason)s"),
                _("Remove it by hand:"),
                "virsh destroy %(machine)s; virsh undefine %(machine)s",
            ),
        },
    ),
    "stray-disk": Topic(
        _("Disk without a lease"),
        _("What a tenant wrote must not outlive the lease."),
        {
            "destroyed": Outcome(_("A disk of lease %(lease)s, which is not here, was destroyed.")),
            "left": Outcome(
                _("A disk of lease %(lease)s, which is not here, cannot be destroyed: %(reason)s"),
                _("Look at the file system that it lies on."),
            ),
        },
    ),
    "stray-network": Topic(
        _("Network without a lease"),
        _("Nobody may have access by a network whose lease is over."),
        {
            "removed": Outcome(_("The network of lease %(lease)s, which is not here, was removed.")),
            "left": Outcome(
                _("The network of lease %(lease)s, which is not here, cannot be removed: %(reason)s"),
                _("Remove it by hand:"),
                "virsh net-destroy leasehold-%(lease)s; virsh net-undefine leasehold-%(lease)s",
            ),
        },
    ),
    "packet-filter": Topic(
        _("Packet filter around machines"),
        _("It keeps machines from this host, from each other, and from what is private to the site."),
        {
            "restored": Outcome(_("Somebody had changed our table. It is as it should be again.")),
            "left": Outcome(
                _("Our table cannot be written: %(reason)s"),
                _("Until it can, no machine starts. See what nftables says:"),
                "nft list table inet leasehold",
            ),
        },
    ),
    "lost-machine": Topic(
        _("Lost machine"),
        _("A lease without its machine is of no use to anybody, and ends as failed."),
        {"lost": Outcome(_("The machine of lease %(lease)s, last seen %(state)s, is not here any more."))},
    ),
    "foreign-use": Topic(
        _("GPU in a machine that is not Leasehold's"),
        _("Whoever else uses a GPU could read what a tenant leaves there. Other machines are left alone."),
        {
            "quarantined": Outcome(
                _("%(machine)s runs with it. The GPU is quarantined."),
                _("Take the GPU out of that machine, then try its intake again."),
            ),
            "planned": Outcome(
                _("%(machine)s runs with it. What was about to be done with the GPU fails."),
                _("Take the GPU out of that machine."),
            ),
        },
    ),
    "host-use": Topic(
        _("GPU in the hands of the host"),
        _("A driver of the host has used its memory: it is not known to be clean any more."),
        {
            "scrubbed": Outcome(_("%(drivers)s had it. It is taken back and scrubbed again.")),
            "leased": Outcome(_("%(drivers)s has it while its machine is off. Starting that takes it back.")),
            "planned": Outcome(_("%(drivers)s had it while a machine was built for it. That machine fails.")),
            "quarantined": Outcome(
                _("%(drivers)s had it, and it could not be scrubbed: %(reason)s"),
                _("It is quarantined. Put right what is said there, then try its intake again."),
            ),
        },
    ),
    "restarted": Topic(
        _("GPU on a host that was started anew"),
        _("What was done to a card meanwhile is not known, and another kernel may reset it otherwise."),
        {
            "scrubbed": Outcome(
                _("It was proven clean under the kernel %(before)s. It is scrubbed again, under %(kernel)s.")
            ),
            "quarantined": Outcome(
                _("It was clean under %(before)s and could not be scrubbed under %(kernel)s: %(reason)s"),
                _("It is quarantined. Put right what is said there, then try its intake again."),
            ),
        },
    ),
    "came-back": Topic(
        _("GPU that was away"),
        _("What was done to a card while it was off the bus is not known."),
        {
            "scrubbed": Outcome(_("It was off the bus and came back. It is scrubbed again.")),
            "quarantined": Outcome(
                _("It was off the bus and came back, and it could not be scrubbed: %(reason)s"),
                _("It is quarantined. Put right what is said there, then try its intake again."),
            ),
        },
    ),
    "unexplained": Topic(
        _("Unexplained state"),
        _("What cannot be explained is not known to be clean."),
        {
            "scrubbed": Outcome(_("It was %(state)s, and nothing here explains it. It is scrubbed again.")),
            "quarantined": Outcome(
                _("It was %(state)s, nothing here explains it, and it could not be scrubbed: %(reason)s"),
                _("It is quarantined. Put right what is said there, then try its intake again."),
            ),
        },
    ),
    "divided-card": Topic(
        _("Divided card"),
        _("Each slice is a GPU that people have booked: there have to be as many as were made."),
        {
            "restored": Outcome(
                _("Its slices were gone, as after a reboot. %(count)s of %(profile)s were made again.")
            ),
            "other": Outcome(
                _("It should be divided into %(count)s of %(profile)s; %(found)s slices were found."),
                _("Somebody has changed it. Put it right by hand, or undivide it at the portal."),
            ),
            "left": Outcome(
                _("Its slices, %(count)s of %(profile)s, are gone and cannot be made again: %(reason)s"),
                _("Put right what is said there; it is tried again every minute."),
            ),
        },
    ),
    "left-over-slices": Topic(
        _("Slices left over"),
        _("A card of which a division failed serves as a whole again: nobody answers for slices on it."),
        {
            "removed": Outcome(_("%(count)s slices of a failed division were there, and were removed.")),
            "left": Outcome(
                _("Slices of a division that failed may be there, and cannot be removed: %(reason)s"),
                _("Stop whatever uses them; it is tried again every minute."),
            ),
        },
    ),
    "hang": Topic(
        _("The kernel hangs"),
        _("Whatever touches the card now may never come back, so nothing does."),
        {
            "hangs": Outcome(
                _("The kernel has not come back from an access to it."),
                _("Reboot the host when its leases have ended; then try the intake of the card again."),
            )
        },
    ),
}
