"""Floods, fires, crops and cloud masks: labels, physics, and what must not change."""

import datetime as dt

import numpy as np
import pytest
from scipy import ndimage

from geowb.errors import RequestError
from geowb.world import REGIONS, cloud_masks, clouds, fields, fires, floods, land, scene, spectra
from geowb.world.crops import CALENDAR, CROPS, Crops, sow
from geowb.world.land import CODE
from geowb.world.terrain import make_terrain

regions = pytest.mark.parametrize("region", REGIONS)
OLD = ("amazonia", "cerrado", "mata_atlantica")


def ground(region, seed=3, size=192):
    what, streams, grid = REGIONS[region], fields.Streams(seed, region), fields.Grid(size)
    made = land.make_land(streams, grid, what, make_terrain(streams, grid, what))
    return what, streams, grid, sow(streams, what, made) if what.crops else made


def ratio(counts, one, other):
    return (counts[one] - counts[other]) / (counts[one] + counts[other])


# --- floods


@pytest.fixture(scope="module")
def flooded():
    how = {"seed": 6, "size": 160, "dates": 2, "start": "2022-11-20"}
    return {r: (scene(r, flood=True, **how), scene(r, **how)) for r in REGIONS}


@regions
def test_flood_labels(flooded, region):
    wet, dry = flooded[region]
    assert "flood" not in dry
    assert wet.flood.dims == ("y", "x")
    assert wet.flood.dtype == np.int16
    assert set(np.unique(wet.flood)) <= {-1, 0, 1}
    assert wet.flood.attrs["flag_values"].tolist() == [0, 1]
    assert wet.flood.attrs["flag_meanings"] == "dry water"
    assert wet.flood.attrs["date"] == str(wet.time.values[-1])[:10]
    river = (wet.landcover.values == CODE["water"]) & (wet.flood.values >= 0)
    assert (wet.flood.values[river] == 1).all()
    assert (wet.flood.values == 1).mean() > 1.3 * (wet.landcover.values == CODE["water"]).mean()


@regions
def test_earlier_dates_are_as_without_the_flood(flooded, region):
    wet, dry = flooded[region]
    assert np.array_equal(wet.reflectance[0], dry.reflectance[0])
    assert np.array_equal(wet.fmask[0], dry.fmask[0])
    changed = (wet.reflectance[1].values != dry.reflectance[1].values).any(0)
    water = wet.flood.values == 1
    new = water & (wet.landcover.values != CODE["water"])
    assert changed[new].mean() > 0.99
    swir = wet.reflectance.sel(band="SWIR_1").values[1]
    assert swir[new].mean() < 0.6 * dry.reflectance.sel(band="SWIR_1").values[1][new].mean()
    for name in ("landcover", "agb", "agb_dense", "elevation"):
        assert np.array_equal(wet[name], dry[name], equal_nan=True)
    open_water = (wet.fmask.values[1] >> clouds.FMASK_BITS["water"]) & 1 == 1
    assert open_water[new].mean() > 0.25  # Fmask sees no water below crowns and grass
    assert open_water[new].mean() > 10 * open_water[~water & (wet.flood.values == 0)].mean()


@regions
def test_water_stands_below_the_level_or_in_hollows(region):
    what, streams, grid, made = ground(region)
    flood = floods.make_flood(streams, grid, what, made)
    above = grid.crop(made.terrain.above_stream)
    risen = (flood.depth > 0.2) & ~flood.pond & (made.water < 0.05)
    assert risen.mean() > 0.005
    assert (above[risen] <= flood.stage[risen] - flood.depth[risen] + 1e-9).all()
    assert (flood.stage >= 0).all()
    assert np.hypot(*made.slope)[flood.pond].max(initial=0.0) < 0.04
    deep, shallow = (np.array([[d]]) for d in (3.0, 0.05))
    one = np.ones((1, 1))
    both = [floods.Flood(one, d, one, one > 1, 0 * one, 0.5 * one, one, 9 * one)
            for d in (shallow, deep)]  # fmt: skip
    nir = [f.cover_ground(np.full((6, 1, 1), 3000.0), 0 * one, 0 * one)[3, 0, 0] for f in both]
    assert nir[1] < 0.5 * nir[0] < 1500
    assert both[0].seen(0 * one, one) < both[1].seen(
        0 * one, one
    )  # grass sticks out of the shallow
    assert both[1].seen(one, one) < 0.2 < both[1].seen(0 * one, one)  # crowns stay above


def test_floods_are_of_every_size():
    how = {"size": 128, "dates": 1, "clouds": False, "flood": True}
    share = [float((scene("cerrado", seed=s, **how).flood == 1).mean()) for s in range(12)]
    assert 0.03 < np.median(share) < 0.25
    assert max(share) > 2 * min(share)


def test_cloud_hides_the_label():
    ds = scene("amazonia", seed=8, size=160, dates=1, max_cloud=1.0, start="2023-01-20",
               flood=True, fire=True)  # fmt: skip
    hidden = ds.flood.values == -1
    assert 0.02 < hidden.mean() < 1
    assert np.array_equal(hidden, ds.burn.values == -1)
    blue = ds.reflectance.sel(band="BLUE").values[0]
    assert np.median(blue[hidden]) > 1.5 * np.median(blue[~hidden])
    assert (scene("amazonia", seed=8, size=64, dates=1, clouds=False, flood=True).flood >= 0).all()


# --- fires


@pytest.fixture(scope="module")
def burnt():
    how = {"seed": 9, "size": 160, "dates": 3, "start": "2022-04-10", "every": 60, "clouds": False}
    return {r: (scene(r, fire=True, **how), scene(r, **how)) for r in REGIONS}


@regions
def test_burn_labels(burnt, region):
    ds, without = burnt[region]
    here = ds.burn.values == 1
    assert not {"burn", "burn_date", "burn_severity"} & set(without)
    assert ds.burn.dtype == np.int16
    assert ds.burn.attrs["flag_meanings"] == "unburnt burnt"
    assert 0.005 < here.mean() < 0.5
    assert np.array_equal(np.isfinite(ds.burn_severity.values), here)
    assert np.array_equal(~np.isnat(ds.burn_date.values), here)
    days = (ds.time.values[-1].astype("M8[D]") - ds.burn_date.values[here].astype("M8[D]")).astype(
        int
    )
    assert days.min() >= 1
    assert days.max() <= fires.LONGEST
    assert ds.burn_severity.values[here].min() > 0.2
    assert ds.burn_severity.values[here].max() <= 1.0
    assert not here[
        np.isin(ds.landcover.values, [CODE[c] for c in ("water", "urban", "bare")])
    ].any()


@regions
def test_scars_are_seen_after_the_fire_only(burnt, region):
    ds, without = burnt[region]
    change = np.abs(ds.reflectance.values - without.reflectance.values).mean(1)
    assert (change[0] == 0).all()  # 120 days before the last
    for t, time in enumerate(ds.time.values):
        after = ds.burn_date.values < time.astype("M8[D]")
        none = ~after & ~ndimage.binary_dilation(after, iterations=3)
        assert not after.any() or np.median(change[t][after]) > 60
        assert change[t][none].mean() < 4  # the air spreads a little light
    for name in ("landcover", "agb", "agb_dense", "fmask"):
        assert np.array_equal(ds[name], without[name], equal_nan=True)


@pytest.mark.parametrize("region", OLD)
def test_nbr_falls_with_severity(region):
    what, _, _, made = ground(region)
    surface, day, today = spectra.Surface(what, made), dt.date(2022, 8, 20), dt.date(2022, 8, 20)
    yesterday = np.full(made.cover.shape, day.toordinal() - 1)
    falls = []
    for severity in (0.0, 0.25, 0.5, 0.75, 1.0):
        fire = fires.Fire(np.full(made.cover.shape, severity), yesterday)
        counts = surface.reflectance(232, fire=fire, today=today)
        natural = np.isin(made.cover, [CODE["forest"], CODE["savanna"], CODE["pasture"]])
        falls.append(ratio(counts, 3, 5)[natural].mean())
    assert (np.diff(falls) < -0.02).all(), falls
    assert falls[0] == pytest.approx(ratio(surface.reflectance(232), 3, 5)[natural].mean())


def test_scars_fade_and_shares_stay_whole():
    what, _, _, made = ground("cerrado")
    surface, lit = spectra.Surface(what, made), dt.date(2022, 6, 1)
    fire = fires.Fire(np.full(made.cover.shape, 0.8), np.full(made.cover.shape, lit.toordinal()))
    before = surface.shares(200, 0.0)[0]
    char = []
    for days in (0, 1, 20, 90, 300):
        after = fire.scar(before, lit + dt.timedelta(days=days), 0.3)
        assert np.allclose(after.sum(0), before.sum(0))
        assert after.min() >= -1e-12
        char.append(after[10].mean())
    assert char[0] == 0.0
    assert (np.diff(char[1:]) < 0).all()


def test_fire_runs_downwind_and_stops_at_water():
    speed = np.ones((41, 41))
    time = fires._spread(speed, np.array([0.5, 0.5]), 0.0, 0.6)  # wind towards the east
    assert time[20, 20] == 0.0
    assert time[20, 40] < 0.5 * time[20, 0]
    assert time[0, 20] == pytest.approx(time[40, 20])
    speed[:, 30] = 1e-3
    assert fires._spread(speed, np.array([0.5, 0.5]), 0.0, 0.6)[20, 40] > 50 * time[20, 40]


def test_burn_share_is_that_of_a_season():
    share = []
    for seed in range(12):
        ds = scene("cerrado", seed=seed, size=128, dates=1, clouds=False, fire=True)
        share.append(float((ds.burn == 1).mean()))
        assert ds.burn_severity.min() > 0.2  # what hardly burnt is not in the scar
    assert 0.05 < np.median(share) < 0.2


# --- crops


def parcels(name, count=60):
    draws = np.random.default_rng(1).standard_normal((4, count))
    kind = np.full(count, CROPS.index(name))
    return Crops(np.zeros((1, 1), np.int16), kind, np.zeros((1, 1), np.int64), draws)


def test_crops_green_in_their_order():
    days = np.arange(1, 366)
    curves = {n: np.array([parcels(n).green(d).mean() for d in days]) for n in CALENDAR}
    greenest = {name: int(days[curve.argmax()]) for name, curve in curves.items()}
    order = ("winter_wheat", "corn", "soybeans", "sorghum", "cotton")
    assert [greenest[n] for n in order] == sorted(greenest[n] for n in order)
    assert 105 < greenest["winter_wheat"] < 145
    assert 185 < greenest["corn"] < 215
    assert 215 < greenest["cotton"] < 250
    assert curves["winter_wheat"][189] < 0.3  # harvested
    assert curves["winter_wheat"][20] > 0.2  # sown in autumn
    assert max(curves["corn"][100], curves["cotton"][120]) < 0.1
    assert curves["fallow_idle"].max() < 0.4
    for curve in curves.values():
        assert 0 <= curve.min() <= curve.max() < 1


def test_alfalfa_is_cut_every_five_weeks():
    one = Crops(np.zeros((1, 1), np.int16), np.array([CROPS.index("alfalfa")]),
                np.zeros((1, 1), np.int64), np.zeros((4, 1)))  # fmt: skip
    green = np.array([one.green(day)[0] for day in range(100, 290)])
    cuts = 100 + np.flatnonzero(np.diff(green) < -0.3)
    assert len(cuts) >= 4
    assert set(np.diff(cuts)) == {35}


def test_scenes_of_the_plains():
    ds = scene(
        "great_plains", seed=104, size=256, dates=3, clouds=False, start="2022-04-01", every=75
    )
    assert ds.rio.crs.to_epsg() == 32614
    assert ds.crop.dtype == np.int16
    assert ds.crop.attrs["flag_meanings"].split() == list(CROPS)
    assert len(CROPS) == 13
    code, cover = ds.crop.values, ds.landcover.values
    assert set(np.unique(code)) <= set(range(13))
    road = code == CROPS.index("developed_barren")
    for crop, classes in (("forest", ("forest", "secondary_forest")), ("open_water", ("water",)),
                          ("wetlands", ("wetland",))):  # fmt: skip
        wanted = np.isin(cover, [CODE[c] for c in classes]) & ~road
        assert np.array_equal(code == CROPS.index(crop), wanted)
    nir, red = (ds.reflectance.sel(band=b).values for b in ("NIR_NARROW", "RED"))
    ndvi = (nir - red) / (nir + red)
    mean = {n: ndvi[:, code == CROPS.index(n)].mean(1) for n in ("winter_wheat", "soybeans")}
    assert mean["winter_wheat"][0] > mean["soybeans"][0] + 0.15
    assert mean["soybeans"][2] > mean["winter_wheat"][2] + 0.15
    # The sun stands in the south.
    assert ((ds.sun_azimuth > 90) & (ds.sun_azimuth < 180)).all()
    assert not ((ds.fmask.values >> clouds.FMASK_BITS["snow"]) & 1).any()


def test_the_plains_lie_in_the_plains():
    from pyproj import Transformer

    from geowb.world import place

    to_degrees = Transformer.from_crs(32614, 4326, always_xy=True)
    for seed in (0, 1, 100, 815, 10**9):
        _, x, y = place("great_plains", seed)
        for corner in ((x, y), (x + 15_360, y - 15_360)):
            lon, lat = to_degrees.transform(*corner)
            assert -101 < lon < -96
            assert 35.5 < lat < 40.6


def test_scenes_differ_in_what_they_grow():
    shares = []
    for seed in range(100, 110):
        _, _, _, made = ground("great_plains", seed=seed)
        shares.append(np.bincount(made.crops.code.ravel(), minlength=13) / made.crops.code.size)
    shares = np.array(shares)
    assert (shares.max(0) > 0).all()
    assert (((shares > 0.05).sum(1) >= 3) & ((shares > 0.05).sum(1) <= 9)).all()
    assert shares[:, CROPS.index("corn")].std() > 0.04


def test_fields_are_quarter_sections():
    grid = fields.Grid(256)
    south, east = np.broadcast_arrays(*grid.metres)
    which, edge, count, boxes = fields.quarter_sections(
        np.random.default_rng(0), east, south, 800.0
    )
    assert edge.min() >= 0
    assert count.sum() == which.size
    inside = boxes[:, which]
    assert np.all((east >= inside[0]) & (east <= inside[1]))
    assert np.all((south >= inside[2]) & (south <= inside[3]))
    sides = np.sort(np.stack([boxes[1] - boxes[0], boxes[3] - boxes[2]])[:, np.unique(which)], 0)
    assert set(sides[1]) == {800.0}
    assert set(sides[0]) == {400.0, 800.0}


def test_other_regions_have_no_crops():
    for region in OLD:
        assert not REGIONS[region].crops
        assert "crop" not in scene(region, size=32, dates=1)


# --- masks


def test_masks_are_repeatable_and_begin_alike():
    masks = cloud_masks(30, size=40, seed=2)
    assert masks.dims == ("sample", "y", "x")
    assert masks.dtype == bool
    assert np.array_equal(masks, cloud_masks(30, size=40, seed=2))
    assert np.array_equal(masks[:7], cloud_masks(7, size=40, seed=2))
    assert not np.array_equal(masks[:7], cloud_masks(7, size=40, seed=3))
    assert np.allclose(masks.cover, masks.mean(("y", "x")))
    assert (masks.cover >= 0.01).all()


def test_masks_can_be_equalised():
    masks = cloud_masks(40, size=40, seed=2, equalise=True)
    edges = np.linspace(0.01, 1.0, 11)
    assert np.histogram(masks.cover, edges)[0].tolist() == [4] * 10
    assert np.array_equal(masks[:13], cloud_masks(13, size=40, seed=2, equalise=True))
    some = cloud_masks(10, size=40, region="cerrado", low=0.2, high=0.6)
    assert ((some.cover >= 0.2) & (some.cover <= 0.6)).all()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"count": 0}, "count=0"),
        ({"count": 2.5}, "count=2.5"),
        ({"size": 4}, "size=4"),
        ({"region": "great_plain"}, "Did you mean 'great_plains'"),
        ({"region": None}, "no region 'None'"),
        ({"low": 0.6, "high": 0.5}, "low=0.6 is not below high=0.5"),
        ({"low": -0.1}, "low=-0.1 is not a share"),
        ({"high": 1.2}, "high=1.2"),
        ({"seed": -1}, "seed=-1"),
        ({"equalise": "yes"}, "equalise='yes'"),
        ({"low": 0.50001, "high": 0.50002}, "no mask of 40 pixels .*further apart"),
    ],
)
def test_wrong_masks_are_refused(wrong, says, monkeypatch):
    from geowb.world import masks

    monkeypatch.setattr(masks, "_PATIENCE", 3)
    with pytest.raises(RequestError, match=says):
        cloud_masks(**{"count": 2, "size": 40, **wrong})


# --- catalog


def test_entries_of_the_catalog():
    from geowb.catalog import check_source, open_catalog

    catalog = open_catalog()
    for name, variable, count in (
        ("world_floods", "flood", 3), ("world_burns", "burn", 3), ("world_crops", "crop", 1),
        ("world_gaps", "reflectance", 4),
    ):  # fmt: skip
        assert check_source(name, variables=[variable], bands="HLS6") == []
        source = catalog[name]
        assert source.status() == "embedded"
        assert len(source.choices("region")) == count
        assert source.entry.metadata.notes.startswith("Simulated.")
    assert check_source("world", variables=["flood"]) != []
    published = catalog["crops"].entry.driver.options.then.options.labels["crop"].classes
    assert published == CROPS
    gaps = catalog["world_gaps"].open(seed=1, region="great_plains")
    apart = np.diff(gaps.time.values) / np.timedelta64(1, "D")
    assert ((apart >= 1) & (apart <= 200)).all()
    assert {str(t)[5:7] for t in gaps.time.values} <= {f"{m:02d}" for m in range(3, 10)}


def test_switches_that_are_off_leave_an_entry_as_it_was():
    from geowb.catalog.schema import WorldOptions

    assert not {"flood", "fire"} & set(WorldOptions().model_dump())
    assert WorldOptions(flood=True).model_dump()["flood"] is True
    assert "fire" not in WorldOptions(flood=True).model_dump(mode="json")
    assert WorldOptions.model_validate(WorldOptions(fire=True).model_dump()).fire
