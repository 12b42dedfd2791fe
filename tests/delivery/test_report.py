"""The report is one well-formed page that loads nothing and escapes everything."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from flashdistill.core.trial import TrialState
from flashdistill.delivery.health_text import health_table, health_warnings
from flashdistill.delivery.record import RunRecord
from flashdistill.delivery.report import write_report

VOID = {"meta", "br", "img", "link", "input", "hr"}
NASTY = """<script>alert("1")</script> & 'quoted' 学生 </title>"""


class Page(HTMLParser):
    """What a browser would find: elements, addresses, text; complains about unbalanced tags."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


@pytest.fixture(scope="module")
def run_directory(rich, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    write_report(rich, directory)
    return directory


@pytest.fixture(scope="module")
def source(run_directory):
    return (run_directory / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


def test_the_files_of_a_report(run_directory):
    found = {str(path.relative_to(run_directory)) for path in run_directory.rglob("*") if path.is_file()}
    plots = {f"plots/{name}.png" for name in ("front", "history", "curves", "costs")}
    assert found == {"report.html", "results.json"} | plots


def test_nothing_is_loaded(page):
    loading = {"src", "srcset", "data", "poster", "background", "action", "formaction", "ping"}
    for tag, attributes in page.tags:
        assert not loading & set(attributes), tag
        for name in ("href", "xlink:href"):
            address = attributes.get(name)
            assert address is None or address.startswith(("./", "#")), address
    assert not page.all("link")
    assert not page.all("iframe")
    policy = next(meta for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in (policy["content"] or "")
    assert "http" not in (policy["content"] or "")


def test_no_style_loads_anything(source):
    styles = "".join(re.findall(r"<style>(.*?)</style>", source, flags=re.DOTALL))
    assert "@import" not in styles
    assert "url(" not in styles


def test_every_trial_is_listed_with_its_reason(page, rich):
    for trial in rich.trials:
        assert str(trial.architecture) in page.words
        assert re.sub(r"\s+", " ", trial.reason) in page.words
    assert "17.82 % ± 0.16" in page.words.replace("\N{NO-BREAK SPACE}", " ")


def test_sort_keys_are_numbers(source):
    table = re.search(r'<table class="sortable">(.*?)</table>', source, flags=re.DOTALL)
    assert table
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", table[1].split("<tbody>")[1], flags=re.DOTALL)
    assert len(rows) == 13
    latencies = [re.findall(r'data-sort="([^"]*)"', row) for row in rows]
    assert latencies[0][:2] == ["0", "192_64_2_256_2"]
    assert "3.21" in latencies[0]


def test_delivered_models_are_linked_beside_the_baseline(page):
    links = [link["href"] for link in page.all("a")]
    assert "./models/192_64_1_256_2/" in links
    assert "baseline, same budget" in page.words
    assert "1.30× faster" in page.words.replace("\N{NO-BREAK SPACE}", " ")
    assert "noisy" in page.words


def test_sections_describe_the_run(page):
    for text in ("gensim-wikipedia", "losses.alpha", "versions.torch", "Delivered models", "Notes", "0.1.0"):
        assert text in page.words


def test_it_can_be_understood_without_seeing(page):
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(pictures) == 4
    assert all(picture["role"] == "img" and len(picture["aria-label"] or "") > 20 for picture in pictures)
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(heading.get("scope") == "col" for heading in page.all("th"))
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))


@pytest.fixture(scope="module")
def judged_page(judged, tmp_path_factory):
    return Page(write_report(judged, tmp_path_factory.mktemp("judged")).read_text(encoding="utf-8"))


def test_the_health_of_the_search_is_told(judged_page, page):
    for text in (
        "Health of the search",
        "Nothing stands out",
        "5 architectures measured without training",
        "latency_ms <= 1.7x excludes 1",
        "block 2 diverged at step 31 <loss>",
        "Smallest certain difference",
    ):
        assert text in judged_page.words
        assert text not in page.words
    assert "Search history" in page.words


def test_observed_and_confirmed_winners_are_told_apart(judged_page, page):
    assert "confirmed by 3 seeds" in judged_page.words
    assert "not confirmed" in judged_page.words
    assert "observed once" in judged_page.words
    assert "Every student was trained once" not in judged_page.words
    assert "confirmed by" not in page.words
    assert "Every student was trained once" in page.words


def test_stopped_students_are_listed_with_reason_and_last_score(judged_page):
    words = judged_page.words.replace("\N{NO-BREAK SPACE}", " ")
    assert "after 50% of its steps far behind 192_64_1_256_2 & no faster" in words
    assert "16.6 % after 50 % of training" in words


def test_warnings_are_shown_and_escaped(judged, tmp_path):
    health = replace(judged.health, broken={NASTY: 30}, counts={"complete": 1, "infeasible": 30})
    source = write_report(replace(judged, health=health), tmp_path).read_text(encoding="utf-8")
    assert "<script>alert" not in source
    assert "Only 1 of 31 students keep every constraint." in Page(source).words


def test_it_is_rebuilt_from_its_results(run_directory, source, tmp_path):
    write_report(RunRecord.load(run_directory), tmp_path)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == source
    assert (tmp_path / "results.json").read_bytes() == (run_directory / "results.json").read_bytes()


def test_health_is_rebuilt_from_its_results(judged, tmp_path):
    judged.save(tmp_path)
    read = RunRecord.load(tmp_path)
    assert read.trials == judged.trials
    assert health_warnings(read) == health_warnings(judged)
    assert read.health is not None
    assert health_table(read.health) == health_table(judged.health)


def test_everything_is_escaped(rich, tmp_path):
    assert rich.teacher
    assert rich.corpus
    record = replace(
        rich,
        name=NASTY,
        version=NASTY,
        notes=(NASTY,),
        constraints=(NASTY,),
        environment={NASTY: NASTY},
        teacher=replace(rich.teacher, name=NASTY, preparation=NASTY),
        corpus=replace(rich.corpus, source=NASTY),
        trials=tuple(replace(t, state=TrialState.FAILED, reason=NASTY, measurements={}) for t in rich.trials),
        delivered=(replace(rich.delivered[0], directory=f"javascript:{NASTY}"),),
        costs={"a<b> & c": 3.0},
        curves=(),
    )
    source = write_report(record, tmp_path).read_text(encoding="utf-8")
    page = Page(source)
    assert "<script>alert" not in source
    assert page.words.count("学生") > 15
    assert all((link["href"] or "").startswith("./") for link in page.all("a"))


@pytest.mark.parametrize("name", ["empty", "all_failed", "single"])
def test_poor_records_make_a_page(name, request, tmp_path):
    record = request.getfixturevalue(name)
    path = write_report(record, tmp_path)
    page = Page(path.read_text(encoding="utf-8"))
    assert page.all("h1")
    # The library for the interactive front is there only if the front is.
    assert path.stat().st_size < 500_000


def test_an_unfinished_run_says_so(rich, tmp_path):
    pending = [replace(trial, state=TrialState.PENDING, measurements={}, costs={}) for trial in rich.trials[:2]]
    record = replace(rich, finished="", trials=pending, delivered=(), curves=(), front=(), hypervolume=())
    page = Page(write_report(record, tmp_path).read_text(encoding="utf-8"))
    assert "not finished" in page.words
    assert "has not been evaluated yet" in page.words
    assert "1 unfinished" in page.words
