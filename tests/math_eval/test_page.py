"""The page of samples, in a real browser where there is one."""

import html
import re
import shutil
import subprocess

import pytest
from made_runs import store_evaluation

from verl.math_eval.page import write_page

HOSTILE = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
TEXTS = {
    "sums": [["1", "2"], [HOSTILE, "</script><b>bold</b> @INDEX@ \ud800 \u2028 &amp;"], ["1", "1"]],
    "long": [[str(i % 3)] for i in range(450)],
}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    evaluation = store_evaluation(folder, "a <b>label</b> @CHUNKS@ </script>", TEXTS)
    write_page(folder / "samples.html", evaluation)
    return folder / "samples.html"


@pytest.fixture(scope="module")
def show(page, tmp_path_factory):
    """show("#...") -> the document after the page's script ran, as markup."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium found: apt-get install chromium")

    def run(address: str = "") -> str:
        profile = tmp_path_factory.mktemp("profile")
        done = subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             f"--user-data-dir={profile}", "--virtual-time-budget=20000", "--dump-dom", page.as_uri() + address],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert "<article" in done.stdout or "No such samples" in done.stdout, done.stderr[-2000:]
        return done.stdout.split('<script type="application/json"')[0]

    return run


def texts(document):
    return [html.unescape(t) for t in re.findall(r'<pre class="text">(.*?)</pre>', document, re.DOTALL)]


def test_no_text_of_a_model_stands_in_the_file_as_it_is(page):
    written = page.read_text(encoding="utf-8")
    assert "'taken'" not in written and "bold" not in written
    assert written.count("<script") == written.count("</script>") == 6  # index, 3 chunks of "long", 1 of "sums", script


def test_the_page_needs_nothing_from_outside(page):
    written = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in written
    assert not re.search(r"""(src|href)\s*=|https?://|@import|url\(""", written)


def test_samples_are_shown_as_text_with_their_grades(show):
    document = show("#benchmark=sums")
    assert texts(document)[:3] == ["1", "2", HOSTILE]
    assert "</script><b>bold</b> @INDEX@ ? " in texts(document)[3]
    assert "<title>Samples of a &lt;b&gt;label&lt;/b&gt; @CHUNKS@ &lt;/script&gt;</title>" in document
    assert document.count('<article class="right">') == 3 and document.count('<article class="wrong">') == 3
    assert "6 of 456 samples, page 1 of 1" in document


def test_filters_and_pages_show_what_they_say(show):
    wrong = show("#benchmark=long&show=wrong&page=2")
    assert "300 of 456 samples, page 2 of 15" in wrong
    assert texts(wrong) == [str(i % 3) for i in range(450) if i % 3 != 1][20:40]
    one = show("#benchmark=long&problem=442")
    assert "1 of 456 samples" in one and "long/442" in one
    assert "No such samples." in show("#show=truncated")
