"""The embedded data: a simulated HLS world (numpy and scipy only).

>>> import geowb
>>> ds = geowb.world.scene("amazonia", seed=3, size=64)
"""

from geowb.world.masks import cloud_masks
from geowb.world.regions import REGIONS, Region
from geowb.world.scene import VERSION, place, scene

__all__ = ["REGIONS", "VERSION", "Region", "cloud_masks", "place", "scene"]
