"""Words for what is found about one card."""

from __future__ import annotations

from hosts.protocol.findings.hosts import SIMULATED
from hosts.protocol.findings.words import Outcome, Topic
from hosts.protocol.findings.words import marked as _

CARD_TOPICS = {
    "answers": Topic(
        _("Answers"),
        _("A card that does not answer can be neither reset nor scrubbed."),
        {
            "yes": Outcome(_("Every function answers in configuration space.")),
            "untouched": Outcome(_("It is in use now, and is looked at when it is not.")),
            "no": Outcome(
                _("%(functions)s does not answer in configuration space."),
                _("Power the host off and on: a reboot alone often does not bring a card back."),
            ),
        },
    ),
    "functions": Topic(
        _("Functions"),
        _("A card serves whole, with its audio and USB functions, or in slices: never both."),
        {
            "whole": Outcome(_("%(functions)s")),
            "slice": Outcome(_("It is a slice of %(physical)s.")),
            "sliced": Outcome(
                _("%(function)s has virtual functions switched on: it serves in slices, not as a whole."),
                _("If the portal did not divide it, switch them off:"),
                "echo 0 > /sys/bus/pci/devices/%(function)s/sriov_numvfs",
            ),
            "mediated": Outcome(
                _("Mediated devices were made of %(function)s: it serves in slices, not as a whole."),
                _("If the portal did not divide it, stop whatever uses this one, then remove it:"),
                "echo 1 > /sys/bus/mdev/devices/%(device)s/remove",
            ),
            "bridge": Outcome(
                _("%(function)s is a bridge."), _("Such a card cannot be given to a machine as a whole.")
            ),
        },
    ),
    "iommu-group": Topic(
        _("IOMMU group"),
        _("Devices of one group are not kept apart: a machine with one of them could reach the others."),
        {
            "alone": Outcome(_("IOMMU group %(group)s holds nothing but the card.")),
            "off": Outcome(
                _("The IOMMU is off: enable VT-d or AMD-Vi in the firmware, and intel_iommu=on for Intel."),
                _("What to change is said under “IOMMU”."),
            ),
            "not-covered": Outcome(
                _("It has no IOMMU group: the IOMMU does not cover it."),
                _("Move it to a slot of the processor itself, and update the board's firmware."),
            ),
            "spread": Outcome(
                _("Its functions are spread over the IOMMU groups %(groups)s."),
                _("Update the board's firmware; some boards do so in certain slots only."),
            ),
            "shared": Outcome(
                _("Shares IOMMU group %(group)s with %(others)s: they could reach each other's memory."),
                _("Move one of them to a slot whose root port has ACS."),
            ),
            "no-iommu": Outcome(
                _("IOMMU group %(group)s is a no-IOMMU group, which isolates nothing."),
                _("Switch VFIO's no-IOMMU mode off, and the IOMMU on."),
            ),
        },
    ),
    "boot-display": Topic(
        _("Boot display"),
        _("The host draws on its boot display, and the firmware has changed that card's ROM."),
        {
            "no": Outcome(_("The host does not boot on it.")),
            "yes": Outcome(
                _("It is the host's boot display."),
                _(
                    "Let the firmware use another one (“Primary Display”, “Init Display First”): the board's"
                    " own, or a small second card. Who accepts the risk writes into host.toml:"
                ),
                'accepted_risks = ["boot_vga"]',
            ),
            "accepted": Outcome(
                _("It is the host's boot display; host.toml accepts the risk by name."),
                _("The host's screen goes dark when the card is given to a machine."),
            ),
        },
    ),
    "host-driver": Topic(
        _("Driver of the host"),
        _("Taking a card from a driver that is using it is what hangs kernels most often."),
        {
            "vfio": Outcome(_("It is in the hands of vfio-pci.")),
            "in-machine": Outcome(_("It is in the hands of vfio-pci, and %(holders)s has it open.")),
            "none": Outcome(_("No driver has it.")),
            "idle": Outcome(
                _("%(drivers)s has it. Nobody has it open, so the worker takes it at its intake."),
                _("Better keep the host's driver off it from boot on: see “vfio-pci at boot”."),
            ),
            "held": Outcome(
                _("%(drivers)s has it, and %(holders)s has it open."),
                _("Stop what holds it: often nvidia-persistenced, dcgm-exporter, or a display manager."),
                "systemctl disable --now nvidia-persistenced",
            ),
        },
    ),
    "vfio-at-boot": Topic(
        _("vfio-pci at boot"),
        _("A card that no host driver ever touches cannot hang in one, and holds no memory of it."),
        {
            "claimed": Outcome(_("Claimed for vfio-pci by %(source)s.")),
            "not-claimed": Outcome(
                _("Nothing claims it for vfio-pci at boot."),
                _(
                    "Write this into /etc/modprobe.d/leasehold-vfio.conf, run `update-initramfs -u`, and"
                    " reboot. All cards with these ids are then kept from the host."
                ),
                "options vfio-pci ids=%(ids)s\n"
                "softdep nvidia pre: vfio-pci\n"
                "softdep nouveau pre: vfio-pci\n"
                "softdep amdgpu pre: vfio-pci\n"
                "softdep snd_hda_intel pre: vfio-pci",
            ),
            "simulated": SIMULATED,
        },
    ),
    "option-rom": Topic(
        _("Option ROM"),
        _("Its digest tells a changed card from an unchanged one; some guests boot on it."),
        {
            "present": Outcome(_("It has one, of %(kib)s KiB.")),
            "absent": Outcome(_("It has none that the host can read.")),
            "shadow": Outcome(
                _("What the host reads is the copy that the firmware booted with."),
                _("Make another card the boot display, or give the machine a clean ROM file."),
            ),
            "simulated": SIMULATED,
        },
    ),
    "above-4g": Topic(
        _("Above 4G decoding"),
        _("Memory of a card that the firmware gave no address can be reached by nobody."),
        {
            "assigned": Outcome(_("Its memory has an address (%(address)s).")),
            "unassigned": Outcome(
                _("Its memory has no address: enable Above 4G Decoding in the firmware."),
                _("The menu is called “Above 4G Decoding”, “Large BAR” or “MMIO High Size”."),
            ),
        },
    ),
    "resizable-bar": Topic(
        _("Resizable BAR"),
        _("The host scrubs and reads back what it can map: a small window reaches a part of the memory."),
        {
            "full": Outcome(_("The host can map %(now)s MiB, the largest size the card offers.")),
            "small": Outcome(
                _("The host can map %(now)s MiB; the card offers up to %(most)s MiB."),
                _("Enable “Re-Size BAR Support” (and “Above 4G Decoding”) in the firmware."),
            ),
            "fixed": Outcome(_("The card's window has one size, %(now)s MiB.")),
            "simulated": SIMULATED,
        },
    ),
    "numa-node": Topic(
        _("NUMA node"),
        _("A machine whose memory is beside its GPU copies to it faster."),
        {
            "known": Outcome(_("It is on node %(node)s.")),
            "unknown": Outcome(
                _("The firmware does not say on which of %(nodes)s nodes it is."),
                _("Enable “ACPI SRAT” or “NUMA nodes per socket” in the firmware, and update it."),
            ),
            "single": Outcome(_("The host has one node.")),
        },
    ),
    "pcie-link": Topic(
        _("PCIe link"),
        _("A card in a narrow slot, or badly seated, copies at a fraction of its speed."),
        {
            "full": Outcome(_("%(now)s, as fast as card and slot can.")),
            "narrow": Outcome(
                _("%(now)s; card and slot can do %(most)s."),
                _("Reseat the card and its riser; look for “bifurcation” of this slot in the firmware."),
            ),
            "slow": Outcome(
                _("%(now)s; card and slot can do %(most)s."),
                _("Idle cards slow their link down; look again under load. If it stays: reseat the card."),
            ),
            "unknown": Outcome(_("The link's speed cannot be read.")),
            "simulated": SIMULATED,
        },
    ),
    "reset": Topic(
        _("Reset"),
        _("Between two leases a card is reset. One that cannot be is not leased."),
        {
            "offered": Outcome(_("The kernel offers: %(methods)s.")),
            "bridge": Outcome(_("Through the bridge above it alone.")),
            "weak": Outcome(
                _("The kernel offers nothing but %(methods)s, which leaves most of the card as it was."),
                _("Use a slot with a bridge of its own above it, so that its bus can be reset."),
            ),
            "harmful": Outcome(
                _("It does not survive any of the resets that the kernel offers for it."),
                _("Such a card cannot be leased: it would not come back."),
            ),
            "own-only": Outcome(
                _("It survives no reset but one of its own (device_specific), which the kernel lacks."),
                _("Install the kernel module vendor-reset, and load it before vfio-pci."),
                "echo vendor-reset > /etc/modules-load.d/vendor-reset.conf",
            ),
            "reboot": Outcome(
                _("After any reset of the whole card only a reboot of the host brings it back."),
                _("Such a card cannot be leased as a whole."),
            ),
            "none": Outcome(
                _("It offers no way to be reset."),
                _("Move it to a slot behind a root port of its own; a display on the board has none."),
            ),
        },
    ),
    "d3cold": Topic(
        _("Deep sleep"),
        _("Cards that are switched off while idle are often found stuck there."),
        {
            "kept-awake": Outcome(_("It is kept from D3cold.")),
            "allowed": Outcome(
                _("It may be switched off while idle (D3cold); the worker forbids it when it takes the card.")
            ),
            "asleep": Outcome(
                _("It is in %(state)s now."),
                _("Wake it and keep it awake:"),
                "echo 0 > /sys/bus/pci/devices/%(function)s/d3cold_allowed\n"
                "echo on > /sys/bus/pci/devices/%(function)s/power/control",
            ),
            "simulated": SIMULATED,
        },
    ),
}
