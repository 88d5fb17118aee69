"""Builds the scrub machine's system: `python -m appliance.build OUTDIR [--vendor DIR] [--program NAME]`.

Debian's kernel, busybox, a scrub program and, where the card needs one, its vendor's driver. It prints the
digest that root puts on the list of scrubbers. README.md says what belongs into the vendor's folder.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from appliance import debian, initramfs, kernel_image
from appliance.debian import DEFAULT_CACHE

HERE = Path(__file__).parent
INIT = HERE / "init"
PROGRAMS = HERE / "programs"
MODULES = ("virtio_pci", "virtio_console")
CMDLINE = "console=ttyS0 quiet mitigations=off cryptomgr.notests panic=1"
COMPILERS = {
    "plain": ("gcc", "-static", "-O2", "-Wall", "-Wextra", "-Werror", "plain.c"),
    "opencl": ("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "opencl.c", "-lOpenCL"),
    "cuda": ("nvcc", "-O2", "-arch=all-major", "-cudart", "static", "cuda.cu"),
}
# Beside the initramfs itself, which stays in memory twice while it is unpacked.
SPARE_MIB = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outdir", type=Path)
    parser.add_argument("--program", choices=COMPILERS, default="plain", help="default: %(default)s")
    parser.add_argument("--vendor", type=Path, help="the vendor's driver")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="where packages are kept")
    options = parser.parse_args()
    manifest = build_appliance(
        options.outdir, program=options.program, vendor=options.vendor, cache=options.cache
    )
    print(hashlib.sha256(manifest.read_bytes()).hexdigest(), options.outdir.resolve())


def build_appliance(
    outdir: Path, *, program: str = "plain", vendor: Path | None = None, cache: Path = DEFAULT_CACHE
) -> Path:
    """Writes vmlinux, initrd.img and manifest.json, unless they are there, made from the same."""
    debs = {role: debian.fetch(name, cache) for role, name in _packages(vendor).items()}
    made_from = {
        **{role: deb.name for role, deb in debs.items()},
        "recipe": kernel_image.digest_of(*_recipe()),
        "program": program,
        "vendor": kernel_image.digest_of(*_files_below(vendor)) if vendor else "",
    }
    if kernel_image.is_current(outdir, made_from):
        return outdir / kernel_image.MANIFEST
    with tempfile.TemporaryDirectory() as scratch:
        roots = {role: debian.unpack(deb, Path(scratch) / role) for role, deb in debs.items()}
        executable = compile_program(program, Path(scratch))
        initrd = initramfs.pack(_contents(roots, program, executable, vendor))
        return kernel_image.write_image(
            outdir,
            kernel=_kernel(roots, vendor or Path()),
            initrd=initrd,
            cmdline=CMDLINE,
            made_from=made_from,
            scrub={"variant": program, "memory_mib": SPARE_MIB + 3 * len(initrd) // 2**20},
        )


def compile_program(program: str, folder: Path, *options: str) -> Path:
    """The executable of one of COMPILERS, made in `folder`. Raises CalledProcessError."""
    compiler, *words = COMPILERS[program]
    executable = folder / "scrub"
    sources = [str(PROGRAMS / word) if (PROGRAMS / word).exists() else word for word in words]
    debian.run(compiler, *options, "-o", str(executable), *sources)
    return executable


def _packages(vendor: Path | None) -> dict[str, str]:
    """A vendor's modules are for one kernel: that is in their folder, and Debian's is not used."""
    own_kernel = vendor is not None and (vendor / "vmlinuz").exists()
    names = {"busybox": "busybox-static"}
    return names if own_kernel else {**names, "kernel": debian.kernel_package()}


def _kernel(roots: dict[str, Path], vendor: Path) -> bytes:
    images = roots["kernel"].glob("boot/vmlinuz-*") if "kernel" in roots else iter([vendor / "vmlinuz"])
    return debian.uncompressed(next(images).read_bytes())


def _contents(
    roots: dict[str, Path], program: str, executable: Path, vendor: Path | None
) -> dict[str, initramfs.Entry]:
    places = [roots["kernel"] / "lib" / "modules"] if "kernel" in roots else []
    places += [vendor / "modules"] if vendor else []
    available = {name: path for place in places for name, path in debian.modules_below(place).items()}
    ordered = debian.load_order(available, MODULES + _wanted_modules(vendor))
    return {
        "bin": initramfs.directory(),
        "bin/busybox": initramfs.program((roots["busybox"] / "bin/busybox").read_bytes()),
        "init": initramfs.program(INIT.read_bytes()),
        "modules": initramfs.directory(),
        **initramfs.numbered("modules/all", ordered),
        "scrub": initramfs.program(executable.read_bytes()),
        **(dict(_libraries(executable)) if "-static" not in COMPILERS[program] else {}),
        **(dict(_tree(vendor / "root", "vendor")) if vendor else {}),
    }


def _wanted_modules(vendor: Path | None) -> tuple[str, ...]:
    """Those that the vendor's folder names; what they need is found among them and the kernel's."""
    listed = vendor / "modules.load" if vendor else None
    return tuple(listed.read_text().split()) if listed and listed.exists() else ()


def _libraries(executable: Path) -> Iterator[tuple[str, initramfs.Entry]]:
    """The shared libraries that the program was linked with, at the places where it looks for them."""
    made: set[str] = set()
    for library in re.findall(r"(/\S+) \(0x", debian.run("ldd", str(executable))):
        place = Path(library)
        for parent in reversed(place.parents[:-1]):
            if (name := str(parent).lstrip("/")) not in made:
                made.add(name)
                yield name, initramfs.directory()
        yield library.lstrip("/"), initramfs.program(place.read_bytes())


def _tree(folder: Path, name: str) -> Iterator[tuple[str, initramfs.Entry]]:
    yield name, initramfs.directory()
    for path in sorted(folder.rglob("*")) if folder.exists() else ():
        place = f"{name}/{path.relative_to(folder)}"
        if path.is_dir():
            yield place, initramfs.directory()
        else:
            is_program = path.stat().st_mode & 0o100
            yield place, (initramfs.program if is_program else initramfs.plain)(path.read_bytes())


def _files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _recipe() -> list[Path]:
    modules = [Path(__file__), Path(debian.__file__), Path(initramfs.__file__), Path(kernel_image.__file__)]
    return [*modules, INIT, *_files_below(PROGRAMS)]


if __name__ == "__main__":
    main()
