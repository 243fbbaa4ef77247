"""study.json -> tables and plots; or the tables and plots of a page that has words around them.

python examples/study/report.py --results outputs/study/study.json                      # tables.md and PNGs beside it
python examples/study/report.py --results benchmarks/results/study.json --page docs/study.md
"""

import argparse
import re
from pathlib import Path

from pictures import PICTURES
from results import Results
from tables import TABLES

MARKED = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(page: str, results: Results) -> str:
    """``page`` with the text between ``<!-- table NAME -->`` and ``<!-- end -->`` made anew. Raises ValueError for a
    name that is no table."""

    def made(found: re.Match[str]) -> str:
        if found[2] not in TABLES:
            raise ValueError(f"expected a table out of {', '.join(TABLES)}; found {found[2]}")
        return f"{found[1]}{TABLES[found[2]](results)}\n{found[3]}"

    return MARKED.sub(made, page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--page", type=Path, help="Markdown whose marked tables and study_*.png are replaced")
    options = parser.parse_args()
    results = Results.read(options.results)
    if options.page:
        page, text = options.page, with_tables(options.page.read_text(encoding="utf-8"), results)
    else:
        parts = [f"## {name}\n\n{make(results)}\n" for name, make in TABLES.items()]
        parts += [f"![{name}](study_{name}.png)\n" for name in PICTURES]
        page, text = options.results.with_name("tables.md"), f"# {results.planned_cells} models\n\n" + "\n".join(parts)
    page.write_text(text, encoding="utf-8")
    for name, draw in PICTURES.items():
        draw(results, page.with_name(f"study_{name}.png"))
    print(f"{text if not options.page else ''}\nwrote {page} and {len(PICTURES)} plots beside it")


if __name__ == "__main__":
    main()
