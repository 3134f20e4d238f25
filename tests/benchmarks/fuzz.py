"""A reader against files that grow towards what it has not done yet: coverage-guided, by atheris.

Run by hand: pip install atheris && python tests/benchmarks/fuzz.py LAYOUT [-max_total_time=600 ..]

LAYOUT is one of tests/helpers/layouts.py; its files are the first inputs. The options are libFuzzer's. An
input is the number of a file in one byte, followed by that file's content. The first input that is neither
read correctly nor refused in one line ends the search, and is left as crash-* in the current directory.
"""

import sys
import tempfile
from pathlib import Path

import atheris  # pyright: ignore[reportMissingImports]: installed by hand

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

with atheris.instrument_imports(include=["jax_itm.data"], enable_loader_override=False):
    from tests.helpers.layouts import LAYOUTS, read_all, read_files
    from tests.helpers.mutate import allow_user_error


def main():
    if len(sys.argv) < 2 or sys.argv[1] not in LAYOUTS:
        sys.exit(f"name a layout: {', '.join(LAYOUTS)}")
    layout = LAYOUTS[sys.argv.pop(1)]
    with tempfile.TemporaryDirectory() as place:
        layout.write(Path(place) / "raw")
        valid = read_files(Path(place) / "raw")
        names, seeds = sorted(valid), Path(place) / "seeds"
        seeds.mkdir()
        for k, name in enumerate(names):
            (seeds / str(k)).write_bytes(bytes([k]) + valid[name])

        def once(data: bytes) -> None:
            name = names[data[0] % len(names)] if data else names[0]
            with tempfile.TemporaryDirectory() as copy:
                folder = layout.build(Path(copy), valid | {name: data[1:]})
                allow_user_error(lambda: read_all(layout.read(folder)))

        # All valid files take the same way through a reader: else all but the shortest would be dropped.
        atheris.Setup([sys.argv[0], "-keep_seed=1", "-len_control=0", *sys.argv[1:], str(seeds)], once)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
