"""The eco-regions of the world: where they lie, what grows there, how it looks.

Three stand for the Brazilian biomes of the same names. They are not the merged eco-regions EC1-EC3
of arXiv 2406.19888, whose names and extents are not published. The fourth is crop country of the
central United States.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["REGIONS", "Region"]


@dataclass(frozen=True)
class Region:
    """Parameters of one eco-region (lengths in m, biomass in Mg/ha, reflectance in counts)."""

    description: str
    # place: UTM zone, north-west corner of the lattice of scenes, its columns and rows
    epsg: int
    left: int
    top: int
    slots: tuple[int, int]
    # ground
    relief: float  # standard deviation of elevation
    relief_scale: float
    upland: float  # mean elevation
    stream_area: float  # km2 drained by the smallest stream
    river_area: tuple[float, float]  # km2 upstream of the scene, range (log-uniform)
    floodplain: float  # height above drainage of the floodplain's edge
    # land use
    road_spacing: float
    parcel: float  # mean parcel area, m2
    crooked: float  # how far parcel edges stray from a straight line
    cleared: float  # tendency to be cleared (0 is half of the land)
    uses: Mapping[str, float]  # shares of the cleared land
    # biomass
    forest: tuple[float, float]  # mean and standard deviation of old forest
    savanna: tuple[float, float]
    regrowth: float  # what regrowth reaches after a century
    shot_error: float  # GEDI L4A residual, square root of Mg/ha
    # how biomass shows
    leaf: tuple[float, ...]  # sunlit tree crowns
    bark: tuple[float, ...]  # the same without leaves
    grass: tuple[float, ...]
    soils: tuple[tuple[float, ...], tuple[float, ...]]
    closure: float  # biomass at which 63 % of the ground is under crowns
    shade: tuple[float, float]  # crown shade: what it reaches, and at which biomass 63 % of it
    rough: float  # canopy roughness: spread of shade at high biomass
    # seasons: day of year of the greenest state, least greenness of grass and of trees
    green_day: int
    dry_grass: float
    dry_leaf: float
    # clouds: mean cover in the wettest and driest part of the year, and the day of the wettest
    cloud: tuple[float, float]
    cloud_day: int
    cloud_kinds: Mapping[str, float] = field(default_factory=dict)
    # where the land was surveyed into squares: side of a quarter section (0: parcels by halving),
    # and mean shares of the crops on its cropland (empty: the cropland of `spectra.CALENDARS`)
    quarter: float = 0.0
    crops: Mapping[str, float] = field(default_factory=dict)


REGIONS: Mapping[str, Region] = MappingProxyType(
    {
        "amazonia": Region(
            description="Rain forest of southern Para with cattle frontier: roads, pasture, "
            "regrowth, floodplains; evergreen, dark closed canopy; two fifths cloudy",
            epsg=32721, left=249_990, top=9_550_020, slots=(32, 43),
            relief=20, relief_scale=1_100, upland=180, stream_area=3.0, river_area=(30, 20_000),
            floodplain=6.0,
            road_spacing=4_800, parcel=280_000, crooked=25, cleared=-0.75,
            uses={"pasture": 0.66, "secondary_forest": 0.22, "cropland": 0.07, "bare": 0.05},
            forest=(265, 62), savanna=(45, 20), regrowth=180, shot_error=1.9,
            leaf=(250, 530, 280, 4300, 2080, 830), bark=(520, 720, 850, 2300, 2500, 1500),
            grass=(400, 800, 530, 3500, 2600, 1380),
            soils=((650, 980, 1650, 2500, 3350, 2750), (850, 1250, 1700, 2500, 3000, 2500)),
            closure=42, shade=(0.50, 85), rough=0.068,
            green_day=80, dry_grass=0.42, dry_leaf=0.93,
            cloud=(0.72, 0.25), cloud_day=45,
            cloud_kinds={"cumulus": 0.55, "deck": 0.30, "cirrus": 0.15},
        ),
        "cerrado": Region(
            description="Savanna of the central plateau: woodland, scrub and grass over red "
            "latosols, gallery forest along streams, soy on the flats; strong dry season",
            epsg=32723, left=229_980, top=9_004_590, slots=(32, 56),
            relief=55, relief_scale=2_600, upland=720, stream_area=4.0, river_area=(20, 2_000),
            floodplain=4.0,
            road_spacing=6_500, parcel=700_000, crooked=12, cleared=-0.25,
            uses={"cropland": 0.55, "pasture": 0.33, "plantation": 0.06, "bare": 0.06},
            forest=(118, 36), savanna=(38, 22), regrowth=80, shot_error=1.2,
            leaf=(330, 600, 480, 3350, 2150, 1050), bark=(650, 900, 1200, 2150, 2700, 1800),
            grass=(420, 760, 540, 3000, 2600, 1480),
            soils=((420, 680, 1420, 2000, 2700, 2450), (800, 1180, 1850, 2650, 3550, 2950)),
            closure=48, shade=(0.34, 55), rough=0.085,
            green_day=50, dry_grass=0.05, dry_leaf=0.55,
            cloud=(0.62, 0.07), cloud_day=355,
            cloud_kinds={"cumulus": 0.60, "deck": 0.18, "cirrus": 0.22},
        ),
        "mata_atlantica": Region(
            description="Atlantic forest of the south-east: remnants and regrowth on steep "
            "hills among pasture, cane, coffee and eucalypt; semi-deciduous, shaded slopes",
            epsg=32723, left=289_980, top=7_840_020, slots=(31, 22),
            relief=85, relief_scale=900, upland=650, stream_area=1.5, river_area=(10, 3_000),
            floodplain=5.0,
            road_spacing=3_600, parcel=140_000, crooked=80, cleared=0.75,
            uses={"pasture": 0.52, "cropland": 0.20, "plantation": 0.17, "secondary_forest": 0.11},
            forest=(165, 55), savanna=(40, 18), regrowth=150, shot_error=1.5,
            leaf=(290, 620, 370, 3800, 1750, 720), bark=(560, 760, 950, 2250, 2450, 1500),
            grass=(400, 830, 560, 3400, 2450, 1280),
            soils=((700, 1050, 1750, 2500, 3300, 2850), (800, 1200, 1950, 2800, 3500, 2900)),
            closure=60, shade=(0.40, 120), rough=0.10,
            green_day=50, dry_grass=0.22, dry_leaf=0.76,
            cloud=(0.60, 0.28), cloud_day=15,
            cloud_kinds={"cumulus": 0.38, "deck": 0.42, "cirrus": 0.20},
        ),
        "great_plains": Region(
            description="Crop country of the central Great Plains: quarter sections and pivots of "
            "maize, wheat, soybeans and sorghum, prairie, woods along rivers; cold winters",
            epsg=32614, left=349_980, top=4_480_020, slots=(24, 34),
            relief=16, relief_scale=2_400, upland=520, stream_area=5.0, river_area=(30, 8_000),
            floodplain=4.0,
            road_spacing=1_609, parcel=648_000, crooked=0, cleared=0.75,
            uses={"cropland": 0.76, "pasture": 0.20, "bare": 0.04},
            forest=(95, 32), savanna=(30, 14), regrowth=80, shot_error=1.2,
            leaf=(300, 640, 380, 3900, 1900, 800), bark=(620, 820, 1050, 2100, 2600, 1700),
            grass=(430, 790, 560, 3150, 2450, 1350),
            soils=((640, 900, 1150, 1750, 2500, 2100), (850, 1200, 1600, 2300, 3100, 2700)),
            closure=38, shade=(0.38, 70), rough=0.085,
            green_day=195, dry_grass=0.06, dry_leaf=0.05,
            cloud=(0.48, 0.30), cloud_day=125,
            cloud_kinds={"cumulus": 0.45, "deck": 0.30, "cirrus": 0.25},
            quarter=804.7,
            crops={
                "corn": 0.22, "soybeans": 0.17, "winter_wheat": 0.23, "alfalfa": 0.08,
                "fallow_idle": 0.08, "cotton": 0.08, "sorghum": 0.09, "other": 0.05,
            },
        ),
    }
)  # fmt: skip
