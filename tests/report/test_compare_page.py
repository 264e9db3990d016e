"""The HTML page across runs: every number in its place, foreign names harmless, sortable, and whole on a phone."""

from __future__ import annotations

import base64
import itertools
import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fastlt.report.compare.html import write_page
from fastlt.report.compare.model import Across, Cell, Drawing, Gap, Measured, Published, Row, Table

NASTY = 'my&methods:NAME<script>alert(1)</script>"onload=x'
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
VOID = {"meta", "img", "br", "link", "input"}


@dataclass
class Node:
    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Any] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, *tags: str) -> list[Node]:
        nodes = [child for child in self.children if isinstance(child, Node)]
        return [found for node in nodes for found in ([node] if node.tag in tags else []) + node.all(*tags)]

    def id(self, name: str) -> Node:
        (found,) = [node for node in self.all(*TAGS) if node.attributes.get("id") == name]
        return found


TAGS = ("section", "h2", "h3", "div")


class Tree(HTMLParser):
    """The page as nodes; a tag that is closed out of turn fails."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open = [Node("")]
        self.feed(text)
        self.close()
        assert len(self.open) == 1

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({key for key, _ in attrs}) == len(attrs)
        node = Node(tag, {key: value or "" for key, value in attrs})
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def ours(mean: float, sd: float | None = 0.25, runs: int = 3) -> Measured:
    return Measured(mean, sd, runs)


# many: nothing published; few: published, but not comparable; all: published and compared
COMPARED = Table(
    "main",
    "Samplers & classifiers",
    ("sampler", "classifier"),
    ("many", "few", "all"),
    (
        Row(
            ("instance", "joint"),
            (
                Cell(ours(65.94)),
                Cell(ours(7.72), Published(7.7, "README"), comparable=False),
                Cell(ours(44.44), Published(44.4, "README")),
            ),
        ),
        Row(("instance", "cRT"), (Cell(ours(61.8)), Cell(ours(27.4)), Cell(ours(49.4), Published(49.6, "RIDE <zoo>")))),
        Row(("class", "empty"), (Cell(), Cell(), Cell(None, Published(50.0, "README"))), "missing"),
        Row(("class", NASTY), (Cell(ours(9.0, None, 1)), Cell(), Cell(ours(100.0, None, 1))), "on test"),
    ),
    "About <it>.",
    ("shortened protocol: 5 of 200 epochs.",),
)
PLAIN = Table(
    "plain", "shapes", ("classifier",), ("all",), (Row(("joint",), (Cell(ours(50.04, None, 1)),)),)
)  # fmt: skip


def across(folder: Path, **changed: Any) -> Across:
    for name in ("samplers_a", "norms"):
        (folder / f"{name}.svg").write_bytes(SVG + f"<!--{name}-->".encode())
    drawings = (
        Drawing("samplers_a", "Samplers", "Each <panel>.", 'Points "in" panels'),
        Drawing("norms", "Norms", "N", "L"),
    )
    usual = Across(
        f"Report of {NASTY}",
        ("One & two.", "Three."),
        ("shortened protocol: <5> of 200 epochs",),
        (Gap("cell <1>", "failed & gone"),),
        (COMPARED, PLAIN),
        drawings,
        ("run", "seed"),
        (("runs/a<b>", "10"), ("runs/c", "9"), ("runs/d", "")),
        folder,
    )
    return replace(usual, **changed)


def page(folder: Path, **changed: Any) -> tuple[str, Tree]:
    write_page(across(folder, **changed), folder / "index.html")
    text = (folder / "index.html").read_text(encoding="utf-8")
    return text, Tree(text)


def lines_of(table: Node) -> list[list[str]]:
    return [[" ".join(cell.text.split()) for cell in row.all("th", "td")] for row in table.all("tbody")[0].all("tr")]


def test_every_number_stands_in_its_cell(tmp_path: Path) -> None:
    tree = page(tmp_path)[1].open[0]
    section = tree.id("table-main")
    (table,) = section.all("table")
    assert lines_of(table) == [
        ["instance", "joint", "65.9 ± 0.2", "7.7 ± 0.2", "7.7 [1]", "44.4 ± 0.2", "44.4 [1]", "0.0", "3"],
        ["instance", "cRT", "61.8 ± 0.2", "27.4 ± 0.2", "", "49.4 ± 0.2", "49.6 [2]", "−0.2", "3"],
        ["class", "empty a", "", "", "", "", "50.0 [1]", "", ""],
        ["class", f"{NASTY} b", "9.0", "", "", "100.0", "", "", "1"],
    ]
    heads = [[cell.text for cell in row.all("th")] for row in table.all("thead")[0].all("tr")]
    assert heads[0] == ["sampler", "classifier", "many", "few", "all", "runs"]
    assert heads[1] == ["ours", "published", "ours", "published", "diff."]
    notes = [line.text for line in section.all("li")][1:]
    assert notes == ["a missing", "b on test", "[1] README", "[2] RIDE <zoo>"]
    assert "About <it>." in section.text and "shortened protocol: 5 of 200 epochs." in section.text
    assert (
        "mean ± standard deviation over runs; diff.: ours minus published, in points." in table.all("caption")[0].text
    )


def test_a_table_of_single_runs_without_published_numbers(tmp_path: Path) -> None:
    section = page(tmp_path)[1].open[0].id("table-plain")
    assert lines_of(section) == [["joint", "50.0"]]
    assert [cell.text for cell in section.all("thead")[0].all("th")] == ["classifier", "all"]
    assert (
        "one run each." in section.all("caption")[0].text and "ublished" not in section.text and "±" not in section.text
    )


def test_one_source_needs_no_marks(tmp_path: Path) -> None:
    rows = tuple(Row((f"c{n}",), (Cell(ours(1.0 + n), Published(2.0, "a & b")),)) for n in range(2))
    section = page(tmp_path, tables=(replace(PLAIN, rows=rows),))[1].open[0].id("table-plain")
    assert lines_of(section) == [["c0", "1.0 ± 0.2", "2.0", "−1.0"], ["c1", "2.0 ± 0.2", "2.0", "0.0"]]
    assert [line.text for line in section.all("li")] == ["Published: a & b"]
    assert "mean ± standard deviation over 3 runs;" in section.all("caption")[0].text


def test_rows_with_several_counts_of_runs(tmp_path: Path) -> None:
    rows = (Row(("a",), (Cell(ours(1.0, 0.1, 2)), Cell(ours(2.0, 0.1, 3)))),)
    section = page(tmp_path, tables=(replace(PLAIN, columns=("x", "y"), rows=rows),))[1].open[0].id("table-plain")
    assert lines_of(section) == [["a", "1.0 ± 0.1", "2.0 ± 0.1", "2–3"]]


def test_more_notes_than_letters(tmp_path: Path) -> None:
    rows = tuple(Row((f"c{n}",), (Cell(ours(1.0)),), f"note {n}") for n in range(28))
    section = page(tmp_path, tables=(replace(PLAIN, rows=rows),))[1].open[0].id("table-plain")
    marks = [line[0].split()[-1] for line in lines_of(section)]
    assert marks[0] == "a" and marks[25:] == ["z", "aa", "bb"] and len(set(marks)) == 28


@pytest.mark.parametrize(("count", "kinds"), [(1, "0"), (2, "01"), (3, "-01"), (4, "--01")])
def test_the_last_two_labels_stay_in_sight(tmp_path: Path, count: int, kinds: str) -> None:
    names = tuple("abcd"[:count])
    table = replace(PLAIN, heads=names, rows=(Row(names, (Cell(ours(1.0)),)),))
    section = page(tmp_path, tables=(table,))[1].open[0].id("table-plain")
    found = [head.attributes["class"].split()[1] for head in section.all("tbody")[0].all("th")]
    assert found == ["before" if kind == "-" else f"stays{kind}" for kind in kinds]
    style = section.all("table")[0].attributes["style"]
    assert all(f"--{kind}:" in style for kind in found)


def test_every_table_is_a_grid_with_heads(tmp_path: Path) -> None:
    tree = page(tmp_path)[1].open[0]
    tables = tree.all("table")
    assert len(tables) == 4 and all(len(table.all("caption")) == 1 for table in tables)
    for table in tables:
        rows = [row.all("th", "td") for row in table.all("tbody")[0].all("tr")]
        assert len({len(row) for row in rows}) == 1
        first, *second = table.all("thead")[0].all("tr")
        wide = sum(int(cell.attributes.get("colspan", 1)) for cell in first.all("th"))
        assert wide == len(rows[0])
        sortable = [cell for cell in table.all("thead")[0].all("th") if "data-sort" in cell.attributes]
        assert sorted(int(cell.attributes["data-column"]) for cell in sortable) == list(range(wide))
        assert all(
            cell.attributes["scope"] in ("col", "colgroup") for row in [first, *second] for cell in row.all("th")
        )
        assert all(row[0].attributes["scope"] == "row" for row in rows)


def test_figures_are_inside_with_words(tmp_path: Path) -> None:
    tree = page(tmp_path)[1].open[0]
    images = tree.all("img")
    kind = "data:image/svg+xml;base64,"
    assert [base64.b64decode(image.attributes["src"].removeprefix(kind)) for image in images] == [
        SVG + b"<!--samplers_a-->",
        SVG + b"<!--norms-->",
    ]
    assert [image.attributes["alt"] for image in images] == ['Points "in" panels', "L"]
    assert [caption.text for caption in tree.all("figcaption")] == ["Each <panel>.", "N"]


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    text, parsed = page(tmp_path)
    nodes = parsed.open[0].all("a", "img", "script", "link", "style", "iframe", "meta")
    links = [node.attributes[key] for node in nodes for key in ("href", "src") if key in node.attributes]
    assert len(links) > 8 and all(link.startswith(("#", "data:image/svg+xml;base64,")) for link in links)
    (policy,) = [node for node in nodes if node.attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy.attributes["content"].startswith("default-src 'none'")
    assert not re.search(r"https?://|@import|url\(|//cdn", text)


def test_foreign_names_are_text(tmp_path: Path) -> None:
    text, parsed = page(tmp_path)
    tree = parsed.open[0]
    assert len(tree.all("script")) == 1 and "alert" not in tree.all("script")[0].text
    assert not any(key.startswith("on") for node in tree.all("th", "td", "a", "img", "h1") for key in node.attributes)
    assert tree.all("h1")[0].text == tree.all("title")[0].text == f"Report of {NASTY}"
    assert lines_of(tree.id("gaps")) == [["cell <1>", "failed & gone"]]
    assert lines_of(tree.id("runs"))[0] == ["runs/a<b>", "10"]
    assert "shortened protocol: <5> of 200 epochs" in tree.all("header")[0].text
    assert not re.search(r"None|nan\b|\{\w*\}(?!\s*[,;)])", re.sub(r"(?s)<(script|style)>.*?</\1>", "", text))


def test_contents_lead_to_every_part(tmp_path: Path) -> None:
    text, parsed = page(tmp_path)
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    links = [node.attributes["href"][1:] for node in parsed.open[0].all("a")]
    assert set(links) <= set(ids)
    assert links == [
        *("gaps", "tables", "table-main", "table-plain", "figures", "figure-samplers_a", "figure-norms", "runs"),
    ]
    levels = [int(node.tag[1]) for node in parsed.open[0].all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_a_report_of_nothing(tmp_path: Path) -> None:
    _, parsed = page(tmp_path, warnings=(), gaps=(), tables=(), drawings=(), runs=(), summary=())
    tree = parsed.open[0]
    assert tree.all("h2", "table", "img", "a") == [] and len(tree.all("h1")) == 1


def test_same_report_same_bytes(tmp_path: Path) -> None:
    assert page(tmp_path)[0] == page(tmp_path)[0]


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
def test_letters_stand_out_from_what_is_behind_them(tmp_path: Path, dark: bool) -> None:
    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", page(tmp_path)[0])
    colours = {name: pair[dark] for name, *pair in found}
    pairs = [
        (front, back) for front in ("text", "quiet", "link", "plus", "minus") for back in ("paper", "card", "hover")
    ]
    for front, back in [*pairs, ("text", "warning")]:
        high, low = sorted((luminance(colours[front]), luminance(colours[back])), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (front, back)  # WCAG 2, AA


# --- in a browser ---

INSIDE = """<script>
addEventListener("load", () => {
  const told = {};
  const table = document.querySelector("#table-main table");
  const order = () => [...table.tBodies[0].rows].map((row) => row.cells[1].textContent.trim().split(" ")[0]);
  const heads = [...table.querySelectorAll("th[data-sort]")];
  const state = () => heads.map((head) => head.getAttribute("aria-sort")).join("");
  const click = (place) => { heads[place].querySelector("button").click(); return [state(), ...order()]; };
  told.before = order();
  told.heads = heads.map((head) => head.textContent);
  told.many = [click(2), click(2), click(2)];
  told.names = click(1);
  told.difference = click(8);
  const runs = document.querySelector("#runs table");
  runs.querySelectorAll("th button")[1].click();
  told.runs = [...runs.tBodies[0].rows].map((row) => row.cells[1].textContent);
  const colour = () => getComputedStyle(document.body).backgroundColor;
  const theme = document.querySelector(".theme");
  told.start = [document.documentElement.dataset.theme ?? "", colour(), theme.textContent];
  theme.click();
  told.turned = [document.documentElement.dataset.theme, colour(), theme.textContent];
  told.wide = [document.documentElement.scrollWidth, innerWidth];
  const box = table.parentElement;
  box.scrollLeft = 60;
  told.scrolled = box.scrollLeft;
  told.stays = table.tBodies[0].rows[0].cells[0].getBoundingClientRect().left - box.getBoundingClientRect().left;
  told.images = [...document.images].map((image) => image.naturalWidth);
  told.open = document.querySelector("nav details").open;
  parent.postMessage(told, "*");
});
</script>"""
AROUND = """<!DOCTYPE html><body><pre id="told"></pre><script>
const told = [];
const show = (width) => {
  const frame = document.createElement("iframe");
  frame.style = `width:${width}px;height:800px;border:0`;
  frame.src = "inside.html";
  document.body.append(frame);
};
addEventListener("message", ({ data }) => {
  told.push(data);
  document.querySelector("#told").textContent = JSON.stringify(told);
  if (told.length === 1) show(1280);
});
show(360);
</script></body>"""


@pytest.fixture(scope="module")
def browsed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What a script finds in the page, clicked through in a frame of 360 px and then in one of 1280 px."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    folder = tmp_path_factory.mktemp("browser")
    text, _ = page(folder)
    assert text.count("</body>") == 1
    (folder / "inside.html").write_text(text.replace("</body>", f"{INSIDE}</body>"), encoding="utf-8")
    (folder / "around.html").write_text(AROUND, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={folder / 'profile'}"]
    flags += ["--window-size=1400,1700", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run(
        [chromium, *flags, (folder / "around.html").as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    (told,) = [node for node in Tree(done.stdout).open[0].all("pre") if node.attributes.get("id") == "told"]
    return json.loads(told.text)


def test_heads_sort(browsed: list[dict[str, Any]]) -> None:
    told = browsed[0]
    name = NASTY.split()[0]
    assert told["before"] == ["joint", "cRT", "empty", name]
    assert told["heads"][:3] == ["sampler", "classifier", "many"]
    assert told["many"] == [
        ["descending", "joint", "cRT", name, "empty"],
        ["ascending", name, "cRT", "joint", "empty"],
        ["", "joint", "cRT", "empty", name],
    ]
    assert told["names"] == ["ascending", "cRT", "empty", "joint", name]
    assert told["heads"][8] == "diff." and told["difference"] == ["descending", "joint", "cRT", "empty", name]
    assert told["runs"] == ["9", "10", ""]  # as numbers


def test_light_and_dark_are_switched_and_remembered(browsed: list[dict[str, Any]]) -> None:
    first, second = browsed
    light, dark = "rgb(251, 251, 249)", "rgb(22, 24, 27)"
    assert (first["start"], first["turned"]) == (["", light, "Dark"], ["dark", dark, "Light"])
    assert (second["start"], second["turned"]) == (["dark", dark, "Light"], ["light", light, "Dark"])


def test_only_tables_scroll_sideways(browsed: list[dict[str, Any]]) -> None:
    narrow, wide = browsed
    for told, width in ((narrow, 360), (wide, 1280)):
        content, inner = told["wide"]
        assert inner == width and content <= width
    assert narrow["scrolled"] == 60 and 0 <= narrow["stays"] <= 2  # the border
    assert (narrow["open"], wide["open"]) == (False, True)
    assert narrow["images"] == [9, 9]
