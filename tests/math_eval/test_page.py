"""The page of samples, in a real browser where there is one."""

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from made_runs import store_evaluation

from verl.math_eval import page as page_module
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
    write_page(folder / "samples.html", [evaluation])
    return folder / "samples.html"


@pytest.fixture(scope="module")
def show(page, tmp_path_factory):
    """show("#...") -> the document after the page's script ran, as markup."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium found: apt-get install chromium")

    def run(address: str = "", file: Path = page) -> str:
        profile = tmp_path_factory.mktemp("profile")
        done = subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             f"--user-data-dir={profile}", "--virtual-time-budget=20000", "--dump-dom", file.as_uri() + address],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert "<article" in done.stdout or "No such samples" in done.stdout, done.stderr[-2000:]
        return done.stdout.split('<script type="application/json"')[0]

    return run


def texts(document):
    return [html.unescape(t) for t in re.findall(r'<pre class="text">(.*?)</pre>', document, re.DOTALL)]


def test_no_text_of_a_model_stands_in_the_file_as_it_is(page):
    written = page.read_text(encoding="utf-8")
    assert "'taken'" not in written and "<b>bold" not in written
    assert written.count("<script") == written.count("</script>") == 7  # index, 4 chunks, KaTeX, script


def test_the_page_needs_nothing_from_outside(page):
    written = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in written
    bundled = (Path(page_module.__file__).parent / "katex.min.js").read_text(encoding="utf-8")
    assert bundled in written
    written = written.replace(bundled, "")
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


FORMULAS = "We pay $5 and $7. So $x^2+\\frac{1}{2}$ and \\[\\sqrt{2}\\] but $\\nonsense{$ stays; \\(<b>\\)"


def test_formulas_become_mathml_money_and_nonsense_stay_text(show, tmp_path):
    page_of = tmp_path / "samples.html"
    write_page(page_of, [store_evaluation(tmp_path / "run", "m", {"sums": [[FORMULAS]]})])
    document = show("", page_of)
    assert document.count("<math") == 3 and "<mfrac>" in document and "<msqrt>" in document
    assert "We pay $5 and $7. So " in document and "nonsense" in document


def test_a_search_finds_texts_of_models_and_marks_them(show, tmp_path):
    page_of = tmp_path / "samples.html"
    answers = {"sums": [["a needle here", "hay"], ["hay", "NEEDLE"]]}
    write_page(page_of, [store_evaluation(tmp_path / "run", "m", answers)])
    document = show("#search=needle", page_of)
    assert "2 of 4 samples" in document and document.count("<mark") == 2


def test_models_stand_side_by_side(show, tmp_path):
    page_of = tmp_path / "comparison.html"
    a = store_evaluation(tmp_path / "a", "sft", {"sums": [["2", "2"], ["1", "1"], ["1", "1"]]})
    b = store_evaluation(tmp_path / "b", "dft", {"sums": [["1", "1"], ["2", "1"], ["2", "2"]]})
    write_page(page_of, [a, b])
    document = show("", page_of)
    assert "3 of 3 problems" in document and document.count("<h2") == 6
    assert "1 of 3 problems" in show("#show=gained", page_of)
    lost = show("#show=lost", page_of)
    assert "1 of 3 problems" in lost and "sums/2" in lost and "sft: 100 % right" in lost and "dft: 0 % right" in lost
