"""The pages against the code: links, commands, files and flags that they name."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from ml_collections import ConfigDict

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = [
    path.read_text()
    for folder in ("launch", "data_prep", "benchmarks", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
COMMAND = re.compile(r"python (?:-m [\w.]+|[\w/]+\.py)[^`|\n]*")
OWN_MODULES = ("data_prep", "benchmarks", "tests")
ABSL = {"config", "workdir", "mode"}


def commands() -> list[tuple[str, list[str]]]:
    """(page, words) of every Python command in the pages."""
    found = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for command in COMMAND.findall(text):
            words = re.sub(r"[\"'\\]", "", command).split("#")[0].split()
            found.append((page.name, words))
    return found


def module_of(words: list[str]) -> Path:
    place = Path(words[2].replace(".", "/")) if words[1] == "-m" else Path(words[1])
    for candidate in (place, place.with_suffix(".py"), place / "__main__.py"):
        if (ROOT / candidate).is_file():
            return candidate
    raise AssertionError(f"{words}: no such command")


def config_of(argument: str) -> ConfigDict:
    name, _, variant = argument.partition(":")
    module = import_module(name.removesuffix(".py").replace("/", "."))
    return module.get_config(variant) if variant else module.get_config()


def test_every_command_exists_with_its_flags():
    ours = [
        (page, words)
        for page, words in commands()
        if words[1] != "-m" or words[2].split(".")[0] in OWN_MODULES
    ]
    assert len(ours) > 40
    for page, words in ours:
        assert module_of(words)
        for word in words:
            flag = re.match(r"--(\w+)", word.strip("[]"))
            if flag is None or word.startswith("--config.") or flag[1] in ABSL:
                continue
            known = any(re.search(rf'"(--)?{flag[1]}"|\b{flag[1]}:', text) for text in SOURCES)
            assert known or flag[1] == "flink_master", f"{page}: {' '.join(words)}: --{flag[1]}"


def test_every_config_and_key_exists():
    named = 0
    for page, words in commands():
        configs = [w.removeprefix("--config=") for w in words if w.startswith("--config=")]
        for argument in configs:
            if not argument.startswith("configs/") or "NAME" in argument:
                continue
            config, named = config_of(argument), named + 1
            for word in words:
                key = re.match(r"--config\.([a-z_.0-9]+)=", word)
                if key:
                    node = config
                    for part in key[1].split("."):
                        assert part in node, f"{page}: {argument} has no config.{key[1]}"
                        node = node[part]
    assert named > 25


def test_keys_in_the_text_exist():
    keys: set[str] = set()

    def walk(tree: ConfigDict, above: str) -> None:
        for key, value in tree.items():
            keys.add(above + key)
            if isinstance(value, ConfigDict):
                walk(value, f"{above}{key}.")

    for path in (ROOT / "configs").glob("*.py"):
        if path.stem not in ("__init__", "common") and not path.stem.endswith("_recipe"):
            walk(import_module(f"configs.{path.stem}").get_config(), "")
    for page in PAGES:
        for key in re.findall(r"\bconfig\.([a-z_0-9]+(?:\.[a-z_0-9]+)*)", page.read_text()):
            assert key in keys or key in ("json", "py", "items"), f"{page.name}: config.{key}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_and_named_files_exist(page):
    text = page.read_text()
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text)
    files = re.findall(
        r"`((?:configs|launch|rsfm_jax|benchmarks|tests|data_prep|docs|colab)/[\w/]+\.\w+)`", text
    )
    for place in [page.parent / link for link in links] + [ROOT / file for file in files]:
        assert place.exists(), f"{page.name}: {place.relative_to(ROOT)}"


def test_the_site_builds_without_a_warning(tmp_path):
    """mkdocs holds every link, anchor and page of the navigation against the pages."""
    pytest.importorskip("material")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "index.html").exists()
