"""Links, file paths and Python names on pages lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shunter.plugins import ENGINE_GROUP, POLICY_GROUP
from shunter.registration import ENV_ID, FLAT_ENV_ID, MULTI_ENV_ID
from tests.docs.pages import PAGES, README, ROOT, code_spans, name_of, prose

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FOLDERS = ("shunter/", "tests/", "docs/", "benchmarks/", "results/", "examples/", "scripts/")
_PLACEHOLDER = re.compile(r"\b[A-Z]{2,}\b")
"""A word in capitals stands for a name that a reader chooses."""
_DOTTED = re.compile(r"(?:shunter|benchmarks)(?:\.\w+)+")
README_WORDS = 900


def anchors(text: str) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    broken = []
    for target in _LINK.findall(prose(page.read_text(encoding="utf-8"))):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            broken.append(target)
    return broken


def missing_paths(text: str) -> list[str]:
    words = [word.strip(".,;:()'") for span in code_spans(text) for word in span.split()]
    paths = [word.partition("::")[0].removeprefix("./") for word in words]
    ids = {ENV_ID, FLAT_ENV_ID, MULTI_ENV_ID}
    return [p for p in paths if p.startswith(_FOLDERS) and p not in ids and not exists(p)]


def exists(path: str) -> bool:
    parts = Path(path).parts
    known = next((i for i, part in enumerate(parts) if _PLACEHOLDER.search(part)), len(parts))
    return any(ROOT.glob("/".join(parts[:known])))


def missing_names(text: str) -> list[str]:
    names = {name for span in code_spans(text) for name in _DOTTED.findall(span)}
    return sorted(name for name in names - {ENGINE_GROUP, POLICY_GROUP} if not is_there(name))


def is_there(name: str) -> bool:
    """Whether a dotted name is a module, or something that one defines."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:end])
        file = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        if file.is_file():
            rest = parts[end:]
            text = file.read_text(encoding="utf-8")
            return not rest or bool(
                re.search(rf"^(def|class) {rest[0]}\b|^{rest[0]}\b|\"{rest[0]}\"", text, re.M)
            )
    return False


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_path_and_name_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert missing_paths(text) + missing_names(text) == []


def test_every_page_is_linked_from_another() -> None:
    linked = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in PAGES
        for target in _LINK.findall(page.read_text(encoding="utf-8"))
    }
    assert {page for page in PAGES if page != README} <= linked


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").split()) <= README_WORDS


def test_what_leads_nowhere_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A head\n[a](no.md) [b](#a-head) [c](#nowhere) `shunter/no.py` `shunter.no.where`\n")
    text = page.read_text()
    assert broken_links(page) == ["no.md", "#nowhere"]
    assert missing_paths(text) == ["shunter/no.py"]
    assert missing_names(text) == ["shunter.no.where"]
    assert missing_names("`shunter.evaluate` `shunter.files.replaced` `shunter.files.lost`") == [
        "shunter.files.lost"
    ]
