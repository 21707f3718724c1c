"""Seconds to simulate one scene of 512 x 512 pixels, 6 bands and 3 dates on one core."""

from __future__ import annotations

import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")


def main() -> None:
    """Print the best and the median of five runs a region (about 1 s is the aim)."""
    from geowb.world import REGIONS, VERSION, scene

    scene(size=64, dates=1)  # imports and first calls
    for region in REGIONS:
        wall, cpu = [], []
        for _ in range(5):
            began, used = time.perf_counter(), time.process_time()
            scene(region, seed=1, size=512, dates=3)
            wall.append(time.perf_counter() - began)
            cpu.append(time.process_time() - used)
        print(
            f"world {VERSION} {region}: 512 x 512 x 6 x 3 in {min(wall):.2f} s "
            f"(median {sorted(wall)[2]:.2f} s, processor time {min(cpu):.2f} s)"
        )


if __name__ == "__main__":
    main()
