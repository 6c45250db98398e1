#!/usr/bin/env python3
"""Draws the samples of a proof: plots.py SAMPLES.csv DIRECTORY. Prints the name of each picture that it wrote.

Time runs in minutes; phases stand above the picture. What did not answer is a gap. Counters began anew with their process,
so what is drawn of them is how much they grew over all lives.
"""

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

SINKS = ("postgres", "git")
GAP = float("nan")


def number(text):
    return float(text) if text else GAP


def grown(values):
    """Returns how much a counter has grown so far; one that fell began anew."""
    total, before, so_far = 0.0, None, []
    for value in values:
        if value != value:
            so_far.append(GAP)
            continue
        if before is not None:
            total += value if value < before else value - before
        before = value
        so_far.append(total)
    return so_far


def pictures(column):
    """Returns for each picture: its file, the label of its axis, and the lines by their names."""
    mebibytes = {"resident": column("rss_mib")}
    allocated = [value / 2**20 for value in column("allocated_bytes")]
    if any(value == value for value in allocated):
        mebibytes["allocated"] = allocated

    def of_sink(sink, what, parts):
        return {f"{what} {part}": column(f"{sink}_{what}_{part}") for part in parts}

    return [
        ("rss", "memory, MiB", mebibytes),
        ("cpu", "CPU, s", {"CPU": grown(column("cpu_seconds"))}),
        ("rows", "rows in the store", {"rows": column("rows")}),
        # A picture for each sink: their intervals are far apart.
        *[(f"lag-{sink}", f"lag of {sink}, s", of_sink(sink, "lag", ("p99", "max"))) for sink in SINKS],
        *[(f"export-{sink}", f"exports to {sink}, s", of_sink(sink, "export", ("p50", "p95", "p99"))) for sink in SINKS],
        ("api", "API requests", {"requests": grown(column("api_requests"))}),
        ("wal", "WAL, MiB", {"WAL": [value / 2**20 for value in grown(column("wal_bytes"))]}),
        ("written", "rows written", {"rows": grown(column("rows_written"))}),
        ("commits", "commits", {"commits": column("commits")}),
    ]


def draw(path, label, lines, minutes, phases):
    figure, axes = pyplot.subplots(figsize=(10, 3.2), dpi=100)
    for name, values in lines.items():
        scattered = "export" in name
        axes.plot(minutes, values, "." if scattered else "-", markersize=4, linewidth=1, label=name)
    for begin, phase in phases:
        axes.axvline(begin, color="0.8", linewidth=0.8, zorder=0)
        axes.annotate(phase, (begin, 1.01), xycoords=("data", "axes fraction"), fontsize=6, rotation=30)
    axes.set_xlabel("minutes")
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7, loc="best")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: plots.py SAMPLES.csv DIRECTORY")
    with open(sys.argv[1], newline="", encoding="utf-8") as table:
        samples = list(csv.DictReader(table))
    if not samples:
        sys.exit(f"{sys.argv[1]} holds no samples")
    minutes = [float(sample["seconds"]) / 60 for sample in samples]
    phases, last = [], None
    for minute, sample in zip(minutes, samples):
        if sample["phase"] != last:
            last = sample["phase"]
            phases.append((minute, last))

    def column(name):
        return [number(sample[name]) for sample in samples]

    for name, label, lines in pictures(column):
        file = f"{name}.png"
        draw(Path(sys.argv[2]) / file, label, lines, minutes, phases)
        print(file)


if __name__ == "__main__":
    main()
