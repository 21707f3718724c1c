"""Pictures: they show what they are given, and stay small and self-contained."""

import contextlib
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scenes import scene

from geowb import plots
from geowb.errors import DataError
from geowb.plots import axes
from geowb.plots.axes import holoviews


@pytest.fixture
def one():
    return scene(40, 60)


def test_rgb_stretches_bands_and_shows_no_data_white(one):
    one["reflectance"][0, :, 0, 0] = np.nan
    picture = plots.rgb(one, ("RED", "GREEN", "BLUE"))
    red = picture.dimension_values("R", flat=False)[::-1]  # holoviews starts at the bottom
    values = one.reflectance.sel(band="RED").values[0]
    low, high = np.nanpercentile(values, [2, 98])
    expected = np.clip((values - low) / (high - low), 0, 1)
    assert np.nanmax(np.abs(red / 255 - expected)[1:]) < 0.01
    assert red[0, 0] == 255
    assert picture.bounds.lbrt() == (0, 0, 1.8, 1.2)  # 60 x 40 pixels of 30 m, in km
    with pytest.raises(DataError, match="no band 'NIR'"):
        plots.rgb(one, ("NIR", "RED", "GREEN"))


def test_degrees_stay_degrees_and_north_is_up(one):
    degrees = one.assign_coords(x=10 + 0.01 * np.arange(60), y=50 + 0.01 * np.arange(40))
    degrees = degrees.rio.write_crs(4326)  # y runs to the north here
    picture = plots.raster(degrees.agb_dense)
    assert picture.bounds.lbrt() == pytest.approx((9.995, 49.995, 10.595, 50.395))
    # The array's last row is the northernmost: it must be drawn on top.
    top = picture.dimension_values("value", flat=False)[-1]
    assert np.array_equal(top, one.agb_dense.values[-1])
    points = plots.shots(degrees.agb, limits=(0, 100))
    rows, cols = np.nonzero(np.isfinite(degrees.agb.values))
    found = sorted(zip(points["east"].round(4), points["north"].round(4), strict=True))
    made = sorted(zip((10 + 0.01 * cols).round(4), (50 + 0.01 * rows).round(4), strict=True))
    assert found == made


@pytest.mark.parametrize("panels", [1, 4])
@pytest.mark.parametrize("inches", [3.0, (6.0, 2.5)])
def test_a_picture_is_what_drawing_it_wholly_each_time_gives(
    one, tmp_path, monkeypatch, panels, inches
):
    rasters = [plots.raster(one.agb_dense) for _ in range(panels)]
    element = rasters[0] if panels == 1 else plots.layout(rasters, 2)

    def picture(name):
        plots.show(element, tmp_path / name, inches=inches)
        return (tmp_path / name).read_bytes()

    ours, draws = picture("ours.png"), []
    monkeypatch.setattr(axes, "_placed_only", contextlib.nullcontext)
    whole = FigureCanvasAgg.draw
    monkeypatch.setattr(FigureCanvasAgg, "draw", lambda c: draws.append(c) or whole(c))
    assert picture("theirs.png") == ours
    assert len(draws) > panels


def test_other_threads_draw_wholly_meanwhile():
    figure = Figure()
    FigureCanvasAgg(figure)
    figure.add_axes((0, 0, 1, 1)).set_facecolor("red")
    with axes._placed_only():
        figure.canvas.draw()
        assert not hasattr(figure.canvas, "renderer")  # nothing is drawn
        thread = threading.Thread(target=figure.canvas.draw)
        thread.start()
        thread.join()
    assert np.asarray(figure.canvas.buffer_rgba())[..., 0].max() == 255


def test_two_threads_leave_drawing_as_it_was():
    before = FigureCanvasAgg.draw
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(_placed_for, seconds) for seconds in (0.1, 0.2)]:
            done.result()
    assert FigureCanvasAgg.draw is before


def _placed_for(seconds):
    with axes._placed_only():
        time.sleep(seconds)


def test_a_scene_without_any_data_is_white(one):
    picture = plots.rgb(one * np.nan)
    assert (picture.dimension_values("R") == 255).all()


def test_points_lie_where_the_labels_lie(one):
    points = plots.shots(one.agb, limits=(0, 100))
    rows, cols = np.nonzero(np.isfinite(one.agb.values))
    assert np.allclose(points["east"], (cols + 0.5) * 0.03)
    assert np.allclose(points["north"], 1.2 - (rows + 0.5) * 0.03)
    assert np.allclose(points["value"], one.agb.values[rows, cols])


def test_bars_leave_out_what_has_no_pixels_and_keep_the_order():
    table = pd.DataFrame({"b": [1.0, np.nan], "a": [2.0, 3.0]}, index=["low", "high"])
    bars = plots.bars(table)
    assert list(zip(*(bars[d] for d in bars.dimensions()), strict=True)) == [
        ("low", "b", 1.0),
        ("low", "a", 2.0),
        ("high", "a", 3.0),
    ]


def drawn(element):
    """The axes of a picture."""
    hv = holoviews()
    return hv.renderer("matplotlib").get_plot(element).state.axes[0]


def test_numbers_of_a_matrix_stand_beside_their_names():
    table = pd.DataFrame(
        {"x": [1.0, 2.0, 3.0], "y": [4.0, np.nan, 6.0]}, index=["north", "south", "all"]
    )
    axes = drawn(plots.matrix(table))
    ticks = {
        axis: {label.get_text(): at for at, label in zip(get(), labels(), strict=True)}
        for axis, get, labels in (
            ("x", axes.get_xticks, axes.get_xticklabels),
            ("y", axes.get_yticks, axes.get_yticklabels),
        )
    }
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    image = axes.images[0]
    left, _, bottom, top = image.get_extent()
    for row, values in table.iterrows():
        for column, value in values.items():
            x, y = ticks["x"][column], ticks["y"][row]
            assert texts[x, y] == ("-" if np.isnan(value) else f"{value:.1f}")
            down = int((max(top, bottom) - y) if image.origin == "upper" else y)
            cell = np.ma.filled(image.get_array(), np.nan)[down, int(x - left)]
            assert cell == pytest.approx(value, nan_ok=True)
    assert ticks["y"]["north"] > ticks["y"]["south"]


def test_lines_leave_gaps_out_and_mark_the_points():
    table = pd.DataFrame({"a": [3.0, np.nan, 1.0], "b": [2.0, 2.0, 2.0]}, index=[0.1, 0.3, 1.0])
    lines = plots.lines(table, xlabel="share")
    found = {line.label: line.array().tolist() for line in lines if line.label}
    assert found["a"] == [[0.1, 3.0], [1.0, 1.0]]
    assert len(found["b"]) == 3


def test_lines_name_a_few_steps_and_show_no_fall_where_there_is_none():
    many = pd.DataFrame({"a": np.linspace(0, 1, 30)}, index=range(5, 155, 5))
    ticks = drawn(plots.lines(many, xlabel="step")).get_xticks().tolist()
    assert len(ticks) <= 8
    assert max(ticks) == 150
    flat = pd.DataFrame({"a": [0.8621, 0.8624]}, index=[10.0, 100.0])
    axes = drawn(plots.lines(flat, xlabel="share"))
    low, high = axes.get_ylim()
    assert high - low >= 0.04
    assert axes.get_xticks().tolist() == [10.0, 100.0]


def test_residuals_are_drawn_with_their_quartiles():
    table = pd.DataFrame({"low": [-9.0], "median": [1.0], "high": [4.0]}, index=[25.0])
    bars = [e for e in plots.residuals({"a": table}) if type(e).__name__ == "ErrorBars"]
    assert bars[0].array().tolist() == [[25.0, 1.0, 10.0, 3.0]]
    axes = drawn(plots.residuals({"a": table}))
    ends = axes.collections[0].get_segments()[0][:, 1]
    assert sorted(ends) == pytest.approx([-9.0, 4.0])


@pytest.mark.parametrize("kind", ["maps", "scatter", "bars", "curves"])
def test_pictures_are_small_pngs_in_both_places(one, tmp_path, kind):
    pixels = pd.DataFrame({"scene": ["a", "b"], "observed": [1.0, 2.0], "predicted": [2.0, 2.0]})
    element = {
        "maps": lambda: plots.layout(
            [plots.rgb(one), plots.raster(one.agb_dense), plots.shots(one.agb, limits=(0, 9))]
        ),
        "scatter": lambda: plots.scatter(pixels),
        "bars": lambda: plots.bars(pd.DataFrame({"a": [1.0]}, index=["x"])),
        "curves": lambda: plots.curves({"a": pd.DataFrame({"epoch": [0], "val_rmse": [1.0]})}),
    }[kind]()
    shown = plots.show(element, tmp_path / "picture.png")
    stored = (tmp_path / "picture.png").read_bytes()
    assert shown.data == stored
    assert len(stored) < 100_000
    picture = PIL.Image.open(io.BytesIO(stored))
    assert min(picture.size) > 100
    assert len(picture.convert("RGB").getcolors(1 << 20)) > 5


def test_plots_write_nothing_to_the_page(one, tmp_path, capsys):
    plots.show(plots.rgb(one), tmp_path / "a.png")
    assert capsys.readouterr().out == ""
