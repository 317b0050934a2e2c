"""The report page in a real browser (Debian's chromium, driven by selenium), with articles that try to break it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from casualty_ner.documents import Article, Span
from casualty_ner.records import write_records
from eval.evaluate import main
from eval.page import to_script_json

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

ATTACK = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'><!-- <b>&amp;\u2028 $\\bad{$ 中 "
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1300,1000"
)

EMOJI = "🚑🚑 Gunmen killed twelve people, police said."
HOSTILE = ATTACK + "Gunmen struck."
AT = HOSTILE.index("Gunmen")
ARTICLES = [
    Article("right", "Gunmen killed twelve.", (Span(0, 6, "ACTOR"), Span(7, 13, "CASUALTY_TYPE")), {"genre": "wire"}),
    Article("emoji", EMOJI, (Span(3, 9, "ACTOR"), Span(10, 16, "CASUALTY_TYPE"), Span(17, 23, "COUNT")), {"genre": "radio"}),
    Article(f"hostile {ATTACK}", HOSTILE, (Span(AT, AT + 6, "ACTOR"),), {"genre": ATTACK}),
    *(Article(f"filler {number:02}", "Rain fell.", (), {"genre": "wire"}) for number in range(30)),
]
PREDICTED = {
    "right": [(0, 6, "ACTOR"), (7, 13, "CASUALTY_TYPE")],
    "emoji": [(3, 9, "SOURCE"), (10, 16, "CASUALTY_TYPE"), (32, 38, "SOURCE")],
    f"hostile {ATTACK}": [(0, 8, "SOURCE"), (AT, AT + 13, "ACTOR")],
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose every text is hostile, its file names too."""
    folder = tmp_path_factory.mktemp("page")
    write_records(folder / "data.jsonl", (article.to_dict() for article in ARTICLES))
    predictions = folder / "<img src=x onerror='window.hacked=1'>.jsonl"
    keys = ("start", "end", "label")
    write_records(
        predictions,
        (
            {
                "id": one.id,
                "entities": [{**dict(zip(keys, span, strict=True)), "score": 0.75} for span in PREDICTED.get(one.id, [])],
            }
            for one in ARTICLES
        ),
    )
    arguments = ["--predictions", str(predictions), "--data", str(folder / "data.jsonl"), "--out", str(folder / "out")]
    assert main([*arguments, "--resamples", "20"]) == 0
    return folder / "out" / "report.html"


def test_the_page_holds_all_it_needs_and_asks_for_nothing(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "://" not in text and "src=x" not in text.replace("img src=x onerror=&#x27;", "").replace("\\u003cimg src=x", "")
    assert text.count("<script") == 2 and text.count("</script>") == 2
    assert "default-src 'none'" in text.replace("&#x27;", "'")


def test_markdown_shows_hostile_text_as_text(page: Path) -> None:
    text = (page.parent / "report.md").read_text(encoding="utf-8")
    assert r"\<script\>" in text
    assert not [line for line in text.splitlines() if "<" in line.replace(r"\<", "")]


def test_json_in_a_script_cannot_end_it() -> None:
    encoded = to_script_json([ATTACK, "\ud800", "é"])
    assert not set("<>&\u2028") & set(encoded)
    assert json.loads(encoded) == [ATTACK, "\ud800", "é"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        reason = "no chromium and chromedriver here; apt-get install chromium chromium-driver"
        (pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip)(reason)
    from selenium.webdriver import Chrome
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = program
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = Chrome(options=options, service=Service(driver))
    yield chrome
    chrome.quit()


@pytest.fixture
def opened(browser: Chrome, page: Path) -> Chrome:
    browser.get(page.as_uri())
    return browser


def choose(browser: Chrome, name: str, value: str) -> None:
    (option,) = (one for one in browser.find_elements("css selector", f"#{name} option") if one.get_attribute("value") == value)
    option.click()


def texts(browser: Chrome, selector: str) -> list[str]:
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)", selector
    )
    return found


def ids(browser: Chrome) -> list[str]:
    return texts(browser, "#list article h3")


def test_no_script_of_an_article_runs_and_nothing_is_fetched(opened: Chrome) -> None:
    assert opened.execute_script("return window.hacked") is None
    assert opened.get_log("browser") == []
    assert (
        opened.execute_script("return document.querySelectorAll('img:not([src^=\"data:\"]), b:not(.tile b), iframe').length") == 0
    )
    requests = opened.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert [name for name in requests if not name.startswith("data:")] == []
    assert f"hostile {ATTACK}" in ids(opened)
    images = opened.execute_script("return [...document.images].map((one) => one.complete && one.naturalWidth > 0)")
    assert images == [True] * 6
    # Even a script that got in would not run: the policy allows the page's own by its hash only.
    opened.execute_script(
        "const made = document.createElement('script'); made.textContent = 'window.hacked = 2'; document.body.append(made)"
    )
    assert opened.execute_script("return window.hacked") is None
    opened.get_log("browser")


def test_both_sides_show_the_whole_text_and_its_spans(opened: Chrome) -> None:
    choose(opened, "kind", "any")
    assert sorted(ids(opened)) == ["emoji", f"hostile {ATTACK}"]
    opened.find_element("id", "find").send_keys("🚑")
    assert ids(opened) == ["emoji"]
    opened.execute_script("document.querySelectorAll('mark small').forEach((one) => one.remove())")
    assert texts(opened, ".side div") == [EMOJI, EMOJI]
    assert texts(opened, ".side:first-child mark") == ["Gunmen", "killed", "twelve"]
    assert texts(opened, ".side:last-child mark") == ["Gunmen", "killed", "police"]
    assert texts(opened, ".side:first-child mark.wrong") == ["Gunmen", "twelve"]
    assert texts(opened, ".errors li") == ["wrong label: ACTOR “Gunmen”", "missed: COUNT “twelve”", "spurious: SOURCE “police”"]
    assert opened.find_element("css selector", ".side:last-child mark").get_attribute("title") == "SOURCE 0.750"


def test_the_browser_filters_by_label_kind_and_slice(opened: Chrome) -> None:
    assert len(ids(opened)) == 20 and "33 of 33 articles match, 20 shown." in texts(opened, "#status")
    opened.find_element("id", "more").click()
    assert len(ids(opened)) == 33 and not opened.find_element("id", "more").is_displayed()
    choose(opened, "kind", "too long")
    assert ids(opened) == [f"hostile {ATTACK}"]
    choose(opened, "kind", "")
    choose(opened, "label", "COUNT")
    assert ids(opened) == ["emoji"]
    choose(opened, "label", "")
    choose(opened, "slice", "genre")
    choose(opened, "value", "=radio")
    assert ids(opened) == ["emoji"]
    choose(opened, "value", f"={ATTACK}")
    assert ids(opened) == [f"hostile {ATTACK}"]
    choose(opened, "slice", "annotated spans")
    choose(opened, "value", "=0")
    assert len(ids(opened)) == 20 and "30 of 33 articles match, 20 shown." in texts(opened, "#status")


def test_a_count_of_errors_leads_to_its_articles(opened: Chrome) -> None:
    opened.find_element("css selector", "button.kind[data-kind='missed'][data-label='COUNT']").click()
    assert ids(opened) == ["emoji"]
    assert texts(opened, ".errors li") == ["missed: COUNT “twelve”"]


def test_tables_sort_by_every_column_and_keep_their_totals(opened: Chrome) -> None:
    table = "#summary table"
    names = f"{table} tbody td:first-child"
    assert texts(opened, names) == ["ACTOR", "COUNT", "CASUALTY_TYPE", "SOURCE", "micro", "macro"]
    headers: list[Any] = opened.find_elements("css selector", f"{table} th button")
    assert [header.text.strip() for header in headers][:4] == ["label", "precision", "recall", "F1"]
    headers[3].click()
    assert texts(opened, names) == ["CASUALTY_TYPE", "ACTOR", "COUNT", "SOURCE", "micro", "macro"]
    headers[3].click()
    assert texts(opened, names)[3] == "CASUALTY_TYPE"
    headers[0].click()
    assert texts(opened, names)[0] == "SOURCE"
    sorted_by = opened.execute_script(f"return [...document.querySelectorAll('{table} th')].map((one) => one.ariaSort)")
    assert sorted_by[0] == "descending" and set(sorted_by[1:]) == {None}
