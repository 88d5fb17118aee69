"""Words for what is found about the host as a whole."""

from __future__ import annotations

from hosts.protocol.findings.words import Outcome, Topic
from hosts.protocol.findings.words import marked as _

SIMULATED = Outcome(_("The GPUs are simulated: it does not matter here."))
NO_BRIDGE = Outcome(_("Machines here have no network of their own, as host.toml says."))
WRITES_FORBIDDEN = _(
    "Mount the storage so that it can be written to. If it is, the worker's unit forbids it:"
    " write this with `systemctl edit leasehold-host`, then run `systemctl restart"
    " leasehold-host`. The role for hypervisors does so by itself."
)

HOST_TOPICS = {
    "privileges": Topic(
        _("Privileges"),
        _("What cannot be read cannot be judged."),
        {
            "root": Outcome(_("Run by root: everything could be read.")),
            "not-root": Outcome(
                _("Not run by root. Not read: %(denied)s"),
                _("Run it as root."),
                "sudo leasehold-host doctor",
            ),
        },
    ),
    "cards": Topic(
        _("Cards"),
        _("A host without GPUs has nothing to lease."),
        {
            "found": Outcome(_("%(count)s display-class cards are on the bus.")),
            "none": Outcome(
                _("No display-class card is on the bus."),
                _("Check seating and power of the card, and that its slot is enabled in the firmware."),
                "lspci -nn | grep -Ei 'vga|3d|display'",
            ),
        },
    ),
    "cpu-virtualisation": Topic(
        _("Processor virtualisation"),
        _("Without it machines are emulated, far too slowly, and no device can be passed to them."),
        {
            "on": Outcome(_("%(kind)s is on.")),
            "off": Outcome(
                _("The processor offers no virtualisation."),
                _(
                    "Enable “Intel Virtualization Technology” (VT-x), or “SVM Mode” on AMD, in the firmware's"
                    " processor menu. Power the host off and on again."
                ),
            ),
            "no-kvm": Outcome(
                _("The processor offers %(kind)s, but /dev/kvm is missing."),
                _("Load the module. If that fails, the firmware has locked virtualisation off."),
                "modprobe %(module)s",
            ),
            "not-used": Outcome(_("Machines are emulated here, as host.toml says.")),
        },
    ),
    "iommu": Topic(
        _("IOMMU"),
        _("It confines a GPU to the memory of its machine. Without it nothing can be passed through."),
        {
            "on": Outcome(_("%(kind)s is on (%(units)s).")),
            "off-intel": Outcome(
                _("The IOMMU is off."),
                _("Enable “VT-d” in the firmware, and add to the kernel's parameters:"),
                "intel_iommu=on",
            ),
            "off-amd": Outcome(
                _("The IOMMU is off."),
                _(
                    "Set “IOMMU” to Enabled in the firmware (AMD CBS, NBIO), and take `amd_iommu=off` and"
                    " `iommu=off` out of the kernel's parameters."
                ),
            ),
            "off": Outcome(_("The IOMMU is off."), _("Enable it in the firmware.")),
            "simulated": SIMULATED,
        },
    ),
    "interrupt-remapping": Topic(
        _("Interrupt remapping"),
        _("Without it a machine with a GPU could raise any interrupt on the host."),
        {
            "on": Outcome(_("The IOMMU remaps interrupts.")),
            "off": Outcome(
                _("The IOMMU does not remap interrupts: a guest could raise any interrupt on the host."),
                _(
                    "Enable interrupt remapping (often with “x2APIC”) in the firmware, and take"
                    " `intremap=off`, `nointremap` and `noapic` out of the kernel's parameters. Do not allow"
                    " unsafe interrupts."
                ),
            ),
            "unsafe": Outcome(
                _("VFIO is told to allow unsafe interrupts."),
                _(
                    "Take `vfio_iommu_type1.allow_unsafe_interrupts` out of the kernel's parameters and of"
                    " /etc/modprobe.d, and reboot."
                ),
            ),
            "no-iommu": Outcome(_("There is no IOMMU that could.")),
            "simulated": SIMULATED,
        },
    ),
    "iommu-passthrough": Topic(
        _("IOMMU for the host's own devices"),
        _("With iommu=pt, network and disks of the host do not pay for the IOMMU; passed-through GPUs do."),
        {
            "on": Outcome(_("`iommu=pt` is set.")),
            "off": Outcome(
                _("`iommu=pt` is not among the kernel's parameters."),
                _("Add it in /etc/default/grub, run `update-grub`, and reboot:"),
                "iommu=pt",
            ),
            "simulated": SIMULATED,
        },
    ),
    "acs-override": Topic(
        _("ACS override"),
        _("It splits IOMMU groups on paper only: devices still reach each other's memory."),
        {
            "absent": Outcome(_("The kernel does not override ACS.")),
            "present": Outcome(
                _("The kernel runs with pcie_acs_override: devices may reach each other past the IOMMU."),
                _(
                    "Take it out of the kernel's parameters, and give each card a slot with a root port of"
                    " its own. Who accepts the risk writes into host.toml:"
                ),
                'accepted_risks = ["pcie_acs_override"]',
            ),
            "accepted": Outcome(
                _("The kernel runs with pcie_acs_override; host.toml accepts the risk by name."),
                _("Take it out of both once the cards have slots with root ports of their own."),
            ),
            "simulated": SIMULATED,
        },
    ),
    "noiommu": Topic(
        _("VFIO without IOMMU"),
        _("In that mode a device can write all of the host's memory."),
        {
            "off": Outcome(_("VFIO works with the IOMMU only.")),
            "on": Outcome(
                _("VFIO is told to work without an IOMMU."),
                _(
                    "Take `enable_unsafe_noiommu_mode` out of the kernel's parameters and of /etc/modprobe.d,"
                    " and reboot."
                ),
            ),
            "simulated": SIMULATED,
        },
    ),
    "lockdown": Topic(
        _("Kernel lockdown"),
        _("A locked-down kernel does not let the host map a card's memory, so nothing could be scrubbed."),
        {
            "off": Outcome(_("The kernel is not locked down.")),
            "on": Outcome(
                _("Kernel lockdown (%(mode)s) forbids the host to map the card's memory."),
                _(
                    "Switch “Secure Boot” off in the host's firmware, or take `lockdown=` out of the kernel's"
                    " parameters. Guests keep their own secure boot."
                ),
            ),
            "simulated": SIMULATED,
        },
    ),
    "hugepages": Topic(
        _("Huge pages"),
        _("Memory reserved as huge pages serves nothing else."),
        {
            "none": Outcome(_("None are reserved: machines use ordinary memory.")),
            "reserved": Outcome(
                _("%(gib)s GiB are reserved as huge pages (%(pages)s): machines that fit use them."),
            ),
        },
    ),
    "isolated-cpus": Topic(
        _("Isolated processors"),
        _("A processor that is kept from the scheduler runs only what is pinned to it."),
        {
            "none": Outcome(_("The scheduler may use every processor.")),
            "some": Outcome(
                _("Processors %(cpus)s are isolated: machines are pinned to them before others."),
            ),
        },
    ),
    "libvirt": Topic(
        _("libvirt"),
        _("It builds and runs the machines. Older versions cannot give a guest the host's address width."),
        {
            "ok": Outcome(_("libvirt %(version)s answers at %(uri)s.")),
            "old": Outcome(
                _("libvirt %(version)s is older than %(needed)s."),
                _("Install a newer one: Debian 12 and Ubuntu 24.04 have it."),
            ),
            "unanswered": Outcome(
                _("libvirt answers, but not everything: %(call)s The connection was given up for another."),
                _(
                    "See what its log says about that machine. Machines run on when libvirt starts anew; a"
                    " worker that starts anew forgets this warning:"
                ),
                "journalctl -u libvirtd --since -1h\nsystemctl restart libvirtd leasehold-host",
            ),
            "away": Outcome(
                _("libvirt does not answer at %(uri)s: %(error)s"),
                _("Install and start it:"),
                "apt install libvirt-daemon-system qemu-system-x86 ovmf\nsystemctl enable --now libvirtd",
            ),
        },
    ),
    "qemu": Topic(
        _("QEMU"),
        _("It runs the machines. Older versions have known faults with passed-through devices."),
        {
            "ok": Outcome(_("QEMU %(version)s.")),
            "old": Outcome(
                _("QEMU %(version)s is older than %(needed)s."),
                _("Install a newer one: Debian 12 and Ubuntu 24.04 have it."),
            ),
            "unknown": Outcome(_("Not known while libvirt does not answer.")),
        },
    ),
    "nftables": Topic(
        _("Packet filter"),
        _("It keeps machines apart from each other, from hosts and from the broker. Without it none starts."),
        {
            "ok": Outcome(_("%(version)s answers.")),
            "away": Outcome(
                _("nftables does not answer: %(error)s"),
                _("Install it; where it is there, load its module and see what it says:"),
                "apt install nftables\nmodprobe nf_tables\nnft list tables",
            ),
            "not-used": NO_BRIDGE,
        },
    ),
    "dnsmasq": Topic(
        _("Addresses for machines"),
        _("libvirt has dnsmasq tell each machine its address. Without it no network of a machine starts."),
        {
            "ok": Outcome(_("It is there: %(path)s.")),
            "away": Outcome(
                _("dnsmasq is not installed."),
                _("Install the program; its service is not needed:"),
                "apt install dnsmasq-base",
            ),
            "not-used": NO_BRIDGE,
        },
    ),
    "forwarding": Topic(
        _("Packets of machines"),
        _("Another firewall on the host, Docker's for example, may drop what machines send and are sent."),
        {
            "ok": Outcome(_("No other firewall drops what it does not know.")),
            "dropped": Outcome(
                _("%(chain)s of the table %(table)s drops what it does not know: machines reach nothing."),
                _("Let it pass there; what machines may not reach is dropped before:"),
                "nft insert rule %(family)s %(table)s %(chain)s iifname 'lh-*' accept\n"
                "nft insert rule %(family)s %(table)s %(chain)s oifname 'lh-*' accept",
            ),
            "unknown": Outcome(_("Not known while nftables does not answer.")),
            "not-used": NO_BRIDGE,
        },
    ),
    "storage": Topic(
        _("Storage for machines"),
        _("Disks of machines, images and the journal are there. A full disk stops machines and the worker."),
        {
            "ok": Outcome(_("%(free)s of %(total)s GiB are free on %(path)s (%(type)s).")),
            "tight": Outcome(
                _("Only %(free)s of %(total)s GiB are free on %(path)s (%(type)s)."),
                _("Make room, or put a larger file system there."),
            ),
            "full": Outcome(
                _("%(path)s (%(type)s) is full: %(free)s of %(total)s GiB are free."),
                _("Make room before anything else: the worker cannot even write its journal."),
            ),
            "in-memory": Outcome(
                _("%(path)s lies in memory (%(type)s): disks and journal would be lost with the power."),
                _("Mount a disk there, or name another `state_directory` in host.toml."),
            ),
            "network": Outcome(
                _("%(path)s is on a network file system (%(type)s)."),
                _("Use a local disk for `state_directory`: the journal relies on syncs and locks that hold."),
            ),
        },
    ),
    "images": Topic(
        _("Images"),
        _("Images come from the portal into this folder. While it cannot be written to, none does."),
        {
            "ok": Outcome(_("%(path)s can be written to.")),
            "to-be-made": Outcome(_("%(path)s is made when the first image comes: that can be done.")),
            "read-only": Outcome(
                _("%(there)s, where images are kept, can only be read."),
                WRITES_FORBIDDEN,
                '[Service]\nReadWritePaths="-%(path)s"',
            ),
            "not-writable": Outcome(
                _("Root may not write to %(there)s, where images are kept."),
                _("Let root of this host write there, or name another `images_directory`. NFS exports with:"),
                "no_root_squash",
            ),
        },
    ),
    "home-pool": Topic(
        _("Home volumes"),
        _("Home volumes and snapshots are kept there. While it is not in order, none is offered or made."),
        {
            "ok": Outcome(_("The pool %(name)s is at %(path)s, and can be written to.")),
            "not-used": Outcome(_("This host keeps none: host.toml names no pool.")),
            "absent": Outcome(
                _("The pool %(name)s is not at %(path)s: %(error)s."),
                _("Mount its storage there. If the pool is new, make it there once it is mounted:"),
                "install -d -m 711 %(path)s\necho %(name)s > %(path)s/leasehold-pool",
            ),
            "unmarked": Outcome(
                _("%(path)s does not say that it is the pool %(name)s: leasehold-pool: %(error)s."),
                _("So looks a share that is not mounted: mount it. If the pool is new, mark it then:"),
                "echo %(name)s > %(path)s/leasehold-pool",
            ),
            "other": Outcome(
                _("At %(path)s is the pool %(found)s, not %(name)s."),
                _("Mount the storage of %(name)s there. If it is the right one, correct host.toml:"),
                'home_pool = { name = "%(found)s", directory = "%(path)s" }',
            ),
            "read-only": Outcome(
                _("%(path)s can only be read."),
                WRITES_FORBIDDEN,
                '[Service]\nReadWritePaths="-%(path)s"',
            ),
            "not-writable": Outcome(
                _("Root may not write to %(path)s."),
                _("Let root of this host, and the user of QEMU, write there. On NFS export it with:"),
                "no_root_squash",
            ),
        },
    ),
    "time-sync": Topic(
        _("Clock"),
        _("Commands expire within minutes: a host whose clock is off refuses them all."),
        {
            "ok": Outcome(_("The clock is synchronised, to within %(milliseconds)s ms.")),
            "off": Outcome(
                _("Nothing synchronises the clock."),
                _("Install a time service:"),
                "apt install chrony",
            ),
            "unknown": Outcome(
                _("The kernel does not say whether the clock is synchronised."),
                _("Ask the time service, and install one if there is none:"),
                "timedatectl timesync-status || apt install chrony",
            ),
        },
    ),
}
