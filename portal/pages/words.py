"""The field's words inside, people's words outside: plans, steps, roles."""

from __future__ import annotations

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

PLANS: dict[str, str | Promise] = {
    "provision": _("Preparing"),
    "release": _("Ending"),
    "scrub": _("Cleaning the GPU"),
    "intake": _("Intake of the GPU"),
    "reset": _("Reset of the GPU"),
    "power-on": _("Switching on"),
    "power-off": _("Switching off"),
    "power-restart": _("Restarting"),
    "resume": _("Coming back with the host"),
    "deadline": _("Stopped by the host at the end"),
    "divide": _("Dividing the card"),
    "undivide": _("Making the card whole again"),
    "remove-home": _("Removing a home volume"),
    "snapshot": _("Taking a snapshot"),
    "remove-snapshot": _("Removing a snapshot"),
}
STEPS: dict[str, str | Promise] = {
    "identify": _("GPU identified"),
    "bind": _("GPU bound to the machine"),
    "reserve": _("disk reserved"),
    "connect": _("network made"),
    "define": _("machine built"),
    "start": _("machine started"),
    "confirm": _("machine seen running"),
    "close": _("access closed"),
    "stop": _("machine stopped"),
    "save": _("disk saved, if that was asked for"),
    "undefine": _("machine removed"),
    "disconnect": _("network removed"),
    "destroy-disk": _("disk destroyed"),
    "claim": _("GPU taken over"),
    "begin": _("cleaning begun"),
    "reset": _("GPU reset"),
    "plant": _("test patterns planted"),
    "fill": _("memory overwritten"),
    "verify": _("memory read back"),
    "reset-again": _("GPU reset again"),
    "compare": _("identity and firmware compared"),
    "divide": _("slices made"),
    "note": _("slices noted"),
    "undivide": _("slices removed"),
    "remove": _("removed from storage"),
}
METHODS: dict[str, str | Promise] = {
    "bar": _("Overwritten by the host, through the card's memory window"),
    "machine": _("Overwritten from inside, by a machine that only scrubs"),
    "nvidia-clear": _("Cleared by the card's own firmware, as it says"),
}
WINDOWS: dict[str, str | Promise] = {
    "bar": _("through the card's memory window (BAR)"),
    "bar0-window": _("through the card's register window, 1 MiB at a time"),
}
ROLES: dict[str, str | Promise] = {
    "member": pgettext_lazy("role", "member"),
    "approver": pgettext_lazy("role", "approver"),
    "finance": pgettext_lazy("role", "finance"),
    "owner": pgettext_lazy("role", "owner"),
}
ACTS: dict[str, str | Promise] = {
    "lease.request": _("Asked for"),
    "lease.offer": _("Offered to the first in line"),
    "lease.claim": _("Claimed by who waited for it"),
    "lease.ask": _("Claimed, and an approver asked for"),
    "lease.pass": _("Not claimed; passed to the next in line"),
    "lease.withdraw": _("Offer taken back"),
    "lease.approve": _("Approved"),
    "lease.reject": _("Not approved"),
    "lease.revoke": _("The approval was taken back"),
    "lease.expire": _("Nobody decided in time, so the request lapsed"),
    "lease.cancel": _("Cancelled"),
    "lease.fail": _("Failed; from here on nothing is billed"),
    "lease.start": _("Handed to the host, which prepares it"),
    "lease.running": _("The machine runs; billing begins"),
    "lease.unused": _("Nobody has used it; its owner was warned"),
    "lease.in-use": _("Its owner says that it is in use"),
    "lease.extend": _("A later end was asked for"),
    "lease.extended": _("The host has confirmed the later end"),
    "lease.not-extended": _("The host did not confirm the later end"),
    "lease.shorten": _("The end was moved forward"),
    "lease.change": _("Moved to another time"),
    "lease.move": _("Moved to equal GPUs"),
    "lease.share": _("Shared with a colleague"),
    "lease.unshare": _("No longer shared"),
    "lease.offer-over": _("Offered to a colleague"),
    "lease.ask-over": _("The hand-over waits for an approver"),
    "lease.refuse-over": _("The hand-over was not approved"),
    "lease.decline-over": _("A colleague declined it"),
    "lease.keep": _("The offer to hand it over ended"),
    "lease.hand-over": _("Handed over: it is somebody else's from now on"),
    "lease.note": _("Note left for approvers"),
    "lease.end": _("Ended; billing stops"),
    "lease.gone": _("Machine, disk and access are gone"),
    "series.request": _("Series asked for"),
    "series.approve": _("Series approved"),
    "series.reject": _("Series not approved"),
    "series.cancel": _("What was ahead of the series was cancelled"),
    "power.on": _("Power on was asked for"),
    "power.off": _("Power off was asked for"),
    "power.restart": _("Restart was asked for"),
    "machine.stop": _("The machine switched off"),
    "console.open": _("Console opened"),
    "console.connect": _("Console shown in a browser"),
    "console.close": _("Console closed"),
    "command.queue": _("Command for a host written down"),
    "command.refuse": _("The host refused a command"),
    "report.refuse": _("A report was refused"),
    "home.create": _("Home volume to be made"),
    "home.attach": _("Home volume attached to a workstation"),
    "home.made": _("Home volume made"),
    "home.detach": _("Home volume let go, and kept"),
    "home.read": _("Home volume being read by its person"),
    "home.close": _("Home volume no longer being read"),
    "home.remove": _("Removal of a home volume ordered"),
    "home.gone": _("Home volume destroyed"),
    "snapshot.create": _("Snapshot asked for"),
    "snapshot.cancel": _("Snapshot not to be taken after all"),
    "snapshot.order": _("Snapshot to be taken before the disk is destroyed"),
    "snapshot.taken": _("Snapshot taken, and kept"),
    "snapshot.fail": _("Snapshot could not be taken"),
    "snapshot.remove": _("Removal of a snapshot ordered"),
    "snapshot.gone": _("Snapshot destroyed"),
    "host.enrol": _("Host enrolled"),
    "host.rekey": _("Host given new keys"),
    "host.rename": _("Host called something else"),
    "host.retire": _("Host retired"),
    "host.account": _("The host's account at the broker was made"),
    "enrolment.token": _("Token for a host made"),
    "enrolment.withdraw": _("Token for a host withdrawn"),
    "enrolment.refuse": _("Somebody who is no host asked to be let in"),
    "host.access": _("Host given its way to the broker"),
    "host.accept": _("Closure lifted"),
    "host.drain": _("Closed for maintenance"),
    "host.change-drain": _("Closure changed"),
    "host.journal": _("Host came back with a new journal"),
    "host.drift": _("Found not as it should be"),
    "model.scrub-policy": _("How GPUs of the model are cleaned was changed"),
    "image.upload": _("Upload of an image begun"),
    "image.upload-removed": _("Upload of an image removed"),
    "image.store": _("Image checked, converted and stored"),
    "image.unfit": _("Uploaded image was refused"),
    "image.refuse": _("Somebody asked for an image that is not for them"),
    "image.add": _("Version of an image added"),
    "image.retire": _("Version of an image retired"),
    "image.offer": _("Version of an image offered again"),
    "gpu.admit": _("Taken into service"),
    "gpu.divide": _("Ordered to be divided"),
    "gpu.divided": _("Divided into slices"),
    "gpu.divide-fail": _("Could not be divided"),
    "gpu.undivide": _("Ordered to be made whole"),
    "gpu.undivided": _("Made whole again"),
    "gpu.undivide-fail": _("Could not be made whole"),
    "gpu.drain": _("Closed for maintenance"),
    "gpu.change-drain": _("Closure changed"),
    "gpu.accept": _("Closure lifted"),
    "gpu.hand-over": _("Handed to a lease"),
    "gpu.release": _("Given back"),
    "gpu.scrub": _("Cleaning begun"),
    "gpu.pass": _("Proven clean"),
    "gpu.evidence": _("Evidence of the cleaning"),
    "gpu.quarantine": _("Quarantined"),
    "gpu.distrust": _("No longer trusted to be clean"),
    "gpu.withdraw": _("Taken out of service"),
    "gpu.vanish": _("Missing from its host"),
    "gpu.readmit": _("Intake asked for again"),
    "gpu.order": _("Ordered on the host"),
    "gpu.reset": _("Reset"),
    "gpu.guest-error": _("An error of the GPU, as said by the guest"),
    "card.seen": _("First seen on its host"),
    "card.move": _("Moved to another place"),
    "card.change": _("Its identity changed"),
    "card.firmware": _("Its firmware changed"),
    "card.vanish": _("Vanished from its host"),
    "card.return": _("Came back"),
    "role.grant": _("Role given"),
    "role.revoke": _("Role taken away"),
    "member.leave": _("Left the team"),
    "invitation.send": _("Invitation sent"),
    "invitation.accept": _("Invitation accepted"),
    "invitation.withdraw": _("Invitation withdrawn"),
    "person.join": _("Account opened by invitation"),
    "tenant.add": _("Team added"),
    "tenant.change": _("Team changed"),
    "flavor.add": _("Flavor added"),
    "flavor.change": _("Flavor changed"),
    "flavor.retire": _("Flavor retired"),
    "flavor.offer": _("Flavor offered again"),
    "emergency.stop": _("Emergency stop"),
    "emergency.lift": _("Emergency stop lifted"),
    "tenant.close": _("Team closed"),
    "tenant.open": _("Team opened again"),
    "tenant.weigh": _("Weight of the team's fair share changed"),
    "quota.set": _("Limit set"),
    "quota.ask": _("Larger quota asked for"),
    "quota.grant": _("Larger quota granted"),
    "quota.decline": _("Larger quota declined"),
    "quota.withdraw": _("Request for a larger quota taken back"),
    "waitlist.join": _("Joined the waiting list"),
    "waitlist.change": _("Changed the deadline on the waiting list"),
    "waitlist.served": _("Served by the waiting list"),
    "waitlist.left": _("Left the waiting list"),
    "waitlist.lapsed": _("Waited in vain until the deadline"),
    "waitlist.passed": _("Off the waiting list: offers were not claimed"),
    "waitlist.withdrawn": _("Off the waiting list: no longer possible"),
    "lease.devices": _("Other USB devices were chosen"),
    "lease.tag": _("Project and cost centre changed"),
    "rate.set": _("Rate set"),
    "discount.set": _("Discount set"),
    "storage-rate.set": _("Price of storage set"),
    "tax.set": _("Tax set"),
    "tenant.billing": _("Billing address and region changed"),
    "budget.rule": _("What a budget does was changed"),
    "budget.warn": _("Approvers warned of the budget"),
    "month.close": _("Month closed and invoiced"),
    "invoice.credit": _("Credit note issued"),
    "outage.record": _("Outage recorded"),
    "outage.withdraw": _("Outage withdrawn"),
    "person.sign-in": _("Signed in"),
    "person.sign-in-fail": _("Sign-in failed"),
    "person.sign-out": _("Signed out"),
    "audit.verify": _("Audit log verified"),
    "audit.export": _("Audit log exported"),
    "usage.export": _("Usage exported"),
    "token.refuse": _("Something that is no API token was refused"),
    "token.create": _("API token made"),
    "token.revoke": _("API token revoked"),
    "notices.choose": _("Notices chosen"),
    "notices.hook": _("Webhook set"),
    "notices.hook-remove": _("Webhook removed"),
    "notices.hook-try": _("Webhook tried"),
    "feed.create": _("Calendar feed made"),
    "feed.revoke": _("Calendar feed revoked"),
}


def acts_of(text: str) -> tuple[str, ...]:
    """An action, or all of a kind: `lease` or `lease.` stands for whatever happens to leases."""
    kind = text.removesuffix(".") + "."
    family = tuple(name for name in ACTS if name.startswith(kind))
    return family or ((text,) if text else ())


TIMES: dict[str, Promise] = {
    "used": _("used"),
    "unused": _("booked, not used"),
    "repair": _("out of service"),
    "idle": _("idle"),
}


def time_words(name: str) -> str | Promise:
    """What became of a GPU's time."""
    return TIMES[name]


def plan_words(name: str) -> str | Promise:
    return PLANS.get(name, name)


def step_words(name: str) -> str | Promise:
    return STEPS.get(name, name)


def method_words(name: str) -> str | Promise:
    """What a method of a scrub did."""
    return METHODS.get(name, name)


def window_words(name: str) -> str | Promise:
    """Through what the host looked into the memory."""
    return WINDOWS.get(name, name)


def role_words(name: str) -> str | Promise:
    return ROLES.get(name, name)


def act_words(action: str) -> str | Promise:
    return ACTS.get(action, action)
