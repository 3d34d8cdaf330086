"""Plot time and memory of a single cross-attend over the size of square images: two log-log panels.

    python benchmarks/plot.py [--sides 32 64 128 256 512 1024] [--out benchmarks/scaling.png] [--json FILE]
    python benchmarks/plot.py --from FILE                       # draw an earlier measurement again

The dense reference (see `attention.py`), SDPA with absorbed projections, and the native factored form, on
images of three channels with 64 Fourier bands per axis, 128 latents, batch 1: forward and backward. A form stops at the side
whose time or memory, extrapolated by pixels from the side before, would exceed `--most-seconds` or `--most-megabytes`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib as mpl
import torch
from attention import Case, measure, missing, peak_megabytes
from matplotlib.figure import Figure
from measure import announce, machine, write_json

FORMS = {
    "dense": ("dense (concatenate, project, SDPA)", "#c0392b", "o"),
    "absorbed": ("SDPA, absorbed projections", "#e08e0b", "s"),
    "native": ("factored, native", "#117a65", "D"),
}
"""Label, colour and marker of each form, distinguishable without colours."""


@dataclass
class Point:
    """Forward and backward of a form on a square image."""

    form: str
    side: int
    seconds: float
    megabytes: float


def measure_sides(
    sides: Sequence[int], names: Sequence[str], *, seconds: float, threads: int, most_seconds: float, most_megabytes: float
) -> list[Point]:
    """Measure all forms on all sides, smallest first; a form that becomes too large drops out."""
    points: list[Point] = []
    last: dict[str, Point] = {}
    for side in sorted(sides):
        going = []
        for name in names:
            before = last.get(name)
            growth = 1.0 if before is None else (side / before.side) ** 2
            if before is None or (before.seconds * growth <= most_seconds and before.megabytes * growth <= most_megabytes):
                going.append(name)
            else:
                print(f"{side:5} {name:9} left out: it would take {before.seconds * growth:.0f} s, "
                      f"{before.megabytes * growth:.0f} MB, extrapolated from {before.side} px")  # fmt: skip
        if not going:
            break
        case = Case(f"image {side}x{side}x3", (side, side), 3, 64)
        for result in measure(case, going, seconds=seconds, repetitions=15):
            megabytes = peak_megabytes(case, result.form, threads)
            point = Point(form=result.form, side=side, seconds=result.training, megabytes=megabytes)
            print(f"{side:5} {point.form:9} {point.seconds * 1e3:10.2f} ms {point.megabytes:9.1f} MB", flush=True)
            points.append(point)
            last[point.form] = point
    return points


def draw(points: Sequence[Point], facts: dict[str, object], path: Path) -> None:
    """Draw two panels: time and memory over the number of input elements."""
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 3.8), dpi=200, layout="constrained")
        panels = figure.subplots(1, 2)
        for panel, title, of in (
            (panels[0], "forward + backward, milliseconds", lambda point: point.seconds * 1e3),
            # Unmeasurably small memory lies on the axis.
            (panels[1], "memory added at the peak, MB", lambda point: max(point.megabytes, 0.1)),
        ):
            for name, (label, colour, marker) in FORMS.items():
                chosen = [point for point in points if point.form == name]
                if chosen:
                    panel.plot(
                        [point.side**2 for point in chosen],
                        [of(point) for point in chosen],
                        color=colour,
                        marker=marker,
                        markersize=4,
                        linewidth=1.5,
                        label=label,
                    )
            sides = sorted({point.side for point in points})
            panel.set(xscale="log", yscale="log", xlabel="image, pixels", title=title)
            panel.set_xticks([side**2 for side in sides], [f"{side}×{side}" for side in sides], rotation=30)
            panel.minorticks_off()
            panel.grid(alpha=0.25, linewidth=0.6)
        panels[0].legend(frameon=False, fontsize=8)
        figure.suptitle(
            f"One cross-attend, 128 latents, 64 Fourier bands per axis, batch 1, {facts['precision']}; "
            f"{facts['cpu']}, {facts['threads']} thread{'' if facts['threads'] == 1 else 's'}",
            fontsize=9,
        )
        figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure or read, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 64, 128, 256, 512, 1024])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--seconds", type=float, default=10, help="approximate time per side; at least three repetitions")
    parser.add_argument("--most-seconds", type=float, default=30, help="a form whose training would take longer stops")
    parser.add_argument("--most-megabytes", type=float, default=8000, help="likewise for memory")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("scaling.png"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--from", dest="source", type=Path, help="JSON of an earlier run")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.source:
        read = json.loads(options.source.read_text())
        facts, points = read["machine"], [Point(**point) for point in read["results"]]
    else:
        facts = machine()
        announce(facts)
        names = []
        for name in FORMS:
            if name in options.forms and missing(name):
                print(f"{name}: left out, {missing(name)}")
            elif name in options.forms:
                names.append(name)
        points = measure_sides(
            options.sides,
            names,
            seconds=options.seconds,
            threads=options.threads,
            most_seconds=options.most_seconds,
            most_megabytes=options.most_megabytes,
        )
    if options.json:
        write_json(options.json, facts, [asdict(point) for point in points])
    draw(points, facts, options.out)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
