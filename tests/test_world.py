"""The world: contract of the scene, geometry, physics, labels."""

import datetime as dt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geowb.bands import HLS6
from geowb.errors import RequestError
from geowb.world import REGIONS, VERSION, clouds, fields, gedi, place, scene, sensor, terrain
from geowb.world.land import CLASSES

regions = pytest.mark.parametrize("region", REGIONS)


@pytest.fixture(scope="module")
def scenes():
    return {region: scene(region, seed=2, size=256, dates=2) for region in REGIONS}


def check_contract(ds, size, dates):
    assert dict(ds.sizes) == {"time": dates, "band": 6, "y": size, "x": size}
    assert ds.reflectance.dims == ("time", "band", "y", "x")
    assert tuple(ds.band.values) == HLS6
    assert ds.reflectance.dtype == np.float32
    counts = ds.reflectance.values
    assert np.array_equal(counts, np.rint(counts))
    assert counts.min() >= 1
    assert counts.max() <= 16_000
    assert ds.fmask.dtype == np.uint8
    assert ds.landcover.dtype == np.int16
    assert set(np.unique(ds.landcover)) <= set(ds.landcover.attrs["flag_values"].tolist())
    assert len(ds.landcover.attrs["flag_meanings"].split()) == len(CLASSES)
    dense, shots = ds.agb_dense.values, ds.agb.values
    assert dense.dtype == shots.dtype == ds.agb_se.dtype == np.float32
    assert np.isfinite(dense).all()
    assert dense.min() >= 0
    assert dense.max() <= 700
    assert np.array_equal(np.isnan(shots), np.isnan(ds.agb_se.values))
    assert np.all(shots[np.isfinite(shots)] > 0)
    assert np.all(np.diff(ds.time.values) > np.timedelta64(0))
    assert ds.rio.transform().a == 30.0
    assert ds.rio.transform().e == -30.0
    assert (ds.rio.transform().c % 30, ds.rio.transform().f % 30) == (0, 0)
    assert ds.x.values[0] == ds.rio.transform().c + 15
    assert all("units" in ds[name].attrs and "long_name" in ds[name].attrs for name in ds.data_vars)


@settings(max_examples=12, deadline=None)
@given(
    region=st.sampled_from(sorted(REGIONS)),
    seed=st.integers(0, 2**63),
    size=st.integers(32, 90),
    dates=st.integers(1, 3),
    cloudy=st.booleans(),
)
def test_any_scene_keeps_the_contract(region, seed, size, dates, cloudy):
    ds = scene(region, seed=seed, size=size, dates=dates, clouds=cloudy)
    check_contract(ds, size, dates)
    assert (ds.attrs["region"], ds.attrs["seed"]) == (region, seed)
    assert ds.attrs["world_version"] == VERSION
    assert ds.rio.crs.to_epsg() == REGIONS[region].epsg


@regions
def test_full_scenes_keep_the_contract(scenes, region):
    check_contract(scenes[region], 256, 2)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"region": "cerado"}, "Did you mean 'cerrado'"),
        ({"region": 3}, "no region '3'"),
        ({"size": 31}, "size=31 .*from 32"),
        ({"size": 64.5}, "size=64.5"),
        ({"dates": 0}, "dates=0 .*from 1"),
        ({"dates": True}, "dates=True"),
        ({"seed": -1}, "seed=-1 .*at least 0"),
        ({"seed": "a"}, "seed='a'"),
        ({"every": 0}, "every=0"),
        ({"gedi_fraction": 0.5}, "gedi_fraction=0.5 .*between 0 and 0.02"),
        ({"gedi_fraction": float("nan")}, "gedi_fraction=nan"),
        ({"max_cloud": "some"}, "max_cloud='some'"),
        ({"start": "soon"}, "start='soon'"),
        ({"start": "9999-12-31"}, "start='9999-12-31'"),
        ({"flood": "yes"}, "flood='yes' is neither True nor False"),
        ({"fire": 1}, "fire=1 is neither"),
        ({"region": "great_plain"}, "Did you mean 'great_plains'"),
    ],
)
def test_wrong_requests_are_refused(wrong, says):
    with pytest.raises(RequestError, match=says):
        scene(**{"size": 32, "dates": 1, **wrong})


# --- place and time


@regions
@pytest.mark.parametrize("size", [64, 512, 1200])
def test_no_two_seeds_lie_on_each_other(region, size):
    columns, rows = REGIONS[region].slots
    step = -(-size // 512)
    seeds = (columns // step) * (rows // step)
    corners = np.array([place(region, seed, size)[1:] for seed in range(seeds)])
    near = np.abs(corners[:, None] - corners[None]) < 30 * size
    assert near.all(-1).sum() == seeds  # each overlaps itself alone
    assert seeds > 40


def test_regions_lie_in_the_right_part_of_brazil(scenes):
    from pyproj import Transformer

    boxes = {"amazonia": (-60, -54, -10.5, -3.5), "cerrado": (-48, -42, -17.5, -8.5)}
    boxes["mata_atlantica"] = (-47.5, -42, -23, -19)
    for region, (west, east, south, north) in boxes.items():
        what = REGIONS[region]
        to_degrees = Transformer.from_crs(what.epsg, 4326, always_xy=True)
        for seed in (0, 1, 7, 500, 10**9):
            _, x, y = place(region, seed)
            for corner in ((x, y), (x + 15_360, y - 15_360)):
                lon, lat = to_degrees.transform(*corner)
                assert west < lon < east
                assert south < lat < north


def test_overpasses_have_the_cadence_of_the_constellation():
    streams = fields.Streams(4, "cerrado")
    first = dt.date(2022, 1, 1)
    found = []
    for day, name in sensor.overpasses(streams, first):
        if day.year > 2022:
            break
        found.append((day, name))
    days = [day.toordinal() for day, name in found if name == "L30"]
    assert set(np.diff(days)) == {8}
    # 8- and 5-day cycles together: 46 + 73 passes less the days that coincide
    assert 46 + 73 - 10 <= len(found) <= 46 + 73
    later = list(zip(range(20), sensor.overpasses(streams, found[7][0]), strict=False))
    assert [p for _, p in later] == found[7:27]


@pytest.mark.parametrize(
    ("day", "hour", "latitude", "zenith", "azimuth"),
    [
        (81, 12.0, -15.0, 15.0, 0.0),  # equinox noon: zenith is the latitude, sun in the north
        (81, 6.0, -15.0, 90.0, 90.0),  # equinox sunrise: due east
        (172, 12.0, -23.44, 46.88, 0.0),  # winter solstice on the tropic
        (355, 12.0, -30.0, 6.56, 0.0),  # summer solstice
        (355, 12.0, -10.0, 13.44, 180.0),  # sun south of the place
        (81, 9.0, 0.0, 45.0, 90.0),
    ],
)
def test_sun_stands_where_the_almanac_says(day, hour, latitude, zenith, azimuth):
    z, a = np.degrees(sensor.sun_position(day, hour, latitude))
    assert z == pytest.approx(zenith, abs=0.5)
    assert (a - azimuth + 180) % 360 - 180 == pytest.approx(0, abs=2.0)


@given(st.floats(0.0, 1.4), st.floats(0.0, 2 * np.pi))
def test_level_ground_is_lit_evenly(zenith, azimuth):
    flat = (np.zeros((3, 3)), np.zeros((3, 3)))
    assert terrain.illumination(flat, zenith, azimuth) == pytest.approx(1.0)


def test_slopes_that_face_the_sun_are_brighter():
    rise = np.full((2, 2), 0.3)
    level = np.zeros((2, 2))
    zenith, east = np.radians(45), np.radians(90)
    # Ground that rises westwards faces east: dz/dx < 0.
    facing = terrain.illumination((level, -rise), zenith, east, soften=0.0)
    turned = terrain.illumination((level, rise), zenith, east, soften=0.0)
    slope = np.arctan(0.3)
    assert facing == pytest.approx(np.cos(zenith - slope) / np.cos(zenith))
    assert turned == pytest.approx(np.cos(zenith + slope) / np.cos(zenith))
    # Ground that rises southwards faces north.
    north = terrain.illumination((rise, level), zenith, 0.0, soften=0.0)
    assert north == pytest.approx(np.cos(zenith - slope) / np.cos(zenith))


# --- random fields


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([60.0, 200.0, 500.0]), st.floats(0.2, 1.0))
def test_fields_have_unit_variance_and_no_edges(seed, scale, rough):
    grid = fields.Grid(192)
    field = fields.gaussian_field(np.random.default_rng(seed), grid, scale, rough=rough)
    assert field.mean() == pytest.approx(0, abs=0.6)
    assert field.std() == pytest.approx(1, abs=0.35)
    inside = np.abs(np.diff(field, axis=0)).mean()
    across = np.abs(field[0] - field[-1]).mean()
    assert across == pytest.approx(inside, rel=0.6)


def test_streams_do_not_move_each_other():
    one, other = fields.Streams(1, "cerrado"), fields.Streams(1, "amazonia")
    first = one.rng("relief").standard_normal(4)
    one.rng("something", "new").standard_normal(99)
    assert np.array_equal(first, one.rng("relief").standard_normal(4))
    for rng in (
        one.rng("streams"),
        other.rng("relief"),
        fields.Streams(2, "cerrado").rng("relief"),
    ):
        assert not np.array_equal(first, rng.standard_normal(4))


@given(st.integers(0, 10**6), st.floats(2e4, 4e5))
@settings(max_examples=10, deadline=None)
def test_parcels_tile_the_plane(seed, area):
    v, u = np.mgrid[0:3000:30.0, 0:3600:30.0] + 15.0
    which, edge, count, boxes = fields.parcels(np.random.default_rng(seed), u, v, area)
    assert count.sum() == u.size
    assert edge.min() >= 0
    inside = boxes[:, which]
    assert np.all((u >= inside[0]) & (u <= inside[1]) & (v >= inside[2]) & (v <= inside[3]))
    areas = (boxes[1] - boxes[0]) * (boxes[3] - boxes[2])
    assert areas.sum() == pytest.approx((u.max() - u.min()) * (v.max() - v.min()))
    assert area / 1.5 < areas.mean() < area * 1.5


# --- ground


@regions
def test_scenes_have_the_cover_of_their_region(scenes, region):
    share = np.bincount(scenes[region].landcover.values.ravel(), minlength=len(CLASSES))
    share = dict(zip(CLASSES, share / share.sum(), strict=True))
    assert (share["savanna"] > 0.05) == (region == "cerrado")
    assert share["forest"] > {"cerrado": 0.03, "great_plains": 0.01}.get(region, 0.2)
    assert share["water"] < 0.3


def test_rivers_run_downhill_and_lie_low():
    streams, grid = fields.Streams(3, "amazonia"), fields.Grid(256)
    ground = terrain.make_terrain(streams, grid, REGIONS["amazonia"])
    near = ground.stream_distance < 60
    far = ground.stream_distance > 900
    assert near.any()
    assert ground.elevation[near].mean() < ground.elevation[far].mean() - 5
    assert ground.above_stream[near].mean() < 1.0 < ground.above_stream[far].mean()


def test_regions_differ_in_biomass(scenes):
    old = {
        region: ds.agb_dense.values[ds.landcover.values == CLASSES.index("forest")]
        for region, ds in scenes.items()
    }
    means = {region: values.mean() for region, values in old.items()}
    assert 190 < means["amazonia"] < 320
    assert 60 < means["cerrado"] < 150
    assert 100 < means["mata_atlantica"] < 210


def woody(region, **options):
    ds = scene(region, seed=5, size=320, dates=1, clouds=False, **options)
    code = ds.landcover.values
    trees = np.isin(code, [CLASSES.index(c) for c in ("forest", "secondary_forest", "savanna")])
    return ds, ds.agb_dense.values, trees


@pytest.mark.parametrize("band", ["NIR_NARROW", "SWIR_1", "SWIR_2"])
def test_bands_saturate_with_biomass(band):
    ds, agb, trees = woody("amazonia")
    counts = ds.reflectance.sel(band=band).values[0]
    low, high = trees & (agb > 20) & (agb < 150), trees & (agb > 200)
    slopes = [abs(np.polyfit(agb[m], counts[m], 1)[0]) for m in (low, high)]
    assert slopes[0] > 3 * slopes[1]
    assert abs(np.corrcoef(agb[low], counts[low])[0, 1]) > 2 * abs(
        np.corrcoef(agb[high], counts[high])[0, 1]
    )


@regions
def test_texture_grows_with_biomass(region):
    from scipy import ndimage

    ds, agb, trees = woody(region)
    nir = ds.reflectance.sel(band="NIR_NARROW").values[0].astype(float)
    rough = np.abs(nir - ndimage.uniform_filter(nir, 3))
    inner = ndimage.binary_erosion(trees, iterations=3)
    cut = np.quantile(agb[inner], [0.15, 0.85])
    assert rough[inner & (agb > cut[1])].mean() > 1.02 * rough[inner & (agb < cut[0])].mean()


def test_the_same_biomass_looks_different_elsewhere():
    spectra = {}
    for region in REGIONS:
        ds, agb, trees = woody(region)
        spectra[region] = ds.reflectance.values[0][:, trees & (agb > 70) & (agb < 130)].mean(1)
    for one in REGIONS:
        for other in REGIONS:
            if one < other:
                change = np.abs(spectra[one] / spectra[other] - 1)
                assert change.max() > 0.08, (one, other, spectra)


def test_cerrado_browns_and_amazonia_hardly():
    drop = {}
    for region in ("cerrado", "amazonia"):
        ds = scene(region, seed=5, size=192, dates=2, clouds=False, every=110)
        nir, red = (ds.reflectance.sel(band=b).values for b in ("NIR_NARROW", "RED"))
        natural = np.isin(ds.landcover.values, [CLASSES.index(c) for c in ("forest", "savanna")])
        ndvi = ((nir - red) / (nir + red))[:, natural].mean(1)
        drop[region] = ndvi[0] - ndvi[1]
    assert drop["cerrado"] > 0.12, drop
    assert abs(drop["amazonia"]) < 0.06, drop


# --- clouds


@given(st.floats(300, 13_000), st.floats(0.05, 1.3), st.floats(0, 2 * np.pi))
def test_shadows_fall_away_from_the_sun(height, zenith, azimuth):
    rows, columns = clouds.shadow_shift(height, zenith, azimuth)
    assert 30 * np.hypot(rows, columns) == pytest.approx(height * np.tan(zenith))
    # Rows run south: a sun in the north (azimuth 0) throws the shadow south.
    away = np.array([rows, -columns]) / np.hypot(rows, columns)
    assert away == pytest.approx([np.cos(azimuth), np.sin(azimuth)], abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_shadows_in_the_image_lie_where_geometry_says(seed):
    """Cross-correlate clouds and shade: the peak gives direction and height of the clouds."""
    region, grid = REGIONS["cerrado"], fields.Grid(320)
    only = {"cumulus": 1.0}
    region = type(region)(**{**region.__dict__, "cloud_kinds": only})
    zenith, azimuth = np.radians(40), np.radians(60)
    streams = fields.Streams(seed, "cerrado")
    sky = clouds.make_sky(streams, grid, region, "2022-05-01", 0.15, zenith, azimuth)
    bright, dark = sky.reflectance - sky.reflectance.mean(), sky.shade - sky.shade.mean()
    peak = np.fft.ifft2(np.fft.fft2(dark) * np.conj(np.fft.fft2(bright))).real
    row, column = np.unravel_index(np.argmax(peak), peak.shape)
    row, column = ((a + 160) % 320 - 160 for a in (row, column))
    length = 30 * np.hypot(row, column)
    assert 900 * np.tan(zenith) - 45 < length < 2200 * np.tan(zenith) + 45
    assert np.degrees(np.arctan2(-column, row)) == pytest.approx(60, abs=3)


def test_fmask_bits_are_those_of_hls(scenes):
    ds = scene("mata_atlantica", seed=8, size=256, dates=3, max_cloud=1.0)
    mask = ds.fmask.values
    bit = {name: (mask >> number) & 1 == 1 for name, number in clouds.FMASK_BITS.items()}
    assert bit["cloud"].any()
    assert not (bit["cloud"] & bit["adjacent"]).any()
    assert not (bit["cloud"] & bit["shadow"]).any()
    assert not bit["snow"].any()
    assert not (mask & 1).any()
    assert set(np.unique(mask >> 6)) <= {1, 2, 3}
    blue = ds.reflectance.sel(band="BLUE").values
    assert blue[bit["cloud"]].mean() > 3 * blue[mask >> 1 & 7 == 0].mean()
    nir = ds.reflectance.sel(band="NIR_NARROW").values
    assert nir[bit["shadow"]].mean() < 0.85 * nir[(mask >> 1) & 7 == 0].mean()


def test_cloudless_scene_has_the_same_ground():
    cloudy, clear = (scene("amazonia", seed=6, size=128, clouds=c) for c in (True, False))
    for name in ("landcover", "agb", "agb_dense", "elevation"):
        assert np.array_equal(cloudy[name], clear[name], equal_nan=True)
    assert np.array_equal(cloudy.time, clear.time)
    assert ((clear.fmask.values >> 1) & 1).mean() < 0.02  # only bright ground taken for cloud
    free = (cloudy.fmask.values & 0b1110) == 0
    same = (cloudy.reflectance.values == clear.reflectance.values).all(1)
    assert same[free].mean() > 0.5
    assert not same[(cloudy.fmask.values & 0b10) > 0].all()


def test_first_dates_do_not_depend_on_how_many_follow():
    one, three = (scene("cerrado", seed=9, size=64, dates=n) for n in (1, 3))
    first = three.isel(time=[0])
    for name in one.data_vars:
        assert np.array_equal(one[name], first[name], equal_nan=True)
    assert np.array_equal(one.time, first.time)


def test_cloud_cover_follows_season_and_region():
    def mean(region, day):
        rng = np.random.default_rng(0)
        return np.mean([clouds.cloud_cover(rng, REGIONS[region], day) for _ in range(4000)])

    assert mean("cerrado", 355) == pytest.approx(REGIONS["cerrado"].cloud[0], abs=0.03)
    assert mean("cerrado", 355 - 183) == pytest.approx(REGIONS["cerrado"].cloud[1], abs=0.03)
    assert mean("amazonia", 120) > mean("cerrado", 120)


# --- GEDI


def test_tracks_have_the_geometry_of_gedi():
    rng = np.random.default_rng(1)
    latitude, side = -12.0, 30_000.0
    x, y, track, number = gedi.overpass(rng, side, latitude)
    lines = []
    for beam in np.unique(track):
        here = track == beam
        order = np.argsort(number[here])
        px, py, n = x[here][order], y[here][order], number[here][order]
        step = np.hypot(np.diff(px), np.diff(py))[np.diff(n) == 1]
        assert step == pytest.approx(60.0)
        lines.append((px[0], py[0], px[-1], py[-1]))
    x0, y0, x1, y1 = lines[0]
    normal = np.array([y0 - y1, x1 - x0]) / np.hypot(x1 - x0, y1 - y0)
    apart = [abs(normal @ (np.array(line[:2]) - (x0, y0))) for line in lines]
    assert np.diff(apart) == pytest.approx(600.0)


def test_heading_matches_a_real_granule():
    # Measured in GEDI04_A_2021150031254_O13948_03_T06447: 144.3-144.4 degrees at 5-6 S.
    heading = np.degrees(gedi.ground_heading(-5.4, descending=True))
    assert heading == pytest.approx(144.4, abs=0.3)
    up = np.degrees(gedi.ground_heading(-5.4, descending=False))
    assert up == pytest.approx(180 - heading)


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(sorted(REGIONS)), st.integers(0, 10**6), st.sampled_from([0.003, 0.005, 0.01])
)
def test_labelled_share_is_as_asked(region, seed, fraction):
    ds = scene(region, seed=seed, size=128, dates=1, clouds=False, gedi_fraction=fraction)
    share = float(np.isfinite(ds.agb).mean())
    water = float((ds.landcover == CLASSES.index("water")).mean())
    assert share <= fraction + 1 / 128**2
    assert share > 0.9 * fraction or water > 0.3


def test_no_shots_when_none_are_asked_for():
    assert np.isnan(scene(size=64, dates=1, gedi_fraction=0).agb.values).all()


@regions
def test_shots_equal_truth_within_stated_error(scenes, region):
    rows = [
        scene(region, seed=s, size=192, dates=1, clouds=False, gedi_fraction=0.02) for s in (1, 2)
    ]
    shot, dense, error = (
        np.concatenate([ds[name].values[np.isfinite(ds.agb.values)] for ds in rows])
        for name in ("agb", "agb_dense", "agb_se")
    )
    # The error is normal in the square root of biomass; geolocation adds to it.
    root = np.sqrt(shot) - np.sqrt(dense)
    sure = dense > 30
    stated = REGIONS[region].shot_error
    middle = np.quantile(root[sure], [0.16, 0.84])
    assert np.diff(middle)[0] / 2 == pytest.approx(stated, rel=0.35)
    assert np.median(root[sure]) == pytest.approx(0, abs=0.35 * stated)
    assert np.median(np.abs((shot - dense) / error)[sure]) == pytest.approx(0.67, abs=0.25)
    assert np.median(error[sure] / np.sqrt(shot[sure])) == pytest.approx(2 * stated, rel=0.01)
