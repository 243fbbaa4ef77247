"""Several training parquets, in given proportions -> one training parquet.

    python examples/data_preprocess/mix.py --sources data/numina_cot/train.parquet=3 data/gsm8k/train.parquet=1 \\
        --rows 40000 --out data/mix/train.parquet

A weight is a source's share of the rows: here 30,000 and 10,000. Rows are drawn without replacement, with a seed, and
no source is repeated to fill its share; without ``--rows`` the mixture is as large as that allows. The sources are
interleaved at random, each in its own order. Columns that a source lacks are null. Filters apply to the mixture, so
duplicates and lengths are judged across the sources; what they drop is not replaced.
"""

import argparse
import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from filters import add_filter_options, build_filters
from preprocess import (
    Counts,
    Selection,
    add_check_option,
    check_free,
    checked,
    explanations,
    filtered,
    run,
    write_with_report,
)
from rows import training_schema
from sources import Row, Source, open_source
from tqdm import tqdm

REQUIRED = training_schema(pa.schema([]))[0].names


def parse_sources(texts: Sequence[str]) -> dict[str, float]:
    """``["a.parquet=3", "b.parquet"]`` -> {"a.parquet": 3.0, "b.parquet": 1.0}."""
    weights: dict[str, float] = {}
    for text in texts:
        path, _, weight = text.rpartition("=") if "=" in text else (text, "", "1")
        try:
            value = float(weight)
        except ValueError:
            value = -1.0
        if not 0 < value < float("inf") or path in weights:
            raise ValueError(f"--sources {text}: expected FILE=WEIGHT with a weight above 0, and each file once")
        weights[path] = value
    return weights


def shares(sizes: Mapping[str, int], weights: Mapping[str, float], rows: int | None) -> dict[str, int]:
    """How many rows of each source: ``rows`` in proportion to ``weights`` (largest remainders are rounded up), or as
    many as there can be. ValueError if a source has fewer."""
    total = sum(weights.values())
    most = int(min(sizes[name] * total / weight for name, weight in weights.items()) + 1e-9)
    wanted = most if rows is None else rows
    exact = {name: wanted * weight / total for name, weight in weights.items()}
    counts = {name: int(share + 1e-9) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: wanted - sum(counts.values())]:
        counts[name] += 1
    for name, count in counts.items():
        if not 0 < count <= sizes[name]:
            raise ValueError(
                f"--rows {wanted} needs {count} of the {sizes[name]} rows of {name}; expected 1 row of each source "
                f"at least, and at these weights {most} rows in all at most"
            )
    return counts


def interleaved(streams: Mapping[str, Iterator[Row]], counts: Mapping[str, int], rng: random.Random) -> Iterator[Row]:
    """All rows of the streams; every interleaving is equally likely. One row of each stream in memory."""
    left = dict(counts)
    while total := sum(left.values()):
        place = rng.randrange(total)
        for name in left:
            if place < left[name]:
                left[name] -= 1
                yield next(streams[name])
                break
            place -= left[name]


def chosen_rows(source: Source, count: int, seed: int) -> Iterator[Row]:
    numbers = Selection(0, count, seed).row_numbers(source.num_rows)
    return (row for number, row in enumerate(source.rows()) if number in numbers)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", nargs="+", metavar="FILE=WEIGHT", help="training parquets and their weights")
    parser.add_argument("--rows", type=int, help="rows of the mixture (default: as many as the sources allow)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw and the order (default: 0)")
    parser.add_argument("--out", default="data/mix/train.parquet", help="file to write (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    add_filter_options(parser)
    add_check_option(parser)
    args = parser.parse_args(argv)
    if checked(args):
        return
    weights = parse_sources(args.sources or [])
    if len(weights) < 2:
        raise ValueError(f"--sources: expected two files or more, found {len(weights)}")
    if args.rows is not None and args.rows < 1:
        raise ValueError(f"--rows: expected at least 1, found {args.rows}")
    out = Path(args.out).expanduser()
    check_free(out, args.overwrite)
    for name in weights:
        if not name.endswith(".parquet") or not Path(name).is_file():
            raise ValueError(f"--sources {name}: expected a training parquet; prepare it with the script of its source")
    sources = {name: open_source(name, "train", REQUIRED) for name in weights}
    counts = shares({name: source.num_rows for name, source in sources.items()}, weights, args.rows)
    for name, count in counts.items():
        print(f"{name}: {count} of {sources[name].num_rows} rows ({count / sum(counts.values()):.1%})")
    schemas = [pq.read_schema(name).remove_metadata() for name in weights]
    try:
        schema = pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowException as error:
        raise ValueError(f"--sources: the files' columns do not fit together: {error}") from error
    write_mixture(sources, counts, args, schema, out)


def write_mixture(
    sources: Mapping[str, Source], counts: Mapping[str, int], args: argparse.Namespace, schema: pa.Schema, out: Path
) -> None:
    filters, result, kept = build_filters(args), Counts(), Counter[str]()
    streams = {name: chosen_rows(source, counts[name], args.seed) for name, source in sources.items()}

    def mixed() -> Iterator[Row]:
        order = random.Random(f"{args.seed} order")
        rows = interleaved(streams, counts, order)
        for row in tqdm(rows, desc="mixing", total=sum(counts.values()), unit=" rows", disable=None):
            result.rows_in += 1
            yield row

    def counted() -> Iterator[Row]:
        for row in filtered(mixed(), filters, result):
            kept[row["data_source"]] += 1
            yield row

    origin = {"sources": dict(counts), "seed": args.seed, "rows_out_by_data_source": kept}
    write_with_report(counted(), out, schema, result, filters, origin)
    print("\n".join([*result.lines(), *explanations(filters)]))
    print("rows out by data source: " + ", ".join(f"{count} {name}" for name, count in kept.most_common()))
    print(f"wrote {out}")


if __name__ == "__main__":
    sys.exit(run(main))
