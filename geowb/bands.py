"""Sensors, band names and published statistics.

Reflectance is held as in the HLS archive: surface reflectance x 10,000
("counts"). Band names follow TerraTorch's ``HLSBands``.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["HLS6", "SENSOR_BANDS", "STATISTICS", "BandStatistics"]

#: The six bands that HLS Landsat and HLS Sentinel-2 share, in Prithvi's order.
HLS6: tuple[str, ...] = ("BLUE", "GREEN", "RED", "NIR_NARROW", "SWIR_1", "SWIR_2")

#: Which file band of each HLS product (and Sentinel-2) is which of the six.
SENSOR_BANDS = MappingProxyType(
    {
        "HLSL30": ("B02", "B03", "B04", "B05", "B06", "B07"),
        "HLSS30": ("B02", "B03", "B04", "B8A", "B11", "B12"),
        "S2": ("B2", "B3", "B4", "B8A", "B11", "B12"),
    }
)


@dataclass(frozen=True)
class BandStatistics:
    """Mean and standard deviation of the six HLS bands, in counts.

    >>> STATISTICS["granite_agb"].mean[0]
    547.36707
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str


#: Published statistics, by the name of the model or data set that they come from.
STATISTICS = MappingProxyType(
    {
        "granite_agb": BandStatistics(
            mean=(547.36707, 898.5121, 1020.9082, 2665.5352, 2340.584, 1610.1407),
            std=(411.4701, 558.54065, 815.94025, 812.4403, 1113.7145, 1067.641),
            source="ibm-granite/granite-geospatial-biomass, configs/config.yaml",
        ),
        "prithvi_eo_v1": BandStatistics(
            mean=(775.2290, 1080.9928, 1228.5856, 2497.2023, 2204.2139, 1610.8325),
            std=(1281.5261, 1270.0298, 1399.4803, 1368.3446, 1291.6764, 1154.5057),
            source="Prithvi_100M_config.yaml, data_mean and data_std",
        ),
        "prithvi_eo_v2": BandStatistics(
            mean=(1087.0, 1342.0, 1433.0, 2734.0, 1958.0, 1363.0),
            std=(2248.0, 2179.0, 2178.0, 1850.0, 1242.0, 1049.0),
            source="TerraTorch, docs/guide/prithvi_eo.md",
        ),
    }
)
