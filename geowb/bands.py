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
        # What follows was published with fine-tuning data, in the order of HLS6. Crops and cloud
        # gaps have three dates, which share the six values.
        "sen1floods11": BandStatistics(
            mean=(1424.5495, 1392.1481, 1243.4631, 3142.0089, 2074.3526, 1204.6503),
            std=(403.62312, 418.69834, 526.76464, 822.221, 683.4774, 529.42054),
            source="NASA-IMPACT/hls-foundation-os, configs/sen1floods11_config.py, img_norm_cfg "
            "(reflectance; x 10,000 here)",
        ),
        "burn_scars": BandStatistics(
            mean=(333.49707, 570.11855, 588.97481, 2323.24511, 1972.85485, 1194.49142),
            std=(226.91356, 268.07560, 400.41098, 779.17324, 870.87388, 724.19795),
            source="NASA-IMPACT/hls-foundation-os, configs/burn_scars.py, img_norm_cfg "
            "(reflectance; x 10,000 here)",
        ),
        "crops": BandStatistics(
            mean=(494.905781, 815.239594, 924.335066, 2968.881459, 2634.621962, 1739.579917),
            std=(284.925432, 357.84876, 575.566823, 896.601013, 951.900334, 921.407808),
            source="NASA-IMPACT/hls-foundation-os, configs/multi_temporal_crop_classification.py, "
            "img_norm_cfg",
        ),
        "cloud_gaps": BandStatistics(
            mean=(495.7316, 814.1386, 924.5740, 2962.5623, 2640.8833, 1740.3031),
            std=(286.9569, 359.3304, 576.3471, 892.2656, 945.9432, 916.1625),
            source="ClarkCGA/gfm-gap-filling, pretraining/mae_training.py, CombinedDataset",
        ),
    }
)
